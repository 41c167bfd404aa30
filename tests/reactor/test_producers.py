"""The outgoing queue: exact bytes in order, whatever was pushed and however little the socket takes."""

from __future__ import annotations

import gzip
import io
import os
import socket
import tempfile
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor.errors import LocalError, ProducerError
from reactor.framing import encode_frame
from reactor.limits import Limits
from reactor.producers import (
    BUFFERS_PER_CALL,
    BYTES_PER_CALL,
    DISCARD,
    PRODUCERS_WAITING,
    FileSlice,
    OutputQueue,
    Producer,
)
from tests.conftest import Accepting, RecordingStream, raw_client, run_until
from tests.properties import steady

SMALL = Limits(low_water=100, high_water=300, maximum_output=1000)
IOV_MAX = os.sysconf("SC_IOV_MAX")


class Source:
    """Something with `more()`, as asynchat had them; it knows whether it was closed."""

    def __init__(self, *chunks: Any) -> None:
        self.chunks = list(chunks)
        self.closed = 0

    def more(self) -> Any:
        chunk = self.chunks.pop(0) if self.chunks else b""
        if isinstance(chunk, Exception):
            raise chunk
        return chunk

    def close(self) -> None:
        self.closed += 1


def temporary_file(data: bytes, offset: int = 0) -> Any:
    file = tempfile.TemporaryFile()
    file.write(data)
    file.flush()
    file.seek(offset)
    return file


def send_some(queue: OutputQueue, count: int) -> bytes | None:
    """Take up to `count` bytes from the front, as a socket with so much room; None when nothing is left."""
    file = queue.next_file()
    if file is not None:
        if not count:
            return b""
        data = os.pread(file.file.fileno(), min(count, file.size), file.offset)
        file.advance(len(data))
        return data
    buffers = queue.next_buffers()
    assert len(buffers) <= IOV_MAX
    data = b"".join(buffers)[:count]
    queue.advance(len(data))
    return data if buffers or queue else None


def send_all(queue: OutputQueue, count: int = 1 << 20) -> bytes:
    """Send all that waits, `count` bytes at a time."""
    sent = []
    # Some empty answers are producers that have just ended; so many in a row are a queue that is stuck.
    while (data := send_some(queue, count)) is not None and (data or any(sent[-50:]) or len(sent) < 50):
        sent.append(data)
    assert not queue, "the queue does not run empty"
    assert queue.size == 0
    return b"".join(sent)


# The queue against a model


chunks = st.lists(st.binary(min_size=1, max_size=90), max_size=6)
pushed = st.one_of(
    st.tuples(st.just("bytes"), st.binary(max_size=150)),
    st.tuples(st.just("view"), st.binary(max_size=150)),
    st.tuples(st.just("more"), chunks),
    st.tuples(st.just("generator"), chunks),
    st.tuples(st.just("reader"), st.binary(max_size=200)),
    st.tuples(st.just("file"), st.tuples(st.binary(max_size=200), st.integers(0, 200))),
)
actions = st.lists(st.one_of(pushed, st.tuples(st.just("send"), st.integers(0, 200))), max_size=25)


@steady
@given(actions, st.integers(1, 400), st.booleans())
def test_any_sequence_of_pushes_and_short_sends_gives_exact_bytes_in_order(actions, room, framed) -> None:  # type: ignore[no-untyped-def]
    queue = OutputQueue(SMALL, encode_frame if framed else None)
    frame: Callable[[bytes], bytes] = encode_frame if framed else bytes
    expected, sent, files, waiting = b"", b"", [], []

    def watched(parts: list[bytes], place: int) -> Iterator[bytes]:
        """Give `parts`, whose first byte is to be sent at `place`; note how much waits in front of each."""
        for part in parts:
            waiting.append(place - len(sent))
            yield part
            place += len(frame(part))

    try:
        for kind, value in actions:
            if kind == "send":
                sent += send_some(queue, value) or b""
            elif kind in ("bytes", "view"):
                queue.append(value if kind == "bytes" else memoryview(value))
                expected += value
            elif kind == "file":
                data, offset = value
                files.append(temporary_file(data, min(offset, len(data))))
                part = FileSlice.of(files[-1])
                assert part is not None
                queue.append_producer(part)
                expected += data[offset:]
            elif kind == "reader":
                queue.append_producer(Producer(io.BytesIO(value)))
                expected += frame(value) if value else b""
            else:
                queue.append_producer(Producer(Source(*value) if kind == "more" else watched(value, len(expected))))
                expected += b"".join(map(frame, value))
        empty = 0
        while (data := send_some(queue, room)) is not None and empty < 50:
            sent += data
            empty = 0 if data else empty + 1  # a producer that has just ended gives nothing
        closed = [file.closed for file in files]
    finally:
        for file in files:
            file.close()
    assert sent == expected
    assert all(closed)
    assert all(size < SMALL.low_water for size in waiting)


