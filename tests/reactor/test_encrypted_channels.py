"""What comes in and goes out over TLS, how it ends, and what it costs in memory."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import (
    ClosedHere,
    DeadlineError,
    LocalError,
    PeerClosed,
    ServerTls,
    TlsError,
    TruncatedError,
)
from tests import certificates
from tests.conftest import KEY, ROOT, Accepting, FakeClock, RecordingConnection, RecordingStream, run_until
from tests.faults import AcceptingSocket, Server, serve, turns
from tests.tls_peers import (
    ANY_PORT,
    FILES,
    LARGE,
    TLS_1_2,
    TLS_1_3,
    Echo,
    EchoMessages,
    Ended,
    RecordingLines,
    SocketPeer,
    believing,
    client_context,
    connected,
    lines_of,
)

__all__ = ["serve"]

Serve = Callable[..., Server]


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Have nothing die but by reference counting."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# Ours with ours


@pytest.mark.parametrize("address", [ANY_PORT, None, ("localhost", 0)], ids=["address", "unix", "name"])
def test_stream_is_encrypted_both_ways(loop: reactor.Reactor, address: Any) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(address, accepted, reactor=loop, tls=FILES())
    tls = believing() if address else believing(server_name="localhost")
    client = reactor.connect(listener.address[:2] if address else listener.address, Ended, reactor=loop, tls=tls)
    client.push(b"pushed before it is open")
    run_until(loop, lambda: len(client.received) == 24)
    assert client.received == b"pushed before it is open"
    assert client.tls is not None
    assert accepted.channels[0].tls is not None
    assert client.tls.version() == accepted.channels[0].tls.version() == "TLSv1.3"
    client.close_when_done()
    run_until(loop, lambda: client.of("close") and accepted.channels[0].of("close"))
    assert isinstance(accepted.channels[0].of("close")[0], PeerClosed)
    assert isinstance(client.of("close")[0], ClosedHere)
    assert client.tls is None


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
def test_messages_are_encrypted_and_the_key_comes_behind(loop: reactor.Reactor, key: bytes | None) -> None:
    accepted = Accepting(EchoMessages)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=FILES(), authkey=key)
    client = reactor.connect(listener.address, RecordingConnection, codec="bytes", reactor=loop, tls=believing(),
                             authkey=key)  # fmt: skip
    sent = [b"x" * size for size in (1, 10, 1000, 100_000, 1_000_000, 3)]
    for message in sent:
        client.send(message)
    run_until(loop, lambda: len(client.of("message")) == len(sent))
    assert client.of("message") == sent
    listener.close()
    client.close()


def test_unix_socket_without_a_name_is_refused_at_connect(loop: reactor.Reactor, socket_path: str) -> None:
    with pytest.raises(LocalError, match="a Unix socket has no name for which a certificate could be"):
        reactor.connect(socket_path, Ended, reactor=loop, tls=True)


def test_false_is_no_tls(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=False)
    client = reactor.connect(listener.address, Ended, reactor=loop, tls=False)
    run_until(loop, lambda: client.of("open"))
    assert client.tls is None


def test_handler_sees_the_certificate_of_its_client(loop: reactor.Reactor) -> None:
    seen: list[Any] = []

    class Asking(RecordingStream):
        def handle_open(self) -> None:
            super().handle_open()
            assert self.tls is not None
            seen.append(self.tls.getpeercert())

    tls = ServerTls(*FILES(), client_authorities=certificates.authorities())
    listener = reactor.Listener(ANY_PORT, Asking, reactor=loop, tls=tls)
    alice = believing(certificate=certificates.certificate("alice.example"))
    client = reactor.connect(listener.address, Ended, reactor=loop, tls=alice)
    run_until(loop, lambda: seen and client.of("open"))
    assert ("DNS", "alice.example") in seen[0]["subjectAltName"]


def test_reload_drops_no_connection(loop: reactor.Reactor, serve: Serve, tmp_path: Path) -> None:
    files = tmp_path / "certificate", tmp_path / "key"
    for path, source in zip(files, FILES(), strict=True):
        path.write_bytes(Path(source).read_bytes())
    tls = ServerTls(*files)
    server = serve(loop, Echo, tls=tls)
    peer, _ = connected(server)
    sock, _ = server.pair()
    begun = SocketPeer(sock, client_context()).turn()
    turns(loop, 2)
    for path, source in zip(files, FILES("b.example"), strict=True):
        path.write_bytes(Path(source).read_bytes())
    tls.reload()
    late, _ = connected(server, client_context(), name="b.example")
    run_until(loop, lambda: begun.turn().is_secure)
    for one in (peer, begun, late):
        one.push(b"alive")
        run_until(loop, lambda one=one: one.turn().received == b"alive")  # type: ignore[misc]


# Input


def test_several_records_at_once_are_one_receive(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Echo, tls=FILES())
    peer, channel = connected(server)
    peer.send(b"".join(peer.write(b"%d " % number) for number in range(50)))
    run_until(loop, lambda: channel.received)
    assert channel.of("data") == [b"".join(b"%d " % number for number in range(50))]


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_one_record_of_full_size_byte_by_byte(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    """It takes more turns than the guard against spinning allows to come to nothing."""
    server = serve(loop, Echo, tls=FILES())
    peer, channel = connected(server, client_context(version))
    record = peer.write(os.urandom(500) + b"x" * 15_884)
    before = loop.turns
    for byte in record[:3000]:
        peer.sock.send(bytes([byte]))
        loop.poll(1)
    peer.sock.send(record[3000:])
    run_until(loop, lambda: channel.received)
    assert [len(data) for data in channel.of("data")] == [16_384]
    assert 3000 <= loop.turns - before <= 3010
    assert lines_of(caplog) == []


def test_one_record_of_full_size_read_a_byte_at_a_time_comes_without_the_socket(
    loop: reactor.Reactor, serve: Serve
) -> None:
    """Decrypted data waits in no place that no descriptor announces."""

    class Picky(reactor.Chat):
        terminator = 1

        def __init__(self) -> None:
            self.bytes = bytearray()

        def collect_incoming_data(self, data: bytes) -> None:
            self.bytes += data

        def found_terminator(self) -> None:
            self.set_terminator(1)

    server = serve(loop, Picky, tls=FILES())
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure)
    peer.push(LARGE[:16_384])
    run_until(loop, lambda: len(channel.bytes) == 16_384)
    assert channel.bytes == LARGE[:16_384]


@pytest.mark.parametrize("make", [RecordingStream, RecordingConnection], ids=["stream", "frames"])
def test_data_with_the_last_flight_is_delivered_behind_the_opening(
    loop: reactor.Reactor, serve: Serve, make: type[Any]
) -> None:
    server = serve(loop, make, tls=FILES(), **({"codec": "bytes"} if make is RecordingConnection else {}))
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context(TLS_1_3))
    peer.turn()
    turns(loop, 3)
    sock.send(peer.feed(sock.recv(1 << 16)) + peer.write(b"\0\0\0\5early") + peer.goodbye())
    run_until(loop, lambda: channel.of("close"))
    kinds = [event[0] for event in channel.events]
    assert kinds == ["open", "data" if make is RecordingStream else "message", "close"]
    assert channel.events[1][1] in (b"\0\0\0\5early", b"early")
    assert isinstance(channel.of("close")[0], PeerClosed)


def test_data_with_the_last_flight_waits_while_the_channel_is_paused(loop: reactor.Reactor, serve: Serve) -> None:
    class Shy(Ended):
        def handle_open(self) -> None:
            super().handle_open()
            self.pause_reading()

    server = serve(loop, Shy, tls=FILES())
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context(TLS_1_3))
    peer.turn()
    turns(loop, 3)
    sock.send(peer.feed(sock.recv(1 << 16)) + peer.write(b"early") + peer.goodbye())
    run_until(loop, lambda: channel.of("open"))
    turns(loop, 5)
    assert not channel.received
    channel.resume_reading()
    run_until(loop, lambda: channel.of("eof"))
    assert channel.received == b"early"


def test_end_that_came_with_data_waits_while_the_channel_is_paused(loop: reactor.Reactor, serve: Serve) -> None:
    class Shy(Ended):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            self.pause_reading()

    server = serve(loop, Shy, tls=FILES())
    peer, channel = connected(server)
    peer.send(peer.write(b"last") + peer.goodbye())
    run_until(loop, lambda: channel.received)
    loop.loop(0.05)
    assert not channel.of("eof")
    channel.resume_reading()
    run_until(loop, lambda: channel.of("eof"))


def test_end_that_came_with_data_outlives_an_interrupt(
    loop: reactor.Reactor, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(loop, Ended, tls=FILES())
    peer, channel = connected(server)

    def interrupted(_: Any) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "resume_soon", interrupted)
    peer.send(peer.write(b"last") + peer.goodbye())
    with pytest.raises(KeyboardInterrupt):
        run_until(loop, lambda: channel.of("eof"))
    run_until(loop, lambda: channel.of("eof"))


@pytest.mark.parametrize("kind", ["frames", "lines"])
@pytest.mark.parametrize("count", [1, 256, 257, 2000])
def test_end_behind_more_than_one_turn_delivers_is_not_forgotten(
    loop: reactor.Reactor, serve: Serve, kind: str, count: int
) -> None:
    """The peer waits for our answer, and does not close the connection: no descriptor announces anything."""
    make: Any = RecordingConnection if kind == "frames" else RecordingLines
    server = serve(loop, make, tls=FILES(), **({"codec": "bytes"} if kind == "frames" else {}))
    peer, channel = connected(server)
    peer.send(peer.write((b"\0\0\0\1x" if kind == "frames" else b"x\n") * count) + peer.goodbye())
    run_until(loop, lambda: peer.turn().has_ended)
    assert len(channel.of("message") or channel.of("line")) == count
    peer.sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], PeerClosed)


def test_end_that_came_with_data_waits_while_the_channel_is_throttled(loop: reactor.Reactor, serve: Serve) -> None:
    class Generous(Ended):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            self.push(LARGE)

    server = serve(loop, Generous, tls=FILES())
    peer, channel = connected(server)
    peer.send(peer.write(b"give") + peer.goodbye())
    run_until(loop, lambda: channel.state.name == "Throttled")
    loop.loop(0.05)
    assert not channel.of("eof")
    run_until(loop, lambda: len(peer.turn().received) == len(LARGE))
    assert peer.received == LARGE
    run_until(loop, lambda: channel.of("eof"))


def test_peer_that_sends_for_ever_does_not_hold_the_loop(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Echo, tls=FILES())
    flooder, flooded = connected(server)
    peer, _ = connected(server)
    flood = flooder.write(LARGE)
    flooder.send(flood)
    peer.push(b"ping")
    run_until(loop, lambda: peer.turn().received == b"ping")
    assert len(flooded.received) < len(LARGE)


def test_garbage_on_an_open_channel_is_one_line_and_the_peer_is_told(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    record = bytearray(peer.write(b"DELETE"))
    record[-1] ^= 1
    peer.send(bytes(record))
    run_until(loop, lambda: channel.of("close"))
    assert lines_of(caplog) == ["no TLS: what came was changed on its way, or is not from this connection"]
    assert not channel.of("data")
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        peer.turn()


def test_bytes_behind_the_end_harm_no_other_connection(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Ended, tls=FILES())
    peer, channel = connected(server)
    other, others = connected(server)
    peer.send(peer.goodbye() + b"whatever")
    run_until(loop, lambda: channel.of("eof"))
    other.push(b"unharmed")
    run_until(loop, lambda: others.received == b"unharmed")


# Output


class Sipping(AcceptingSocket):
    """A socket that takes a few bytes at a time, and says now and then that it is full."""

    step = 1
    calls = 0

    def send(self, data: Any, flags: int = 0) -> int:
        Sipping.calls += 1
        if Sipping.calls % 7 == 0:
            raise BlockingIOError
        return super().send(data[: self.step])


@pytest.mark.parametrize("step", [1, 2, 3, 17, 1000, 16_405, 100_000])
def test_exact_bytes_arrive_over_a_socket_that_takes_few(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    monkeypatch.setattr(Sipping, "step", step)
    data = LARGE[: min(step * 500, 1_000_000)]
    with reactor.Reactor(socket_factory=Sipping) as loop:
        accepted = Accepting(RecordingStream)
        listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=FILES())
        with socket.create_connection(listener.address) as sock:
            sock.setblocking(False)
            peer = SocketPeer(sock, client_context())
            run_until(loop, lambda: peer.turn().is_secure and accepted.channels[0].of("open"), 30)
            (channel,) = accepted.channels
            for start in range(0, len(data), 333):
                channel.push(data[start : start + 333])
            seen = [channel.output_size]
            while len(peer.received) < len(data):
                loop.poll(0.01)
                peer.turn()
                seen.append(channel.output_size)
                assert channel.socket.begun <= channel.output_size
            assert peer.received == data
            assert seen == sorted(seen, reverse=True)
            run_until(loop, lambda: channel.output_size == 0)
            channel.close_when_done()
            run_until(loop, lambda: peer.turn().has_ended)


def test_file_goes_out_encrypted(loop: reactor.Reactor, serve: Serve, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    channel.push(b"<")
    channel.push((tmp_path / "file").open("rb"))
    channel.push(b">")
    run_until(loop, lambda: len(peer.turn().received) == len(LARGE) + 2)
    assert peer.received == b"<" + LARGE + b">"


def test_file_that_becomes_shorter_is_reported(loop: reactor.Reactor, serve: Serve, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(LARGE)
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    channel.push(path.open("rb"))
    run_until(loop, lambda: len(peer.turn().received) > 200_000)
    os.truncate(path, 100)
    run_until(loop, lambda: peer.turn() and channel.of("close"))
    assert "became shorter while it was sent" in str(channel.of("close")[0])


def test_producers_go_out_encrypted(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    channel.push(LARGE[start : start + 10_000] for start in range(0, len(LARGE), 10_000))
    run_until(loop, lambda: len(peer.turn().received) == len(LARGE))
    assert peer.received == LARGE


def test_no_more_is_encrypted_than_is_about_to_be_sent(loop: reactor.Reactor, serve: Serve) -> None:
    """What waits is in memory once, not twice."""
    server = serve(loop, RecordingStream, tls=FILES())
    _, channel = connected(server)
    channel.push(bytes(20_000_000))
    turns(loop, 5)
    assert 0 < channel.socket.begun <= 128 * 1024
    assert len(channel.socket._unsent) <= 129 * 1024


@pytest.mark.parametrize("more", [b"", b"and this", LARGE])
def test_buffers_that_are_discarded_in_the_middle_break_nothing(
    loop: reactor.Reactor, serve: Serve, more: bytes
) -> None:
    """What is encrypted already leaves; nothing else does, and what is pushed then arrives whole."""

    class Discarding(reactor.Chat):
        pass

    server = serve(loop, Discarding, tls=FILES())
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.state.name == "Open")
    channel.push(LARGE)
    channel.push(LARGE)
    turns(loop, 5)
    begun, left = channel.socket.begun, 2 * len(LARGE) - channel.output_size
    assert begun
    channel.discard_buffers()
    assert channel.output_size == begun
    channel.push(more)
    expected = left + begun + len(more)
    run_until(loop, lambda: len(peer.turn().received) == expected)
    turns(loop, 5)
    assert peer.turn().received == LARGE[: left + begun] + more
    assert channel.output_size == 0
    channel.close_when_done()
    run_until(loop, lambda: peer.turn().has_ended)


def test_drained_is_told_when_the_last_byte_has_left(loop: reactor.Reactor, serve: Serve) -> None:
    class Waiting(RecordingStream):
        def handle_drained(self) -> None:
            self.events.append(("drained", self.socket.has_unsent))

    server = serve(loop, Waiting, tls=FILES())
    peer, channel = connected(server)
    channel.push(LARGE)
    turns(loop, 5)
    assert not channel.of("drained")
    run_until(loop, lambda: peer.turn() and channel.of("drained"))
    assert channel.of("drained") == [False]


def test_peer_that_takes_nothing_stalls_at_its_deadline(timed: reactor.Reactor, clock: FakeClock) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(None, accepted, reactor=timed, tls=FILES())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.address)
        sock.setblocking(False)
        peer = SocketPeer(sock, client_context())
        run_until(timed, lambda: peer.turn().is_secure and accepted.channels[0].of("open"))
        (channel,) = accepted.channels
        channel.push(LARGE)
        turns(timed, 5)
        clock.advance(61)
        run_until(timed, lambda: channel.of("close"))
        assert isinstance(channel.of("close")[0], DeadlineError)
        with contextlib.suppress(ssl.SSLError):
            for _ in range(100):
                peer.turn()
        assert not peer.has_ended, "a stall is no clean end"


# The end


@pytest.mark.parametrize("how", ["close", "close_when_done", "shutdown"])
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_every_end_in_good_order_says_so(
    loop: reactor.Reactor, serve: Serve, how: str, version: ssl.TLSVersion
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server, client_context(version))
    channel.push(b"last")
    turns(loop, 2)
    getattr(loop if how == "shutdown" else channel, how)()
    run_until(loop, lambda: peer.turn().has_ended)
    assert peer.received == b"last"
    peer.sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere)


@pytest.mark.parametrize("how", ["handler", "idle"])
def test_end_for_an_error_is_no_clean_end(loop: reactor.Reactor, serve: Serve, how: str) -> None:
    """The peer would take what it has for all there was."""
    limits = reactor.Limits(idle_timeout=0.2) if how == "idle" else reactor.Limits()
    server = serve(loop, RecordingStream, tls=FILES(), limits=limits)
    peer, channel = connected(server)
    if how == "handler":
        channel.push(b"a part")
        turns(loop, 1)
        channel.close(ValueError("a handler failed"))
    run_until(loop, lambda: channel.of("close") and peer.turn().is_closed)
    assert not peer.has_ended


def test_close_waits_for_nobody(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    _, channel = connected(server)
    channel.push(LARGE)
    turns(loop, 3)
    channel.close()
    turns(loop, 1)
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert loop.is_idle() or list(loop.channels) == [server.listener]


def test_close_when_done_waits_for_its_deadlines_and_no_longer(timed: reactor.Reactor, clock: FakeClock) -> None:
    def accept() -> tuple[socket.socket, SocketPeer, Any]:
        before = len(accepted.channels)
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(listener.address)
        sock.setblocking(False)
        peer = SocketPeer(sock, client_context())
        run_until(timed, lambda: peer.turn().is_secure and accepted.channels[before].of("open"))
        return sock, peer, accepted.channels[before]

    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(None, accepted, reactor=timed, tls=FILES())
    full, _, stalled = accept()
    silent, _, lingering = accept()
    with full, silent:
        stalled.push(LARGE)
        turns(timed, 3)
        stalled.close_when_done()
        lingering.close_when_done()
        turns(timed, 3)
        assert [channel.state.name for channel in (stalled, lingering)] == ["Closing", "Closing"]
        clock.advance(2.1)
        run_until(timed, lambda: lingering.of("close"))
        assert isinstance(lingering.of("close")[0], ClosedHere)
        assert not stalled.of("close")
        clock.advance(30)
        run_until(timed, lambda: stalled.of("close"))
        assert isinstance(stalled.of("close")[0], DeadlineError)


def test_last_word_waits_for_room(serve: Serve) -> None:
    class Stuffed(AcceptingSocket):
        is_full = False

        def send(self, data: Any, flags: int = 0) -> int:
            if Stuffed.is_full:
                raise BlockingIOError
            return super().send(data[:5])

    with reactor.Reactor(socket_factory=Stuffed) as loop:
        server = serve(loop, RecordingStream, tls=FILES())
        peer, channel = connected(server)
        Stuffed.is_full = True
        channel.close_when_done()
        turns(loop, 3)
        assert channel.state.name == "Closing"
        Stuffed.is_full = False
        run_until(loop, lambda: peer.turn().has_ended)
        server.close()


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_truncation_is_told_apart_from_a_clean_end(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    clean, first = connected(server, client_context(version))
    cut, second = connected(server, client_context(version))
    clean.send(clean.write(b"all of it") + clean.goodbye())
    clean.sock.shutdown(socket.SHUT_WR)
    cut.push(b"a part")
    cut.sock.close()
    run_until(loop, lambda: first.of("close") and second.of("close"))
    assert isinstance(first.of("close")[0], PeerClosed)
    assert isinstance(second.of("close")[0], TruncatedError)
    assert (first.received, second.received) == (b"all of it", b"a part")
    assert lines_of(caplog) == ["the connection ended without the last word of TLS: something may be missing"]


def test_frame_cut_by_a_clean_end_is_still_an_error(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, EchoMessages, tls=FILES())
    peer, channel = connected(server)
    peer.send(peer.write(b"\0\0\0\x0ahalf") + peer.goodbye())
    run_until(loop, lambda: channel.of("error"))
    assert isinstance(channel.of("error")[0], reactor.FrameError)


def test_half_close_lets_us_answer(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Ended, tls=FILES())
    peer, channel = connected(server)
    peer.send(peer.write(b"question") + peer.goodbye())
    run_until(loop, lambda: channel.of("eof"))
    assert channel.state.name == "HalfClosed"
    before = loop.turns
    loop.loop(0.1)
    assert loop.turns - before <= 5
    channel.push(LARGE)
    run_until(loop, lambda: len(peer.turn().received) == len(LARGE))
    assert peer.received == LARGE
    channel.close_when_done()
    run_until(loop, lambda: peer.turn().has_ended and channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere)


@pytest.mark.parametrize("cut", range(0, 29, 4))
def test_half_close_at_every_byte_neither_spins_nor_loses_the_reply(
    loop: reactor.Reactor, serve: Serve, cut: int
) -> None:
    server = serve(loop, Ended, tls=FILES())
    peer, channel = connected(server)
    data = peer.write(b"question") + peer.goodbye()
    peer.send(data[:cut])
    turns(loop, 3)
    peer.send(data[cut:])
    run_until(loop, lambda: channel.of("eof"))
    channel.push(b"answer")
    channel.close_when_done()
    run_until(loop, lambda: peer.turn().has_ended)
    assert peer.received == b"answer"


def test_input_while_closing_is_read_and_dropped(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    channel.push(LARGE)
    channel.close_when_done()
    turns(loop, 2)
    for _ in range(5):
        peer.push(b"ignored")
        turns(loop, 1)
    run_until(loop, lambda: peer.turn().has_ended)
    assert peer.received == LARGE
    peer.send(peer.goodbye())
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert not channel.of("data")


@pytest.mark.parametrize("is_sent", [False, True])
def test_garbage_while_closing_closes(loop: reactor.Reactor, serve: Serve, is_sent: bool) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    peer, channel = connected(server)
    if not is_sent:
        channel.push(LARGE)
    channel.close_when_done()
    turns(loop, 3)
    peer.send(b"no TLS at all")
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere if is_sent else TlsError)


# Memory


@pytest.mark.parametrize("how", ["close", "peer", "cut", "garbage", "closing", "refused", "upgrade", "upgrade fails"])
def test_closed_channels_die_without_the_collector(
    loop: reactor.Reactor, serve: Serve, no_collector: None, how: str
) -> None:
    """Though each keeps the reason for which it was closed."""
    is_upgrade = how.startswith("upgrade")
    options = {} if is_upgrade else {"tls": FILES()}
    server = serve(loop, Ended if is_upgrade else RecordingStream, **options)
    END_OF_A_CHANNEL[how](server)
    (channel,) = server.channels
    run_until(loop, partial(channel.of, "close"))
    turns(loop, 2)
    gone = weakref.ref(channel)
    server.channels.clear()
    del channel
    assert gone() is None


def end_by_close(server: Server) -> None:
    _, channel = connected(server)
    channel.close()


def end_by_peer(server: Server) -> None:
    peer, _ = connected(server)
    peer.send(peer.goodbye())
    peer.sock.close()


def end_by_cut(server: Server) -> None:
    peer, _ = connected(server)
    peer.sock.close()


def end_by_garbage(server: Server) -> None:
    peer, _ = connected(server)
    peer.send(b"\x17\x03\x03\x00\x20" + b"x" * 100)


def end_while_closing(server: Server) -> None:
    peer, channel = connected(server)
    channel.close_when_done()
    turns(server.loop, 3)
    peer.send(b"\x17\x03\x03\x00\x20" + b"x" * 100)


def end_in_handshake(server: Server) -> None:
    sock, _ = server.pair()
    sock.send(b"GET / HTTP/1.1\r\n\r\n")
    sock.shutdown(socket.SHUT_WR)


def end_in_upgrade(server: Server) -> None:
    _, channel = server.pair()
    run_until(server.loop, partial(channel.of, "open"))
    channel.push(LARGE)
    channel.start_tls(FILES())
    turns(server.loop, 2)
    channel.close()


def end_by_upgrade_that_fails(server: Server) -> None:
    sock, channel = server.pair()
    run_until(server.loop, partial(channel.of, "open"))
    channel.start_tls(FILES())
    sock.send(b"no TLS")
    sock.shutdown(socket.SHUT_WR)


END_OF_A_CHANNEL: dict[str, Callable[[Server], None]] = {
    "close": end_by_close,
    "peer": end_by_peer,
    "cut": end_by_cut,
    "garbage": end_by_garbage,
    "closing": end_while_closing,
    "refused": end_in_handshake,
    "upgrade": end_in_upgrade,
    "upgrade fails": end_by_upgrade_that_fails,
}


def test_client_whose_server_is_refused_dies_without_the_collector(loop: reactor.Reactor, no_collector: None) -> None:
    listener = reactor.Listener(None, RecordingStream, reactor=loop, tls=certificates.certificate(expired=True))
    client = reactor.connect(listener.address, Ended, reactor=loop, tls=believing(server_name="localhost"))
    run_until(loop, partial(client.of, "close"))
    gone = weakref.ref(client)
    turns(loop, 2)
    del client
    assert gone() is None


SERVER = """
import sys, reactor
class Echo(reactor.Stream):
    def handle_data(self, data):
        self.push(data)
