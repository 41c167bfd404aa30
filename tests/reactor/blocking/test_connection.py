"""Blocking connections: as the original's where it has something to say, and with a timeout on everything."""

from __future__ import annotations

import array
import contextlib
import errno
import functools
import gc
import os
import select
import selectors
import signal
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import connection as standard
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import blocking, framing
from reactor.blocking import connection as module
from reactor.blocking import wait
from reactor.framing import LONG, LONG_MARK, SHORT
from tests.properties import cuts as places
from tests.properties import peak_memory, pieces, steady

Ends = tuple[Any, Any]

SIZES = [0, 1, 100, 16380, 16384, 16385, 65536, 131072, 1_000_000]
"""On both sides of each size at which something is done in another way."""


def short(data: bytes) -> bytes:
    return SHORT.pack(len(data)) + data


def long(data: bytes) -> bytes:
    return LONG_MARK + LONG.pack(len(data)) + data


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        first = socket.create_connection(server.getsockname())
        second, _ = server.accept()
    return first, second


def descriptors(kind: str) -> tuple[int, int]:
    """Return two descriptors: what is written to the second one can be read from the first one."""
    if kind == "pipe":
        return os.pipe()
    first, second = tcp_pair() if kind == "tcp" else socket.socketpair()
    return first.detach(), second.detach()


@contextlib.contextmanager
def connected(kind: str, receiving: Any = blocking, sending: Any = blocking) -> Iterator[Ends]:
    """Two ends of a connection of a kind, of the module `receiving` and of the module `sending`."""
    reading, writing = descriptors(kind)
    options = ({"writable": False}, {"readable": False}) if kind == "pipe" else ({}, {})
    with receiving.Connection(reading, **options[0]) as reader, sending.Connection(writing, **options[1]) as writer:
        yield reader, writer


KINDS = ["unix", "tcp", "pipe"]


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """The end that receives, and the end that sends."""
    with connected(request.param) as both:
        yield both


@pytest.fixture
def pair() -> Iterator[Ends]:
    """The ends of a duplex pipe."""
    first, second = blocking.Pipe()
    with first, second:
        yield first, second


@pytest.fixture
def raw() -> Iterator[tuple[Any, socket.socket]]:
    """A connection, and the bare socket at its other end."""
    first, second = socket.socketpair()
    with blocking.Connection(first.detach()) as connection, second:
        second.settimeout(10)
        yield connection, second


def is_readable(thing: Any) -> bool:
    return bool(select.select([thing], [], [], 0)[0])


def fill(sock: Any) -> int:
    """Write to the descriptor of `sock` until it takes no more; return how many bytes it took."""
    total = 0
    was_blocking = os.get_blocking(sock.fileno())
    os.set_blocking(sock.fileno(), False)
    for size in (65536, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                total += os.write(sock.fileno(), bytes(size))
    os.set_blocking(sock.fileno(), was_blocking)
    return total


# Messages


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("receiving", "sending"), [(blocking, standard), (standard, blocking), (blocking, blocking)])
def test_messages_of_every_size_arrive_here_and_there(
    kind: str, receiving: Any, sending: Any, in_thread: Callable[..., threading.Thread]
) -> None:
    messages = [os.urandom(size) for size in SIZES for _ in "ab"]
    with connected(kind, receiving, sending) as (reader, writer):

        def send() -> None:
            for message in messages:
                writer.send_bytes(message)
                writer.send(message)

        thread = in_thread(send)
        for message in messages:
            assert reader.recv_bytes() == message
            assert reader.recv() == message
        thread.join()
        assert not reader.poll()


def test_messages_sent_together_arrive_as_messages_of_their_own(
    ends: Ends, in_thread: Callable[..., threading.Thread]
) -> None:
    reader, writer = ends
    numbers = array.array("i", range(5))
    in_thread(writer.send_bytes_many, [b"one", b"", bytearray(b"two"), numbers, b"x" * 100_000, memoryview(b"end")])
    assert [reader.recv_bytes() for _ in range(6)] == [b"one", b"", b"two", numbers.tobytes(), b"x" * 100_000, b"end"]
    in_thread(writer.send_many, iter([1, "two", None]), 5)
    assert [reader.recv(), reader.recv(5), reader.recv()] == [1, "two", None]