def test_producer_is_not_pulled_while_much_waits() -> None:
    queue, source = OutputQueue(SMALL), Source(b"a" * 60, b"b" * 60, b"c" * 60)
    queue.append(b"x" * 100)
    queue.append_producer(Producer(source))
    assert queue.next_buffers() == [b"x" * 100]
    assert len(source.chunks) == 3
    queue.advance(1)
    assert list(map(bytes, queue.next_buffers())) == [b"x" * 99, b"a" * 60]
    assert len(source.chunks) == 2
    assert queue.size == 159


def test_producer_is_pulled_only_when_its_turn_has_come() -> None:
    queue, source = OutputQueue(SMALL), Source(b"second")
    queue.append_producer(FileSlice.of(temporary_file(b"first")))  # type: ignore[arg-type]
    queue.append_producer(Producer(source))
    assert queue.next_buffers() == []
    assert source.chunks == [b"second"]
    assert send_all(queue) == b"firstsecond"


def test_small_things_are_gathered_into_one_call() -> None:
    queue = OutputQueue(SMALL)
    queue.append(b"one ")
    queue.append_producer(Producer(iter([b"two ", b"three "])))
    queue.append(b"four ")
    queue.append_producer(Producer(Source(b"five")))
    assert b"".join(queue.next_buffers()) == b"one two three "
    assert send_all(queue) == b"one two three four five"


def test_one_call_gathers_no_more_buffers_than_the_system_takes() -> None:
    queue = OutputQueue(Limits())
    for _ in range(3 * BUFFERS_PER_CALL):
        queue.append(b"x")
    assert len(queue.next_buffers()) == BUFFERS_PER_CALL <= IOV_MAX
    assert send_all(queue) == b"x" * (3 * BUFFERS_PER_CALL)


def test_producer_of_tiny_chunks_gives_no_more_buffers_than_the_system_takes() -> None:
    queue = OutputQueue(Limits())
    queue.append_producer(Producer(b"x" for _ in range(5000)))
    assert len(queue.next_buffers()) <= BUFFERS_PER_CALL
    assert send_all(queue) == b"x" * 5000


