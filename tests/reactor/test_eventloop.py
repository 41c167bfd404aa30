"""The loop: when it returns, in which order it works, and how others reach it."""

from __future__ import annotations

import asyncio
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from reactor.eventloop import READ
from tests.conftest import Accepting, RecordingStream, raw_client, run_until


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.time = 1000.0

    def __call__(self) -> float:
        return self.time


class SkippingSelector(selectors.DefaultSelector):
    """Does not wait: it moves the clock on by the time that it would have waited."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        self.waits: list[float | None] = []

    def select(self, timeout: float | None = None) -> Any:
        self.waits.append(timeout)
        ready = super().select(0)
        if not ready and timeout is not None:
            self.clock.time += timeout
        return ready


@pytest.fixture
def virtual() -> Iterator[reactor.Reactor]:
    """A reactor in virtual time."""
    clock = Clock()
    with reactor.Reactor(SkippingSelector(clock), clock=clock) as fresh:
        yield fresh


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


# Running


def test_loop_returns_at_once_when_nothing_is_left(loop: reactor.Reactor) -> None:
    loop.loop()
    assert loop.is_idle()


def test_loop_returns_after_the_last_timer(virtual: reactor.Reactor) -> None:
    seen: list[float] = []
    virtual.call_later(5, lambda: seen.append(virtual.clock()))
    virtual.call_later(3, lambda: seen.append(virtual.clock()))
    virtual.loop()
    assert seen == [1003.0, 1005.0]


def test_loop_returns_after_its_timeout(virtual: reactor.Reactor) -> None:
    virtual.call_every(1, lambda: None)
    virtual.loop(timeout=10.5)
    assert virtual.clock() == pytest.approx(1010.5)


def test_loop_returns_after_count_turns(virtual: reactor.Reactor) -> None:
    runs: list[int] = []
    virtual.call_every(1, lambda: runs.append(1))
    virtual.loop(count=3)
    assert virtual.turns == 3
    assert len(runs) == 3


def test_stop_ends_the_loop_after_this_turn(virtual: reactor.Reactor) -> None:
    seen: list[str] = []
    virtual.call_soon(virtual.stop)
    virtual.call_soon(seen.append, "same turn")
    virtual.call_every(1, seen.append, "later")
    virtual.loop()
    assert seen == ["same turn"]
    virtual.loop(count=1)
    assert seen == ["same turn", "later"]


def test_loop_cannot_run_inside_itself(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(loop.loop)
    loop.loop()
    assert "runs already" in caplog.text


def test_reactor_cannot_be_closed_from_inside(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    loop.call_soon(loop.close)
    loop.loop()
    assert "stop() the reactor first" in caplog.text
    assert not loop.is_closed


def test_closing_a_reactor_closes_its_channels_once(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
        loop.close()
        loop.close()
    assert [type(reason) for reason in accepted.channels[0].of("close")] == [reactor.ClosedHere]


def test_closed_reactor_says_so(loop: reactor.Reactor) -> None:
    loop.close()
    with pytest.raises(reactor.ClosedReactorError, match="closed"):
        loop.loop(timeout=0)
    with pytest.raises(reactor.ClosedReactorError, match="closed"):
        loop.call_threadsafe(print)


# Calls and timers


def test_calls_run_in_order_and_later_calls_in_the_next_turn(loop: reactor.Reactor) -> None:
    seen: list[Any] = []

    def first() -> None:
        seen.append(("first", loop.turns))
        loop.call_soon(lambda: seen.append(("third", loop.turns)))

    loop.call_soon(first)
    loop.call_soon(lambda: seen.append(("second", loop.turns)))
    loop.loop()
    assert seen == [("first", 1), ("second", 1), ("third", 2)]


def test_cancelled_calls_and_timers_do_not_run(virtual: reactor.Reactor) -> None:
    seen: list[str] = []
    virtual.call_soon(seen.append, "soon").cancel()
    timer = virtual.call_later(1, seen.append, "later")
    virtual.call_at(1000.5, timer.cancel)
    virtual.loop()
    timer.cancel()
    assert seen == []


def test_call_every_repeats_until_cancelled(virtual: reactor.Reactor) -> None:
    times: list[float] = []

    def tick() -> None:
        times.append(virtual.clock())
        if len(times) == 3:
            timer.cancel()

    timer = virtual.call_every(2, tick)
    virtual.loop()
    assert times == [1002.0, 1004.0, 1006.0]


def test_timer_set_by_a_timer_waits_for_the_next_turn(virtual: reactor.Reactor) -> None:
    turns: list[int] = []

    def again() -> None:
        turns.append(virtual.turns)
        if len(turns) < 3:
            virtual.call_later(0, again)

    virtual.call_later(0, again)
    virtual.loop()
    assert [turn - turns[0] for turn in turns] == [0, 1, 2]


def test_failing_callbacks_are_logged_and_harm_nobody(
    virtual: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []
    virtual.call_soon(lambda: 1 / 0)
    virtual.call_later(1, lambda: 1 / 0)
    virtual.call_later(1, seen.append, "still running")
    virtual.loop()
    assert seen == ["still running"]
    assert len(caplog.records) == 2


def test_a_timer_a_hundred_years_away_does_not_overflow_the_selector(loop: reactor.Reactor) -> None:
    timer = loop.call_later(100 * 365 * 86400, print)
    loop.loop(count=1, timeout=0.001)
    assert 0 < (loop.next_timeout() or 0) <= 86400
    timer.cancel()


# Other threads


def test_call_from_a_thread_wakes_a_sleeping_loop(loop: reactor.Reactor, in_thread: Callable[..., Any]) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingStream, reactor=loop)
    threads: list[int] = []

    def called() -> None:
        threads.append(threading.get_ident())
        listener.close()

    in_thread(loop.call_threadsafe, called)
    loop.loop()
    assert threads == [threading.get_ident()]


def test_many_calls_from_a_thread_wake_the_loop_once(loop: reactor.Reactor) -> None:
    for _ in range(1000):
        loop.call_threadsafe(lambda: None)
    seen: list[int] = []
    loop.call_threadsafe(lambda: seen.append(loop.turns))
    loop.loop()
    assert seen == [1]
    assert loop.turns == 2  # the second one finds nothing


def test_result_of_a_thread_comes_back_to_the_loop(loop: reactor.Reactor) -> None:
    seen: list[Any] = []

    def work(number: int) -> tuple[int, int]:
        return number * 2, threading.get_ident()

    loop.run_in_thread(work, 21, on_result=lambda result: seen.append((result, threading.get_ident())))
    loop.loop()
    ((number, worker), here) = seen[0]
    assert number == 42
    assert worker != here == threading.get_ident()


def test_error_of_a_thread_comes_back_or_is_logged(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    errors: list[BaseException] = []
    loop.run_in_thread(int, "x", on_error=errors.append)
    loop.run_in_thread(int, "y")
    loop.loop()
    assert [type(error) for error in errors] == [ValueError]
    assert "'y'" in caplog.text


def test_cancelled_thread_call_delivers_nothing(loop: reactor.Reactor) -> None:
    seen: list[Any] = []
    loop.run_in_thread(int, "1", on_result=seen.append, on_error=seen.append).cancel()
    loop.run_in_thread(int, "x", on_result=seen.append, on_error=seen.append).cancel()
    loop.loop()
    assert seen == []


def test_threads_are_bounded() -> None:
    with reactor.Reactor(threads=2) as loop:
        together = 0
        highest = 0
        lock = threading.Lock()
        gate = threading.Barrier(2)

        def work() -> None:
            nonlocal together, highest
            with lock:
                together += 1
                highest = max(highest, together)
            gate.wait(10)
            with lock:
                together -= 1

        for _ in range(6):
            loop.run_in_thread(work)
        loop.loop()
        assert highest == 2


def test_far_too_many_thread_calls_are_refused() -> None:
    release = threading.Event()
    with reactor.Reactor(threads=1) as loop:
        loop.run_in_thread(release.wait, 10)
        with pytest.raises(reactor.LocalError, match="start fewer"):
            for _ in range(20_000):
                loop.run_in_thread(lambda: None)
        release.set()
        loop.loop()


def test_thread_that_outlives_the_reactor_is_not_delivered() -> None:
    release, done = threading.Event(), threading.Event()

    def work() -> None:
        release.wait(10)
        done.set()

    loop = reactor.Reactor()
    loop.run_in_thread(work)
    threading.Timer(0.05, release.set).start()
    loop.close()
    assert done.wait(10)


def test_two_reactors_in_two_threads_do_not_know_of_each_other(in_thread: Callable[..., Any]) -> None:
    mine = reactor.get_reactor()
    others: list[reactor.Reactor] = []

    def other() -> None:
        with reactor.get_reactor() as theirs:
            others.append(theirs)
            reactor.call_later(0.01, reactor.stop)
            reactor.call_every(1, lambda: None)
            reactor.loop()

    in_thread(other).join()
    assert others[0] is not mine
    assert mine.is_idle()
    mine.close()
    assert reactor.get_reactor() is not mine
    reactor.get_reactor().close()


def test_functions_of_the_module_work_on_the_default_reactor() -> None:
    seen: list[str] = []
    with reactor.get_reactor() as loop:
        reactor.call_soon(seen.append, "soon")
        reactor.call_later(0, seen.append, "later")
        reactor.call_at(loop.clock(), seen.append, "at")
        reactor.run_in_thread(int, "3", on_result=lambda number: seen.append(str(number)))
        reactor.poll(0)
        reactor.loop()
        reactor.on_signal(signal.SIGUSR1, None)
        reactor.shutdown_on_signal(signal.SIGUSR1, grace=1)
        reactor.on_signal(signal.SIGUSR1, None)
        assert reactor.shutdown().cut == []
    assert sorted(seen) == ["3", "at", "later", "soon"]


# Signals


def test_signal_is_delivered_on_the_loop_and_restored_after_it(loop: reactor.Reactor) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    seen: list[str] = []
    loop.on_signal(signal.SIGUSR1, lambda: (seen.append("here"), loop.stop()))  # type: ignore[func-returns-value]
    loop.on_signal(signal.SIGUSR2, lambda: None)
    loop.call_every(30, lambda: None)
    loop.call_soon(os.kill, os.getpid(), signal.SIGUSR1)
    loop.loop(timeout=10)
    assert seen == ["here"]
    loop.on_signal(signal.SIGUSR2, None)
    loop.on_signal(signal.SIGUSR2, None)
    loop.close()
    assert signal.getsignal(signal.SIGUSR1) is before
    assert signal.set_wakeup_fd(-1) == -1


def test_signal_wakes_a_sleeping_loop(loop: reactor.Reactor, in_thread: Callable[..., Any]) -> None:
    loop.on_signal(signal.SIGUSR1, loop.stop)
    timer = loop.call_every(30, lambda: None)
    in_thread(os.kill, os.getpid(), signal.SIGUSR1)
    loop.loop(timeout=10)
    timer.cancel()
    assert loop.next_timeout() is None


def run_script(text: str, *, send: int, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program; when it prints its first line, send it a signal."""
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(send)
        out, err = process.communicate(timeout=20)
        return subprocess.CompletedProcess([], process.returncode, out, err)