def test_messages_too_large_for_a_short_header_can_be_among_many(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = ends
    monkeypatch.setattr(framing, "LARGEST_SHORT", 10)
    writer.send_bytes_many([b"x" * 10, b"y" * 11, b"end"])
    stream = os.read(reader.fileno(), 1000)
    assert stream == short(b"x" * 10) + long(b"y" * 11) + short(b"end")


def test_nothing_is_sent_of_many_if_one_of_them_cannot_be(ends: Ends) -> None:
    reader, writer = ends
    with pytest.raises(TypeError):
        writer.send_bytes_many([b"good", "no bytes"])
    with pytest.raises(AttributeError):
        writer.send_many([1, lambda: None])
    writer.send_bytes_many([], timeout=1)
    writer.send_many([])
    assert not reader.poll()


def test_large_messages_go_both_ways_at_once(pair: Ends, in_thread: Callable[..., threading.Thread]) -> None:
    messages = [os.urandom(size) for size in (3_000_000, 10, 200_000)] * 3

    def send_all(end: Any) -> None:
        for message in messages:
            end.send_bytes(message)

    def receive_all(end: Any) -> None:
        assert [end.recv_bytes() for _ in messages] == messages

    threads = [in_thread(send_all, end) for end in pair] + [in_thread(receive_all, end) for end in pair]
    for thread in threads:
        thread.join()


def test_part_of_a_buffer_is_counted_in_bytes(ends: Ends) -> None:
    reader, writer = ends
    numbers = array.array("i", range(1000, 1010))
    whole = numbers.tobytes()
    for arguments in [(), (3,), (4, 8), (40,), (40, 0), (0, None)]:
        writer.send_bytes(numbers, *arguments)
        offset, size = (*arguments, 0, None)[:2] if len(arguments) != 1 else (arguments[0], None)
        assert reader.recv_bytes() == whole[offset:][: len(whole) if size is None else size]


def test_large_buffer_is_not_copied_to_be_sent(in_thread: Callable[..., threading.Thread]) -> None:
    ours, theirs = socket.socketpair()
    size = 8 << 20
    message = memoryview(bytearray(size + 8))[4:-4]
    target = bytearray(1 << 20)

    def drain() -> None:
        left = size + SHORT.size
        while left:
            left -= theirs.recv_into(target)

    with blocking.Connection(ours.detach()) as connection, theirs:
        thread = in_thread(drain)
        assert peak_memory(lambda: connection.send_bytes(message, 0)) < 1 << 20
        thread.join()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's account of a TCP connection (tcp(7)) is read")
def test_small_messages_leave_in_one_segment_each_and_many_together_in_one() -> None:
    with connected("tcp") as (reader, writer), socket.socket(fileno=os.dup(writer.fileno())) as sock:
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

        def segments() -> int:
            (count,) = struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 156)
            assert isinstance(count, int)
            return count  # tcpi_data_segs_out

        before = segments()
        for number in range(1, 20):
            writer.send_bytes(b"x" * 100)
            assert reader.recv_bytes() == b"x" * 100
            reader.send("an answer, which acknowledges")
            writer.recv()
            assert segments() == before + number
        writer.send_bytes_many([b"x" * 100] * 10)
        assert segments() == before + 20


def test_what_cannot_be_unpickled_is_consumed_and_the_next_message_comes(pair: Ends) -> None:
    first, second = pair
    second.send_bytes(b"no pickle")
    second.send("pickle")
    with pytest.raises(Exception, match="pickle|invalid load key"):
        first.recv()
    assert first.recv() == "pickle"


# Into a buffer


def test_message_is_put_into_a_buffer_where_the_offset_says(ends: Ends) -> None:
    reader, writer = ends
    for make in (bytearray(20), array.array("i", [0] * 5), array.array("d", [0.0] * 3), memoryview(bytearray(20))):
        for offset in (0, 1, 4, 15):
            writer.send_bytes(b"abcde")
            before = bytearray(memoryview(make).cast("B"))
            assert reader.recv_bytes_into(make, offset) == 5
            before[offset : offset + 5] = b"abcde"
            assert memoryview(make).cast("B") == before
    writer.send_bytes(b"")
    assert reader.recv_bytes_into(bytearray()) == 0


def test_message_that_does_not_fit_comes_with_the_error_and_the_buffer_is_as_it_was(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"x" * 11, b"next"])
    buffer = bytearray(12)
    with pytest.raises(blocking.BufferTooShort) as caught:
        reader.recv_bytes_into(buffer, 2)
    assert caught.value.args == (b"x" * 11,)
    assert buffer == bytes(12)
    assert reader.recv_bytes_into(buffer, timeout=1) == 4
    assert buffer[:4] == b"next"