def test_one_call_gathers_no_more_bytes_than_it_needs() -> None:
    queue = OutputQueue(Limits())
    for _ in range(10):
        queue.append(b"x" * (BYTES_PER_CALL // 2))
    assert len(queue.next_buffers()) == 2


@pytest.mark.parametrize("taken", [0, 3])
def test_empty_bytes_do_not_stay_in_the_queue(taken: int) -> None:
    """A socket never takes them: the channel would wait for it for ever."""
    queue = OutputQueue(SMALL)
    queue.append(b"abc"[:taken])
    queue.append(b"")
    queue.next_buffers()
    queue.advance(taken)
    assert not queue


def test_stream_runs_empty_after_empty_bytes_were_pushed(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("localhost", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
        (channel,) = accepted.channels
        channel.push(bytearray(b"text"))
        channel.push(iter([b" and more"]))
        channel.push(b"")
        channel.close_when_done()
        client.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: channel.of("close"), 5)
        assert client.makefile("rb").read() == b"text and more"


def test_first_place_is_in_front_of_everything() -> None:
    queue = OutputQueue(SMALL)
    queue.append(b"later")
    queue.put_first(b"first ")
    assert queue.size == 11
    assert send_all(queue) == b"first later"


# Marks


def test_pressure_is_said_once_for_each_mark_and_anew_after_relief() -> None:
    queue = OutputQueue(SMALL)
    said = [queue.append(b"x" * 100) for _ in range(12)]
    assert [number for number, pressed in enumerate(said, 1) if pressed] == [4, 11]
    assert queue.is_pressed
    queue.advance(1050)
    assert not queue.is_pressed
    assert not queue.is_relieved
    queue.advance(50)
    assert queue.is_relieved
    queue.renew_marks()
    assert not queue.append(b"x" * 200)
    assert queue.append(b"x")
    assert queue.append(b"x" * 1000)
    assert not queue.append(b"x" * 1000)


def test_marks_are_renewed_only_so_far_as_the_queue_has_fallen() -> None:
    queue = OutputQueue(SMALL)
    assert queue.append(b"x" * 1001)
    queue.advance(600)
    queue.renew_marks()
    assert not queue.append(b"x" * 500)
    assert queue.append(b"x" * 200)


def test_one_append_past_both_marks_says_so_once() -> None:
    queue = OutputQueue(SMALL)
    assert queue.append(b"x" * 1001)
    assert not queue.append(b"x")


def test_pressure_of_many_producers_is_said_once_and_passes_as_they_go() -> None:
    queue = OutputQueue(SMALL)
    files = [temporary_file(b"x") for _ in range(PRODUCERS_WAITING)]
    parts = [Producer([b"y"]), Producer([b"y"]), *(FileSlice(file, 0, 1) for file in files)]
    said = [queue.append_producer(part) for part in parts]
    assert [number for number, pressed in enumerate(said, 1) if pressed] == [PRODUCERS_WAITING + 1]
    assert queue.is_pressed
    assert not queue.is_relieved
    send_some(queue, 2)
    send_some(queue, 0)
    assert not queue.is_pressed
    assert not queue.is_relieved
    relieved = []
    while queue:
        send_some(queue, 1)
        queue.next_file()
        relieved.append((sum(not file.closed for file in files), queue.is_relieved))
    assert all(said == (left <= PRODUCERS_WAITING // 2) for left, said in relieved)
    assert {said for _, said in relieved} == {True, False}


def test_sealed_queue_takes_nothing_more_and_closes_what_it_refuses() -> None:
    queue, source, file = OutputQueue(SMALL), Source(b"late"), temporary_file(b"late")
    queue.append(b"in time")
    queue.seal()
    assert queue.sealed
    assert not queue.append(b"x" * 2000)
    queue.append_producer(Producer(source))
    queue.append_producer(FileSlice(file, 0, 4))
    assert source.closed == 1
    assert file.closed
    assert send_all(queue) == b"in time"


def test_cleared_queue_closes_what_waits() -> None:
    queue, source, file = OutputQueue(SMALL), Source(b"late"), temporary_file(b"late")
    ended = []

    def generate() -> Iterator[bytes]:
        try:
            yield b"x" * 200
            yield b"never"
        finally:
            ended.append(True)

    queue.append_producer(Producer(generate()))
    queue.next_buffers()
    queue.append(b"bytes")
    queue.append_producer(Producer(source))
    queue.append_producer(FileSlice(file, 0, 4))
    queue.clear()
    assert (bool(queue), queue.size) == (False, 0)
    assert ended == [True]
    assert source.closed == 1
    assert file.closed


def test_queue_of_a_closed_channel_keeps_nothing() -> None:
    source, file = Source(b"late"), temporary_file(b"late")
    assert not DISCARD.append(b"x" * 2000)
    DISCARD.append_producer(Producer(source))
    DISCARD.append_producer(FileSlice(file, 0, 4))
    DISCARD.clear()
    assert (bool(DISCARD), DISCARD.size) == (False, 0)
    assert source.closed == 1
    assert file.closed


# Producers


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Source(b"one", bytearray(b"two"), memoryview(b"three"), array("H", [0x3434])), b"onetwothree44"),
        (io.BytesIO(b"read" * 40_000), b"read" * 40_000),
        (iter([b"one", b"", b"two", bytearray(), b"three"]), b"onetwothree"),
        ((bytes([number]) for number in range(5)), bytes(range(5))),
        ([b"a list", b" too"], b"a list too"),
        (Source(), b""),
        (iter([]), b""),
    ],
)
def test_producer_gives_what_its_source_holds(source: Any, expected: bytes) -> None:
    producer = Producer(source)
    pulled = list(iter(producer.pull, b""))
    assert b"".join(pulled) == expected
    assert all(type(chunk) is bytes for chunk in pulled)


def test_reader_is_read_in_pieces() -> None:
    producer = Producer(io.BytesIO(bytes(1 << 20)))
    assert len(producer.pull()) == 64 * 1024


@pytest.mark.parametrize("source", [5, None, "text", object()])
def test_what_is_no_producer_is_refused(source: Any) -> None:
    with pytest.raises(LocalError, match=f"{type(source).__name__} cannot be pushed"):
        Producer(source)


@pytest.mark.parametrize("chunk", ["text", 5, None, [b"x"], KeyError("key")])
def test_producer_that_fails_or_gives_no_bytes_is_a_typed_error(chunk: Any) -> None:
    queue = OutputQueue(SMALL)
    queue.append_producer(Producer(Source(chunk)))
    with pytest.raises(ProducerError, match="the producer .* failed: ") as caught:
        queue.next_buffers()
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("chunk", [5, None])
def test_iterator_of_what_is_no_bytes_is_a_typed_error(chunk: Any) -> None:
    with pytest.raises(ProducerError):
        Producer(iter([chunk])).pull()


def test_producer_is_closed_at_its_end_if_it_can_be() -> None:
    queue, source = OutputQueue(SMALL), Source(b"data")
    queue.append_producer(Producer(source))
    queue.append_producer(Producer([b"a list cannot"]))
    assert send_all(queue) == b"dataa list cannot"
    assert source.closed == 1


class Stubborn(Source):
    """A source that cannot be closed without an error."""

    def close(self) -> None:
        super().close()
        raise OSError("no space left on the device")


def test_source_whose_close_fails_at_its_end_does_not_hold_up_the_queue() -> None:
    queue = OutputQueue(SMALL)
    queue.append_producer(Producer(Stubborn(b"data ")))
    queue.append(b"behind")
    assert send_all(queue) == b"data behind"


def test_source_whose_close_fails_keeps_no_other_one_open_when_the_queue_is_cleared() -> None:
    queue, file = OutputQueue(SMALL), temporary_file(b"late")
    queue.append_producer(Producer(Stubborn(b"data")))
    queue.append_producer(FileSlice(file, 0, 4))
    try:
        queue.clear()
        assert file.closed
        assert not queue
    finally:
        file.close()


def opened_stream(loop: reactor.Reactor, accepted: Accepting) -> tuple[RecordingStream, socket.socket]:
    listener = reactor.Listener(("localhost", 0), accepted, reactor=loop)
    client = raw_client(listener.address)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
    listener.close()
    return accepted.channels[0], client


def test_channel_closes_once_although_its_producer_cannot_be_closed(loop: reactor.Reactor) -> None:
    channel, client = opened_stream(loop, Accepting(RecordingStream))
    with client:
        channel.push(Stubborn(b"data"))
        try:
            channel.close()
        except OSError:
            pass
        run_until(loop, lambda: channel.of("close"), 3)
        assert len(channel.of("close")) == 1
        run_until(loop, loop.is_idle, 3)


def test_channel_closes_once_although_its_own_producer_closes_it(loop: reactor.Reactor) -> None:
    channel, client = opened_stream(loop, Accepting(RecordingStream))

    def generate() -> Iterator[bytes]:
        yield b"data"
        channel.close()
        yield b"late"

    with client:
        channel.push(generate())
        run_until(loop, lambda: channel.of("close"), 3)
        assert len(channel.of("close")) == 1
        run_until(loop, loop.is_idle, 3)


def test_channel_closes_once_although_its_own_object_with_more_closes_it(loop: reactor.Reactor) -> None:
    channel, client = opened_stream(loop, Accepting(RecordingStream))

    class Quitter(Source):
        def more(self) -> bytes:
            channel.close()
            return b"late"

    quitter = Quitter()
    with client:
        channel.push(quitter)
        run_until(loop, lambda: channel.of("close"), 3)
        assert len(channel.of("close")) == 1
        assert client.recv(10) == b""
        run_until(loop, loop.is_idle, 3)
    assert quitter.closed


def test_producer_that_pauses_reading_holds_up_no_output(loop: reactor.Reactor) -> None:
    channel, client = opened_stream(loop, Accepting(RecordingStream))

    def generate() -> Iterator[bytes]:
        yield b"first "
        channel.pause_reading()
        yield b"second "

    with client, client.makefile("rb") as file:
        channel.push(generate())
        run_until(loop, lambda: channel.state.name == "Paused")
        channel.push(b"third")
        run_until(loop, lambda: channel.output_size == 0, 3)
        channel.close_when_done()
        client.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: channel.of("close"), 3)
        assert file.read() == b"first second third"


# Files


def test_file_is_sent_from_its_position_to_its_end() -> None:
    with temporary_file(b"0123456789", 3) as file:
        part = FileSlice.of(file)
        assert part is not None
        assert (part.offset, part.size) == (3, 7)
        file.seek(20)
        part = FileSlice.of(file)
        assert part is not None
        assert part.size == 0


def test_file_that_was_read_from_is_sent_from_where_the_reading_stopped() -> None:
    with temporary_file(b"first line\nsecond line\n") as file:
        file.readline()
        part = FileSlice.of(file)
        assert part is not None
        assert part.offset == 11


def test_what_has_no_descriptor_is_no_file() -> None:
    assert FileSlice.of(io.BytesIO(b"data")) is None
    assert FileSlice.of(Source()) is None
    assert FileSlice.of(iter([])) is None


def test_pipe_is_refused_because_it_would_block() -> None:
    reading, writing = os.pipe()
    with open(reading, "rb") as reader, open(writing, "wb"), pytest.raises(ProducerError, match="must not block"):
        FileSlice.of(reader)


def test_compressed_file_gives_its_content_and_not_the_bytes_on_the_disk(tmp_path: Path) -> None:
    path = tmp_path / "file.gz"
    with gzip.open(path, "wb") as file:
        file.write(b"content" * 100)
    queue = OutputQueue(Limits())
    with gzip.open(path, "rb") as file:
        queue.append_producer(FileSlice.of(file) or Producer(file))
        assert send_all(queue) == b"content" * 100


def test_empty_file_is_closed_and_passed_over() -> None:
    queue, files = OutputQueue(SMALL), [temporary_file(b""), temporary_file(b"")]
    for file in files:
        queue.append_producer(FileSlice(file, 0, 0))
    queue.append(b"behind")
    assert queue.next_file() is None
    assert all(file.closed for file in files)
    assert send_all(queue) == b"behind"


def test_file_that_became_shorter_is_a_typed_error_with_what_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "shrinking"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        part = FileSlice.of(file)
        assert part is not None
        part.advance(4)
        os.truncate(path, 4)
        with pytest.raises(ProducerError, match=r"shrinking' became shorter while it was sent; 6 bytes are missing"):
            part.advance(len(os.pread(file.fileno(), part.size, part.offset)))


def test_file_that_grows_is_sent_as_long_as_it_was() -> None:
    queue = OutputQueue(SMALL)
    file = temporary_file(b"then")
    queue.append_producer(FileSlice.of(file))  # type: ignore[arg-type]
    os.pwrite(file.fileno(), b"and now", 4)
    assert send_all(queue) == b"then"
    assert file.closed


def test_producer_that_closes_its_channel_when_it_is_closed_ends_the_queue(loop: reactor.Reactor) -> None:
    """Found by the simulation: the queue had run empty under the hands of who took the producer off it."""
    accepted = Accepting(RecordingStream)

    class Leaving:
        def __init__(self) -> None:
            self.chunks = [b"first", b""]

        def more(self) -> bytes:
            return self.chunks.pop(0)

        def close(self) -> None:
            accepted.channels[0].close()

    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop) as listener, raw_client(listener.address):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
        channel = accepted.channels[0]
        channel.push(Leaving())
        channel.push(b"never sent")
        run_until(loop, lambda: channel.of("close"))
    assert channel.of("error") == []
