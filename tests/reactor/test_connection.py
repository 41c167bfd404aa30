"""Connections and streams once they are open: sending, receiving, backpressure, closing."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import socket
import struct
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from multiprocessing.connection import Connection as StandardConnection
from pathlib import Path
from typing import Any

import pytest

import reactor
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, RecordingStream, raw_client, run_until
from tests.faults import turns

Pair = tuple[Any, socket.socket]
MakePair = Callable[..., Pair]

SMALL = reactor.Limits(low_water=1000, high_water=10_000, maximum_output=50_000_000)


class Bytes(RecordingConnection):
    codec = "bytes"


def frame(data: bytes) -> bytes:
    return struct.pack("!i", len(data)) + data


@pytest.fixture
def make_pair(loop: reactor.Reactor) -> Iterator[MakePair]:
    """Make a channel that was accepted, open, and the blocking socket at its other end."""
    sockets = []

    def make(factory: Callable[[], Any] = Bytes, loop: reactor.Reactor = loop, **options: Any) -> Pair:
        accepted = Accepting(factory)
        listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, **options)
        sock = raw_client(listener.address)
        sockets.append(sock)
        run_until(loop, lambda: accepted.channels and accepted.channels[0].state.name == "Open")
        listener.close()
        return accepted.channels[0], sock

    yield make
    for sock in sockets:
        sock.close()


def read_until(loop: reactor.Reactor, sock: socket.socket, size: int) -> bytes:
    """Read `size` bytes from the peer's socket while the loop runs."""
    sock.setblocking(False)
    received = bytearray()

    def take() -> bool:
        try:
            data = sock.recv(1 << 20)
        except BlockingIOError:
            return False
        assert data, f"end of stream after {len(received)} of {size} bytes"
        received.extend(data)
        return len(received) >= size

    run_until(loop, take, 30)
    sock.setblocking(True)
    sock.settimeout(10)
    return bytes(received)


# Receiving


