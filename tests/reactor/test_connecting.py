"""Connecting: resolving, racing, giving up, trying again."""

from __future__ import annotations

import errno
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Listener as StandardListener
from typing import Any

import pytest

import reactor
from reactor.addresses import numeric
from reactor.connecting import ATTEMPT_DELAY, interleave
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, RecordingStream, port_of_nobody, run_until
from tests.faults import turns

Resolver = Callable[..., list[Any]]


def entry(host: str, port: int) -> tuple[Any, ...]:
    """Return what getaddrinfo says of a numeric address."""
    return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)[0]


@pytest.fixture
def make_loop() -> Iterator[Callable[..., reactor.Reactor]]:
    """Make reactors with a resolver or a socket factory of the test's own."""
    loops: list[reactor.Reactor] = []

    def make(**options: Any) -> reactor.Reactor:
        loops.append(reactor.Reactor(**options))
        return loops[-1]

    yield make
    for loop in loops:
        loop.close()


@pytest.fixture
def hanging() -> Iterator[Any]:
    """Make addresses to which a connect hangs, as behind a firewall that drops packets: their backlog is full."""
    sockets = []

    def make(host: str) -> Any:
        listening = socket.socket()
        sockets.append(listening)
        listening.bind((host, 0))
        listening.listen(0)
        address = listening.getsockname()
        for _ in range(4):  # Linux takes one or two more than it says, and drops the others
            filling = socket.socket()
            sockets.append(filling)
            filling.setblocking(False)
            filling.connect_ex(address)
        return address

    yield make
    for sock in sockets:
        sock.close()


# Connecting


def test_name_is_resolved_on_a_thread_and_what_was_sent_before_goes_out(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("localhost", 0), accepted, reactor=loop)
    client = RecordingStream.connect(("localhost", listener.address[1]), reactor=loop)
    assert client.state.name == "Connecting"
    client.push(b"early")
    run_until(loop, lambda: accepted.channels and accepted.channels[0].received == b"early")
    assert client.events == [("open",)]
    assert client.peer == listener.address


def test_early_data_and_close_when_done_go_through_the_handshake(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, reactor=loop)
    client = RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop)
    client.send("first")
    client.send(b"x" * 1_000_000)
    client.close_when_done()
    client.send("dropped")
    run_until(loop, lambda: client.of("close"))
    run_until(loop, lambda: accepted.channels[0].of("close"))
    assert accepted.channels[0].of("message") == ["first", b"x" * 1_000_000]
    assert isinstance(client.of("close")[0], reactor.ClosedHere)


def test_close_when_done_with_nothing_to_send_opens_and_closes(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    client = RecordingStream.connect(listener.address, reactor=loop)
    client.close_when_done()
    run_until(loop, lambda: client.of("close"))
    assert [kind for kind, *_ in client.events] == ["open", "close"]


def test_unix_socket_is_connected(loop: reactor.Reactor, socket_path: str) -> None:
    reactor.Listener(socket_path, RecordingConnection, reactor=loop)
    client = reactor.connect(f"unix://{socket_path}", RecordingConnection, reactor=loop)
    run_until(loop, lambda: client.of("open"))


def test_standard_listener_accepts_ours(loop: reactor.Reactor, in_thread: Callable[..., Any]) -> None:
    with StandardListener(("localhost", 0), authkey=KEY) as listener:

        def serve() -> None:
            with listener.accept() as connection:
                connection.send(connection.recv() + 1)

        in_thread(serve)
        client = RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop)
        client.send(41)
        run_until(loop, lambda: client.of("close"))
    assert client.of("message") == [42]


