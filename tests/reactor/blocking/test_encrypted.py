"""Blocking connections over TLS keep the promises of the plain ones."""

from __future__ import annotations

import contextlib
import copy
import functools
import gc
import itertools
import os
import pickle
import select
import selectors
import signal
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import reduction
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor import ClientTls, ServerTls, TlsError, TruncatedError, blocking
from reactor.authentication import Handshake
from reactor.blocking import encrypted as module
from reactor.blocking import listener as listening
from reactor.blocking import wait
from reactor.framing import LONG, LONG_MARK, SHORT, FrameDecoder
from tests.certificates import authorities, certificate
from tests.conftest import KEY, open_descriptors, raw_client
from tests.properties import cuts as places
from tests.properties import peak_memory, pieces, steady

from .children import until
from .test_connection import STREAMS, Alarm, Ends, fill, is_readable, long, outcomes, short
from .test_processes import run

InThread = Callable[..., threading.Thread]

HERE = ("127.0.0.1", 0)
SIZES = [0, 1, 100, 16379, 16380, 16381, 65536, 131072, 1_000_000]
"""On both sides of what fits into one record; and so many bytes that they are encrypted piece by piece."""


@functools.cache
def server_tls() -> ServerTls:
    return ServerTls(certificate())


@functools.cache
def client_tls() -> ClientTls:
    return ClientTls(authorities(), server_name="localhost")


class Calling(threading.Thread):
    """Does something in another thread; `result` waits for it, and raises what it has raised."""

    def __init__(self, work: Callable[..., Any], *args: Any, **options: Any) -> None:
        super().__init__(daemon=True)
        self._work = functools.partial(work, *args, **options)
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def result(self) -> Any:
        self.join(20)
        assert not self.is_alive()
        error, self._error = self._error, None
        if error is not None:
            raise error
        return self._result


@contextlib.contextmanager
def connected(
    address: Any = HERE, key: bytes | None = None, server: Any = None, client: Any = None
) -> Iterator[tuple[Any, Any]]:
    """Two encrypted ends: that of the listener, and that of the client."""
    with blocking.Listener(address, authkey=key, tls=server or server_tls()) as listener:
        calling = Calling(blocking.Client, listener.address, authkey=key, timeout=10, tls=client or client_tls())
        accepted = listener.accept(10)
    with accepted, calling.result() as made:
        yield accepted, made