def test_buffer_that_cannot_be_written_to_is_refused_before_a_message_is_lost(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes(b"message")
    with pytest.raises(TypeError, match="a bytes cannot be written to"):
        reader.recv_bytes_into(bytes(20))
    assert reader.recv_bytes() == b"message"


# As the original


def outcome(call: Callable[[], Any]) -> Any:
    """Return what `call` returns, or the class of what it raises, of the standard library's."""
    try:
        return call()
    except Exception as error:
        return next(kind for kind in type(error).__mro__ if kind.__module__ in ("builtins", "multiprocessing.context"))


def outcomes(kind: str, *calls: Callable[[Any, Any], Any]) -> list[list[Any]]:
    """Return what comes of `calls`, one after another, with the original and with ours."""
    both = []
    for which in (standard, blocking):
        with connected(kind, which, which) as (reader, writer):
            both.append([outcome(functools.partial(call, reader, writer)) for call in calls])
    return both


WRONG: list[Callable[[Any, Any], Any]] = [
    lambda reader, writer: writer.send_bytes(b"abc", -1),
    lambda reader, writer: writer.send_bytes(b"abc", 4),
    lambda reader, writer: writer.send_bytes(b"abc", 1, -1),
    lambda reader, writer: writer.send_bytes(b"abc", 1, 3),
    lambda reader, writer: writer.send_bytes("abc"),
    lambda reader, writer: writer.send(lambda: None),
    lambda reader, writer: reader.recv_bytes(-1),
    lambda reader, writer: reader.recv_bytes_into(bytearray(9), -1),
    lambda reader, writer: reader.recv_bytes_into(bytearray(9), 10),
    lambda reader, writer: reader.recv_bytes_into("abc"),
]

RIGHT: list[Callable[[Any, Any], Any]] = [
    lambda reader, writer: [reader.poll(), reader.poll(-1), reader.poll(0.001)],
    lambda reader, writer: [reader.readable, writer.readable, reader.writable, writer.writable, reader.closed],
    lambda reader, writer: [writer.send_bytes(b"abc"), reader.poll(None), reader.recv_bytes(3), reader.poll()],
    lambda reader, writer: [writer.send_bytes(bytearray(b"ab")), reader.recv_bytes(2)],
    lambda reader, writer: [writer.send((1, "two")), reader.recv()],
    lambda reader, writer: [reader.__enter__() is reader, writer.__exit__(None, None, None), writer.closed],
    lambda reader, writer: reader.poll(),
    lambda reader, writer: reader.recv(),
    lambda reader, writer: reader.recv_bytes(),
    lambda reader, writer: reader.recv_bytes_into(bytearray(9)),
]

CLOSED: list[Callable[[Any, Any], Any]] = [
    lambda reader, writer: [reader.close(), reader.close(), reader.closed, reader.readable, writer.closed],
    lambda reader, writer: writer.send_bytes(b""),
    lambda reader, writer: writer.send(1),
    lambda reader, writer: writer.close(),
    lambda reader, writer: writer.send_bytes(b""),
    lambda reader, writer: writer.send(1),
    lambda reader, writer: reader.recv(),
    lambda reader, writer: reader.recv_bytes(-1),
    lambda reader, writer: reader.recv_bytes_into(bytearray()),
    lambda reader, writer: reader.poll(),
    lambda reader, writer: reader.fileno(),
    lambda reader, writer: reader.__enter__() is reader,
]

WRONG_END: list[Callable[[Any, Any], Any]] = [
    lambda reader, writer: reader.send_bytes(b""),
    lambda reader, writer: reader.send(b""),
    lambda reader, writer: writer.recv_bytes(),
    lambda reader, writer: writer.recv(),
    lambda reader, writer: writer.recv_bytes_into(bytearray(9)),
    lambda reader, writer: writer.poll(),
]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("calls", [WRONG, RIGHT, CLOSED], ids=["wrong", "right", "closed"])
def test_calls_have_the_outcome_that_they_have_with_the_original(kind: str, calls: list[Any]) -> None:
    theirs, ours = outcomes(kind, *calls)
    assert ours == theirs
    if calls is WRONG:
        assert {type(found) for found in ours} == {type}


def test_wrong_end_of_a_pipe_refuses_as_the_original_does() -> None:
    theirs, ours = outcomes("pipe", *WRONG_END)
    assert ours == theirs == [OSError] * len(WRONG_END)


@pytest.mark.parametrize(
    "arguments", [(-1,), (0, False, False), ("0",), (0.0,)], ids=["negative", "useless", "text", "float"]
)
def test_constructor_refuses_what_the_original_refuses(arguments: tuple[Any, ...]) -> None:
    theirs, ours = (outcome(functools.partial(which.Connection, *arguments)) for which in (standard, blocking))
    assert ours == theirs
    assert issubclass(ours, ValueError | TypeError | AttributeError)


def test_descriptor_that_is_not_open_is_noticed_when_it_is_used() -> None:
    connection = blocking.Connection(1_000_000)
    with pytest.raises(OSError) as caught:
        connection.recv()
    assert caught.value.errno == errno.EBADF
    with pytest.raises(OSError):
        connection.close()
    assert connection.closed


STREAMS = {
    "short": short(b"message") + short(b""),
    "long": long(b"message") + long(b"") + short(b"end"),
    "large": short(b"x" * 20_000),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_end_of_the_stream_is_told_as_by_the_original_wherever_it_comes(kind: str, stream: bytes) -> None:
    for cut in (*range(min(len(stream), 40)), len(stream) - 1, len(stream)):
        theirs, ours = outcomes(
            kind,
            lambda _, writer, cut=cut: [os.write(writer.fileno(), stream[:cut]), writer.close()],
            *[lambda reader, _: reader.recv_bytes()] * 4,
        )
        assert ours == theirs, cut


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_message_over_maxlength_ends_receiving_as_with_the_original(kind: str, stream: bytes) -> None:
    theirs, ours = outcomes(
        kind,
        lambda _, writer: os.write(writer.fileno(), short(b"small") + stream),
        lambda reader, _: reader.recv_bytes(5),
        lambda reader, _: reader.recv_bytes(6),
        lambda reader, _: reader.recv_bytes(),
        lambda reader, _: reader.poll(),
        lambda reader, _: [reader.readable, reader.closed],
        lambda reader, _: reader.send_bytes(b""),
    )
    assert ours == theirs
    assert ours[1:4] == [b"small", OSError, OSError]


def test_maxlength_refuses_messages_that_are_ready_and_such_as_were_only_looked_at(pair: Ends) -> None:
    for position in (1, 2, 3):
        first, second = blocking.Pipe()
        with first, second:
            second.send_bytes_many([b"x" * 10] * 4)
            for _ in range(position):
                assert first.recv_bytes(10) == b"x" * 10
            with pytest.raises(OSError, match="bad message length"):
                first.recv_bytes(9)
            with pytest.raises(OSError, match="connection is write-only"):
                first.recv_bytes()
            first.send_bytes(b"still there")
            assert second.recv_bytes() == b"still there"


def test_maxlength_of_one_call_is_not_that_of_the_next_one(ends: Ends) -> None:
    reader, writer = ends
    os.write(writer.fileno(), long(b"small"))
    assert reader.recv_bytes(5) == b"small"
    stream = short(b"x" * 100)
    os.write(writer.fileno(), stream[:4])
    with pytest.raises(TimeoutError):
        reader.recv_bytes(timeout=0)
    os.write(writer.fileno(), stream[4:])
    assert reader.recv_bytes() == b"x" * 100


@pytest.mark.parametrize("size", [6, 5000, 1_000_000, 1 << 40])
def test_message_over_maxlength_is_refused_by_its_header(ends: Ends, size: int) -> None:
    reader, writer = ends
    os.write(writer.fileno(), SHORT.pack(size) if size < 1 << 31 else LONG_MARK + LONG.pack(size))
    with pytest.raises(OSError, match="bad message length"):
        reader.recv_bytes(5, timeout=5)


def test_negative_length_is_refused_where_the_original_reads_an_empty_message(raw: Any) -> None:
    connection, peer = raw
    peer.sendall(short(b"good") + SHORT.pack(-2) + b"more")
    assert connection.recv_bytes() == b"good"
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes()
    assert not connection.readable


def test_reset_is_told_as_one(in_thread: Callable[..., threading.Thread]) -> None:
    first, second = tcp_pair()
    with blocking.Connection(first.detach()) as connection:
        second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        second.close()
        with pytest.raises(ConnectionResetError):
            connection.recv(timeout=5)
        with pytest.raises(BrokenPipeError):
            connection.send_bytes(bytes(100_000))
        assert connection.writable


def test_connection_that_breaks_in_the_middle_of_a_message_says_so_each_time(
    ends: Ends, in_thread: Callable[..., threading.Thread]
) -> None:
    reader, writer = ends

    def receive_some() -> None:
        os.read(reader.fileno(), 10)
        reader.close()

    thread = in_thread(receive_some)
    for message in (bytes(20_000_000), bytes(20_000_000), b"small"):
        with pytest.raises(ConnectionError):
            writer.send_bytes(message)
    thread.join()


def test_header_of_a_huge_message_takes_no_memory(raw: Any) -> None:
    connection, peer = raw
    for header in (SHORT.pack(0x7FFFFFFF), LONG_MARK + LONG.pack(1 << 40)):
        with blocking.Connection(os.dup(connection.fileno())) as fresh:
            peer.sendall(header + b"x" * 100)
            receive = functools.partial(pytest.raises, TimeoutError, fresh.recv_bytes, timeout=0)
            receive()  # for what is imported and cached at the first time
            peer.sendall(b"x" * 1000)
            assert peak_memory(receive) < 300_000


# What select says


def test_descriptor_is_readable_exactly_as_long_as_messages_wait(ends: Ends) -> None:
    reader, writer = ends
    with selectors.DefaultSelector() as selector:
        selector.register(reader, selectors.EVENT_READ)
        for count in range(1, 8):
            writer.send_bytes_many([b"", b"x", b"", b"y" * 5000] * count)
            for number in range(4 * count):
                assert is_readable(reader), number
                assert reader.poll()
                assert selector.select(0)
                assert wait([reader], 0) == standard.wait([reader], 0) == [reader]
                reader.recv_bytes()
            assert not is_readable(reader)
            assert not reader.poll()
            assert not selector.select(0)
            assert not wait([reader], 0)


@steady
@given(st.lists(st.tuples(st.sampled_from([short, long]), st.binary(max_size=40)), max_size=10), places, st.data())
def test_no_complete_message_is_ever_hidden_however_the_bytes_come(messages, cuts, data) -> None:  # type: ignore[no-untyped-def]
    stream = b"".join(form(content) for form, content in messages)
    ends, end = [], 0
    for form, content in messages:
        end += len(form(content))
        ends.append(end)
    expected = [content for _, content in messages]
    found: list[bytes] = []
    with connected(data.draw(st.sampled_from(["unix", "pipe"]))) as (reader, writer):
        came = 0
        for piece in pieces(stream, cuts):
            os.write(writer.fileno(), piece)
            came += len(piece)
            complete = sum(end <= came for end in ends)
            for _ in range(data.draw(st.integers(0, 4))):
                if len(found) < complete:
                    assert is_readable(reader)
                    assert reader.poll()
                    timeout = data.draw(st.sampled_from([0, None]))
                    if data.draw(st.booleans()):
                        found += reader.recv_bytes_many(timeout)
                    else:
                        found.append(reader.recv_bytes(timeout=timeout))
                else:
                    receive = data.draw(st.sampled_from([reader.recv_bytes, reader.recv_bytes_many]))
                    with pytest.raises(TimeoutError):
                        receive(timeout=0)
        while len(found) < len(expected):
            assert is_readable(reader)
            found.append(reader.recv_bytes(timeout=0))
        assert not is_readable(reader)
    assert found == expected


def test_messages_that_came_together_are_taken_together_but_for_the_last_one(raw: Any) -> None:
    connection, peer = raw
    peer.sendall(b"".join(short(b"x" * number) for number in range(10)))
    assert connection.recv_bytes() == b""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        assert same.recv(1000, socket.MSG_PEEK) == short(b"x" * 9)
    assert [len(connection.recv_bytes()) for _ in range(9)] == [*range(1, 10)]


def test_many_takes_all_that_are_there_in_order_and_leaves_the_rest_of_the_next_one(raw: Any) -> None:
    connection, peer = raw
    frames = b"".join(short(b"x" * number) for number in range(10))
    peer.sendall(frames[:-3])
    assert [len(message) for message in connection.recv_bytes_many()] == [*range(9)]
    assert not connection.poll()
    peer.sendall(frames[-3:] + short(b"more"))
    assert [connection.recv_bytes_many() for _ in "ab"] == [[b"x" * 9], [b"more"]]
    peer.close()
    with pytest.raises(EOFError):
        connection.recv_bytes_many()


def test_many_begins_where_single_messages_have_left_off(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"%d" % number for number in range(10)])
    found = [reader.recv_bytes()]
    while len(found) < 10:
        assert is_readable(reader)
        found += reader.recv_bytes_many(timeout=0)
    assert found == [b"%d" % number for number in range(10)]
    assert not is_readable(reader)


def test_many_gives_what_stands_in_front_of_a_bad_message_first(raw: Any) -> None:
    connection, peer = raw
    peer.sendall(short(b"one") + short(b"two") + SHORT.pack(-2))
    assert connection.recv_bytes_many() == [b"one", b"two"]
    with pytest.raises(OSError, match="bad message length"):
        connection.recv_bytes_many()
    with pytest.raises(OSError, match="write-only"):
        connection.recv_bytes_many()


def test_end_of_the_stream_is_something_to_receive(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"one", b"two"])
    writer.close()
    for expected in (b"one", b"two"):
        assert is_readable(reader)
        assert reader.recv_bytes() == expected
    assert is_readable(reader)
    assert reader.poll()
    for _ in "ab":
        with pytest.raises(EOFError):
            reader.recv_bytes(timeout=0)


