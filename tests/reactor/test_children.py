"""Child processes: their pipes, their end, and that nothing of them stays behind."""

from __future__ import annotations

import errno
import itertools
import logging
import os
import resource
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from fcntl import F_DUPFD_CLOEXEC, fcntl
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import children
from reactor.errors import ClosedHere, ConnectionLost, DeadlineError, PeerClosed
from tests.conftest import (
    ROOT,
    FakeClock,
    Recorder,
    RecordingConnection,
    RecordingStream,
    open_descriptors,
    run_until,
)
from tests.faults import CountingSelector, many_descriptors, turns

__all__ = ["many_descriptors"]

CAT = ["cat"]
STUBBORN = ["sh", "-c", "trap '' TERM; echo ready; exec sleep 100"]
"""Ignores to be asked to end."""
SLEEP = ["sleep", "100"]

TIMEOUT = 20.0
"""Seconds for a loop that ends by itself."""


def processes() -> dict[int, str]:
    """Return the children of this process, zombies too, with their states."""
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            stat = Path(f"/proc/{name}/stat").read_text()
        except OSError:
            continue  # it has ended
        state, parent, *_ = stat.rpartition(")")[2].split()
        if int(parent) == os.getpid():
            found[int(name)] = state
    return found


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Fail a test that leaves a child behind, running or as a zombie."""
    before = set(processes())
    yield
    assert {pid: state for pid, state in processes().items() if pid not in before} == {}


@pytest.fixture(params=["descriptor", "thread", "refused"])
def watched(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the end of processes seen by their descriptor; or by threads, as on a system that has no such thing."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    if request.param == "thread":
        monkeypatch.delattr(os, "pidfd_open")
    elif request.param == "refused":
        monkeypatch.setattr(os, "pidfd_open", refuse)
    return str(request.param)


def await_end(pid: int) -> None:
    """Wait until somebody has taken the exit code of the process, and it is gone."""
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class RecordingChild(Recorder, reactor.Child):
    """A child process that writes down what happens to it."""

    def handle_exit(self, returncode: int) -> None:
        self.events.append(("exit", returncode))
        super().handle_exit(returncode)


class RecordingLines(Recorder, reactor.LineChannel):
    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def handle_line(self, line: str) -> None:
        self.lines.append(line)


def spawn(loop: reactor.Reactor, argv: Any, **options: Any) -> Any:
    """Run a program in a child that writes down what happens to it."""
    return reactor.spawn(argv, RecordingChild, reactor=loop, **options)


def ended(loop: reactor.Reactor, argv: Any, **options: Any) -> Any:
    """Run a program to its end, and return the child."""
    child = spawn(loop, argv, **options)
    loop.loop(timeout=TIMEOUT)
    assert len(child.of("close")) == 1
    return child


def shell(script: str) -> list[str]:
    return ["sh", "-c", script]


# Pipes


def test_twenty_megabytes_go_through_a_child_and_come_back(loop: reactor.Reactor) -> None:
    data = os.urandom(1 << 20) * 20
    child = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream)
    child.stdin.push(data)
    child.stdin.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == data
    assert child.of("exit") == [0]


def test_iterators_and_files_are_pushed_as_fast_as_the_child_takes_them(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(300_000))
    child = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream)
    child.stdin.push(b"%6d\n" % number for number in range(30_000))
    child.stdin.push(path.open("rb"))
    child.stdin.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"".join(b"%6d\n" % number for number in range(30_000)) + path.read_bytes()


def test_input_that_ends_before_it_is_open_ends_at_the_child(loop: reactor.Reactor) -> None:
    child = spawn(loop, CAT, stdin=RecordingStream, stdout=RecordingStream)
    child.stdin.push(b"all of it")
    child.stdin.close_when_done()
    child.stdin.push(b"too late")
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"all of it"
    assert [type(reason) for reason in child.stdin.of("close")] == [ClosedHere]


def test_child_that_is_closed_when_done_gets_the_end_of_its_input(loop: reactor.Reactor) -> None:
    child = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream)
    child.stdin.push(b"all of it")
    child.close_when_done()
    child.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"all of it"
    assert child.of("exit") == [0]


def test_child_without_input_that_is_closed_when_done_is_left_alone(loop: reactor.Reactor) -> None:
    class Eager(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            self.close_when_done()  # it comes to its end already

    child = reactor.spawn(["echo", "hello"], Eager, stdout=RecordingStream, reactor=loop)
    child.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"hello\n"
    assert child.of("exit") == [0]


def test_pipe_tells_that_it_is_open_before_its_first_input(loop: reactor.Reactor) -> None:
    child = spawn(loop, ["echo", "hello"], stdout=RecordingStream)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # all its output is there already
    loop.loop(timeout=TIMEOUT)
    assert [event[0] for event in child.stdout.events] == ["open", "data", "close"]
    assert str(child.stdout) == f"RecordingStream with the output of echo, process {child.pid} (Closed)"


def test_errors_come_apart_from_output(loop: reactor.Reactor) -> None:
    child = ended(loop, shell("echo output; echo errors >&2"), stdout=RecordingStream, stderr=RecordingStream)
    assert (child.stdout.received, child.stderr.received) == (b"output\n", b"errors\n")
    assert child.stdin is None


def test_errors_come_with_output(loop: reactor.Reactor) -> None:
    child = ended(loop, shell("echo output; echo errors >&2"), stdout=RecordingStream, stderr=subprocess.STDOUT)
    assert child.stdout.received == b"output\nerrors\n"
    assert child.stderr is None


def test_streams_are_files_the_null_device_or_those_of_this_program(
    loop: reactor.Reactor, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello")
    with path.open("rb") as file:
        child = ended(loop, shell("cat; echo nobody sees it >&2"), stdin=file, stderr=subprocess.DEVNULL)
    assert (child.stdin, child.stdout, child.stderr) == (None, None, None)
    assert capfd.readouterr() == ("hello", "")


def test_lines_are_read_from_a_child(loop: reactor.Reactor) -> None:
    child = ended(loop, ["printf", r"one\ntwo\r\n\nrest"], stdout=RecordingLines)
    assert child.stdout.lines == ["one", "two", ""]


def test_messages_go_to_a_child_and_back(loop: reactor.Reactor) -> None:
    program = """