@functools.cache
def server_context() -> ssl.SSLContext:
    """What most servers use: ours sends no tickets."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate())
    return context


class Peer:
    """An end that encrypts by hand: it says what goes into a record, and where the stream is cut.

    Arguments:
        sock: the socket.
        is_server: whether it accepted.

    Attributes:
        tickets: what it had to send when the handshake was done.
    """

    tickets: bytes

    def __init__(self, sock: socket.socket, is_server: bool) -> None:
        self.sock = sock
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = server_context() if is_server else client_tls().context
        name = None if is_server else "localhost"
        self._session = context.wrap_bio(self._incoming, self._outgoing, is_server, name)

    def shake_hands(self) -> bytes:
        """Bring the handshake to its end; return what would then have to be sent."""
        self.sock.settimeout(10)
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self.sock.sendall(self._outgoing.read())
                self._receive()
            else:
                return self._outgoing.read()

    def records(self, *contents: bytes) -> bytes:
        """Encrypt `contents`, each as a record of its own."""
        for content in contents:
            self._session.write(content)
        return self._outgoing.read()

    def send(self, *contents: bytes) -> None:
        """Send `contents`, each as a record of its own, all together."""
        self.sock.sendall(self.records(*contents))

    def goodbye(self) -> bytes:
        """Return the last word of TLS."""
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        return self._outgoing.read()

    def read(self, size: int = 16384) -> bytes:
        """Return what is in the next record, or the rest of it; b"" at the end in good order."""
        while True:
            try:
                return self._session.read(size)
            except ssl.SSLWantReadError:
                self._receive()
            except ssl.SSLZeroReturnError:
                return b""

    def messages(self, ends_well: bool = True) -> list[bytes]:
        """Return all messages up to the end; a part of one at the end is dropped."""
        decoder, found = FrameDecoder(sys.maxsize), []
        with contextlib.nullcontext() if ends_well else pytest.raises(ssl.SSLEOFError):
            for data in iter(self.read, b""):
                found += decoder.feed(data)
        return found

    @property
    def binding(self) -> bytes | None:
        """What both ends of this connection know, and nobody else."""
        return self._session.get_channel_binding("tls-unique")

    def reset(self) -> None:
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def _receive(self) -> None:
        data = self.sock.recv(65536)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


@contextlib.contextmanager
def with_peer(keep_tickets: bool = False) -> Iterator[tuple[Any, Peer]]:
    """A connection of `Client`, and the peer that accepted it; it may keep the tickets of the session for later."""
    with socket.create_server(HERE) as server:
        calling = Calling(blocking.Client, server.getsockname(), tls=client_tls())
        peer = Peer(server.accept()[0], True)
    with peer.sock:
        peer.tickets = peer.shake_hands()
        assert peer.tickets
        if not keep_tickets:
            peer.sock.sendall(peer.tickets)
        with calling.result() as connection:
            connection.poll()
            yield connection, peer


@pytest.fixture
def ends() -> Iterator[Ends]:
    """The end that receives, and the end that sends."""
    with connected() as both:
        yield both


@pytest.fixture
def raw() -> Iterator[tuple[Any, Peer]]:
    """A connection, and the peer at its other end."""
    with with_peer() as both:
        yield both


# Messages


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
@pytest.mark.parametrize("address", [HERE, None], ids=["tcp", "unix"])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_messages_of_every_size_go_both_ways_at_once(
    version: ssl.TLSVersion, address: Any, key: bytes | None, in_thread: InThread
) -> None:
    client = ClientTls(authorities(), server_name="localhost")
    client.context.maximum_version = version
    messages = [os.urandom(size) for size in SIZES]

    def send_all(end: Any) -> None:
        for message in messages:
            end.send_bytes(message)
            end.send([message], timeout=20)

    def receive_all(end: Any) -> None:
        for message in messages:
            assert end.recv_bytes() == message
            assert end.recv(20) == [message]
        assert not end.poll()

    with connected(address, key, client=client) as both:
        threads = [in_thread(work, end) for work in (send_all, receive_all) for end in both]
        for thread in threads:
            thread.join(20)
        assert {end.tls.version() for end in both} == {version.name.replace("_", ".")}


def test_plain_connection_says_that_it_has_no_tls() -> None:
    first, second = blocking.Pipe()
    with first, second:
        assert first.tls is None


@pytest.mark.parametrize("size", [1, 3, 100, 16384])
def test_one_message_may_come_in_many_records(raw: tuple[Any, Peer], size: int, in_thread: InThread) -> None:
    connection, peer = raw
    message = os.urandom(size * 30)
    for form in (short, long):
        stream = form(message)
        in_thread(peer.send, *(stream[start : start + size] for start in range(0, len(stream), size)))
        assert connection.recv_bytes() == message
    assert not connection.poll()


def test_many_messages_may_come_in_one_record(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    messages = [b"x" * size for size in range(100)]
    peer.send(b"".join(map(short, messages)))
    assert [connection.recv_bytes() for _ in messages] == messages
    assert not connection.poll()
    peer.send(b"".join(map(short, messages[:50])) + short(b"more")[:5], short(b"more")[5:])
    assert connection.recv_bytes_many() == [*messages[:50], b"more"]
    peer.send(short(b"one"), short(b"two") + short(b"three")[:3])
    assert connection.recv_bytes() == b"one"
    assert connection.recv_bytes_many() == [b"two"]
    with pytest.raises(TimeoutError):
        connection.recv_bytes_many(0)
    peer.send(short(b"three")[3:])
    assert connection.recv_bytes_many(5) == [b"three"]


def test_messages_sent_together_arrive_as_messages_of_their_own(ends: Ends, in_thread: InThread) -> None:
    reader, writer = ends
    messages = [b"one", b"", bytearray(b"two"), b"x" * 300_000, memoryview(b"end")]
    in_thread(writer.send_bytes_many, messages, 10)
    assert [reader.recv_bytes() for _ in messages] == list(map(bytes, messages))
    in_thread(writer.send_many, iter([1, "two", None]))
    assert [reader.recv(), reader.recv(5), reader.recv()] == [1, "two", None]
    with pytest.raises(TypeError):
        writer.send_bytes_many([b"good", "no bytes"])
    writer.send_bytes_many([])
    writer.send_many([], 1)
    assert not reader.poll()


def test_message_is_put_into_a_buffer_or_comes_with_the_error(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes(b"xabcx", 1, 3)
    buffer = bytearray(b"......")
    assert reader.recv_bytes_into(buffer, 2) == 3
    assert buffer == b"..abc."
    writer.send_bytes(b"four")
    with pytest.raises(blocking.BufferTooShort) as caught:
        reader.recv_bytes_into(buffer, 3, timeout=5)
    assert caught.value.args == (b"four",)
    with pytest.raises(ValueError, match="offset too large"):
        reader.recv_bytes_into(buffer, 7)
    with pytest.raises(TypeError, match="cannot be written to"):
        reader.recv_bytes_into(b"...")
    with pytest.raises(TimeoutError):
        reader.recv_bytes_into(buffer, timeout=0)


def test_wrong_arguments_are_refused_and_nothing_is_lost(ends: Ends) -> None:
    reader, writer = ends
    for arguments in ((b"abc", -1), (b"abc", 4), (b"abc", 1, 3)):
        with pytest.raises(ValueError):
            writer.send_bytes(*arguments)
    with pytest.raises(ValueError, match="negative maxlength"):
        reader.recv_bytes(-1)
    writer.send("object")
    assert reader.recv() == "object"
    for call in (reader.poll, reader.recv):
        with pytest.raises(ValueError):
            call(float("nan"))


def test_connections_of_one_listener_are_used_in_threads_of_their_own(in_thread: InThread) -> None:
    messages = [os.urandom(100_000) for _ in range(20)]

    def echo(end: Any) -> None:
        for _ in messages:
            end.send_bytes(end.recv_bytes(timeout=20), timeout=20)

    def talk(end: Any) -> None:
        for message in messages:
            end.send_bytes(message, timeout=20)
            assert end.recv_bytes(timeout=20) == message

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(blocking.Listener(HERE, tls=server_tls()))
        callings = [Calling(blocking.Client, listener.address, tls=client_tls()) for _ in range(4)]
        threads = [in_thread(echo, stack.enter_context(listener.accept(10))) for _ in callings]
        threads += [in_thread(talk, stack.enter_context(calling.result())) for calling in callings]
        for thread in threads:
            thread.join(20)


def test_small_messages_do_not_wait_for_an_acknowledgement(ends: Ends) -> None:
    for end in ends:
        assert end._tls.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# What select says


def is_told_everywhere(reader: Any) -> bool:
    """Return what all who can be asked say, which must be the same, of whether a message waits."""
    with selectors.DefaultSelector() as selector, contextlib.closing(select.epoll()) as epoll:
        selector.register(reader, selectors.EVENT_READ)
        epoll.register(reader, select.EPOLLIN)
        answers = [selector.select(0), epoll.poll(0), wait([reader], 0), is_readable(reader), reader.poll()]
        assert len(set(map(bool, answers))) == 1, answers
    return bool(answers[0])


def test_descriptor_is_readable_exactly_as_long_as_messages_wait(ends: Ends) -> None:
    reader, writer = ends
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        for count in range(1, 8):
            writer.send_bytes_many([b"", b"x", b"", b"y" * 5000] * count)
            for number in range(4 * count):
                assert selector.select(0), number
                assert is_told_everywhere(reader), number
                reader.recv_bytes()
            assert not selector.select(0)
            assert not is_told_everywhere(reader)
        writer.send_many(range(5))
        assert len(reader.recv_bytes_many()) == 5
        assert not is_told_everywhere(reader)


@steady
@given(
    st.lists(st.tuples(st.sampled_from([short, long]), st.binary(max_size=40)), max_size=10), places, places, st.data()
)
def test_no_complete_message_is_ever_hidden_however_the_bytes_come(messages, cuts, wire_cuts, data) -> None:  # type: ignore[no-untyped-def]
    frames = [form(content) for form, content in messages]
    ends = list(itertools.accumulate(map(len, frames)))
    expected = [content for _, content in messages]
    found: list[bytes] = []
    with with_peer() as (connection, peer):
        if data.draw(st.booleans()):
            connection.fileno()
        clear, secret = 0, b""
        complete_at = []  # how many bytes of the ciphertext make how many bytes of the stream readable
        for piece in pieces(b"".join(frames), cuts):
            if piece:
                clear += len(piece)
                secret += peer.records(piece)
                complete_at.append((len(secret), clear))
        came = 0
        for piece in pieces(secret, wire_cuts):
            peer.sock.sendall(piece)
            came += len(piece)
            readable = max((end for place, end in complete_at if place <= came), default=0)
            complete = sum(end <= readable for end in ends)
            for _ in range(data.draw(st.integers(0, 4))):
                if len(found) < complete:
                    assert is_readable(connection)
                    assert connection.poll()
                    assert is_readable(connection)
                    timeout = data.draw(st.sampled_from([0, None]))
                    if data.draw(st.booleans()):
                        found += connection.recv_bytes_many(timeout)
                    else:
                        found.append(connection.recv_bytes(timeout=timeout))
                else:
                    assert not connection.poll()
                    assert not is_readable(connection)
                    receive = data.draw(st.sampled_from([connection.recv_bytes, connection.recv_bytes_many]))
                    with pytest.raises(TimeoutError):
                        receive(timeout=0)
        while len(found) < len(expected):
            assert is_readable(connection)
            found.append(connection.recv_bytes(timeout=0))
        assert not is_readable(connection)
        assert not connection.poll()
    assert found == expected


def test_part_of_a_message_and_tickets_of_a_session_are_nothing_to_receive() -> None:
    with with_peer(keep_tickets=True) as (connection, peer):
        assert not is_told_everywhere(connection)
        for data in (peer.tickets[:50], peer.tickets[50:], peer.records(short(b"message")[:-1])):
            peer.sock.sendall(data)
            assert is_readable(connection)  # nobody has looked at it
            assert not connection.poll()
            assert not connection.poll(0.001)
            assert not is_told_everywhere(connection)
        peer.send(b"e")
        assert is_told_everywhere(connection)
        assert connection.recv_bytes(timeout=0) == b"message"


def test_part_of_a_message_that_came_with_the_handshake_is_nothing_to_receive(in_thread: InThread) -> None:
    with blocking.Listener(HERE, tls=server_tls()) as listener:
        peer = Peer(raw_client(listener.address), False)
        in_thread(lambda: peer.sock.sendall(peer.shake_hands() + peer.records(short(b"message")[:-1])))
        with peer.sock, listener.accept(10) as connection:
            assert not is_told_everywhere(connection)
            peer.send(b"e")
            assert is_told_everywhere(connection)
            assert connection.recv_bytes(timeout=0) == b"message"


def test_end_and_failure_are_something_to_receive(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"one", b"two"])
    writer.close()
    for expected in (b"one", b"two"):
        assert is_told_everywhere(reader)
        assert reader.recv_bytes() == expected
    for _ in "ab":
        assert is_told_everywhere(reader)
        with pytest.raises(EOFError):
            reader.recv(0)


def test_end_that_came_with_the_message_in_front_of_it_is_not_forgotten(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    connection.fileno()
    peer.sock.sendall(peer.records(short(b"last")) + peer.goodbye())
    assert connection.recv_bytes() == b"last"
    assert is_readable(connection)
    assert connection.poll()
    with pytest.raises(EOFError):
        connection.recv_bytes()


def test_waiting_is_over_when_a_message_comes(ends: Ends, in_thread: InThread) -> None:
    reader, writer = ends
    in_thread(writer.send, 1)
    assert wait([reader], 10) == [reader]
    assert reader.recv() == 1
    in_thread(writer.send, 2)
    assert reader.poll(None)
    assert reader.recv() == 2


def test_only_who_asks_for_a_descriptor_has_more_of_them(ends: Ends) -> None:
    reader, writer = ends
    before = len(open_descriptors())
    writer.send_many(range(3))
    assert reader.poll()
    assert [reader.recv() for _ in range(3)] == [0, 1, 2]
    assert len(open_descriptors()) == before
    assert reader.fileno() == reader.fileno()
    assert len(open_descriptors()) == before + 2
    reader.close()
    assert len(open_descriptors()) == before - 1
    for call in (reader.fileno, reader.poll, reader.recv, reader.recv_bytes_many, lambda: reader.send(1)):
        with pytest.raises(OSError, match="handle is closed"):
            call()
    reader.close()


def test_descriptor_of_the_socket_is_told_where_there_is_no_epoll(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "epoll")
    assert [end.fileno() for end in ends] == [end._tls.fileno() for end in ends]


def test_bell_that_cannot_be_made_leaves_nothing_behind(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """Registers one descriptor, and no second one."""

        def __init__(self, epoll: Any = select.epoll) -> None:
            self._epoll = epoll()
            self.close = self._epoll.close
            self._left = [None]

        def register(self, *_: Any) -> None:
            if not self._left:
                raise OSError(28, "No space left on device")
            self._left.pop()

    before = open_descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(select, "epoll", Full)
        with pytest.raises(OSError, match="No space"):
            ends[0].fileno()
    assert open_descriptors() == before
    assert not is_readable(ends[0])


# Ends, and what is too large


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_end_in_good_order_is_told_as_by_the_original_wherever_it_comes(stream: bytes) -> None:
    for cut in (*range(min(len(stream), 25)), len(stream) - 1, len(stream)):
        theirs, _ = outcomes(
            "unix",
            lambda _, writer, cut=cut: [os.write(writer.fileno(), stream[:cut]), writer.close()],
            *[lambda reader, _: reader.recv_bytes()] * 4,
        )
        with with_peer() as (connection, peer):
            if cut:
                peer.send(stream[:cut])
            peer.sock.sendall(peer.goodbye())
            found: list[Any] = []
            for _ in range(4):
                try:
                    found.append(connection.recv_bytes(timeout=5))
                except (EOFError, OSError) as error:
                    found.append(type(error))
        assert found == theirs[1:], cut


@pytest.mark.parametrize("cut", [None, 5])
def test_connection_that_is_cut_off_is_told_apart_from_an_end(raw: tuple[Any, Peer], cut: int | None) -> None:
    connection, peer = raw
    peer.send(short(b"good") + short(b"message")[:cut])
    peer.sock.close()
    assert connection.recv_bytes() == b"good"
    if cut is None:
        assert connection.recv_bytes() == b"message"
    for _ in "ab":
        assert is_told_everywhere(connection)
        with pytest.raises(TruncatedError, match="without the last word of TLS"):
            connection.recv_bytes(timeout=5)


def test_reset_is_told_as_one(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    peer.reset()
    for _ in "ab":
        with pytest.raises(ConnectionResetError):
            connection.recv(timeout=5)
    for _ in "ab":
        with pytest.raises(BrokenPipeError):
            connection.send_bytes(bytes(100_000))
    assert connection.writable


def test_what_was_not_encrypted_is_told_behind_the_messages_in_front_of_it(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    peer.sock.sendall(peer.records(short(b"good")) + b"plaintext" * 10)
    assert connection.recv_bytes() == b"good"
    for _ in "ab":
        with pytest.raises(TlsError) as caught:
            connection.recv_bytes(timeout=5)
        assert caught.value.reason
    with pytest.raises(TlsError):
        connection.send("no more")
    assert not connection.writable


def test_no_cycle_keeps_a_connection_alive_after_an_error() -> None:
    def plaintext(peer: Peer) -> None:
        peer.sock.sendall(b"plaintext" * 10)

    def goodbye(peer: Peer) -> None:
        peer.sock.sendall(peer.goodbye())

    gc.disable()
    try:
        for end in (plaintext, goodbye, Peer.reset, lambda peer: peer.sock.close(), lambda peer: None):
            with with_peer() as (connection, peer):
                number = connection._tls.fileno()
                end(peer)
                for _ in "ab":
                    with contextlib.suppress(EOFError, OSError):
                        connection.recv(0.01)
                # Whoever forgets it is to find it closed; `with_peer` holds it, so another one stands for it.
                other = module.EncryptedConnection(connection._tls, b"")
                connection._handle = None
                with contextlib.suppress(EOFError, OSError):
                    other.recv(0.01)
                del other
                with pytest.raises(OSError):
                    os.fstat(number)
    finally:
        gc.enable()


def test_maxlength_refuses_messages_that_are_ready(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"x" * 10] * 3)
    assert reader.recv_bytes(10) == b"x" * 10
    with pytest.raises(OSError, match="bad message length"):
        reader.recv_bytes(9)
    for call in (reader.recv_bytes, reader.poll, reader.recv_bytes_many):
        with pytest.raises(OSError, match="connection is write-only"):
            call()
    reader.send_bytes(b"still there")
    assert writer.recv_bytes() == b"still there"


@pytest.mark.parametrize("size", [6, 5000, 1_000_000, 1 << 40])
def test_message_over_maxlength_is_refused_by_its_header(raw: tuple[Any, Peer], size: int) -> None:
    connection, peer = raw
    peer.send(short(b"small") + (SHORT.pack(size) if size < 1 << 31 else LONG_MARK + LONG.pack(size)))
    assert connection.recv_bytes(5) == b"small"
    assert not connection.poll()
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes(5, timeout=5)


def test_maxlength_of_one_call_is_not_that_of_the_next_one(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    peer.send(long(b"small") + short(b"x" * 100) + short(b"large" * 10)[:20])
    assert connection.recv_bytes(5) == b"small"
    assert connection.recv_bytes() == b"x" * 100
    peer.send(short(b"large" * 10)[20:])
    assert connection.recv_bytes(50) == b"large" * 10


def test_negative_length_is_refused(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    peer.send(short(b"good") + SHORT.pack(-2) + b"more")
    assert connection.recv_bytes() == b"good"
    assert connection.poll()
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes()
    assert not connection.readable


def test_header_of_a_huge_message_takes_no_memory(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    receive = functools.partial(pytest.raises, TimeoutError, connection.recv_bytes, timeout=0)
    peer.send(LONG_MARK + LONG.pack(1 << 40) + b"x" * 100)
    receive()
    peer.send(b"x" * 1000)
    assert peak_memory(receive) < 300_000


# Timeouts


@pytest.mark.parametrize("timeout", [-1, 0, 0.001])
def test_receiving_gives_up_when_the_time_is_over_and_the_connection_is_as_it_was(ends: Ends, timeout: float) -> None:
    reader, writer = ends
    receive: list[Callable[[], Any]] = [
        lambda: reader.recv(timeout),
        lambda: reader.recv_bytes(None, timeout),
        lambda: reader.recv_bytes(5, timeout=timeout),
        lambda: reader.recv_bytes_many(timeout),
        lambda: reader.recv_bytes_into(bytearray(9), timeout=timeout),
    ]
    for call in receive:
        with pytest.raises(TimeoutError, match="no message has come in time"):
            call()
    assert not reader.poll(timeout)
    writer.send("object")
    assert reader.recv(timeout) == "object"
    writer.send_bytes(b"bytes")
    assert reader.poll(timeout)
    assert reader.recv_bytes(timeout=timeout) == b"bytes"


@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf"), None])
def test_who_would_wait_for_longer_than_the_system_can_count_waits(
    ends: Ends, timeout: float | None, in_thread: InThread
) -> None:
    reader, writer = ends
    in_thread(writer.send_bytes_many, [b"one"])
    assert reader.poll(timeout)
    assert reader.recv_bytes(timeout=timeout) == b"one"
    in_thread(lambda: writer.send_bytes(b"two" * 1_000_000, timeout=timeout))
    assert reader.recv_bytes(timeout=timeout) == b"two" * 1_000_000


@pytest.mark.parametrize("form", [short, long])
def test_what_has_come_of_a_message_is_kept_when_the_time_is_over(
    raw: tuple[Any, Peer], form: Callable[[bytes], bytes]
) -> None:
    connection, peer = raw
    stream = form(b"message")
    for cut in range(1, len(stream)):
        for place in (0, 1, 5, 20):
            head = peer.records(stream[:cut])
            tail = peer.records(stream[cut:] + short(b"behind it"))
            peer.sock.sendall(head + tail[:place])
            assert not connection.poll()
            with pytest.raises(TimeoutError):
                connection.recv_bytes(timeout=0)
            peer.sock.sendall(tail[place:])
            assert connection.recv_bytes(timeout=0) == b"message"
            assert connection.recv_bytes() == b"behind it"


def test_large_message_is_complete_although_the_time_was_over_many_times(ends: Ends, in_thread: InThread) -> None:
    reader, writer = ends
    message = os.urandom(2_000_000)
    in_thread(writer.send_bytes, message)
    for _ in itertools.count():
        try:
            assert reader.recv_bytes(timeout=0.0005) == message
            break
        except TimeoutError:
            pass
    assert not reader.poll()


def test_receiving_does_not_go_on_for_ever_when_the_time_is_over_and_more_is_always_there(
    raw: tuple[Any, Peer], monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, peer = raw
    monkeypatch.setattr(module, "RECEIVE_SIZE", 1000)
    monkeypatch.setattr(module, "OVERTIME", 10_000)
    message = os.urandom(200_000)
    stream = short(message)
    peer.send(*(stream[start : start + 10_000] for start in range(0, len(stream), 10_000)))
    for _ in range(3):
        assert not connection.poll()
        with pytest.raises(TimeoutError):
            connection.recv_bytes(timeout=0)
        assert is_readable(connection)
    assert connection.recv_bytes(timeout=5) == message


def test_sending_gives_up_when_the_time_is_over_and_the_connection_is_as_it_was(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    taken = fill(connection._tls)
    for message in (b"", b"x" * 100, b"x" * 100_000):
        for timeout in (-1, 0, 0.001):
            with pytest.raises(TimeoutError, match="the peer takes nothing"):
                connection.send_bytes(message, timeout=timeout)
    with pytest.raises(TimeoutError):
        connection.send_many([1, 2], 0)
    assert connection.writable
    while taken:
        taken -= len(peer.sock.recv(taken))
    connection.send_bytes(b"first", timeout=0)
    connection.close()
    assert peer.messages() == [b"first"]


@pytest.mark.parametrize("timeout", [0.01, -1])
def test_message_of_which_only_a_part_could_be_sent_in_time_ends_sending_but_not_receiving(
    ends: Ends, timeout: float
) -> None:
    reader, writer = ends
    writer.send_bytes(b"complete", timeout=1)
    with pytest.raises(TimeoutError, match="or not all of it in time"):
        writer.send_bytes(bytes(20_000_000), timeout=timeout)
    assert not writer.writable
    for call in (lambda: writer.send(1), lambda: writer.send_bytes(b""), lambda: writer.send_bytes_many([b""])):
        with pytest.raises(OSError, match="connection is read-only"):
            call()
    assert reader.recv_bytes() == b"complete"
    reader.send("still there")
    assert writer.recv(5) == "still there"
    writer.close()
    with pytest.raises(TruncatedError):
        reader.recv_bytes()


def test_kernel_that_takes_little_at_a_time_gets_everything(in_thread: InThread) -> None:
    messages = [os.urandom(size) for size in (1_000_000, 10, 16_385, 1, 70_000)]
    with connected(None) as (reader, writer):
        writer._tls.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 5000)

        def send() -> None:
            for message in messages:
                writer.send_bytes(message, timeout=20)
            writer.send_bytes_many(messages)

        in_thread(send)
        assert [reader.recv_bytes(timeout=20) for _ in messages * 2] == messages * 2


# Listeners and clients


def test_client_believes_only_the_server_that_it_asked_for() -> None:
    with blocking.Listener(HERE, tls=certificate("other.example.org"), strict=True) as listener:
        for tls, match in [(ClientTls(authorities()), "not for '127.0.0.1'"), (True, "nobody who is known here")]:
            calling = Calling(blocking.Client, listener.address, tls=tls)
            with pytest.raises(TlsError):
                listener.accept(10)
            with pytest.raises(TlsError, match=match):
                calling.result()


def test_unix_socket_needs_the_name_of_the_server() -> None:
    with connected(None, KEY) as (accepted, made):
        made.send("question")
        assert accepted.recv(5) == "question"
    with pytest.raises(reactor.LocalError, match=r"give tls=ClientTls\(server_name="):
        blocking.Client("/no/matter/where", tls=ClientTls(authorities()))


def test_certificates_of_clients_are_asked_for_and_shown() -> None:
    server = ServerTls(certificate(), client_authorities=authorities())
    client = ClientTls(authorities(), server_name="localhost", certificate=certificate("client.example.org"))
    with connected(server=server, client=client) as (accepted, _):
        assert ("DNS", "client.example.org") in accepted.tls.getpeercert()["subjectAltName"]

    def call() -> None:
        # TLS tells a client of version 1.3 so, but when that has finished its handshake already.
        with blocking.Client(listener.address, tls=client_tls()) as connection:
            connection.recv(10)

    with blocking.Listener(HERE, tls=server, strict=True) as listener:
        calling = Calling(call)
        with pytest.raises(TlsError, match="the client has no certificate"):
            listener.accept(10)
        with pytest.raises(TlsError, match="the peer wants a certificate"):
            calling.result()


def test_what_is_no_tls_is_refused_before_anything_is_opened() -> None:
    before = open_descriptors()
    with pytest.raises(reactor.LocalError, match="of no use for a listener"):
        blocking.Listener(HERE, tls=True)
    with pytest.raises(reactor.LocalError, match="of no use for a connect"):
        blocking.Client(("127.0.0.1", 1), tls="certificate.pem")
    with pytest.raises(reactor.LocalError, match=r"no\.pem"):
        blocking.Listener(HERE, tls=("no.pem", "no.key"))
    assert open_descriptors() == before


def test_named_pipes_of_windows_are_refused_with_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "sys", SimpleNamespace(platform="win32"))
    for make in (blocking.Listener, blocking.Client):
        with pytest.raises(reactor.LocalError, match="no TLS on a named pipe"):
            make(r"\\.\pipe\name", tls=True)


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while more := sock.recv(1000):
            data += more
    return data


def goes(address: Any) -> None:
    raw_client(address).close()


def resets(address: Any) -> None:
    sock = raw_client(address)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def surfs(address: Any) -> None:
    with raw_client(address) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert b"This port speaks TLS" in until_closed(sock)


def speaks_plaintext(address: Any) -> None:
    with raw_client(address) as sock:
        sock.sendall(short(pickle.dumps("let me in")))
        assert until_closed(sock) == b""


def breaks_off(address: Any) -> None:
    peer = Peer(raw_client(address), False)
    with peer.sock:
        with pytest.raises(ssl.SSLWantReadError):
            peer._session.do_handshake()
        peer.sock.sendall(peer._outgoing.read()[:100])


def disbelieves(address: Any) -> None:
    context = ssl.create_default_context()
    with raw_client(address) as sock, pytest.raises(ssl.SSLCertVerificationError):
        context.wrap_socket(sock, server_hostname="localhost")


def has_another_key(address: Any) -> None:
    with pytest.raises(blocking.AuthenticationError):
        blocking.Client(address, authkey=b"another long secret key", tls=client_tls())


def has_no_key(address: Any) -> None:
    with blocking.Client(address, tls=client_tls()) as client:
        client.send("let me in")
        assert client.recv_bytes(timeout=10).startswith(b"#CHALLENGE#")


WRONG_PEERS = {
    "gone": (goes, TlsError, "closed the connection in the handshake of TLS: nothing came"),
    "reset": (resets, ConnectionResetError, "reset"),
    "browser": (surfs, TlsError, "the peer speaks an HTTP request, not TLS"),
    "plaintext": (speaks_plaintext, TlsError, "the peer speaks no TLS"),
    "broken off": (breaks_off, TlsError, "it was not brought to its end"),
    "other authority": (disbelieves, TlsError, "does not know who has signed"),
    "other key": (has_another_key, blocking.AuthenticationError, "wrong authkey"),
    "no key": (has_no_key, blocking.AuthenticationError, "this is no answer to our challenge"),
}


@pytest.mark.parametrize(("peer", "error", "match"), WRONG_PEERS.values(), ids=WRONG_PEERS)
def test_wrong_peer_is_told_to_the_hook_and_delays_nobody(
    peer: Callable[[Any], None], error: type[Exception], match: str, in_thread: InThread
) -> None:
    told: list[Any] = []

    class Telling(blocking.Listener):
        def handle_refused(self, error: reactor.ReactorError) -> None:
            told.append(error)

    with Telling(HERE, authkey=KEY, tls=server_tls()) as listener, raw_client(listener.address):
        thread = in_thread(peer, listener.address)
        while not told or thread.is_alive():
            with pytest.raises(TimeoutError, match="nobody came in time"):
                listener.accept(0.01)
        (reason,) = told
        assert isinstance(reason, reactor.RemoteError)
        calling = Calling(blocking.Client, listener.address, authkey=KEY, tls=client_tls())
        with listener.accept(10) as accepted, calling.result() as made:
            made.send("good")
            assert accepted.recv(10) == "good"


@pytest.mark.parametrize(("peer", "error", "match"), WRONG_PEERS.values(), ids=WRONG_PEERS)
def test_strict_listener_raises_what_is_wrong_with_a_peer(
    peer: Callable[[Any], None], error: type[Exception], match: str, in_thread: InThread
) -> None:
    with blocking.Listener(HERE, authkey=KEY, tls=server_tls(), strict=True) as listener:
        thread = in_thread(peer, listener.address)
        with pytest.raises(error, match=match):
            listener.accept(10)
        while thread.is_alive():  # it has to hear of it
            with pytest.raises(TimeoutError):
                listener.accept(0.01)


def test_good_peer_is_accepted_beside_many_silent_ones() -> None:
    limits = reactor.Limits(tls_timeout=0.05, authentication_timeout=None)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(blocking.Listener(HERE, authkey=KEY, tls=server_tls()))
        for _ in range(100):
            stack.enter_context(raw_client(listener.address))
        calling = Calling(blocking.Client, listener.address, authkey=KEY, timeout=10, tls=client_tls())
        stack.enter_context(listener.accept(10))
        stack.enter_context(calling.result())
        hasty = stack.enter_context(blocking.Listener(HERE, tls=server_tls(), strict=True, limits=limits))
        stack.enter_context(raw_client(hasty.address))
        with pytest.raises(blocking.AuthenticationError, match="tls_timeout"):
            hasty.accept(10)


def test_client_gives_up_when_the_time_is_over() -> None:
    with socket.create_server(HERE) as silent:
        for timeout in (-1, 0, 0.05):
            with pytest.raises(TimeoutError, match="no connection to 127.0.0.1:.* within"):
                blocking.Client(silent.getsockname(), tls=client_tls(), timeout=timeout)
    assert listening.PATIENT.tls_timeout is None
    nobody_came = pytest.raises(TimeoutError, match="nobody came in time")
    with blocking.Listener(HERE, tls=server_tls()) as listener, nobody_came:
        listener.accept(0.01)


def test_client_is_told_that_the_server_speaks_no_tls() -> None:
    with blocking.Listener(HERE, authkey=KEY) as listener:
        calling = Calling(blocking.Client, listener.address, authkey=KEY, tls=client_tls())
        with pytest.raises(TimeoutError):
            listener.accept(0.5)
        with pytest.raises(TlsError, match="the peer speaks no TLS"):
            calling.result()


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
@pytest.mark.parametrize("size", [10, 16384, 60_000])
def test_messages_that_came_behind_the_handshake_of_a_client_are_for_the_connection(
    key: bytes | None, size: int, in_thread: InThread
) -> None:
    # The last one is only announced, with more bytes than a channel would accept.
    stream = b"".join(map(short, (b"one", b"", b"x" * size))) + SHORT.pack(100_000_000) + b"y" * 100
    with blocking.Listener(HERE, authkey=key, tls=server_tls()) as listener:
        peer = Peer(raw_client(listener.address), False)

        def talk() -> None:
            last = peer.shake_hands()
            if key is None:
                peer.sock.sendall(last + peer.records(stream[:16384], stream[16384:]))
                return
            peer.sock.sendall(last)
            handshake = Handshake("client", key, os.urandom, binding=peer.binding)
            output = handshake.start()
            while not handshake.done:
                if output:
                    peer.send(output)
                output = handshake.receive(peer.read())
            stream_behind = output + stream
            peer.send(*(stream_behind[start : start + 16384] for start in range(0, len(stream_behind), 16384)))

        with peer.sock:
            in_thread(talk)
            with listener.accept(10) as connection:
                assert is_readable(connection) or connection.poll(10)
                assert [connection.recv_bytes(timeout=10) for _ in range(3)] == [b"one", b"", b"x" * size]
                with pytest.raises(TimeoutError):
                    connection.recv_bytes(timeout=0)
                in_thread(peer.send, *[b"y" * 10_000] * 30)
                with pytest.raises(TimeoutError):
                    connection.recv_bytes(timeout=0.05)


@pytest.mark.parametrize("goodbye", [False, True])
@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
def test_messages_that_came_behind_the_handshake_of_a_listener_are_for_the_connection(
    key: bytes | None, goodbye: bool, in_thread: InThread
) -> None:
    stream = short(b"early") + short(b"bird")
    with socket.create_server(HERE) as server:

        def serve() -> None:
            peer = Peer(server.accept()[0], True)
            with peer.sock:
                data = peer.shake_hands()
                if key is None:
                    data += peer.records(stream)
                else:
                    # It need not wait for the welcome of the client.
                    handshake = Handshake("listener", key, os.urandom, binding=peer.binding)
                    peer.sock.sendall(data + peer.records(handshake.start()))
                    answer = handshake.receive(peer.read())
                    if not handshake.done:
                        peer.send(answer)
                        answer = handshake.receive(peer.read())
                    data = peer.records(answer + stream)
                peer.sock.sendall(data + (peer.goodbye() if goodbye else b""))
                until_closed(peer.sock)

        in_thread(serve)
        with blocking.Client(server.getsockname(), authkey=key, tls=client_tls()) as client:
            assert wait([client], 10) == [client]
            assert [client.recv_bytes(timeout=5) for _ in "ab"] == [b"early", b"bird"]
            if goodbye:
                with pytest.raises(EOFError):
                    client.recv_bytes(timeout=5)
            else:
                assert not client.poll()


# Channels at the other end


class Echo(reactor.Connection):
    codec = "pickle"

    def handle_message(self, message: Any) -> None:
        self.send(message)
        if message is None:
            self.close_when_done()


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
@pytest.mark.parametrize("is_listener", [True, False], ids=["listener", "client"])
def test_channels_and_blocking_connections_talk(is_listener: bool, key: bytes | None, in_thread: InThread) -> None:
    words = [*range(50), os.urandom(1_000_000), "x" * 70_000, None]
    with contextlib.ExitStack() as stack:
        loop = stack.enter_context(reactor.Reactor())
        if is_listener:
            options = {"authkey": key, "allow_unauthenticated_pickle": True}
            listener = reactor.Listener(HERE, Echo, tls=server_tls(), reactor=loop, **options)
            thread = in_thread(loop.loop)
            connection = stack.enter_context(
                blocking.Client(listener.address, authkey=key, timeout=10, tls=client_tls())
            )
        else:
            ours = stack.enter_context(blocking.Listener(HERE, authkey=key, tls=server_tls()))
            options = {"authkey": key, "allow_unauthenticated_pickle": True}
            Echo.connect(ours.address, tls=client_tls(), reactor=loop, **options)
            thread = in_thread(loop.loop)
            connection = stack.enter_context(ours.accept(10))
        in_thread(connection.send_many, words)
        assert [connection.recv(10) for _ in words] == words
        with pytest.raises(EOFError):
            connection.recv(10)
        loop.call_threadsafe(loop.stop)
        thread.join(10)


# Closing


def test_close_says_goodbye_and_does_not_wait(raw: tuple[Any, Peer]) -> None:
    connection, peer = raw
    connection.send_bytes(b"last")
    connection.close()
    assert peer.messages() == [b"last"]
    with with_peer() as (connection, peer):
        fill(connection._tls)  # there is no room for a word
        connection.close()
        assert connection.closed


def test_connection_that_is_forgotten_says_goodbye(in_thread: InThread) -> None:
    with blocking.Listener(HERE, tls=server_tls()) as listener:
        calling = Calling(blocking.Client, listener.address, tls=client_tls())
        accepted = listener.accept(10)
        del accepted
        with calling.result() as made, pytest.raises(EOFError):
            made.recv(10)


def test_peers_that_nobody_fetched_hear_of_the_close() -> None:
    with blocking.Listener(HERE, tls=server_tls()) as listener:
        callings = [Calling(blocking.Client, listener.address, tls=client_tls()) for _ in range(3)]
        reception = listener._reception
        while len(reception.hall.arrived) < 3:
            reception.reactor.poll(0.01)
        listener.accept(10).close()
    for calling in callings:
        with calling.result() as made, pytest.raises(EOFError):
            made.recv(10)


def test_words_of_tls_that_nobody_received_do_not_cost_the_peer_the_last_message() -> None:
    message = os.urandom(300_000)
    with with_peer() as (connection, peer):
        connection.send_bytes(message, timeout=10)
        peer.send(b"x")  # as tickets of a session that come late
        until(lambda: bool(select.select([connection._tls], [], [], 0)[0]))
        connection.close()
        assert peer.messages() == [message]


def test_wait_ends_after_another_thread_has_closed_the_connection(ends: Ends, in_thread: InThread) -> None:
    reader, _ = ends
    waits = threading.Event()

    def receive() -> None:
        waits.set()
        with pytest.raises(OSError):  # TimeoutError is one too
            reader.recv(0.2)

    thread = in_thread(receive)
    assert waits.wait(10)
    reader.close()
    thread.join(10)
    assert not thread.is_alive()


def test_connection_cannot_be_given_to_another_process_by_any_way(ends: Ends) -> None:
    first, second = blocking.Pipe()
    with first, second:
        for attempt in (pickle.dumps, copy.copy, reduction.ForkingPickler.dumps, first.send):
            with pytest.raises(TypeError, match="cannot be given to another process: its keys stay here"):
                attempt(ends[0])
    ends[1].send("still there")
    assert ends[0].recv(5) == "still there"


def test_connection_of_another_process_can_only_be_closed(ends: Ends) -> None:
    reader, writer = ends
    reader.fileno()
    reader._process += 1
    for use in (reader.recv, reader.poll, reader.fileno, lambda: reader.send(1)):
        with pytest.raises(OSError, match="belongs to the process that made it"):
            use()
    reader.close()
    with pytest.raises(TruncatedError):  # nobody has said goodbye
        writer.recv(10)


PROCESSES: dict[str, Any] = {
    "encrypted_in_a_child": [[0, 0], ["from the parent", "from the peer"]],
    "encrypted_listener_in_a_child": [0, "from the child"],
    "exit_with_encryption": None,
}


@pytest.mark.parametrize("name", PROCESSES)
def test_children_leave_the_connections_of_their_parents_alone(name: str) -> None:
    assert run(name) == PROCESSES[name]


# Signals


@pytest.fixture
def alarm() -> Iterator[Callable[[str], None]]:
    """Have a signal come again and again, until its handler finds the connection in a function, and raises there."""
    before = signal.getsignal(signal.SIGALRM)

    def come(name: str) -> None:
        def handle(_: int, frame: FrameType | None) -> None:
            if frame is not None and frame.f_code.co_name == name:
                signal.setitimer(signal.ITIMER_REAL, 0)
                raise Alarm

        signal.signal(signal.SIGALRM, handle)
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)

    yield come
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("timeout", [None, 20])
def test_signal_whose_handler_raises_ends_the_wait_and_loses_nothing(
    raw: tuple[Any, Peer], alarm: Callable[[str], None], timeout: float | None
) -> None:
    connection, peer = raw
    stream = short(b"message")
    for cut in range(len(stream)):
        if cut:
            peer.send(stream[:cut])
        for wait_for_it in (connection.recv_bytes, connection.poll):
            alarm("wait_for")
            with pytest.raises(Alarm):
                wait_for_it(timeout=timeout)
        peer.send(stream[cut:])
        assert connection.recv_bytes() == b"message"


@pytest.mark.parametrize("size", [10, 1_000_000])
@pytest.mark.parametrize("timeout", [None, 20])
def test_signal_while_sending_ends_sending_if_anything_is_encrypted(
    raw: tuple[Any, Peer], alarm: Callable[[str], None], timeout: float | None, size: int
) -> None:
    connection, peer = raw
    taken = fill(connection._tls)
    alarm("wait_for")
    with pytest.raises(Alarm):
        connection.send_bytes(bytes(size), timeout=timeout)
    while taken:
        taken -= len(peer.sock.recv(taken))
    if timeout is None:
        with pytest.raises(OSError, match="connection is read-only"):
            connection.send_bytes(b"")
    else:
        connection.send_bytes(b"next")
    connection.close()
    assert peer.messages(ends_well=timeout is not None) == ([] if timeout is None else [b"next"])


FILES = {
    module.__file__,
    blocking.connection.__file__,
    reactor.framing.__file__,
    str(Path(module.__file__).parent.parent / "tls.py"),
}


@contextlib.contextmanager
def at_step(number: int, act: Callable[[], Any]) -> Iterator[list[int]]:
    """Do `act` once, where the handler of a signal could: at the step `number` of receiving or sending."""
    steps = [0]

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # In these two a message leaves: from there on it is its receiver's.
        if code.co_filename in FILES and event != "return" and code.co_name not in ("_fetch", "recv_bytes"):
            steps[0] += 1
            if steps[0] == number:
                sys.setprofile(None)
                act()

    sys.setprofile(profile)
    try:
        yield steps
    finally:
        sys.setprofile(None)


def raise_alarm() -> None:
    raise Alarm


def raise_timeout() -> None:
    raise TimeoutError("it is late")


@pytest.mark.parametrize(("act", "error"), [(raise_alarm, Alarm), (raise_timeout, TimeoutError)])
def test_signal_in_the_middle_of_receiving_never_loses_anything_in_silence(
    act: Callable[[], None], error: type[Exception]
) -> None:
    messages = [b"one", b"two" * 10_000, b"three"]
    ends = set()
    for number in itertools.count(1):
        with with_peer() as (connection, peer):
            peer.send(short(messages[0]), *pieces(short(messages[1]), [1000, 20_000]), short(messages[2]))
            found: list[bytes] = []
            try:
                with at_step(number, act):
                    while len(found) < len(messages):
                        found.append(connection.recv_bytes(timeout=10))
                assert found == messages
                break  # it takes fewer steps
            except error:
                pass  # a TimeoutError of the connection's own would come after 10 s
            try:
                while len(found) < len(messages):
                    found.append(connection.recv_bytes(timeout=10))
                assert found == messages
                ends.add("complete")
            except OSError as lost:
                assert found == messages[: len(found)]
                assert "a signal came in the middle of receiving" in str(lost)  # noqa: PT017 - or none comes
                assert is_readable(connection)
                ends.add("lost")
            connection.send_bytes(b"still there")
            connection.close()
            assert peer.messages() == [b"still there"]
    assert ends == {"complete", "lost"}


def test_signal_in_the_middle_of_sending_never_sends_anything_twice_or_by_halves() -> None:
    ends = set()
    for number in itertools.count(1):
        with with_peer() as (connection, peer):
            with contextlib.suppress(Alarm), at_step(number, raise_alarm) as steps:
                connection.send_bytes(b"first" * 10_000)
            was_interrupted = steps[0] >= number
            is_writable = connection.writable
            if is_writable:
                connection.send_bytes(b"second")
            peer.send(short(b"still there"))
            assert connection.recv_bytes(timeout=5) == b"still there"
            connection.close()
            if not was_interrupted:
                break
            found = peer.messages(ends_well=is_writable)
            if is_writable:
                assert found == [b"second"]
            else:
                assert found in ([], [b"first" * 10_000])
            ends.add(is_writable)
    assert ends == {True, False}


def test_handler_of_a_signal_may_close_the_connection_in_the_middle_of_everything() -> None:
    for number in itertools.count(1):
        with with_peer() as (connection, peer):
            peer.send(short(b"one"), short(b"two" * 10_000)[:100])
            with contextlib.suppress(OSError), at_step(number, connection.close) as steps:
                assert connection.recv_bytes(timeout=10) == b"one"
                connection.send_bytes(b"answer")
                connection.recv_bytes(timeout=0)
            if steps[0] < number:
                break
            with pytest.raises(OSError, match="handle is closed"):
                connection.recv_bytes(timeout=0)