def test_message_that_another_process_took_is_not_made_up(raw: Any) -> None:
    # Nobody should, but what has only been looked at can be gone when it is its turn.
    connection, peer = raw
    peer.sendall(short(b"one") + short(b"two"))
    assert connection.recv_bytes() == b"one"
    with socket.socket(fileno=os.dup(connection.fileno())) as thief:
        assert thief.recv(100) == short(b"two")
    with pytest.raises(TimeoutError):
        connection.recv_bytes(timeout=0)
    peer.sendall(short(b"one") + short(b"two"))
    assert connection.recv_bytes() == b"one"
    with socket.socket(fileno=os.dup(connection.fileno())) as thief:
        assert thief.recv(100) == short(b"two")
    peer.sendall(short(b"") + short(b"3") + short(b"four"))
    assert [connection.recv_bytes() for _ in range(3)] == [b"", b"3", b"four"]


# Timeouts


@pytest.mark.parametrize("timeout", [-1, 0, 0.001])
def test_receiving_gives_up_when_the_time_is_over_and_the_connection_is_as_it_was(ends: Ends, timeout: float) -> None:
    reader, writer = ends
    receive: list[Callable[[], Any]] = [
        lambda: reader.recv(timeout),
        lambda: reader.recv_bytes(None, timeout),
        lambda: reader.recv_bytes(5, timeout=timeout),
        lambda: reader.recv_bytes_into(bytearray(9), timeout=timeout),
    ]
    for call in receive:
        with pytest.raises(TimeoutError, match="no message has come in time"):
            call()
    writer.send("object")
    assert reader.recv(timeout) == "object"
    writer.send_bytes(b"bytes")
    assert reader.recv_bytes(timeout=timeout) == b"bytes"