from multiprocessing.connection import Connection
requests, answers = Connection(0, writable=False), Connection(1, readable=False)
try:
    while True:
        answers.send({"sum": sum(requests.recv())})
except EOFError:
    pass
"""
    child = spawn(loop, [sys.executable, "-c", program], stdin=reactor.Connection, stdout=RecordingConnection)
    child.stdin.send([1, 2, 3])
    child.stdin.send(range(100_000))
    child.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.of("message") == [{"sum": 6}, {"sum": 4999950000}]
    assert child.of("exit") == [0]


def test_child_that_closes_its_input_is_told_as_the_end_of_that_pipe(loop: reactor.Reactor) -> None:
    child = spawn(loop, shell("exec 0<&-; echo closed; exec sleep 100"), stdin=RecordingStream, stdout=RecordingStream)
    run_until(loop, lambda: child.stdin.of("close") and child.stdout.received == b"closed\n")
    assert [type(reason) for reason in child.stdin.of("close")] == [PeerClosed]
    assert child.stdin.of("error") == []
    assert child.state.name == "Open"


def test_broken_pipe_is_reported(loop: reactor.Reactor) -> None:
    child = spawn(loop, shell("read line; exec 0<&-; exec sleep 100"), stdin=RecordingStream)
    child.stdin.push(b"line\n" + bytes(1_000_000))
    run_until(loop, lambda: child.stdin.of("close"))
    (error,) = child.stdin.of("error")
    assert isinstance(error, ConnectionLost)
    assert error.errno == errno.EPIPE
    assert child.state.name == "Open"


def test_output_that_is_closed_breaks_the_pipe_of_the_child(loop: reactor.Reactor) -> None:
    child = spawn(loop, ["yes"], stdout=RecordingStream)
    run_until(loop, lambda: child.stdout.received)
    child.stdout.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.of("exit") == [-signal.SIGPIPE]


def test_what_is_pushed_to_the_wrong_place_is_refused(loop: reactor.Reactor) -> None:
    child = spawn(loop, SLEEP, stdout=RecordingStream, stderr=RecordingStream)
    with pytest.raises(reactor.LocalError, match="push to its stdin"):
        child.push(b"hello")
    child.stdout.push(b"hello")
    child.stderr.push(iter([b"hello"]))
    run_until(loop, lambda: child.stdout.of("close") and child.stderr.of("close"))
    for channel in (child.stdout, child.stderr):
        assert "reads nothing from it" in str(channel.of("error")[0])


def test_child_may_be_busy_for_as_long_as_it_likes(clock: FakeClock, timed: reactor.Reactor) -> None:
    child = spawn(timed, CAT, stdin=RecordingStream, stdout=RecordingStream)
    child.send_signal(signal.SIGSTOP)
    child.stdin.push(bytes(300_000))
    child.stdin.close_when_done()
    for _ in range(10):
        clock.advance(3600)
        turns(timed, 3)
    assert child.stdin.of("close") == []
    child.send_signal(signal.SIGCONT)
    run_until(timed, lambda: child.of("close"))
    assert len(child.stdout.received) == 300_000


def test_silent_child_costs_no_wakeup() -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        child = spawn(loop, CAT, stdin=RecordingStream, stdout=RecordingStream)
        run_until(loop, lambda: child.stdin.of("open") and child.stdout.of("open"))
        selector.events = 0
        turns(loop, 10)
        assert selector.events == 0
        assert loop.next_timeout() is None


# The end


def test_exit_is_told_once_and_the_close_when_all_output_is_read(loop: reactor.Reactor, watched: str) -> None:
    order: list[str] = []

    class Told(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            order.append("exit")
            self.stdout.resume_reading()

        def handle_close(self, reason: Exception) -> None:
            super().handle_close(reason)
            order.append("close")

    class Slow(RecordingStream):
        def handle_open(self) -> None:
            self.pause_reading()
            child.stdin.push(b"go\n")

        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            order.append("data")

    script = shell("read line; head -c 60000 /dev/zero; exit 3")
    child = reactor.spawn(script, Told, stdin=reactor.Stream, stdout=Slow, reactor=loop)
    assert (child.returncode, child.pid in processes()) == (None, True)
    loop.loop(timeout=TIMEOUT)
    assert (child.of("exit"), child.returncode, len(child.stdout.received)) == ([3], 3, 60_000)
    assert [step for step, _ in itertools.groupby(order)] == ["exit", "data", "close"]
    (reason,) = child.of("close")
    assert isinstance(reason, PeerClosed)
    assert str(reason) == "it ended with exit code 3"


@pytest.mark.parametrize(
    ("signum", "words"), [(signal.SIGKILL, "it was killed by SIGKILL"), (40, "it was killed by signal 40")]
)
def test_signal_that_ends_a_child_is_told_as_a_negative_number(
    loop: reactor.Reactor, signum: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    child = ended(loop, shell(f"kill -{int(signum)} $$"))
    assert child.of("exit") == [-signum]
    assert str(child.of("close")[0]) == words
    assert caplog.messages == [f"RecordingChild sh, process {child.pid}: {words}"]


def test_bad_end_is_logged_and_one_that_was_asked_for_is_not(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    child = spawn(loop, SLEEP)
    child.terminate()
    loop.loop(timeout=TIMEOUT)
    assert child.of("exit") == [-signal.SIGTERM]
    ended(loop, ["true"])
    assert caplog.messages == []
    child = ended(loop, ["false"])
    assert caplog.messages == [f"RecordingChild false, process {child.pid}: it ended with exit code 1"]


def test_signals_reach_the_child_until_it_has_ended(
    loop: reactor.Reactor, watched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = shell("trap 'echo heard; exit 0' USR1; echo ready; while :; do read line; done")
    child = spawn(loop, script, stdin=reactor.Stream, stdout=RecordingStream)
    run_until(loop, lambda: child.stdout.received == b"ready\n")
    with pytest.raises(OSError, match="Invalid argument"):
        child.send_signal(999)
    child.send_signal(signal.SIGUSR1)
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"ready\nheard\n"
    monkeypatch.setattr(os, "kill", lambda *args: pytest.fail("another process may have its number by now"))
    child.kill()
    child.terminate()
    assert (child.of("exit"), child.returncode) == ([0], 0)


def test_signal_to_a_child_that_has_just_ended_does_nothing(loop: reactor.Reactor, watched: str) -> None:
    child = spawn(loop, ["true"])
    if watched == "descriptor":
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    else:
        await_end(child.pid)  # the thread has taken its exit code, and the loop does not know yet
    child.kill()
    loop.loop(timeout=TIMEOUT)
    assert child.of("exit") == [0]


def test_child_without_a_process_can_be_sent_no_signal() -> None:
    child = reactor.Child()
    with pytest.raises(reactor.StateError, match="nothing yet to send a signal to"):
        child.kill()
    child.close()
    assert (child.pid, str(child)) == (None, "Child without a process (New)")


HEIR = shell("exec 3<&0; cat <&3 & exit 0")
"""Leaves its pipes to a child of its own."""


def test_grandchild_that_has_the_pipes_keeps_the_child_open() -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        child = spawn(loop, HEIR, stdin=reactor.Stream, stdout=RecordingStream)
        run_until(loop, lambda: child.of("exit"))
        child.stdin.push(b"still here")
        run_until(loop, lambda: child.stdout.received == b"still here")
        selector.events = 0
        turns(loop, 10)
        assert selector.events == 0
        assert (child.state.name, child.of("close")) == ("Closing", [])
        child.stdin.close_when_done()
        loop.loop(timeout=TIMEOUT)
        assert len(child.of("close")) == 1


@pytest.mark.parametrize("end", ["close", "close in a hook", "shutdown"])
def test_pipes_that_a_grandchild_keeps_can_be_closed_from_here(
    loop: reactor.Reactor, end: str, caplog: pytest.LogCaptureFixture
) -> None:
    child = spawn(loop, HEIR, stdin=RecordingStream, stdout=RecordingStream)
    run_until(loop, lambda: child.of("exit"))
    if end == "close":
        child.close()
    loop.call_soon(loop.shutdown if end == "shutdown" else child.close)
    loop.loop(timeout=TIMEOUT)
    assert isinstance(child.of("close")[0], PeerClosed)
    assert len(child.of("exit")) == len(child.of("close")) == 1
    assert len(child.stdin.of("close")) == len(child.stdout.of("close")) == 1
    assert caplog.messages == []


def test_pipe_that_is_closed_before_it_is_open_stays_closed(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    child = spawn(loop, CAT, stdin=RecordingStream, stdout=RecordingStream)
    child.stdin.close()
    loop.loop(timeout=TIMEOUT)
    assert [event[0] for event in child.stdin.events] == ["close"]
    assert child.of("exit") == [0]
    assert caplog.messages == []


def test_two_hundred_children_end_at_once(loop: reactor.Reactor) -> None:
    reading, writing = os.pipe()
    crowd = [spawn(loop, CAT, stdin=reading) for _ in range(200)]
    os.close(reading)
    turns(loop, 3)
    assert all(child.state.name == "Open" for child in crowd)
    os.close(writing)
    loop.loop(timeout=TIMEOUT)
    assert all(child.of("exit") == [0] and len(child.of("close")) == 1 for child in crowd)


def test_hook_that_raises_is_logged_and_not_told_again(
    loop: reactor.Reactor, watched: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            raise RuntimeError("no")

    for stdout in (None, RecordingStream):
        child = reactor.spawn(["true"], Failing, stdout=stdout, reactor=loop)
        loop.loop(timeout=TIMEOUT)
        assert (child.of("exit"), len(child.of("error")), len(child.of("close"))) == ([0], 1, 1)
        assert "RuntimeError: no" in caplog.text


def test_interrupt_in_a_hook_ends_the_loop_and_loses_nothing(loop: reactor.Reactor) -> None:
    class Interrupted(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            raise KeyboardInterrupt

    child = reactor.spawn(["true"], Interrupted, reactor=loop)
    with pytest.raises(KeyboardInterrupt):
        loop.loop(timeout=TIMEOUT)
    loop.loop(timeout=TIMEOUT)
    assert (child.of("exit"), len(child.of("close"))) == ([0], 1)


def test_child_that_is_said_to_have_ended_too_early_is_waited_for(watched: str) -> None:
    class Hasty(selectors.DefaultSelector):
        said = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            self.said += 1
            keys = [key for key in self.get_map().values() if isinstance(key.data, reactor.Child)]
            return [(key, selectors.EVENT_READ) for key in keys] if self.said < 5 else super().select(timeout)

    with reactor.Reactor(Hasty()) as loop:
        child = spawn(loop, CAT, stdin=reactor.Stream)
        turns(loop, 5)
        assert (child.of("exit"), child.state.name) == ([], "Open")
        child.close_when_done()
        loop.loop(timeout=TIMEOUT)
    assert child.of("exit") == [0]


# Exit codes that are lost


def test_children_are_seen_to_end_where_their_signal_is_ignored(
    loop: reactor.Reactor, watched: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        child = spawn(loop, ["true"], stdout=RecordingStream)
        await_end(child.pid)
        child.terminate()  # perhaps its number is another process's by now
        loop.loop(timeout=TIMEOUT)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert (child.of("exit"), len(child.of("close"))) == ([255], 1)
    assert "SIGCHLD is ignored" in caplog.text


def test_child_for_which_somebody_else_has_waited_is_seen_to_end(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    child = spawn(loop, ["true"])
    os.waitpid(child.pid, 0)
    loop.loop(timeout=TIMEOUT)
    assert child.of("exit") == [255]
    assert "somebody else has waited for it" in caplog.text


# Closing from here


def test_close_kills_and_takes_the_exit_code_although_no_loop_runs(loop: reactor.Reactor, watched: str) -> None:
    child = spawn(loop, STUBBORN, stdin=RecordingStream, stdout=RecordingStream)
    run_until(loop, lambda: child.stdout.received)
    child.close()
    child.close()
    assert child.pid not in processes()
    assert [event[0] for event in child.events] == ["exit", "close"]
    assert child.returncode == -signal.SIGKILL
    assert isinstance(child.of("close")[0], ClosedHere)
    assert len(child.stdin.of("close")) == len(child.stdout.of("close")) == 1
    assert list(loop.channels) == []


def test_close_kills_while_the_loop_runs(loop: reactor.Reactor, watched: str) -> None:
    class Impatient(RecordingStream):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            child.close()
            child.close()
            child.close_when_done()
            loop.shutdown()

    child = spawn(loop, STUBBORN, stdin=RecordingStream, stdout=Impatient)
    loop.loop(timeout=TIMEOUT)
    assert [event[0] for event in child.events] == ["exit", "close"]
    assert child.returncode == -signal.SIGKILL
    assert isinstance(child.of("close")[0], ClosedHere)
    assert list(loop.channels) == []


def test_child_may_be_closed_by_the_hook_of_its_pipe(loop: reactor.Reactor) -> None:
    class Last(RecordingStream):
        def handle_close(self, reason: Exception) -> None:
            super().handle_close(reason)
            child.close()

    child = spawn(loop, CAT, stdin=RecordingStream, stdout=Last)
    child.close()
    assert (len(child.of("exit")), len(child.of("close"))) == (1, 1)
    child = spawn(loop, ["true"], stdout=Last)
    loop.loop(timeout=TIMEOUT)
    assert (len(child.of("exit")), len(child.of("close"))) == (1, 1)


def test_close_of_a_child_that_has_ended_and_was_not_looked_at(loop: reactor.Reactor) -> None:
    child = spawn(loop, shell("exit 3"))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    child.close()
    assert (child.of("exit"), len(child.of("close"))) == ([3], 1)


class Immortal(RecordingChild):
    """Cannot be killed, as a process that waits for a disk that does not answer."""

    def kill(self) -> None:
        pass

    def really_kill(self) -> None:
        assert self.pid is not None
        os.kill(self.pid, signal.SIGKILL)
        await_end(self.pid)


def test_process_that_cannot_be_killed_is_left_alone_by_the_loop(
    clock: FakeClock, timed: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    child = reactor.spawn(SLEEP, Immortal, stdout=RecordingStream, reactor=timed)
    timed.call_soon(child.close)
    turns(timed, 2)
    assert (child.state.name, len(child.stdout.of("close"))) == ("Closing", 1)
    clock.advance(children.PATIENCE + 1)
    turns(timed, 1)
    assert (child.of("exit"), len(child.of("close"))) == ([], 1)
    assert timed.is_idle()
    assert caplog.messages == [
        f"Immortal sleep, process {child.pid}: it was killed, and does not end; the loop waits for it no longer"
    ]
    child.really_kill()


def test_process_that_cannot_be_killed_is_left_alone_where_no_loop_runs(
    monkeypatch: pytest.MonkeyPatch, watched: str, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(children, "PATIENCE", 0.01)
    with reactor.Reactor() as loop:
        child = reactor.spawn(SLEEP, Immortal, reactor=loop)
    assert (child.of("exit"), len(child.of("close"))) == ([], 1)
    child.really_kill()
    for thread in threading.enumerate():
        if thread.name.startswith("reactor-process"):
            thread.join(TIMEOUT)
    assert len(caplog.messages) == 1


def test_process_of_somebody_else_cannot_be_ended_and_the_engine_goes_on(
    loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(signal, "pidfd_send_signal", refuse)
    child = spawn(loop, CAT, stdin=RecordingStream)
    with pytest.raises(PermissionError):
        child.terminate()
    loop.shutdown()
    assert "terminate failed: PermissionError" in caplog.text
    child.close()  # but its input has ended, and so it ends
    assert "kill failed: PermissionError" in caplog.text
    assert (child.of("exit"), len(child.of("close"))) == ([0], 1)


# Shutting down


def test_shutdown_asks_children_to_end(loop: reactor.Reactor, watched: str, caplog: pytest.LogCaptureFixture) -> None:
    child = spawn(loop, SLEEP, stdin=RecordingStream, stdout=RecordingStream)
    turns(loop, 2)
    shutdown = loop.shutdown()
    loop.loop(timeout=TIMEOUT)
    assert (child.of("exit"), len(child.of("close"))) == ([-signal.SIGTERM], 1)
    assert (shutdown.is_complete, shutdown.cut) == (True, [])
    assert caplog.messages == []


def test_shutdown_kills_when_the_grace_is_over_and_says_so(
    clock: FakeClock, timed: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    child = spawn(timed, STUBBORN, stdout=RecordingStream)
    run_until(timed, lambda: child.stdout.received)
    shutdown = timed.shutdown(grace=5)
    turns(timed, 5)
    assert child.of("exit") == []
    clock.advance(6)
    run_until(timed, lambda: shutdown.is_complete)
    assert (child.of("exit"), len(child.of("close"))) == ([-signal.SIGKILL], 1)
    assert isinstance(child.of("close")[0], DeadlineError)
    assert shutdown.cut == [f"RecordingChild sh, process {child.pid}"]
    assert "cut off at shutdown, before it was done" in caplog.text


def test_what_a_child_says_at_its_end_is_heard_during_a_shutdown(loop: reactor.Reactor) -> None:
    script = shell("trap 'echo saved; exit 0' TERM; echo ready; while :; do read line; done")
    reading, writing = os.pipe()
    with open(reading), open(writing):
        child = spawn(loop, script, stdin=reading, stdout=RecordingStream)
        run_until(loop, lambda: child.stdout.received == b"ready\n")
        loop.shutdown()
        loop.loop(timeout=TIMEOUT)
    assert (child.stdout.received, child.of("exit")) == (b"ready\nsaved\n", [0])


def test_nothing_is_spawned_during_a_shutdown(loop: reactor.Reactor) -> None:
    class Restarting(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            before = set(processes())
            with pytest.raises(reactor.StateError, match="is shutting down"):
                spawn(loop, SLEEP)
            assert set(processes()) == before

    child = reactor.spawn(SLEEP, Restarting, reactor=loop)
    loop.shutdown()
    loop.loop(timeout=TIMEOUT)
    assert child.of("error") == []
    assert len(child.of("close")) == 1


def test_closed_reactor_leaves_no_child(watched: str) -> None:
    with reactor.Reactor() as loop:
        crowd = [spawn(loop, argv, stdout=RecordingStream) for argv in (CAT, STUBBORN, SLEEP, ["true"])]
        turns(loop, 2)
    assert all(len(child.of("exit")) == len(child.of("close")) == 1 for child in crowd)


# What cannot be run


def fails(loop: reactor.Reactor, error: type[BaseException], match: str, argv: Any = CAT, **options: Any) -> list[Any]:
    """Check that a spawn fails, and leaves nothing behind; return the channels that it made."""
    made: list[Any] = []

    def making(kind: type[reactor.Channel]) -> Callable[[], reactor.Channel]:
        def make() -> reactor.Channel:
            made.append(kind())
            return made[-1]

        return make

    before = open_descriptors(), list(loop.channels), set(processes())
    streams = {"stdin": making(RecordingStream), "stdout": making(RecordingStream), "stderr": making(RecordingStream)}
    with pytest.raises(error, match=match):
        reactor.spawn(argv, **{"factory": making(RecordingChild), **streams, "reactor": loop, **options})
    assert (open_descriptors(), list(loop.channels), set(processes())) == before
    assert loop.is_idle() == (not before[1])
    assert all(channel.events == [] for channel in made)
    return made


def test_program_that_cannot_be_run_leaves_nothing_behind(loop: reactor.Reactor, tmp_path: Path) -> None:
    made = fails(loop, FileNotFoundError, "No such file or directory: 'no such program'", ["no such program"])
    assert len(made) == 4
    for channel in made:
        assert channel.state.name == "Closed"
        channel.close()
    fails(loop, PermissionError, "Permission denied", [str(tmp_path)])
    fails(loop, FileNotFoundError, "No such file", cwd=str(tmp_path / "missing"))
    fails(loop, TypeError, "unexpected keyword", no_such_option=1)


def test_program_that_cannot_be_run_leaves_nothing_behind_inside_a_handler(loop: reactor.Reactor) -> None:
    tried: list[list[Any]] = []

    class Trying(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            tried.append(fails(loop, FileNotFoundError, "No such file", ["no such program"]))

    reactor.spawn(["true"], Trying, reactor=loop)
    loop.loop(timeout=TIMEOUT)
    assert all(channel.events == [] for channel in tried[0])


def test_file_that_was_pushed_to_what_cannot_be_run_is_closed(loop: reactor.Reactor) -> None:
    class Greeting(reactor.Stream):
        def __init__(self) -> None:
            self.push(open(__file__, "rb"))

    fails(loop, FileNotFoundError, "No such file", ["no such program"], stdin=Greeting)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_factory_of_a_pipe_that_fails_leaves_no_process(loop: reactor.Reactor, stream: str) -> None:
    listening = reactor.Listener(None, reactor.Stream, reactor=loop)
    fails(loop, ZeroDivisionError, "division by zero", **{stream: lambda: 1 / 0})
    for wrong in (lambda: "no channel", reactor.Child, lambda: listening, lambda: reactor.Datagram()):
        fails(loop, reactor.LocalError, f"{stream}: spawn needs something that makes a Stream", **{stream: wrong})
    for wrong in (subprocess.PIPE, listening):
        fails(loop, reactor.LocalError, f"{stream}: give the class of a channel, not", **{stream: wrong})


def test_channel_serves_one_pipe_and_one_child(loop: reactor.Reactor) -> None:
    only = RecordingStream()
    fails(loop, reactor.StateError, "one channel serves one connection", stdout=lambda: only, stderr=lambda: only)
    child = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream)
    for again in ({"factory": lambda: child}, {"stdout": lambda: child.stdout}):
        fails(loop, reactor.StateError, "one channel serves one connection", **again)
    child.stdin.push(b"it is still there")
    child.close_when_done()
    loop.loop(timeout=TIMEOUT)
    assert child.stdout.received == b"it is still there"


def test_what_makes_no_child_is_refused(loop: reactor.Reactor) -> None:
    fails(loop, reactor.LocalError, "makes a Child, not", factory=reactor.Stream)


def test_child_that_is_closed_while_it_is_made_does_not_run(loop: reactor.Reactor) -> None:
    child = RecordingChild()

    def make() -> reactor.Stream:
        child.close()
        return reactor.Stream()

    with pytest.raises(reactor.StateError, match="is not possible"):
        reactor.spawn(CAT, lambda: child, stdout=make, reactor=loop)
    assert [event[0] for event in child.events] == ["close"]
    assert loop.is_idle()


def test_closed_reactor_runs_nothing(watched: str) -> None:
    loop = reactor.Reactor()
    loop.close()
    before = set(processes())
    with pytest.raises(reactor.ClosedReactorError):
        spawn(loop, SLEEP, stdout=RecordingStream)
    assert set(processes()) == before
    assert list(loop.channels) == []


def test_process_for_which_there_is_no_thread_is_killed(loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.delattr(os, "pidfd_open")
    monkeypatch.setattr(threading.Thread, "start", refuse)
    fails(loop, RuntimeError, "can't start new thread", SLEEP)


@pytest.mark.skipif(not hasattr(selectors, "SelectSelector"), reason="this system has no select")
def test_process_that_select_cannot_watch_is_killed(many_descriptors: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def pidfd_open(pid: int, flags: int = 0) -> int:
        number = original(pid, flags)
        large = fcntl(number, F_DUPFD_CLOEXEC, 1500)
        os.close(number)
        return large

    original = os.pidfd_open
    monkeypatch.setattr(os, "pidfd_open", pidfd_open)
    with reactor.Reactor(selectors.SelectSelector()) as loop:
        fails(loop, reactor.LocalError, "1023", SLEEP)


def test_process_that_the_selector_takes_no_more_is_watched_by_a_thread() -> None:
    class Full(selectors.DefaultSelector):
        def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
            if isinstance(data, reactor.Child):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().register(fileobj, events, data)

    with reactor.Reactor(Full()) as loop:
        child = ended(loop, shell("exit 3"), stdout=RecordingStream)
        assert child.of("exit") == [3]


def test_no_descriptor_is_lost_wherever_they_run_out(loop: reactor.Reactor) -> None:
    hoard = [os.open(os.devnull, os.O_RDONLY)]
    while hoard[-1] <= max(open_descriptors()) - 1:  # fill the gaps, so that the limit alone decides
        hoard.append(os.dup(hoard[0]))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    outcomes = []
    try:
        for spare in range(12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hoard[-1] + 1 + spare, hard))
            try:
                child = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream, stderr=RecordingStream)
            except OSError as error:
                outcomes.append(error.strerror)
            else:
                child.stdin.push(b"hello")
                child.close_when_done()
                run_until(loop, lambda child=child: child.of("close"))
                assert (child.stdout.received, child.of("exit")) == (b"hello", [0])
                outcomes.append("it ran")
            assert loop.is_idle()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in hoard:
            os.close(number)
    assert [outcome for outcome, _ in itertools.groupby(outcomes)] == [os.strerror(errno.EMFILE), "it ran"]


# Pickles


def test_what_another_user_writes_is_not_unpickled(loop: reactor.Reactor) -> None:
    fails(loop, reactor.UnsafePickleError, "codec='json'", stdout=RecordingConnection, user="nobody")


@pytest.mark.parametrize("codec", ["json", "bytes"])
def test_messages_that_run_no_code_may_come_from_another_user(
    loop: reactor.Reactor, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = type("Harmless", (RecordingConnection,), {"codec": codec})
    child = ended(loop, ["printf", r"\0\0\0\0011"], stdout=kind, user=os.geteuid())
    assert child.stdout.of("message") in ([1], [b"1"])


# What is run


@pytest.mark.parametrize("argv", [["pwd"], ("pwd",), {"pwd": None}, "pwd", b"pwd", Path("pwd"), [b"pwd"]], ids=repr)
def test_program_is_named_in_all_the_ways_of_subprocess(loop: reactor.Reactor, argv: Any, tmp_path: Path) -> None:
    child = ended(loop, argv, stdout=RecordingStream, cwd=tmp_path)
    assert child.argv == ("pwd",)
    assert child.stdout.received == os.fsencode(tmp_path) + b"\n"


def test_shell_reads_the_words_where_that_is_wanted(loop: reactor.Reactor) -> None:
    child = ended(loop, "echo one; echo two", stdout=RecordingStream, shell=True)
    assert child.stdout.received == b"one\ntwo\n"
    with pytest.raises(FileNotFoundError):
        spawn(loop, "echo one; echo two")


def test_nothing_cannot_be_run(loop: reactor.Reactor) -> None:
    fails(loop, reactor.LocalError, "argv is empty", [])


# Other children, other processes, other threads


def test_input_of_a_child_is_inherited_by_no_other(loop: reactor.Reactor) -> None:
    first = spawn(loop, CAT, stdin=reactor.Stream, stdout=RecordingStream)
    second = spawn(loop, SLEEP, close_fds=False)
    first.close_when_done()
    run_until(loop, lambda: first.of("close"))
    assert (first.of("exit"), second.state.name) == ([0], "Open")


def test_child_is_spawned_inside_a_handler(loop: reactor.Reactor) -> None:
    family: list[Any] = []

    class Parent(RecordingChild):
        def handle_exit(self, returncode: int) -> None:
            super().handle_exit(returncode)
            family.append(self)
            if len(family) < 3:
                reactor.spawn(["echo", "hello"], Parent, stdout=RecordingStream, reactor=loop)

    reactor.spawn(["echo", "hello"], Parent, stdout=RecordingStream, reactor=loop)
    loop.loop(timeout=TIMEOUT)
    assert [child.stdout.received for child in family] == [b"hello\n"] * 3


def test_children_are_spawned_in_a_thread_too(in_thread: Callable[..., threading.Thread]) -> None:
    received: list[bytes] = []

    def work() -> None:
        with reactor.Reactor() as loop:
            received.append(ended(loop, ["echo", "hello"], stdout=RecordingStream).stdout.received)

    in_thread(work).join(TIMEOUT)
    assert received == [b"hello\n"]


FORK = """
import os, sys, threading
import reactor