def test_refused_connect_names_the_address_and_the_cause(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    port = port_of_nobody()
    client = RecordingStream.connect(("127.0.0.1", port), reactor=loop)
    loop.loop(timeout=10)
    (reason,) = client.of("close")
    assert isinstance(reason, reactor.ConnectError)
    assert f"127.0.0.1:{port}: Connection refused" in str(reason)
    assert [kind for kind, *_ in client.events] == ["error", "close"]
    assert len(caplog.records) == 1


def test_missing_unix_socket_is_told(loop: reactor.Reactor, tmp_path: Any) -> None:
    client = RecordingConnection.connect(str(tmp_path / "nothing"), reactor=loop)
    assert client.events == []
    loop.loop(timeout=10)
    assert "No such file" in str(client.of("close")[0])


def test_path_that_is_too_long_is_told(loop: reactor.Reactor) -> None:
    client = RecordingStream.connect("/tmp/" + "x" * 200, reactor=loop)
    loop.loop(timeout=10)
    assert "too long" in str(client.of("close")[0])


@pytest.mark.parametrize("problem", [socket.gaierror(-2, "Name or service not known"), UnicodeError("label too long")])
def test_name_that_cannot_be_resolved_is_told(make_loop: Callable[..., reactor.Reactor], problem: Exception) -> None:
    def resolver(*args: Any) -> list[Any]:
        raise problem

    loop = make_loop(resolver=resolver)
    client = RecordingStream.connect(("somewhere.invalid", 1), reactor=loop)
    loop.loop(timeout=10)
    assert "cannot resolve the name: somewhere.invalid:1" in str(client.of("close")[0])


def test_descriptors_that_have_run_out_are_told(make_loop: Callable[..., reactor.Reactor]) -> None:
    def no_sockets(*args: Any) -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    loop = make_loop(socket_factory=no_sockets)
    client = RecordingStream.connect(("127.0.0.1", 1), reactor=loop)
    loop.loop(timeout=10)
    assert "Too many open files" in str(client.of("close")[0])


def test_connect_that_hangs_ends_at_its_timeout(loop: reactor.Reactor, hanging: Any) -> None:
    limits = reactor.Limits(connect_timeout=0.1)
    client = RecordingStream.connect(hanging("127.0.0.1"), limits=limits, reactor=loop)
    loop.loop(timeout=10)
    (reason,) = client.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "connect_timeout"
    assert loop.is_idle()


def test_resolver_that_hangs_ends_at_the_connect_timeout(make_loop: Callable[..., reactor.Reactor]) -> None:
    import threading

    release = threading.Event()

    def resolver(*args: Any) -> list[Any]:
        release.wait(10)
        return []

    loop = make_loop(resolver=resolver)
    client = RecordingStream.connect(("slow.invalid", 1), limits=reactor.Limits(connect_timeout=0.1), reactor=loop)
    run_until(loop, lambda: client.of("close"))
    assert "no address has answered" in str(client.of("close")[0])
    release.set()
    loop.loop(timeout=10)
    assert loop.is_idle()


def test_connect_can_be_closed_at_any_moment(loop: reactor.Reactor, hanging: Any) -> None:
    at_once = RecordingStream.connect(("127.0.0.1", 1), reactor=loop)
    at_once.close()
    resolving = RecordingStream.connect(("localhost", 1), reactor=loop)
    trying = RecordingStream.connect(hanging("127.0.0.1"), reactor=loop)
    loop.poll(0)
    resolving.close()
    trying.close()
    loop.loop(timeout=10)
    assert [len(channel.of("close")) for channel in (at_once, resolving, trying)] == [1, 1, 1]
    assert loop.is_idle()


def test_connect_needs_something_that_makes_channels(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="makes channels"):
        reactor.connect(("127.0.0.1", 1), dict, reactor=loop)  # type: ignore[type-var]
    with pytest.raises(reactor.LocalError, match="no use for an authkey"):
        RecordingStream.connect(("127.0.0.1", 1), authkey=KEY, reactor=loop)
    with pytest.raises(reactor.UnsafePickleError):
        RecordingConnection.connect(("127.0.0.1", 1), reactor=loop)
    assert loop.is_idle()


def test_keyless_client_is_told_when_the_peer_demands_a_key(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingConnection, authkey=KEY, reactor=loop)
    client = RecordingConnection.connect(listener.address, codec="bytes", reactor=loop)
    run_until(loop, lambda: client.of("close"))
    assert "the peer demands an authkey" in str(client.of("close")[0])


# Racing (RFC 8305)


def test_second_address_is_tried_when_the_first_refuses(make_loop: Callable[..., reactor.Reactor]) -> None:
    loop = make_loop(resolver=lambda *args: [entry("127.0.0.2", dead), entry("127.0.0.1", port)])
    dead = port_of_nobody()
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    port = listener.address[1]
    client = RecordingStream.connect(("name", port), reactor=loop)
    run_until(loop, lambda: client.of("open"))
    assert client.peer == ("127.0.0.1", port)


def test_address_that_hangs_does_not_hold_up_the_next(
    make_loop: Callable[..., reactor.Reactor], hanging: Any, clock: FakeClock
) -> None:
    first, second = hanging("127.0.0.2"), hanging("127.0.0.3")
    loop = make_loop(resolver=lambda *args: [entry(*first), entry(*second), entry(*listener.address)], clock=clock)
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    client = RecordingStream.connect(("name", 1), reactor=loop)
    run_until(loop, lambda: len(loop.channels) == 3)  # with one attempt under way
    clock.advance(ATTEMPT_DELAY)
    run_until(loop, lambda: len(loop.channels) == 4)  # with two attempts under way at once
    clock.advance(ATTEMPT_DELAY)
    run_until(loop, lambda: client.of("open"))
    assert client.peer == listener.address
    loop.poll(0)
    assert len(loop.channels) == 3  # listener and two ends: the losers of the race are closed


def test_all_addresses_that_failed_are_named(make_loop: Callable[..., reactor.Reactor]) -> None:
    port = port_of_nobody()
    loop = make_loop(resolver=lambda *args: [entry("127.0.0.1", port), entry("127.0.0.2", port)])
    client = RecordingStream.connect(("name", port), reactor=loop)
    loop.loop(timeout=10)
    (reason,) = client.of("close")
    assert len(reason.causes) == 2
    assert "127.0.0.1" in reason.causes[0]
    assert "127.0.0.2" in reason.causes[1]


def test_name_without_addresses_is_told(make_loop: Callable[..., reactor.Reactor]) -> None:
    loop = make_loop(resolver=lambda *args: [])
    client = RecordingStream.connect(("name", 1), reactor=loop)
    loop.loop(timeout=10)
    assert "cannot connect: name:1" in str(client.of("close")[0])


def test_families_take_turns() -> None:
    four, six = socket.AF_INET, socket.AF_INET6
    assert interleave([(six, 1), (six, 2), (six, 2), (six, 3), (four, 4)]) == [(six, 1), (four, 4), (six, 2), (six, 3)]
    assert interleave([]) == []


@pytest.mark.parametrize(
    ("host", "family"),
    [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6), ("localhost", socket.AF_UNSPEC), ("", socket.AF_UNSPEC)],
)
def test_numbers_need_no_resolver(host: str, family: int) -> None:
    assert numeric(reactor.parse_address((host, 1))).family == family