@pytest.mark.parametrize("timeout", [1e9, 1e300, float("inf"), None])
def test_who_would_wait_for_longer_than_the_system_can_count_waits(ends: Ends, timeout: float | None) -> None:
    reader, writer = ends
    writer.send_bytes_many([b"one"])
    assert reader.poll(timeout)
    assert reader.recv_bytes(timeout=timeout) == b"one"
    writer.send_bytes(b"two", timeout=timeout)
    assert reader.recv_bytes() == b"two"


def test_timeout_that_is_no_number_is_refused(ends: Ends) -> None:
    for call in (ends[0].poll, ends[0].recv):
        with pytest.raises(ValueError):
            call(float("nan"))


@pytest.mark.parametrize("form", [short, long])
@pytest.mark.parametrize("message", [b"message", b"x" * 0x0102], ids=["small", "large"])
def test_what_has_come_of_a_message_is_kept_when_the_time_is_over(
    ends: Ends, form: Callable[[bytes], bytes], message: bytes
) -> None:
    reader, writer = ends
    stream = form(message)
    places = [*range(len(stream) - len(message) + 3), len(stream) - 1]
    bytewise = [bytes([byte]) for byte in stream[:20]] + [stream[20:]] * (len(stream) > 20)
    ways = [[stream[:place], stream[place:]] for place in places] + [bytewise]
    for parts in ways:
        for part in parts[:-1]:
            os.write(writer.fileno(), part)
            with pytest.raises(TimeoutError):
                reader.recv_bytes(timeout=0)
        os.write(writer.fileno(), parts[-1] + short(b"behind it"))
        assert reader.recv_bytes(timeout=0) == message
        assert reader.recv_bytes() == b"behind it"