def test_frames_arrive_as_messages_in_order(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair()
    sock.sendall(frame(b"one") + frame(b"") + frame(b"three"))
    run_until(loop, lambda: len(channel.of("message")) == 3)
    assert channel.events == [("open",), ("message", b"one"), ("message", b""), ("message", b"three")]


def test_frame_of_ten_megabytes_arrives_whole(
    loop: reactor.Reactor, make_pair: MakePair, in_thread: Callable[..., Any]
) -> None:
    channel, sock = make_pair()
    data = os.urandom(10_000_000)
    in_thread(sock.sendall, frame(data))
    run_until(loop, lambda: channel.of("message"))
    assert channel.of("message") == [data]
    assert type(channel.of("message")[0]) is bytes


def test_thousands_of_tiny_frames_take_several_turns(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Counting(Bytes):
        def handle_message(self, message: Any) -> None:
            self.events.append(("message", (loop.turns, message)))

    channel, sock = make_pair(Counting)
    sock.sendall(b"".join(frame(b"%d" % number) for number in range(1000)))
    run_until(loop, lambda: len(channel.of("message")) == 1000)
    turns = [turn for turn, _ in channel.of("message")]
    assert max(turns.count(turn) for turn in turns) <= 256
    assert [message for _, message in channel.of("message")] == [b"%d" % number for number in range(1000)]


def test_frame_over_the_limit_closes_the_channel_and_names_both_sizes(
    loop: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(limits=reactor.Limits(maximum_frame=1000))
    sock.sendall(frame(b"good") + struct.pack("!i", 1001))
    sock.shutdown(socket.SHUT_WR)  # else the channel waits two seconds for the end of its peer
    run_until(loop, lambda: channel.of("close"))
    assert channel.of("message") == [b"good"]
    assert isinstance(channel.of("close")[0], reactor.FrameError)
    assert "1001 bytes" in str(channel.of("close")[0])
    assert "1000 (maximum_frame)" in str(channel.of("close")[0])


def test_stream_that_ends_inside_a_frame_is_an_error(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair()
    sock.sendall(frame(b"whole") + frame(b"half a frame")[:10])
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert channel.of("message") == [b"whole"]
    assert "after 6 of 12 bytes of a frame" in str(channel.of("close")[0])


@pytest.mark.parametrize("garbage", [b"no pickle", pickle.dumps(os.getcwd)[:-2], b"\x80\x05cno_such_module\nx\n."])
def test_frame_that_cannot_be_decoded_closes_that_channel_alone(
    loop: reactor.Reactor, make_pair: MakePair, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    bad, bad_sock = make_pair(RecordingConnection, allow_unauthenticated_pickle=True)
    good, good_sock = make_pair()
    bad_sock.sendall(frame(garbage))
    bad_sock.shutdown(socket.SHUT_WR)  # else the channel waits two seconds for the end of its peer
    run_until(loop, lambda: bad.of("close"))
    assert [type(error) for error in bad.of("error")] == [reactor.DecodingError]
    assert bad.of("close") == bad.of("error")
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    good_sock.sendall(frame(b"still here"))
    run_until(loop, lambda: good.of("message"))


def test_restricted_pickle_lets_plain_values_through_and_nothing_else(
    loop: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(RecordingConnection, codec=reactor.RestrictedPickle([set]))
    sock.sendall(frame(pickle.dumps({"a": [1, 2.5, None, b"x"], "b": {3}})))
    run_until(loop, lambda: channel.of("message"))
    assert channel.of("message") == [{"a": [1, 2.5, None, b"x"], "b": {3}}]
    sock.sendall(frame(pickle.dumps(os.system)))
    sock.shutdown(socket.SHUT_WR)  # else the channel waits two seconds for the end of its peer
    run_until(loop, lambda: channel.of("close"))
    assert "not on the allow-list" in str(channel.of("close")[0])


@pytest.mark.parametrize("codec", ["json", json])
def test_json_goes_both_ways(loop: reactor.Reactor, make_pair: MakePair, codec: Any) -> None:
    channel, sock = make_pair(RecordingConnection, codec=codec)
    sock.sendall(frame('{"key": ["ä", 1.5, null]}'.encode()))
    run_until(loop, lambda: channel.of("message"))
    channel.send({"answer": channel.of("message")[0]})
    loop.poll()
    (size,) = struct.unpack("!i", sock.recv(4))
    assert json.loads(sock.recv(size)) == {"answer": {"key": ["ä", 1.5, None]}}


def test_handle_frame_gets_the_bytes_and_may_decode_itself(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Frames(RecordingConnection):
        codec = "json"

        def handle_frame(self, data: bytes) -> None:
            self.events.append(("frame", data))
            super().handle_frame(data)

    channel, sock = make_pair(Frames)
    sock.sendall(frame(b"[1]") + frame(b"no json"))
    run_until(loop, lambda: channel.of("close"))
    assert channel.events[:4] == [("open",), ("frame", b"[1]"), ("message", [1]), ("frame", b"no json")]
    assert isinstance(channel.of("error")[0], reactor.DecodingError)


def test_messages_nobody_wants_are_logged(
    loop: reactor.Reactor, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    _, sock = make_pair(reactor.Connection, codec="bytes")
    sock.sendall(frame(b"x"))
    run_until(loop, lambda: "handle_message is not written" in caplog.text)
    _, sock = make_pair(reactor.Stream)
    sock.sendall(b"x")
    run_until(loop, lambda: "handle_data is not written" in caplog.text)


# A hook that fails


def test_hook_that_fails_closes_its_channel_with_the_reason(
    loop: reactor.Reactor, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(Bytes):
        def handle_message(self, message: Any) -> None:
            raise ValueError("mine")

    channel, sock = make_pair(Failing)
    sock.sendall(frame(b"x"))
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.HookError)
    assert "ValueError: mine" in str(channel.of("close")[0])
    assert "Traceback" in caplog.text


def test_channel_may_survive_its_own_mistakes_and_loses_no_message(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Careful(Bytes):
        def handle_message(self, message: Any) -> None:
            super().handle_message(int(message))

        def handle_error(self, error: Exception) -> None:
            self.events.append(("error", type(error)))

    channel, sock = make_pair(Careful)
    sock.sendall(frame(b"1") + frame(b"two") + frame(b"3"))
    run_until(loop, lambda: len(channel.of("message")) == 2)
    assert channel.events[1:] == [("message", 1), ("error", ValueError), ("message", 3)]


def test_error_hook_that_fails_closes_the_channel(
    loop: reactor.Reactor, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    class Hopeless(Bytes):
        def handle_message(self, message: Any) -> None:
            raise ValueError("first")

        def handle_error(self, error: Exception) -> None:
            raise KeyError("second")

    channel, sock = make_pair(Hopeless)
    sock.sendall(frame(b"x"))
    run_until(loop, lambda: channel.of("close"))
    assert "handle_error failed: KeyError" in caplog.text


# Sending


def test_what_a_turn_queued_leaves_in_one_call(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Answering(Bytes):
        def handle_message(self, message: Any) -> None:
            for number in range(10):
                self.send(b"%d" % number)

    channel, sock = make_pair(Answering)
    calls = []

    class Counting:
        def __init__(self, sock: Any) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

        def send(self, data: bytes) -> int:
            calls.append(data)
            return self._sock.send(data)  # type: ignore[no-any-return]

    channel.socket = Counting(channel.socket)
    sock.sendall(frame(b"go"))
    expected = b"".join(frame(b"%d" % number) for number in range(10))
    assert read_until(loop, sock, len(expected)) == expected
    assert calls == [expected]


def test_parts_of_buffers_are_sent_and_bad_parts_refused(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair()
    buffer = bytearray(b"0123456789")
    channel.send_bytes(buffer)
    channel.send_bytes(buffer, 5)
    channel.send_bytes(memoryview(buffer), 2, 3)
    channel.send_bytes(b"abc", 1)
    buffer[:] = b"overwritten"
    for arguments in ((-1,), (11,), (0, -1), (5, 6)):
        with pytest.raises(ValueError, match=r"negative|buffer length"):
            channel.send_bytes(b"0123456789", *arguments)
    expected = frame(b"0123456789") + frame(b"56789") + frame(b"234") + frame(b"bc")
    assert read_until(loop, sock, len(expected)) == expected


def test_object_that_cannot_be_encoded_is_the_callers_error(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair()
    with pytest.raises(reactor.LocalError, match="bytes-like"):
        channel.send("text")
    channel.send(bytearray(b"fine"))
    assert read_until(loop, sock, 8) == frame(b"fine")


def test_everything_that_can_be_pushed_keeps_its_order(
    loop: reactor.Reactor, make_pair: MakePair, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content of a file " * 10_000)

    class More:
        def __init__(self) -> None:
            self.left = [b"from more 1", b"from more 2"]

        def more(self) -> bytes:
            return self.left.pop(0) if self.left else b""

    channel, sock = make_pair()
    channel.push(b"bytes")
    channel.push(bytearray(b"bytearray"))
    channel.push(open(path, "rb"))
    channel.push(b"large" * 10_000)
    channel.push(iter([b"first", b"", b"second"]))
    channel.push(More())
    channel.push(io.BytesIO(b"not on disk"))
    channel.push(chunk for chunk in (memoryview(b"generated"),))
    channel.send(b"last")
    expected = b"".join(
        map(
            frame,
            [
                b"bytes", b"bytearray", path.read_bytes(), b"large" * 10_000, b"first", b"second",
                b"from more 1", b"from more 2", b"not on disk", b"generated", b"last",
            ],
        )
    )  # fmt: skip
    assert read_until(loop, sock, len(expected)) == expected


def test_stream_sends_files_and_iterators_as_they_are(
    loop: reactor.Reactor, make_pair: MakePair, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(3_000_000))
    channel, sock = make_pair(RecordingStream)
    file = open(path, "rb")
    file.seek(1000)
    channel.push(b"header ")
    channel.push(file)
    channel.push(memoryview(b" trailer"))
    expected = b"header " + path.read_bytes()[1000:] + b" trailer"
    assert read_until(loop, sock, len(expected)) == expected
    assert file.closed


def test_file_goes_out_where_sendfile_cannot(
    loop: reactor.Reactor, make_pair: MakePair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", refuse)
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    channel, sock = make_pair()
    channel.push(open(path, "rb"))
    assert read_until(loop, sock, 300_004) == frame(path.read_bytes())


def test_file_that_became_shorter_closes_the_channel(
    loop: reactor.Reactor, make_pair: MakePair, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 1000)
    channel, _ = make_pair()
    channel.push(open(path, "rb"))
    path.write_bytes(b"x" * 10)
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ProducerError)
    assert "990 bytes are missing" in str(channel.of("close")[0])


@pytest.mark.parametrize("producer", [lambda: iter([b"good", "text"]), lambda: (1 / 0 for _ in "x")])
def test_producer_that_fails_closes_the_channel_with_a_reason(
    loop: reactor.Reactor, make_pair: MakePair, producer: Any
) -> None:
    channel, _ = make_pair()
    channel.push(producer())
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ProducerError)


@pytest.mark.parametrize("thing", ["text", 5, None])
def test_what_cannot_be_pushed_is_the_callers_error(make_pair: MakePair, thing: Any) -> None:
    channel, _ = make_pair()
    with pytest.raises(reactor.LocalError, match="cannot be pushed"):
        channel.push(thing)


def test_pipe_cannot_be_pushed_because_it_could_block(make_pair: MakePair) -> None:
    channel, _ = make_pair()
    reader, writer = os.pipe()
    with open(reader, "rb") as file, open(writer, "wb"), pytest.raises(reactor.ProducerError, match="must not block"):
        channel.push(file)


def test_endless_producer_is_pulled_only_as_the_peer_reads(loop: reactor.Reactor, make_pair: MakePair) -> None:
    pulled = 0

    def endless() -> Iterator[bytes]:
        nonlocal pulled
        while True:
            pulled += 1
            yield b"x" * 10_000

    channel, sock = make_pair(RecordingStream)
    channel.push(endless())
    for _ in range(100):
        loop.poll(0)
    before = pulled
    for _ in range(100):
        loop.poll(0)
    assert pulled == before
    assert channel.output_size <= channel.limits.low_water + 10_000
    sock.settimeout(10)
    for _ in range(1000):
        sock.recv(65536)
        loop.poll(0)
    assert pulled > before
    channel.close()


# Marks and limits


def test_peer_that_does_not_read_is_not_read_from_until_it_does(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Amplifying(Bytes):
        def handle_message(self, message: Any) -> None:
            super().handle_message(message)
            self.send(b"x" * 1_000_000)

    channel, sock = make_pair(Amplifying, limits=SMALL)
    requests = 50
    sock.sendall(frame(b"more") * requests)
    run_until(loop, lambda: channel.state.name == "Throttled")
    for _ in range(50):
        loop.poll(0)
    served = len(channel.of("message"))
    assert served < requests
    assert channel.output_size < 10_000_000
    received = read_until(loop, sock, requests * 1_000_004)
    assert received == frame(b"x" * 1_000_000) * requests
    run_until(loop, lambda: channel.state.name == "Open")


def test_paused_channel_delivers_nothing_until_it_resumes(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Pausing(Bytes):
        def handle_message(self, message: Any) -> None:
            super().handle_message(message)
            self.pause_reading()
            self.pause_reading()

    channel, sock = make_pair(Pausing)
    sock.sendall(frame(b"1") + frame(b"2") + frame(b"3"))
    run_until(loop, lambda: channel.of("message"))
    for _ in range(10):
        loop.poll(0)
    assert channel.of("message") == [b"1"]
    channel.send(b"still sends")
    assert read_until(loop, sock, 15) == frame(b"still sends")
    for count in (2, 3):
        channel.resume_reading()
        run_until(loop, lambda count=count: len(channel.of("message")) == count)
    channel.resume_reading()
    channel.resume_reading()
    sock.sendall(frame(b"4"))
    run_until(loop, lambda: len(channel.of("message")) == 4)


def test_channel_paused_while_throttled_stays_paused_when_the_peer_reads(
    loop: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(limits=SMALL)
    for _ in range(10):
        channel.send(b"x" * 1_000_000)
    run_until(loop, lambda: channel.state.name == "Throttled")
    channel.resume_reading()
    assert channel.state.name == "Throttled"
    channel.pause_reading()
    assert channel.state.name == "Paused"
    channel.resume_reading()
    assert channel.state.name == "Throttled"
    channel.pause_reading()
    sock.sendall(frame(b"wait"))
    read_until(loop, sock, 10 * 1_000_004)
    assert channel.state.name == "Paused"
    assert channel.of("message") == []
    channel.resume_reading()
    run_until(loop, lambda: channel.of("message"))


def test_peer_that_never_reads_is_closed_at_the_limit(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, _ = make_pair(limits=reactor.Limits(low_water=1000, high_water=10_000, maximum_output=20_000_000))
    for _ in range(100):
        channel.send(b"x" * 1_000_000)
        loop.poll(0)
        if channel.of("close"):
            break
        assert channel.output_size <= 21_000_010
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.LimitError)
    assert reason.limit == "maximum_output"
    channel.send(b"dropped")
    channel.push(iter([b"dropped"]))
    assert channel.output_size == 0


def test_one_large_push_passes_marks_and_is_sent(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair(RecordingStream, limits=SMALL)
    channel.push(b"x" * 20_000_000)
    assert read_until(loop, sock, 20_000_000) == b"x" * 20_000_000
    assert channel.state.name == "Open"


def test_drained_is_told_each_time_the_queue_runs_empty(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Pump(RecordingStream):
        left = 5

        def handle_open(self) -> None:
            self.handle_drained()

        def handle_drained(self) -> None:
            if self.left:
                self.left -= 1
                self.push(b"x" * 3_000_000)
            else:
                self.close_when_done()

    channel, sock = make_pair(Pump)
    assert len(read_until(loop, sock, 15_000_000)) == 15_000_000
    assert sock.recv(1) == b""
    sock.close()
    run_until(loop, lambda: channel.of("close"))


# Deadlines


def test_silent_peer_is_closed_after_its_idle_timeout(
    clock: FakeClock, timed: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(loop=timed, limits=reactor.Limits(idle_timeout=0.3))
    for _ in range(5):
        sock.sendall(frame(b"here"))
        count = len(channel.of("message"))
        run_until(timed, lambda count=count: len(channel.of("message")) > count)
        clock.advance(0.25)
        turns(timed, 2)
    assert not channel.of("close")
    clock.advance(0.1)
    run_until(timed, lambda: channel.of("close"))
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "idle_timeout"


def test_peer_that_takes_nothing_is_closed_after_its_stall_timeout(
    clock: FakeClock, timed: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(loop=timed, limits=reactor.Limits(stall_timeout=0.2))
    channel.send(b"x" * 20_000_000)
    turns(timed, 50)  # in which the kernel takes what it has room for
    clock.advance(0.19)
    turns(timed, 2)
    assert not channel.of("close")
    run_until(timed, lambda: clock.advance(0.1) or channel.of("close"))
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "stall_timeout"
    del sock


def test_timeouts_can_be_switched_off(clock: FakeClock, timed: reactor.Reactor, make_pair: MakePair) -> None:
    limits = reactor.Limits(idle_timeout=0.05, stall_timeout=None)
    channel, sock = make_pair(loop=timed, limits=limits)
    channel.send(b"x" * 20_000_000)
    turns(timed, 50)  # in which the kernel takes what it has room for
    for _ in range(10):
        clock.advance(0.05)
        turns(timed, 2)
    assert not channel.of("close")
    channel.close()
    del sock


# Closing


def test_close_when_done_sends_everything_first(loop: reactor.Reactor, make_pair: MakePair) -> None:
    channel, sock = make_pair()
    channel.send(b"x" * 5_000_000)
    channel.close_when_done()
    channel.close_when_done()
    channel.send(b"dropped")
    sock.sendall(frame(b"ignored"))
    assert len(read_until(loop, sock, 5_000_004)) == 5_000_004
    assert sock.recv(1) == b""
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ClosedHere)
    assert channel.of("message") == []


def test_close_drops_what_is_queued_and_happens_once(
    loop: reactor.Reactor, make_pair: MakePair, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x")
    channel, sock = make_pair()
    file = open(path, "rb")
    channel.push(file)
    channel.close()
    channel.close()
    channel.close_when_done()
    assert len(channel.of("close")) == 1
    assert file.closed
    assert sock.recv(1) == b""
    loop.loop()
    assert loop.is_idle()


def test_closing_peer_that_never_reads_is_cut_off(
    clock: FakeClock, timed: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, _ = make_pair(loop=timed, limits=reactor.Limits(drain_timeout=0.1))
    channel.send(b"x" * 20_000_000)
    channel.close_when_done()
    run_until(timed, lambda: clock.advance(0.1) or channel.of("close"))
    assert channel.of("close")[0].limit == "drain_timeout"
    assert "took none of what waits for it" in str(channel.of("close")[0])


def test_closing_does_not_wait_for_ever_for_the_peers_end(
    clock: FakeClock, timed: reactor.Reactor, make_pair: MakePair
) -> None:
    channel, sock = make_pair(loop=timed, limits=reactor.Limits(drain_timeout=0.1, linger_timeout=2))
    channel.send(b"bye")
    channel.close_when_done()
    turns(timed, 2)
    clock.advance(1.9)
    turns(timed, 2)
    assert not channel.of("close")
    clock.advance(0.2)
    run_until(timed, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ClosedHere)
    assert sock.recv(100) == frame(b"bye")
    assert sock.recv(1) == b""


def test_peer_that_has_stopped_sending_still_gets_all_of_it(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Answering(Bytes):
        def handle_message(self, message: Any) -> None:
            self.send(b"x" * 5_000_000)

    channel, sock = make_pair(Answering)
    sock.sendall(frame(b"all of it"))
    sock.shutdown(socket.SHUT_WR)
    assert len(read_until(loop, sock, 5_000_004)) == 5_000_004
    assert sock.recv(1) == b""
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.PeerClosed)


def test_channel_may_answer_later_a_peer_that_has_stopped_sending(loop: reactor.Reactor, make_pair: MakePair) -> None:
    class Later(Bytes):
        def handle_eof(self) -> None:
            loop.call_later(0.01, self.answer)

        def answer(self) -> None:
            self.send(b"at last")
            self.close_when_done()

    channel, sock = make_pair(Later)
    sock.shutdown(socket.SHUT_WR)
    run_until(loop, lambda: channel.of("close"))
    assert sock.recv(100) == frame(b"at last")


def test_reset_is_told_with_its_number(
    loop: reactor.Reactor, make_pair: MakePair, caplog: pytest.LogCaptureFixture
) -> None:
    channel, sock = make_pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.ConnectionLost)
    assert reason.errno == 104
    assert len(caplog.records) == 1


@pytest.mark.parametrize("size", [10, 20_000])
def test_reset_while_sending_is_told(loop: reactor.Reactor, make_pair: MakePair, size: int) -> None:
    channel, sock = make_pair()
    channel.pause_reading()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    channel.send(b"x" * size)
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ConnectionLost)


@pytest.mark.parametrize("size", [0, 20_000_000])
def test_reset_while_closing_is_told_only_if_something_was_lost(
    loop: reactor.Reactor, make_pair: MakePair, size: int
) -> None:
    channel, sock = make_pair()
    if size:
        channel.send(b"x" * size)
    channel.close_when_done()
    for _ in range(5):
        loop.poll(0)
    assert channel.state.name == "Closing"
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert type(channel.of("close")[0]) is (reactor.ConnectionLost if size else reactor.ClosedHere)


def test_channel_that_is_not_attached_says_so() -> None:
    channel = RecordingConnection()
    with pytest.raises(reactor.StateError, match="not attached"):
        channel.send("x")
    with pytest.raises(reactor.StateError, match="does not read"):
        channel.pause_reading()
    channel.close()
    channel.close_when_done()
    assert repr(channel) == "<RecordingConnection with nobody (New)>"


def test_standard_connection_and_ours_share_a_socket_pair_of_processes(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, reactor=loop)

    def client() -> None:
        with Client(listener.address, authkey=KEY) as connection:
            assert isinstance(connection, StandardConnection)
            connection.send_bytes(pickle.dumps("bytes of a pickle"))
            connection.send(["objects", {"too": 1}])

    in_thread(client)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    assert accepted.channels[0].of("message") == ["bytes of a pickle", ["objects", {"too": 1}]]