def test_socket_that_connects_with_itself_counts_as_refused(make_loop: Callable[..., reactor.Reactor]) -> None:
    class SelfConnected(socket.socket):
        def connect_ex(self, address: Any) -> int:
            self.bind(address)
            return super().connect_ex(address)

    loop = make_loop(socket_factory=SelfConnected)
    client = RecordingStream.connect(("127.0.0.1", port_of_nobody()), reactor=loop)
    loop.loop(timeout=10)
    assert "Connection refused" in str(client.of("close")[0])


def test_unix_listener_with_a_full_backlog_is_tried_again(
    make_loop: Callable[..., reactor.Reactor], socket_path: str
) -> None:
    class Full(socket.socket):
        left = 2

        def connect_ex(self, address: Any) -> int:
            if Full.left:
                Full.left -= 1
                return errno.EAGAIN
            return super().connect_ex(address)

    loop = make_loop(socket_factory=Full)
    reactor.Listener(socket_path, RecordingStream, reactor=loop)
    client = RecordingStream.connect(socket_path, reactor=loop)
    run_until(loop, lambda: client.of("open"))
    assert Full.left == 0


def test_peer_that_is_gone_when_the_channel_begins_is_told(
    loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch, socket_path: str
) -> None:
    def gone(sock: Any) -> bool:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))

    monkeypatch.setattr("reactor.connection.peer_is_this_user", gone)
    listener = reactor.Listener(socket_path, RecordingConnection, reactor=loop)
    client = RecordingConnection.connect(socket_path, reactor=loop)
    run_until(loop, lambda: client.of("close"))
    assert isinstance(client.of("close")[0], reactor.ConnectionLost)
    run_until(loop, lambda: listener.connections == 0)