def test_control_c_ends_a_sleeping_loop_at_once() -> None:
    done = run_script(
        """
        import reactor, time
        reactor.call_every(60, lambda: None)
        reactor.run_in_thread(time.sleep, 60)
        reactor.call_soon(lambda: print("ready", flush=True))
        try:
            reactor.loop()
        except KeyboardInterrupt:
            print("interrupted")
        """,
        send=signal.SIGINT,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")


def test_what_control_c_left_undone_is_done_when_the_loop_runs_again(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Accepting(RecordingStream), reactor=loop)
    with raw_client(listener.address) as first, raw_client(listener.address) as second:
        run_until(loop, lambda: listener.connections == 2)
        one, two = listener.factory.channels  # type: ignore[attr-defined]
        one.push(b"one")
        two.push(b"two")
        real_socket = one.socket

        class Interrupting:
            def send(self, data: bytes) -> int:
                one.socket = real_socket
                raise KeyboardInterrupt

        one.socket = Interrupting()
        with pytest.raises(KeyboardInterrupt):
            loop.loop()
        one.push(b"one more")
        loop.poll()
        assert {first.recv(100), second.recv(100)} == {b"one more", b"two"}


def test_system_exit_passes_through(loop: reactor.Reactor) -> None:
    loop.call_soon(sys.exit, 3)
    with pytest.raises(SystemExit):
        loop.loop()


# Forks


def test_child_of_a_fork_is_told_and_the_parent_is_unharmed(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    loop.on_signal(signal.SIGUSR1, lambda: None)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            try:
                loop.loop(timeout=0)
            except reactor.ClosedReactorError as error:
                os.write(writer, str(error).encode())
            loop.close()
            with reactor.Reactor() as fresh:
                fresh.call_soon(os.write, writer, b" / a new one works")
                fresh.loop()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        message = pipe.read()
    assert "belongs to the parent process" in message
    assert message.endswith("a new one works")
    with raw_client(listener.address) as sock:
        sock.sendall(b"still here")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].received)
        assert sock.recv(100) == b"still here"