class Lines(reactor.LineChannel):
    def handle_line(self, line):
        print(line, flush=True)

class Told(reactor.Child):
    def handle_close(self, reason):
        print(reason, flush=True)
        os.write(release, b"x")

loop = reactor.Reactor()
if sys.argv[1] == "thread":
    del os.pidfd_open
child = reactor.spawn(["cat"], Told, stdin=reactor.Stream, stdout=Lines, reactor=loop)
child.stdin.push(b"hello\\n")
while child.stdout.state.name != "Open":
    loop.poll(0)
wait, release = os.pipe()
before = len(os.listdir("/proc/self/fd"))
pid = os.fork()
if pid == 0:
    # It keeps no end of a pipe, nor anything else of the child of its parent.
    after = len(os.listdir("/proc/self/fd"))
    is_left_alone = child.state.name == child.stdin.state.name == child.stdout.state.name == "Closed"
    child.close()
    try:
        reactor.spawn(["cat"], reactor=loop)
    except reactor.ClosedReactorError:
        os.read(wait, 1)
        os._exit(0 if is_left_alone and before - after >= 2 else 8)
    os._exit(9)
child.close_when_done()
loop.loop(timeout=20)
loop.close()
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.parametrize("watcher", ["descriptor", "thread"])
def test_fork_has_no_part_in_the_children_of_its_parent(watcher: str) -> None:
    # With a thread that waits, Python 3.12 and later warn of every fork.
    options = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    done = subprocess.run(
        [sys.executable, *options, "-c", FORK, watcher],
        capture_output=True, text=True, timeout=TIMEOUT, check=False, cwd=ROOT,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("hello\nit ended with exit code 0\n0\n", "")


def test_log_of_a_quiet_life_is_empty(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="reactor"):
        ended(loop, CAT, stdin=subprocess.DEVNULL, stdout=RecordingStream)
    assert caplog.messages == []