listener = reactor.Listener(("127.0.0.1", 0), Echo, tls=(sys.argv[1], sys.argv[2]))
print(listener.address[1], flush=True)
reactor.loop()
"""


def own_memory(process: int) -> int:
    """Return the bytes that a process has written to, and that are its own."""
    rollup = Path(f"/proc/{process}/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
    return int(line.split()[1]) * 1024


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux")
def test_idle_connection_costs_less_than_16_kib() -> None:
    """It has echoed a message, and a longer one, before it is idle."""
    context = client_context()
    clients: list[ssl.SSLSocket] = []

    def connect(count: int) -> None:
        for _ in range(count):
            client = context.wrap_socket(
                socket.create_connection(("127.0.0.1", port), timeout=10), server_hostname="localhost"
            )
            clients.append(client)
            for message in (b"ping", b"x" * 5000):
                client.sendall(message)
                left = len(message)
                while left:
                    left -= len(client.recv(10_000))

    with subprocess.Popen(
        [sys.executable, "-c", SERVER, *FILES()], stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)}
    ) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            connect(50)
            before = own_memory(process.pid)
            connect(350)
            each = (own_memory(process.pid) - before) / 350
        finally:
            process.kill()
            for client in clients:
                client.close()
    assert each < 16 * 1024, f"{each / 1024:.1f} KiB"