def test_attempt_that_is_woken_for_nothing_goes_on(
    make_loop: Callable[..., reactor.Reactor], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    class NeverStarted(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return errno.EINPROGRESS  # Linux calls such a socket writable, and reports no error

    loop = make_loop(socket_factory=NeverStarted, clock=clock)
    client = RecordingStream.connect(("127.0.0.1", 1), limits=reactor.Limits(connect_timeout=0.2), reactor=loop)
    turns(loop, 200)
    assert client.state.name == "Connecting"
    clock.advance(0.21)
    run_until(loop, lambda: client.of("close"))
    assert isinstance(client.of("close")[0], reactor.DeadlineError)
    assert "writable for 100 turns" in caplog.text


# Trying again


class Comeback(RecordingStream):
    made: list[Any]

    def __init__(self) -> None:
        super().__init__()
        self.successors: list[tuple[Any, float]] = []

    def handle_reconnecting(self, channel: reactor.Channel, delay: float) -> None:
        self.successors.append((channel, delay))


def test_channel_that_lost_its_peer_gets_a_successor(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    first = Comeback.connect(listener.address, reconnect=reactor.Backoff(first=0.01), reactor=loop)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
    accepted.channels[0].close()
    run_until(loop, lambda: len(accepted.channels) == 2)
    ((second, delay),) = first.successors
    run_until(loop, lambda: second.of("open"))
    assert second is not first
    assert 0.005 <= delay <= 0.02
    assert len(first.of("close")) == 1
    second.close()
    loop.poll(0)
    assert second.successors == []


def test_backoff_grows_until_it_gives_up(loop: reactor.Reactor) -> None:
    channels: list[Comeback] = []

    def make() -> Comeback:
        channels.append(Comeback())
        return channels[-1]

    backoff = reactor.Backoff(first=0.01, factor=2, attempts=3)
    reactor.connect(("127.0.0.1", port_of_nobody()), make, reconnect=backoff, reactor=loop)
    loop.loop(timeout=10)
    delays = [delay for channel in channels for _, delay in channel.successors]
    assert len(channels) == 3
    assert 0.01 <= delays[0] <= 0.02 <= delays[1] <= 0.04
    assert loop.is_idle()


def test_shutdown_ends_the_reconnecting(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    client = Comeback.connect(listener.address, reconnect=reactor.Backoff(), reactor=loop)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") and client.of("open"))
    loop.call_soon(loop.shutdown)
    loop.call_soon(accepted.channels[0].close)
    loop.loop(timeout=10)
    assert client.successors == []


def test_backoff_is_spread_and_bounded() -> None:
    backoff = reactor.Backoff(first=1, maximum=8, factor=2)
    assert [backoff.delay(n, lambda size: b"\0" * size) for n in range(6)] == [0.5, 1, 2, 4, 4, 4]
    assert backoff.delay(3, lambda size: b"\xff" * size) == pytest.approx(8, abs=1e-6)
    assert backoff.delay(10_000, lambda size: b"\0" * size) == 4
    spread = Counter(round(backoff.delay(3, os.urandom)) for _ in range(200))
    assert len(spread) >= 4


@pytest.mark.parametrize(
    "wrong", [{"first": 0}, {"first": 9, "maximum": 1}, {"factor": 0.5}, {"maximum": float("inf")}]
)
def test_backoff_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(reactor.LocalError, match="makes no sense"):
        reactor.Backoff(**wrong)  # type: ignore[arg-type]


# Shutting down


def test_shutdown_drains_and_reports_whom_it_cut(
    clock: FakeClock, timed: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    loop = timed
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with socket.create_connection(listener.address) as reader, socket.create_connection(listener.address) as deaf:
        run_until(loop, lambda: len(accepted.channels) == 2)
        by_peer = {channel.peer: channel for channel in accepted.channels}
        good, bad = by_peer[reader.getsockname()], by_peer[deaf.getsockname()]
        good.push(b"last words")
        bad.push(b"x" * 20_000_000)
        loop.call_every(60, lambda: None)
        loop.call_later(0, reader.shutdown, socket.SHUT_WR)
        shutdown = loop.shutdown(grace=0.3)
        assert loop.is_shutting_down
        run_until(loop, lambda: good.of("close"))
        assert loop.is_shutting_down
        assert not bad.of("close")
        clock.advance(0.3)
        loop.loop()  # to the end of the shutdown, although a timer is left
        assert not loop.is_shutting_down
        assert reader.recv(100) == b"last words"
    assert isinstance(good.of("close")[0], reactor.ClosedHere)
    assert shutdown.cut == [f"RecordingStream with 127.0.0.1:{bad.peer[1]}"]
    assert "cut off at shutdown" in caplog.text
    assert not loop.channels


def test_shutdown_closes_what_is_not_open_yet(loop: reactor.Reactor, hanging: Any) -> None:
    client = RecordingStream.connect(hanging("127.0.0.1"), reactor=loop)
    paused = reactor.Listener(("127.0.0.2", 0), RecordingStream, reactor=loop)
    paused.pause()
    loop.poll(0)
    shutdown = loop.shutdown()
    loop.loop(timeout=10)
    assert shutdown.cut == []
    assert isinstance(client.of("close")[0], reactor.ClosedHere)


def test_shutdown_with_nothing_to_do_ends_the_loop(loop: reactor.Reactor) -> None:
    timer = loop.call_every(60, lambda: None)
    loop.call_soon(loop.shutdown)
    loop.loop(timeout=10)
    timer.cancel()
    assert loop.is_idle()