def test_large_message_is_complete_although_the_time_was_over_many_times(
    ends: Ends, in_thread: Callable[..., threading.Thread]
) -> None:
    reader, writer = ends
    message = os.urandom(2_000_000)
    in_thread(writer.send_bytes, message)
    attempts = 0
    while True:
        attempts += 1
        try:
            assert reader.recv_bytes(timeout=0.0005) == message
            break
        except TimeoutError:
            pass
    assert not reader.poll()


def test_receiving_does_not_go_on_for_ever_when_the_time_is_over_and_more_is_always_there(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LARGEST_READ", 1000)
    monkeypatch.setattr(module, "OVERTIME", 10_000)
    reader, writer = ends
    message = os.urandom(50_000)
    writer.send_bytes(message)
    for _ in range(4):
        with pytest.raises(TimeoutError, match="has not come to its end in time"):
            reader.recv_bytes(timeout=0)
        assert is_readable(reader)
    assert reader.recv_bytes(timeout=0) == message


def test_sending_gives_up_when_the_time_is_over_and_the_connection_is_as_it_was(ends: Ends) -> None:
    reader, writer = ends
    taken = fill(writer)
    for message in (b"", b"x" * 100, b"x" * 100_000):
        for timeout in (-1, 0, 0.001):
            with pytest.raises(TimeoutError, match="the peer takes nothing"):
                writer.send_bytes(message, timeout=timeout)
    with pytest.raises(TimeoutError):
        writer.send(1, 0)
    with pytest.raises(TimeoutError):
        writer.send_bytes_many([b"one", b"two"], 0)
    assert writer.writable
    while taken:
        taken -= len(os.read(reader.fileno(), taken))
    writer.send("object", timeout=0)
    assert reader.recv() == "object"


def test_message_of_which_only_a_part_could_be_sent_in_time_ends_sending_but_not_receiving(ends: Ends) -> None:
    reader, writer = ends
    writer.send_bytes(b"complete", timeout=1)
    with pytest.raises(TimeoutError, match="or not all of it in time"):
        writer.send_bytes(bytes(8_000_000), timeout=0.01)
    assert not writer.writable
    for call in (lambda: writer.send(1), lambda: writer.send_bytes(b""), lambda: writer.send_bytes_many([b""])):
        with pytest.raises(OSError, match="connection is read-only"):
            call()
    assert reader.recv_bytes() == b"complete"
    if reader.writable:
        reader.send("still there")
        assert writer.recv() == "still there"
    writer.close()
    with pytest.raises(OSError, match="got end of file during message: end of stream after") as caught:
        reader.recv_bytes()
    assert not isinstance(caught.value, TimeoutError)


def test_wakeup_for_nothing_does_not_end_the_wait(pair: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    # Somebody else was faster: what was there to be read, or the room to write, is gone again.
    _, second = pair
    fill(second)
    for call in (lambda: second.send_bytes(b"x", timeout=10), lambda: second.recv_bytes(timeout=10)):
        answers = [False, True, True]
        monkeypatch.setattr(blocking.Connection, "_wait", lambda *_, answers=answers: answers.pop())
        with pytest.raises(TimeoutError):
            call()
        assert answers == []
    assert second.writable


def test_large_message_can_be_sent_with_a_timeout(ends: Ends, in_thread: Callable[..., threading.Thread]) -> None:
    reader, writer = ends
    messages = [os.urandom(size) for size in (2_000_000, 10, 16_385, 70_000)]

    def send() -> None:
        for message in messages:
            writer.send_bytes(message, timeout=20)

    in_thread(send)
    assert [reader.recv_bytes(timeout=20) for _ in messages] == messages


# Descriptors as they come


def test_descriptor_that_does_not_block_says_so_where_nothing_was_taken_or_sent(ends: Ends) -> None:
    reader, writer = ends
    for end in ends:
        os.set_blocking(end.fileno(), False)
    with pytest.raises(BlockingIOError):
        reader.recv_bytes()
    for byte in short(b"message")[:-1]:
        os.write(writer.fileno(), bytes([byte]))
        with pytest.raises(BlockingIOError):
            reader.recv_bytes()
        with pytest.raises(TimeoutError):
            reader.recv_bytes(timeout=0)
    os.write(writer.fileno(), b"e")
    assert reader.recv_bytes() == b"message"
    taken = fill(writer)
    for size in (10, 100_000):
        with pytest.raises(BlockingIOError):
            writer.send_bytes(bytes(size))
        with pytest.raises(TimeoutError):
            writer.send_bytes(bytes(size), timeout=0.001)
    assert writer.writable
    while taken:
        taken -= len(os.read(reader.fileno(), taken))
    writer.send_bytes(b"next")
    assert reader.recv_bytes() == b"next"


def test_message_that_has_begun_to_leave_is_sent_to_its_end_even_if_the_descriptor_does_not_block(
    ends: Ends, in_thread: Callable[..., threading.Thread]
) -> None:
    reader, writer = ends
    os.set_blocking(writer.fileno(), False)
    messages = [os.urandom(4_000_000)]
    in_thread(writer.send_bytes, messages[0])
    assert reader.recv_bytes() == messages[0]
    parts = [os.urandom(10_000) for _ in range(400)]
    in_thread(writer.send_bytes_many, parts)
    assert [reader.recv_bytes() for _ in parts] == parts


@pytest.fixture
def default_timeout() -> Iterator[None]:
    socket.setdefaulttimeout(0.01)
    yield
    socket.setdefaulttimeout(None)


@pytest.mark.usefixtures("default_timeout")
def test_default_timeout_of_sockets_concerns_no_connection() -> None:
    first, second = blocking.Pipe()
    with first, second:
        assert os.get_blocking(first.fileno())
        with pytest.raises(TimeoutError, match="no message has come in time"):
            first.recv(0.05)
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setblocking(False)
        with blocking.Connection(ours.detach()) as connection:
            assert not os.get_blocking(connection.fileno())
            with pytest.raises(BlockingIOError):
                connection.recv()


# Signals


class Alarm(Exception):
    """What the handler of a signal raises."""


Handle = Callable[[FrameType | None], None]


@pytest.fixture
def alarm() -> Iterator[Callable[[Handle], None]]:
    """Have a signal come again and again, whose handler does what it is told."""
    before = signal.getsignal(signal.SIGALRM)

    def come(handle: Handle) -> None:
        signal.signal(signal.SIGALRM, lambda _, frame: handle(frame))
        signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)

    yield come
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def raise_alarm(frame: FrameType | None) -> None:
    """Raise if the signal has come while the connection was at work; else wait for the next one."""
    while frame is not None:
        if frame.f_code.co_filename == module.__file__:
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise Alarm
        frame = frame.f_back


@pytest.mark.parametrize("timeout", [None, 20])
def test_signal_whose_handler_raises_ends_the_wait_and_loses_nothing(
    ends: Ends, alarm: Callable[..., None], timeout: float | None
) -> None:
    reader, writer = ends
    stream = short(b"message")
    for cut in range(len(stream)):
        os.write(writer.fileno(), stream[:cut])
        alarm(raise_alarm)
        with pytest.raises(Alarm):
            reader.recv_bytes(timeout=timeout)
        os.write(writer.fileno(), stream[cut:])
        assert reader.recv_bytes() == b"message"


@contextlib.contextmanager
def raising_behind_call(number: int) -> Iterator[None]:
    """Raise once, as a handler of a signal could, when some call has ended: one that takes bytes, or stores them."""
    calls = 0

    def profile(frame: FrameType, event: str, function: Any) -> None:
        nonlocal calls
        if event == "c_return" and frame.f_code.co_name in ("_read", "_receive", "_continue"):
            calls += function.__name__ in ("read", "recv", "extend", "write", "getvalue")
            if calls == number:
                sys.setprofile(None)
                raise Alarm

    sys.setprofile(profile)
    try:
        yield
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("number", range(1, 13))
def test_what_came_together_with_a_signal_whose_handler_raises_is_not_lost(
    ends: Ends, number: int, in_thread: Callable[..., threading.Thread]
) -> None:
    reader, writer = ends
    messages = [b"one", b"two", b"three", b"x" * 20_000, b"y" * 200_000, b"long", b"end"]
    stream = b"".join(map(short, messages[:5])) + long(b"long") + short(b"end")
    in_thread(os.write, writer.fileno(), stream)
    found: list[bytes] = []
    with pytest.raises(Alarm), raising_behind_call(number):
        while True:
            found.append(reader.recv_bytes(timeout=10))
    while len(found) < len(messages):
        found.append(reader.recv_bytes(timeout=10))
    assert list(map(len, found)) == list(map(len, messages))
    assert found == messages


def test_what_was_kept_from_a_signal_is_something_to_receive_and_gone_when_the_connection_is_closed() -> None:
    reader, writer = blocking.Pipe(duplex=False)
    with reader, writer:
        writer.send_bytes(b"message")
        with pytest.raises(Alarm), raising_behind_call(2):
            reader.recv_bytes()
        assert not is_readable(reader)
        assert reader.poll()
        reader.close()
        with pytest.raises(OSError, match="handle is closed"):
            reader.recv_bytes()


def test_signal_whose_handler_returns_does_not_end_the_wait(ends: Ends, alarm: Callable[..., None]) -> None:
    reader, writer = ends
    came: list[int] = []

    def handle(_: FrameType | None) -> None:
        came.append(1)
        if len(came) == 3:
            writer.send("after the third")

    alarm(handle)
    assert reader.recv() == "after the third"
    assert reader.poll(0.05) is False
    assert len(came) >= 3


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_signal_while_sending_with_a_timeout_ends_sending_if_part_of_the_message_has_left(
    ends: Ends, alarm: Callable[..., None], size: int
) -> None:
    _, writer = ends
    alarm(raise_alarm)
    with pytest.raises(Alarm):
        while True:
            writer.send_bytes(bytes(size), timeout=20)
    # A signal in the very call that sent the last of it ends sending too: nobody knows.
    assert not (writer.writable and is_mid_message(ends, size))


@pytest.mark.parametrize("size", [10_000, 1_000_000])
def test_signal_while_sending_ends_sending_because_nobody_knows_how_much_has_left(
    ends: Ends, alarm: Callable[..., None], size: int
) -> None:
    _, writer = ends
    fill(writer)
    alarm(raise_alarm)
    with pytest.raises(Alarm):
        writer.send_bytes(bytes(size))
    with pytest.raises(OSError, match="connection is read-only"):
        writer.send_bytes(b"")


def test_signal_between_two_parts_of_a_message_ends_sending(ends: Ends) -> None:
    _, writer = ends
    os.set_blocking(writer.fileno(), False)

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code.co_name == "_send_pieces":
            sys.setprofile(None)
            raise Alarm

    sys.setprofile(profile)
    try:
        with pytest.raises(Alarm):
            writer.send_bytes_many([bytes(8_000_000)])
    finally:
        sys.setprofile(None)
    assert not writer.writable


def is_mid_message(ends: Ends, size: int) -> bool:
    """Return whether what waits at the end that receives is no whole number of messages."""
    reader, writer = ends
    writer.close()
    total = 0
    while data := os.read(reader.fileno(), 1 << 20):
        total += len(data)
    return total % (size + SHORT.size) != 0


# Closing


def test_connection_that_is_forgotten_gives_its_descriptor_back_without_a_word() -> None:
    first, second = blocking.Pipe()
    number = first.fileno()
    del first
    gc.collect()
    with pytest.raises(OSError):
        os.fstat(number)
    with second, pytest.raises(EOFError):
        second.recv()


def test_no_cycle_keeps_a_connection_alive_after_an_error() -> None:
    gc.disable()
    try:
        first, second = blocking.Pipe()
        number = second.fileno()
        first.send_bytes(b"xx")
        for receive in (lambda end: end.recv_bytes_into(bytearray(1)), lambda end: end.recv(0)):
            with contextlib.suppress(blocking.BufferTooShort, TimeoutError):
                receive(second)
        del second
        with pytest.raises(OSError):
            os.fstat(number)
        first.close()
    finally:
        gc.enable()


def test_messages_that_were_taken_are_gone_when_the_connection_is_closed(pair: Ends) -> None:
    first, second = pair
    second.send_bytes_many([b"one", b"two", b"three"])
    assert first.recv_bytes() == b"one"
    first.close()
    for receive in (first.recv, first.recv_bytes, first.poll, lambda: first.recv_bytes_into(bytearray(9))):
        with pytest.raises(OSError, match="handle is closed"):
            receive()


def test_wait_with_a_timeout_ends_after_another_thread_has_closed_the_connection(
    ends: Ends, in_thread: Callable[..., threading.Thread]
) -> None:
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
