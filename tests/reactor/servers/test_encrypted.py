"""What a handler gets for its request over TLS: a socket as it knows it."""

from __future__ import annotations

import contextlib
import errno
import io
import queue
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from reactor import servers
from tests import certificates, tls_peers
from tests.conftest import raw_client
from tests.reactor.servers.serving import serving, wait_until

LOCAL = ("127.0.0.1", 0)

Pair = tuple[Any, ssl.SSLSocket]


class Handing(socketserver.BaseRequestHandler):
    """Hands its request to the test, and waits until that has done with it."""

    def handle(self) -> None:
        self.server.requests.put(self.request)  # type: ignore[attr-defined]
        self.server.done.wait(20)  # type: ignore[attr-defined]


@contextlib.contextmanager
def pairs(client: ssl.SSLContext | None = None, **options: Any) -> Iterator[Callable[[], Pair]]:
    """Makes both ends of connections: ours, as a handler gets it, and that of a client."""
    tls = options.pop("tls", None) or certificates.certificate()
    server: Any = servers.ThreadingTCPServer(LOCAL, Handing, tls=tls, **options)
    server.requests, server.done = queue.Queue(), threading.Event()
    with serving(server), contextlib.ExitStack() as stack:
        stack.callback(server.done.set)

        def make() -> Pair:
            raw = stack.enter_context(raw_client(server.server_address))
            context = client or tls_peers.client_context()
            theirs = stack.enter_context(context.wrap_socket(raw, server_hostname="localhost"))
            return server.requests.get(timeout=10), theirs

        yield make


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Both ends of a connection: ours, as a handler gets it, and that of a client."""
    with pairs() as make:
        yield make()


def is_cut_short(client: ssl.SSLSocket) -> bool:
    """Return whether the connection ends without the last word of TLS."""
    client.suppress_ragged_eofs = False
    try:
        while client.recv(65536):
            pass
    except ssl.SSLEOFError:
        return True
    return False


def fill(raw: socket.socket) -> None:
    """Send until the kernel takes not a byte more."""
    silent = 0
    while silent < 20:
        silent += 1
        for size in (100_000, 1000, 1):
            with contextlib.suppress(BlockingIOError):
                while raw.send(bytes(size)):
                    silent = 0
        select.select([], [raw], [], 0.01)


# Receiving


def test_input_is_given_in_the_pieces_that_are_asked_for(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"0123456789")
    assert ours.recv(4) == b"0123"
    assert ours.pending() == 6
    assert ours.recv(0) == b""
    buffer = bytearray(b"........")
    assert ours.recv_into(buffer, 3) == 3
    assert bytes(buffer) == b"456....."
    assert ours.recv_into(memoryview(buffer)[4:]) == 3
    assert bytes(buffer) == b"456.789."
    assert ours.pending() == 0
    theirs.sendall(b"more")
    assert ours.recv(100) == b"more"


def test_end_of_the_input_is_told_again_and_again(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"all")
    with contextlib.suppress(OSError):
        theirs.settimeout(0.1)
        theirs.unwrap()
    assert ours.recv(100) == b"all"
    assert [ours.recv(100), ours.recv(100)] == [b"", b""]
    assert not ours.is_truncated


def test_end_without_the_last_word_of_tls_reads_as_an_end_and_can_be_told(pair: Pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"all")
    theirs.close()
    assert ours.recv(100) == b"all"
    assert ours.recv(100) == b""
    assert ours.is_truncated


def test_input_that_nobody_has_encrypted_is_an_error(pair: Pair) -> None:
    ours, theirs = pair
    with socket.socket(fileno=theirs.detach()) as raw:
        raw.sendall(b"\x17\x03\x03\x00\x20" + b"garbage." * 4)
        with pytest.raises(reactor.TlsError, match="changed on its way"):
            ours.recv(100)


@pytest.mark.parametrize("method", ["recv", "recv_into", "send", "sendall"])
def test_flags_and_sizes_that_make_no_sense_are_refused(pair: Pair, method: str) -> None:
    ours, _ = pair
    arguments = {"recv": (1, 2), "recv_into": (bytearray(1), 1, 2)}.get(method, (b"x", 2))
    with pytest.raises(ValueError, match="flags are of no use"):
        getattr(ours, method)(*arguments)
    with pytest.raises(ValueError, match="negative"):
        ours.recv(-1)
    with pytest.raises(ValueError, match="out of range"):
        ours.settimeout(-1)


# Sending


def test_one_thread_sends_megabytes_while_another_one_receives_them(pair: Pair) -> None:
    ours, theirs = pair
    data = bytes(range(256)) * 20_000
    received = bytearray()

    def receive() -> None:
        while len(received) < len(data):
            received.extend(ours.recv(65536))

    threads = [threading.Thread(target=receive), threading.Thread(target=ours.sendall, args=(data,))]
    for thread in threads:
        thread.start()
    assert exchange(theirs, data) == data
    for thread in threads:
        thread.join(20)
    assert received == data


def exchange(client: ssl.SSLSocket, data: bytes) -> bytes:
    """Send `data`, and receive as much, all in one thread: no two may use an `ssl.SSLSocket` at once."""
    client.setblocking(False)
    sent, received = 0, bytearray()
    while sent < len(data) or len(received) < len(data):
        select.select([client], [client] if sent < len(data) else [], [], 10)
        with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
            received += client.recv(65536)
        with contextlib.suppress(ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if sent < len(data):
                sent += client.send(data[sent : sent + 16384])
    return bytes(received)


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes"), memoryview(b"abcd").cast("H")])
def test_whatever_is_like_bytes_can_be_sent(pair: Pair, data: Any) -> None:
    ours, theirs = pair
    ours.sendall(data)
    assert theirs.recv(100) == memoryview(data).tobytes()
    assert ours.send(data) == memoryview(data).nbytes
    assert theirs.recv(100) == memoryview(data).tobytes()
    assert ours.send(b"") == 0


def test_file_can_be_sent(pair: Pair) -> None:
    ours, theirs = pair
    file = io.BytesIO(b"0123456789" * 100)
    assert ours.sendfile(file, 5) == 995
    received = b""
    while len(received) < 995:
        received += theirs.recv(1000)
    assert received == (b"0123456789" * 100)[5:]
    assert ours.sendfile(file, 5, 7) == 7
    assert theirs.recv(100) == b"5678901"


# Timeouts


def test_receive_that_takes_too_long_is_over_and_can_be_tried_again(pair: Pair) -> None:
    ours, theirs = pair
    ours.settimeout(0.02)
    assert ours.gettimeout() == 0.02
    with pytest.raises(TimeoutError):
        ours.recv(1)
    theirs.sendall(b"late")
    ours.settimeout(10)
    assert ours.recv(100) == b"late"


def test_send_that_takes_too_long_is_the_end_of_sending_and_the_peer_knows_that_something_is_missing(
    pair: Pair,
) -> None:
    ours, theirs = pair
    ours.settimeout(0.05)
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(50_000_000))
    with pytest.raises(OSError, match="nothing more can be sent") as caught:
        ours.send(b"more")
    assert caught.value.errno == errno.EPIPE
    with pytest.raises(OSError, match="this is no good end"):
        ours.shutdown(socket.SHUT_WR)
    ours.close()
    assert is_cut_short(theirs)


def test_socket_that_does_not_wait_says_so(pair: Pair) -> None:
    ours, theirs = pair
    ours.setblocking(False)
    assert ours.gettimeout() == 0
    assert not ours.getblocking()
    with pytest.raises(BlockingIOError) as caught:
        ours.recv(1)
    assert caught.value.errno == errno.EAGAIN
    data = bytes(range(256)) * 20_000
    received: list[bytes] = []

    def receive() -> None:
        while sum(map(len, received)) < len(data):
            received.append(theirs.recv(65536))

    thread = threading.Thread(target=receive)
    sent = blocked = 0
    with memoryview(data) as view:
        while sent < len(data):
            try:
                sent += ours.send(view[sent : sent + 100_000])
            except BlockingIOError:
                blocked += 1
                if blocked == 1:
                    thread.start()
                select.select([], [ours], [], 10)
    thread.join(20)
    assert b"".join(received) == data
    ours.setblocking(True)
    assert ours.getblocking()
    assert ours.gettimeout() is None


# The end


def test_shutdown_ends_one_direction_and_the_other_one_goes_on(pair: Pair) -> None:
    ours, theirs = pair
    ours.sendall(b"the last")
    ours.shutdown(socket.SHUT_WR)
    assert theirs.recv(100) == b"the last"
    theirs.suppress_ragged_eofs = False
    assert theirs.recv(100) == b""
    theirs.sendall(b"an answer")
    assert ours.recv(100) == b"an answer"


def test_shutdown_of_receiving_is_an_end_of_the_input_alone(pair: Pair) -> None:
    ours, theirs = pair
    ours.shutdown(socket.SHUT_RD)
    assert ours.recv(1) == b""
    ours.sendall(b"still")
    assert theirs.recv(100) == b"still"


def test_last_word_waits_for_a_slow_peer_but_not_for_ever() -> None:
    with pairs(limits=reactor.Limits(drain_timeout=0.1)) as make:
        ours, _ = make()
        fill(ours._tls._raw)
        with pytest.raises(TimeoutError):
            ours.shutdown(socket.SHUT_WR)


def test_slow_peer_gets_everything_and_the_last_word(pair: Pair) -> None:
    ours, theirs = pair
    data = bytes(3_000_000)

    def send() -> None:
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        ours.close()

    thread = threading.Thread(target=send)
    thread.start()
    theirs.suppress_ragged_eofs = False
    received = 0
    while part := theirs.recv(10_000):
        received += len(part)
    thread.join(20)
    assert received == len(data)


def test_closed_socket_says_so(pair: Pair) -> None:
    ours, theirs = pair
    with ours:
        assert str(ours.fileno()) in repr(ours)
    ours.close()
    assert ours.fileno() == -1
    for use in (lambda: ours.recv(1), lambda: ours.send(b"x"), lambda: ours.shutdown(socket.SHUT_WR)):
        with pytest.raises(OSError, match="Bad file descriptor") as caught:
            use()
        assert caught.value.errno == errno.EBADF
    assert not is_cut_short(theirs)


def test_socket_that_another_process_has_says_nothing_at_the_close(pair: Pair) -> None:
    ours, theirs = pair
    ours.forget()
    ours.close()
    assert is_cut_short(theirs)


# As a file, and as an ssl.SSLSocket


def test_files_keep_the_socket_open(pair: Pair) -> None:
    ours, theirs = pair
    reading, writing = ours.makefile("rb"), ours.makefile("w", encoding="utf-8", newline="\r\n")
    ours.close()
    theirs.sendall(b"first\nsecond\n")
    assert reading.readline() == b"first\n"
    assert reading.readline() == b"second\n"
    print("written", file=writing, flush=True)
    assert theirs.recv(100) == b"written\r\n"
    reading.close()
    assert ours.fileno() >= 0
    writing.close()
    assert ours.fileno() == -1
    assert theirs.recv(1) == b""


def test_file_of_a_socket_with_a_timeout_tells_of_it(pair: Pair) -> None:
    ours, _ = pair
    ours.settimeout(0.02)
    with ours.makefile("rb") as file, pytest.raises(TimeoutError):
        file.read(1)


@pytest.mark.parametrize("version", [tls_peers.TLS_1_2, tls_peers.TLS_1_3])
def test_socket_tells_of_its_tls_as_that_of_the_standard_library(version: ssl.TLSVersion) -> None:
    client = tls_peers.client_context(version, certificates.certificate("client"), protocols=("h3", "talk"))
    tls = reactor.ServerTls(
        certificates.certificate(), protocols=["talk"], client_authorities=certificates.authorities()
    )
    with pairs(client, tls=tls) as make:
        ours, theirs = make()
        assert ours.version() == ours.session.version() == theirs.version()
        assert ours.cipher() == theirs.cipher()
        assert ours.selected_alpn_protocol() == "talk"
        assert ours.getpeercert()["subjectAltName"] == (("DNS", "client"),)
        assert ssl.DER_cert_to_PEM_cert(ours.getpeercert(True)).startswith("-----BEGIN")
        assert ours.getpeername() == theirs.getsockname()
        assert ours.getsockname() == theirs.getpeername()
        assert ours.family == socket.AF_INET
        ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        assert not ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_client_that_has_gone_is_noticed_by_who_sends(pair: Pair) -> None:
    ours, theirs = pair
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    wait_until(lambda: select.select([ours], [], [], 0)[0])
    with pytest.raises(ConnectionError):
        for _ in range(10):
            ours.sendall(bytes(100_000))