def test_signal_means_in_the_child_of_a_fork_what_it_meant_before_the_reactor(loop: reactor.Reactor) -> None:
    loop.shutdown_on_signal(signal.SIGUSR1)
    child = os.fork()
    if child == 0:
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGUSR1
    assert callable(signal.getsignal(signal.SIGUSR1))


# Inside another event loop


def test_asyncio_can_host_a_reactor(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    ticks: list[float] = []
    loop.call_every(0.01, lambda: ticks.append(loop.now))

    async def main() -> bytes:
        host = asyncio.get_running_loop()
        timer: asyncio.TimerHandle | None = None

        def turn() -> None:
            nonlocal timer
            if timer is not None:
                timer.cancel()
            loop.poll(0)
            timeout = loop.next_timeout()
            timer = None if timeout is None else host.call_later(timeout, turn)

        host.add_reader(loop.fileno(), turn)
        turn()
        stream_reader, stream_writer = await asyncio.open_connection(*listener.address)
        stream_writer.write(b"through both loops")
        answer = await stream_reader.readexactly(18)
        while len(ticks) < 3:
            await asyncio.sleep(0.01)
        stream_writer.close()
        await stream_writer.wait_closed()
        host.remove_reader(loop.fileno())
        assert timer is not None
        timer.cancel()
        return answer

    assert asyncio.run(main()) == b"through both loops"


def test_next_timeout_tells_a_host_when_to_come_back(virtual: reactor.Reactor) -> None:
    assert virtual.next_timeout() is None
    timer = virtual.call_later(7, lambda: None)
    assert virtual.next_timeout() == 7
    virtual.call_soon(lambda: None)
    assert virtual.next_timeout() == 0
    virtual.poll()
    timer.cancel()


def test_selector_without_a_descriptor_says_so() -> None:
    with reactor.Reactor(selectors.SelectSelector()) as loop, pytest.raises(reactor.LocalError, match="epoll"):
        loop.fileno()


@pytest.mark.parametrize(
    "name", [name for name in ("Select", "Poll", "Epoll", "Devpoll", "Kqueue") if hasattr(selectors, f"{name}Selector")]
)
def test_every_selector_class_serves(name: str) -> None:
    with reactor.Reactor(getattr(selectors, f"{name}Selector")()) as loop:
        accepted = Accepting(Echo)
        listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
        with raw_client(listener.address) as sock:
            sock.sendall(b"x" * 100_000)
            run_until(loop, lambda: accepted.channels and len(accepted.channels[0].received) == 100_000)
            received = b""
            while len(received) < 100_000:
                loop.poll(0)
                received += sock.recv(65536)
            sock.shutdown(socket.SHUT_WR)
            run_until(loop, lambda: listener.connections == 0)


def test_idle_loop_does_not_wake_up() -> None:
    clock = Clock()
    selector = SkippingSelector(clock)
    with reactor.Reactor(selector, clock=clock) as loop:
        accepted = Accepting(Echo)
        listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
        clients = [raw_client(listener.address) for _ in range(20)]
        while listener.connections < 20:
            loop.poll(0)
        before = len(selector.waits)
        loop.loop(timeout=60)
        assert len(selector.waits) - before <= 2  # one minute in one sleep
        for client in clients:
            client.close()


def test_reactor_describes_itself(loop: reactor.Reactor) -> None:
    loop.call_later(1, print)
    assert repr(loop) == "<Reactor with 0 channels and 1 timers>"


def test_waker_that_is_full_wakes_all_the_same() -> None:
    from reactor.wakeup import SocketPairWaker

    waker = SocketPairWaker()
    try:
        with pytest.raises(BlockingIOError):
            while True:
                os.write(waker.sender_fileno(), bytes(1))
        waker.wake()
        selector = selectors.DefaultSelector()
        selector.register(waker, READ)
        assert selector.select(0)
        waker.drain()
        assert not selector.select(0)
        selector.close()
    finally:
        waker.close()


def test_watchdog_names_the_place_and_sleeps_with_the_loop(caplog: pytest.LogCaptureFixture) -> None:
    with reactor.Reactor(slow_handler=0.02) as loop:

        def hold_the_loop() -> None:
            deadline = time.monotonic() + 10
            while not caplog.records and time.monotonic() < deadline:
                time.sleep(0.01)

        loop.call_soon(hold_the_loop)
        loop.loop()
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "hold_the_loop" in caplog.text
