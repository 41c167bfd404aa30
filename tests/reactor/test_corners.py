"""What happens seldom: other systems, broken neighbours, and processes that are copies."""

from __future__ import annotations

import errno
import functools
import logging
import os
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import binding, defaults, eventloop, signals
from reactor.channel import Origin
from reactor.connecting import ATTEMPT_DELAY
from reactor.limits import DEFAULT_LIMITS
from reactor.threads import ThreadPool
from tests.conftest import Accepting, FakeClock, RecordingConnection, RecordingStream, raw_client, run_until


class FaultySocket:
    """A socket, some calls of which fail with the given error."""

    def __init__(self, sock: Any, number: int, *calls: str) -> None:
        self._sock = sock
        self._number = number
        self._calls = calls

    def __getattr__(self, name: str) -> Any:
        if name not in self._calls:
            return getattr(self._sock, name)

        def fail(*args: Any) -> Any:
            raise OSError(self._number, os.strerror(self._number))

        return fail


@pytest.fixture
def pair(loop: reactor.Reactor) -> Any:
    """An accepted, open stream, and a function that returns the socket at its other end."""
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
        listener.close()
        yield accepted.channels[0], client


# Systems that lack something


def test_system_without_unix_sockets_listens_on_localhost(
    loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(binding.FAMILIES, "AF_UNIX")
    assert reactor.Listener(None, RecordingStream, reactor=loop).address[0] == "127.0.0.1"


def test_system_that_is_not_posix_gets_no_reuse_of_addresses(
    loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding.os, "name", "nt")
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    assert not listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_options_that_a_system_lacks_are_left_out(loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_QUICKACK"):
        monkeypatch.delattr(socket, name, raising=False)
    key = b"a long secret key"
    listener = reactor.Listener(("127.0.0.1", 0), RecordingConnection, authkey=key, reactor=loop)
    assert listener.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    client = RecordingConnection.connect(listener.address, authkey=key, reactor=loop)
    run_until(loop, lambda: client.of("open"))


def test_quick_acknowledgement_of_a_peer_that_is_gone_does_not_matter() -> None:
    with socket.socket() as sock:
        closed = socket.socket()
        closed.close()
        binding.acknowledge_at_once(closed)
        binding.acknowledge_at_once(sock)


def test_unix_socket_that_was_bound_elsewhere_is_taken_and_its_file_left(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    listener = reactor.Listener(None, RecordingStream, sock=sock, reactor=loop)
    with raw_client(str(path)):
        run_until(loop, lambda: listener.connections == 1)
    listener.close()
    assert path.exists()


def test_file_that_is_replaced_while_it_is_looked_at_is_left_alone(
    loop: reactor.Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    identities = iter([(1, 1), (2, 2)])
    monkeypatch.setattr(binding, "_identity", lambda path: next(identities))
    with pytest.raises(OSError, match="in use"):
        reactor.Listener(str(path), RecordingStream, reactor=loop)
    assert path.exists()


# Sockets that fail


def test_descriptor_whose_close_fails_counts_as_closed(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair
    real = channel.socket
    loop.modify(real, selectors.EVENT_READ, channel)
    channel.socket = FaultySocket(real, errno.ECONNRESET, "close")
    channel.close()
    assert len(channel.of("close")) == 1
    real.close()


def test_half_close_that_fails_closes_in_good_order(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair
    real = channel.socket
    channel.socket = FaultySocket(real, errno.ENOTCONN, "shutdown")
    channel.push(b"bye")
    channel.close_when_done()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ClosedHere)


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_closing_channel_is_woken_for_nothing(loop: reactor.Reactor, pair: Any, number: int) -> None:
    channel, client = pair
    channel.close_when_done()
    loop.poll(0)
    assert channel.state.name == "Closing"
    real = channel.socket
    channel.socket = FaultySocket(real, number, "recv")
    assert channel.state.readable(channel) is False
    channel.socket = real
    client.close()
    run_until(loop, lambda: channel.of("close"))


@pytest.mark.parametrize("waiting", [0, 20_000_000])
def test_peer_that_ends_while_we_close_is_waited_for_only_if_something_waits(
    loop: reactor.Reactor, pair: Any, waiting: int
) -> None:
    channel, client = pair
    if waiting:
        channel.push(b"x" * waiting)
    channel.close_when_done()
    client.shutdown(socket.SHUT_WR)
    for _ in range(5):
        loop.poll(0.01)
    assert bool(channel.of("close")) is not bool(waiting)
    client.setblocking(False)
    received = 0

    def closed() -> bool:
        nonlocal received
        try:
            received += len(client.recv(1 << 20))
        except BlockingIOError:
            pass
        return bool(channel.of("close"))

    run_until(loop, closed)
    while data := client.recv(1 << 20):
        received += len(data)
    assert received == waiting


def test_idle_timeout_of_none_that_comes_due_all_the_same_does_nothing(pair: Any) -> None:
    channel, _ = pair
    channel.limits = reactor.Limits(idle_timeout=None)
    channel.state.expired(channel)
    assert channel.state.name == "Open"


def test_deadline_that_fails_is_told_to_the_channel(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair

    class Failing(type(channel.state)):  # type: ignore[misc]
        def expired(self, channel: Any) -> None:
            raise ValueError("planted")

    channel.state = Failing()
    channel._set_deadline(0.01)
    run_until(loop, lambda: channel.of("error"))
    assert [type(error) for error in channel.of("error")] == [ValueError]


def test_flush_that_fails_is_told_to_the_channel(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair
    real = channel.socket

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(real, name)

        def send(self, data: bytes) -> int:
            raise ValueError("planted")

    channel.socket = Failing()
    channel.push(b"x")
    run_until(loop, lambda: channel.of("close"))
    assert [type(error) for error in channel.of("error")] == [ValueError]
    assert [type(reason) for reason in channel.of("close")] == [reactor.HookError]


def test_channel_without_an_origin_knows_nothing() -> None:
    origin = Origin()
    assert origin._progress() == ""
    with pytest.raises(NotImplementedError):
        origin._trust_for("bytes")


# Shutting down twice, ending anyhow


def test_second_shutdown_is_the_first_one(loop: reactor.Reactor, pair: Any) -> None:
    _, client = pair
    client.shutdown(socket.SHUT_WR)  # else the channel waits two seconds for the end of its peer
    first = loop.shutdown()
    assert loop.shutdown() is first
    loop.loop(timeout=10)
    assert first.is_complete


def test_second_signal_cuts_off_who_is_left(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair
    channel.push(b"x" * 20_000_000)
    loop.shutdown_on_signal(signal.SIGUSR1, grace=60)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.call_later(0.05, os.kill, os.getpid(), signal.SIGUSR1)
    loop.loop(timeout=20)
    assert len(channel.of("close")) == 1
    assert not loop.is_shutting_down


def test_grace_that_ends_cuts_quietly_who_has_been_sent_everything(
    loop: reactor.Reactor, pair: Any, caplog: pytest.LogCaptureFixture
) -> None:
    channel, _ = pair
    shutdown = loop.shutdown(grace=0.05)
    loop.loop(timeout=10)
    assert (shutdown.cut, caplog.records) == ([], [])
    assert len(channel.of("close")) == 1


def test_default_reactor_is_closed_at_the_end_of_the_program_unless_it_runs() -> None:
    default = reactor.get_reactor()
    default.call_soon(defaults._close_all)
    default.loop()
    assert not default.is_closed
    defaults._close_all()
    assert default.is_closed
    assert not default.is_running


def test_result_for_a_reactor_that_was_closed_meanwhile_is_dropped() -> None:
    began, release = threading.Event(), threading.Event()
    seen: list[Any] = []

    def work() -> None:
        began.set()
        release.wait(10)

    loop = reactor.Reactor()
    loop.run_in_thread(work, on_result=seen.append)
    assert began.wait(10)
    pool = loop._threads
    assert isinstance(pool, ThreadPool)
    (worker,) = pool._threads
    pool.close = functools.partial(pool.close, timeout=0)  # type: ignore[method-assign]  # instead of a second
    loop.close()
    release.set()
    worker.join(10)
    assert not worker.is_alive()
    assert seen == []


def test_signal_for_a_reactor_that_is_gone_is_ignored() -> None:
    class Nowhere:
        def wake(self) -> None: ...

    handlers = signals.SignalHandlers(Nowhere(), lambda: None)  # type: ignore[arg-type]
    handlers.install(signal.SIGUSR1, sys.exit)
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
    finally:
        handlers.restore_all()


def test_full_waker_is_drained_in_several_reads() -> None:
    from reactor.wakeup import SocketPairWaker

    waker = SocketPairWaker()
    waker._sender.send(b"\0" * 4096)
    waker._sender.send(b"\0" * 10)
    waker.drain()
    with pytest.raises(BlockingIOError):
        waker._receiver.recv(1)
    waker.close()


# A copy of the process, seen from inside


def test_copy_made_by_a_fork_leaves_everything_alone(loop: reactor.Reactor, pair: Any) -> None:
    """What runs in the child of a fork, run here: coverage cannot look into the child."""
    channel, client = pair
    loop.on_signal(signal.SIGUSR1, lambda: None)
    sock = channel.socket
    eventloop._abandon_after_fork()
    channel.push(b"not from the child")
    channel.close()
    with pytest.raises(reactor.ClosedReactorError, match="belongs to the parent"):
        loop.loop(timeout=0)
    loop.close()
    client.setblocking(False)
    with pytest.raises(BlockingIOError):
        client.recv(1)
    assert channel.of("close") == []
    sock.close()


def test_parked_channel_that_moved_on_is_not_unparked(loop: reactor.Reactor, pair: Any) -> None:
    channel, _ = pair
    guard = loop._spin_guard
    for turn in range(100):
        loop.turns = turn
        guard.count(channel, "readable")
    assert channel._interest == 0
    channel.pause_reading()
    channel.resume_reading()
    assert channel._interest == selectors.EVENT_READ
    guard._unpark(channel, channel._states["Closing"], selectors.EVENT_WRITE)
    assert channel._interest == selectors.EVENT_READ


def test_watchdog_that_is_never_used_has_no_thread() -> None:
    threads = threading.active_count()
    with reactor.Reactor(slow_handler=1):
        assert threading.active_count() == threads


def test_watchdog_that_falls_asleep_as_the_loop_wakes_up_stays_awake(caplog: pytest.LogCaptureFixture) -> None:
    from reactor.guards import Watchdog

    class Racing(Watchdog):
        """Begins a turn just when the thread has seen none and is about to sleep."""

        looks = 0

        @property
        def _began(self) -> float | None:
            self.looks += 1
            return None if self.looks == 1 else self._since

        @_began.setter
        def _began(self, value: float | None) -> None:
            self._since = value

    watchdog = Racing(0.01)
    watchdog.begin()
    deadline = threading.Event()
    for _ in range(500):
        if caplog.records:
            break
        deadline.wait(0.01)
    watchdog.close()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_listener_that_could_not_be_attached_gives_its_file_back(
    loop: reactor.Reactor, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "register", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reactor.Listener(socket_path, RecordingStream, reactor=loop, limits=DEFAULT_LIMITS)
    assert not os.path.exists(socket_path)
    loop.channels.clear()


# What a review found


class Loud(RecordingConnection):
    codec = "bytes"

    def handle_open(self) -> None:
        super().handle_open()
        self.send(b"hello")


def test_first_message_comes_behind_handle_open_on_a_unix_socket_too(loop: reactor.Reactor, socket_path: str) -> None:
    reactor.Listener(socket_path, Loud, reactor=loop)
    clients: list[Any] = []
    loop.call_soon(lambda: clients.append(RecordingConnection.connect(socket_path, codec="bytes", reactor=loop)))
    run_until(loop, lambda: clients and clients[0].of("message"))
    assert clients[0].events == [("open",), ("message", b"hello")]


def test_two_of_ours_that_send_each_other_much_do_not_wait_for_ever(loop: reactor.Reactor) -> None:
    class EchoBytes(RecordingConnection):
        codec = "bytes"

        def handle_message(self, message: bytes) -> None:
            self.send(message)

    listener = reactor.Listener(("127.0.0.1", 0), EchoBytes, reactor=loop)
    client = RecordingConnection.connect(listener.address, codec="bytes", reactor=loop)
    for _ in range(4):
        client.send(b"x" * 10_000_000)
    run_until(loop, lambda: len(client.of("message")) == 4, 30)


@pytest.mark.parametrize("size", [100, 100_000])
@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_codec_may_give_anything_that_is_like_bytes(loop: reactor.Reactor, kind: Any, size: int) -> None:
    class Odd:
        @staticmethod
        def dumps(message: bytes) -> Any:
            return kind(message)

        loads = bytes

    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, codec=Odd(), reactor=loop)
    client = RecordingConnection.connect(listener.address, codec=Odd(), reactor=loop)
    client.send(b"x" * size)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("message") == [b"x" * size])


def test_nothing_new_begins_while_the_reactor_shuts_down(loop: reactor.Reactor, pair: Any) -> None:
    _, client = pair
    loop.shutdown()
    client.shutdown(socket.SHUT_WR)  # else the channel waits two seconds for the end of its peer
    with pytest.raises(reactor.StateError, match="the reactor is shutting down and takes no new channel"):
        reactor.Stream.connect(("127.0.0.1", 9), reactor=loop)
    with pytest.raises(reactor.StateError, match="shutting down"):
        reactor.Listener(("127.0.0.1", 0), reactor.Stream, reactor=loop)
    loop.loop()
    reactor.Listener(("127.0.0.1", 0), reactor.Stream, reactor=loop).close()


def test_shutdown_reports_a_peer_that_was_in_the_middle_of_a_file(
    loop: reactor.Reactor, pair: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    channel, _ = pair
    (tmp_path / "file").write_bytes(bytes(50_000_000))
    channel.push(open(tmp_path / "file", "rb"))
    loop.poll(0)
    shutdown = loop.shutdown(grace=0.05)
    loop.loop(timeout=10)
    assert shutdown.cut == [channel._name]
    assert "cut off" in caplog.text


def test_slow_reader_gets_all_of_it_although_we_are_closing(clock: FakeClock, timed: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    limits = reactor.Limits(drain_timeout=0.3)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, limits=limits, reactor=timed)
    with raw_client(listener.address) as client:
        run_until(timed, lambda: accepted.channels and accepted.channels[0].of("open"))
        channel = accepted.channels[0]
        channel.push(b"x" * 20_000_000)
        channel.close_when_done()
        received = 0
        while received < 20_000_000:
            timed.poll(0)
            clock.advance(0.002)
            data = client.recv(30_000)
            assert data, f"cut off after {received} bytes"
            received += len(data)
    run_until(timed, lambda: channel.of("close"))
    assert not isinstance(channel.of("close")[0], reactor.DeadlineError)


def test_wakeup_descriptor_of_a_closed_reactor_is_never_put_back() -> None:
    first, second = reactor.Reactor(), reactor.Reactor()
    first.on_signal(signal.SIGUSR1, lambda: None)
    second.on_signal(signal.SIGUSR2, lambda: None)
    first.close()
    second.close()
    assert signal.set_wakeup_fd(-1) == -1
    first, second = reactor.Reactor(), reactor.Reactor()
    first.on_signal(signal.SIGUSR1, lambda: None)
    descriptor = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(descriptor)
    second.on_signal(signal.SIGUSR2, lambda: None)
    second.close()
    assert signal.set_wakeup_fd(descriptor) == descriptor
    left, right = socket.socketpair()
    right.setblocking(False)
    signal.set_wakeup_fd(right.fileno())
    first.close()
    assert signal.set_wakeup_fd(-1) == right.fileno()
    left.close()
    right.close()


def test_client_closed_as_it_connects_stays_closed(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    client = RecordingStream.connect(listener.address, reactor=loop)
    loop.poll(0)
    connector = client._origin
    (attempt,) = connector._attempts  # type: ignore[union-attr]
    client.close()
    connector.attempt_ended(attempt, 0)  # type: ignore[union-attr]
    connector.start()  # type: ignore[union-attr]
    connector._resolved([])  # type: ignore[union-attr]
    connector._not_resolved(OSError())  # type: ignore[union-attr]
    assert [kind for kind, *_ in client.events] == ["close"]


def test_close_when_done_ends_the_reconnecting(loop: reactor.Reactor) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    client = RecordingStream.connect(address, reconnect=reactor.Backoff(first=0.01), reactor=loop)
    client.close_when_done()
    loop.loop(timeout=10)
    assert loop.is_idle()


def test_shutdown_is_not_over_before_the_last_reconnect_is_refused(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    client = RecordingStream.connect(listener.address, reconnect=reactor.Backoff(first=0.01), reactor=loop)
    run_until(loop, lambda: client.of("open") and accepted.channels)
    client.push(b"x" * 20_000_000)
    listener.close()
    shutdown = loop.shutdown(grace=5)
    loop.call_soon(accepted.channels[0].close)
    loop.loop(timeout=10)
    assert shutdown.is_complete
    assert not loop.channels


def test_decoding_error_raised_by_super_is_the_peers_doing(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    class Own(RecordingConnection):
        codec = "json"

        def handle_frame(self, data: bytes) -> None:
            super().handle_frame(data)

    accepted = Accepting(Own)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        client.sendall(b"\0\0\0\1?")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    (reason,) = accepted.channels[0].of("close")
    assert (type(reason), reason.state) == (reactor.DecodingError, "Open")
    assert [record.exc_info for record in caplog.records] == [None]


def test_host_over_its_cap_pushes_nobody_out(loop: reactor.Reactor) -> None:
    limits = reactor.Limits(maximum_connections=1, maximum_connections_per_peer=1)
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=b"a long secret key", limits=limits, reactor=loop)
    with raw_client(listener.address):
        run_until(loop, lambda: accepted.channels)
        with raw_client(listener.address) as second:
            second.setblocking(False)
            run_until(loop, lambda: is_closed(second))
        assert not accepted.channels[0].of("close")


def is_closed(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False


def test_refused_peer_that_makes_room_is_reported_once(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(maximum_unauthenticated=1)
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=b"a long secret key", limits=limits, reactor=loop)
    with raw_client(listener.address) as wrong:
        wrong.sendall(b"\0\0\0\1x")
        run_until(loop, lambda: caplog.records)
        with raw_client(listener.address):
            run_until(loop, lambda: len(accepted.channels) == 2 and accepted.channels[0].of("close"))
    assert len(accepted.channels[0].of("error")) == 1


def test_loop_runs_after_a_shutdown_outside_of_it(loop: reactor.Reactor) -> None:
    seen: list[int] = []
    loop.shutdown()
    loop.call_soon(seen.append, 1)
    loop.loop()
    assert seen == [1]


def test_pause_after_the_peers_end_does_nothing(loop: reactor.Reactor, pair: Any) -> None:
    channel, client = pair
    client.shutdown(socket.SHUT_WR)
    channel.handle_eof  # noqa: B018
    channel.close_when_done()
    channel.pause_reading()
    run_until(loop, lambda: channel.of("close"))


def test_what_handle_close_opens_is_closed_with_the_reactor() -> None:
    loop = reactor.Reactor()
    made: list[reactor.Listener] = []

    class Stubborn(reactor.Listener):
        def handle_close(self, reason: Exception) -> None:
            if not made:
                made.append(reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop))

    Stubborn(("127.0.0.1", 0), RecordingStream, reactor=loop)
    loop.close()
    assert made[0].state.name == "Closed"


def test_channel_may_send_before_anything_else(loop: reactor.Reactor) -> None:
    class Eager(RecordingStream):
        def __init__(self) -> None:
            super().__init__()
            self.push(iter([b"x" * 1_000_000]))
            self.push(b"y" * 1_000_000)

    listener = reactor.Listener(("127.0.0.1", 0), Eager, reactor=loop)
    client = RecordingStream.connect(listener.address, reactor=loop)
    run_until(loop, lambda: len(client.received) == 2_000_000)


def test_refused_peer_is_told_although_we_are_closing_already(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=b"a long secret key", reactor=loop)
    with raw_client(listener.address) as client:
        run_until(loop, lambda: accepted.channels)
        accepted.channels[0].close_when_done()
        client.sendall(b"\0\0\0\1x")
        run_until(loop, lambda: accepted.channels[0].state.name == "Closing")
        loop.poll(0)
        assert client.recv(4096).endswith(b"#FAILURE#")


def test_file_of_a_socket_is_left_to_the_process_that_bound_it(
    loop: reactor.Reactor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "s"
    listener = reactor.Listener(str(path), RecordingStream, reactor=loop)
    child = os.getpid() + 1
    monkeypatch.setattr(binding.os, "getpid", lambda: child)
    listener.close()
    assert path.exists()


def test_peer_for_which_many_files_wait_is_not_read_from(loop: reactor.Reactor, pair: Any, tmp_path: Path) -> None:
    channel, client = pair
    (tmp_path / "file").write_bytes(bytes(100_000))
    for _ in range(17):
        channel.push(open(tmp_path / "file", "rb"))
    assert channel.state.name == "Throttled"
    received = 0
    while received < 1_700_000:
        loop.poll(0)
        received += len(client.recv(1 << 20))
    run_until(loop, lambda: channel.state.name == "Open")


def test_last_address_that_fails_leaves_the_others_their_time(clock: FakeClock) -> None:
    with socket.socket() as listening, socket.socket() as free:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        free.bind(("127.0.0.1", 0))
        filling = [socket.socket() for _ in range(4)]
        for sock in filling:
            sock.setblocking(False)
            sock.connect_ex(listening.getsockname())
        found = [socket.getaddrinfo(*sock.getsockname(), 0, socket.SOCK_STREAM)[0] for sock in (listening, free)]
        with reactor.Reactor(resolver=lambda *args: found, clock=clock) as loop:
            limits = reactor.Limits(connect_timeout=0.5)
            client = RecordingStream.connect(("name", 1), limits=limits, reactor=loop)
            run_until(loop, lambda: len(loop.channels) == 2)  # with the attempt that hangs under way
            clock.advance(ATTEMPT_DELAY)
            for _ in range(10):
                loop.poll(0.001)
            assert client.state.name == "Connecting"
            clock.advance(0.5)
            run_until(loop, lambda: client.of("close"))
        (reason,) = client.of("close")
        assert isinstance(reason, reactor.DeadlineError)
        assert "Connection refused" in str(reason)
        for sock in filling:
            sock.close()


def test_reset_of_a_stream_is_told(loop: reactor.Reactor, pair: Any) -> None:
    channel, client = pair
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], reactor.ConnectionLost)


def test_copy_without_signals_is_left_alone_too() -> None:
    loop = reactor.Reactor()
    eventloop._abandon_after_fork()
    loop.close()
    assert loop.is_closed


def test_factory_that_fails_to_make_a_successor_does_not_keep_the_loop(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = sock.getsockname()
    channels = [RecordingStream()]
    reactor.connect(address, channels.pop, reconnect=reactor.Backoff(first=0.01), reactor=loop)
    loop.loop(timeout=5)
    assert loop.is_idle()
    assert "IndexError" in caplog.text
