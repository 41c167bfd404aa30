"""A worker as its parent sees it: a process, a line to it, and a stage of its life."""

from __future__ import annotations

import contextlib
import enum
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterable
from typing import NoReturn, Protocol

from ..children import ending
from ..dispatcher import Dispatcher
from ..errors import LocalError
from ..eventloop import Reactor
from ..processes import Process
from ..timers import Timer
from .control import Control

log = logging.getLogger("reactor")

Plan = list[list[int]]
"""For each share, on which of its sockets a worker listens."""

MANAGED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""The signals that the parent has handlers for, which a worker must not inherit."""

DUMP_PATIENCE = 2.0
"""Seconds for a stuck worker to say where it stands, and die of it."""

LOOKS = 0.05
"""Seconds between two looks at a process for which the system has no descriptor."""


class Stage(enum.Enum):
    """What becomes of a worker, in this order; it may die at any time."""

    STARTING = "is in its setup"
    SERVING = "serves"
    LEAVING = "accepts no more"
    DYING = "was killed"


class Boss(Protocol):
    """Who is told what becomes of a hand."""

    def hand_ready(self, hand: Hand) -> None: ...

    def hand_asks_to_leave(self, hand: Hand) -> None: ...

    def hand_silent(self, hand: Hand) -> None: ...

    def hand_ended(self, hand: Hand) -> None: ...


class HandControl(Control):
    """The parent's end of the line."""

    def __init__(self, sock: socket.socket, hand: Hand, reactor: Reactor) -> None:
        super().__init__(sock, reactor)
        self.hand = hand

    def handle_word(self, word: str, value: str) -> None:
        hand = self.hand
        hand.heard_at = self.reactor.now
        if word == "ready" and hand.stage is Stage.STARTING:
            hand.stage = Stage.SERVING
            hand.ready_at = self.reactor.now
            hand.boss.hand_ready(hand)
        elif word == "leaving":
            hand.boss.hand_asks_to_leave(hand)

    def handle_end(self) -> None:
        self.hand.fell_silent()


class Death(Dispatcher):
    """Waits for the end of a process."""

    def __init__(self, hand: Hand, reactor: Reactor) -> None:
        super().__init__(hand.process, reactor=reactor)
        self.hand = hand

    def handle_readable(self) -> None:
        self.hand.look()


class Hand:
    """One process that was forked, from its first moment to its last.

    Arguments:
        number: which of the workers it is, from 1.
        work: what it does; called in the new process with its end of the line. The process ends when that returns.
        plan: where it listens.

    Raises:
        OSError: the system has no room for another process, or for a descriptor.

    Attributes:
        stage: how far it has come.
        started_at: when it was forked, on the reactor's clock.
        ready_at: when it was ready; None if it was not yet.
        heard_at: when it gave the last sign of life; before the first one, when it was forked.
        kill_timer: the end of the parent's patience, if that is limited.
    """

    def __init__(
        self, number: int, boss: Boss, work: Callable[[socket.socket], object], plan: Plan, reactor: Reactor
    ) -> None:
        self.number = number
        self.boss = boss
        self.reactor = reactor
        self.plan = plan
        self.stage = Stage.STARTING
        self.ready_at: float | None = None
        self.started_at = self.heard_at = reactor.clock()
        self.kill_timer: Timer | None = None
        ours, theirs = socket.socketpair()
        self.control = HandControl(ours, self, reactor)
        try:
            self.process = Process.forked(fork(lambda: work(theirs), reactor))
        except BaseException:
            self.control.close()
            raise
        finally:
            theirs.close()
        self.death = self._wait()

    def __str__(self) -> str:
        return f"worker {self.number} (process {self.process.pid})"

    @property
    def ending(self) -> str:
        """How it has ended, in words."""
        assert self.process.returncode is not None
        return ending(self.process.returncode).removeprefix("it ")

    @property
    def lifetime(self) -> str:
        """How long it has lived, in words."""
        now = self.reactor.now
        if self.ready_at is None:
            return f"before it was ready, {now - self.started_at:.1f} s after its start"
        return f"{now - self.ready_at:.1f} s after it was ready"

    def listen_on(self, plan: Plan) -> None:
        """Have it listen there, and nowhere else."""
        if plan != self.plan:
            self.plan = plan
            self.control.say("listen", json.dumps(plan))

    def leave(self, why: str, patience: float) -> None:
        """Have it accept no more, because another one does that; kill it if it is still there in so many seconds."""
        self._depart("leave", why, patience)

    def stop(self, patience: float) -> None:
        """Have it come to its end, with what waits in its backlog; the same."""
        self._depart("stop", "", patience)

    def cut(self, patience: float) -> None:
        """Have it close what is still open; the same."""
        self._depart("cut", "", patience)

    def _depart(self, word: str, why: str, patience: float) -> None:
        if self.stage is not Stage.DYING:
            self.stage = Stage.LEAVING
            self.control.say(word, why)
            self._kill_in(patience, f"it has not ended within {patience:g} s")

    def dump_and_kill(self, why: str) -> None:
        """It is stuck: have it say where it stands, which kills it."""
        if self.stage is not Stage.DYING:
            self.stage = Stage.DYING
            log.error("%s: %s; it is made to say where it stands, and killed", self, why)
            self.process.send_signal(signal.SIGABRT)
            self._kill_in(DUMP_PATIENCE, "it does not even say where it stands")

    def kill(self) -> None:
        """Make an end of it."""
        self.stage = Stage.DYING
        self.process.send_signal(signal.SIGKILL)

    def _kill_in(self, patience: float, why: str) -> None:
        def kill() -> None:
            log.error("%s: %s; it is killed", self, why)
            self.kill()

        timer = self.reactor.call_later(patience, kill)
        if self.kill_timer is not None:  # whoever asks once more does not want to wait for longer
            timer, later = sorted((self.kill_timer, timer), key=lambda each: each.deadline)
            later.cancel()
        self.kill_timer = timer

    def _wait(self) -> Death | None:
        """Have the loop wait for its end."""
        if self.process.fileno() >= 0:
            with contextlib.suppress(LocalError):  # it cannot be watched: no memory
                return Death(self, self.reactor)
        return None

    @property
    def is_connected(self) -> bool:
        """Whether signs of life can be expected of it."""
        return self.control.socket is not None

    def end_now(self) -> None:
        """Kill it, and wait for its end."""
        self.kill()
        while not self.process.look():
            time.sleep(0.01)
        self.bury()

    def fell_silent(self) -> None:
        """It has closed its end of the line: it is about to end, or it is dead, which a moment later is known."""
        self.reactor.call_later(LOOKS, self._look_after_silence)

    def _look_after_silence(self) -> None:
        if self.look():
            return
        self.boss.hand_silent(self)
        if self.death is None:
            self.reactor.call_later(LOOKS, self._look_again)

    def _look_again(self) -> None:
        """Look as long as it takes, where no descriptor tells."""
        if not self.look():
            self.reactor.call_later(LOOKS, self._look_again)

    def look(self) -> bool:
        """Return whether it has ended; the first time, say so."""
        if self.process.returncode is not None:
            return True
        if not self.process.look():
            return False
        self.bury()
        self.boss.hand_ended(self)
        return True

    def bury(self) -> None:
        """It has ended: give everything back, and log its last words."""
        self.control.read_all()
        self.control.close()
        if self.death is not None:
            self.death.close()
        if self.kill_timer is not None:
            self.kill_timer.cancel()
        if self.control.text:
            log.error("%s stood at:\n%s", self, stack_of_worker(self.control.text))


def stack_of_worker(text: str) -> str:
    """Return what `faulthandler` has written, without the frames of the parent in which it was forked."""
    shown = []
    skips = False
    for line in text.strip().splitlines():
        skips = line.startswith("  ") and (skips or line.endswith(f" in {be_child.__name__}"))
        if not skips:
            shown.append(line)
    return "\n".join(shown)


def fork(work: Callable[[], object], reactor: Reactor) -> int:
    """Fork, and return the number of the new process, which does `work` and ends.

    No signal gets lost between the two, and none finds a handler of the parent in the child.

    Arguments:
        reactor: the parent's; the child closes the descriptors of its channels.

    Raises:
        OSError: the system has no room for another process.
    """
    for stream in (sys.stdout, sys.stderr):  # what waits in them would be written twice
        if stream is not None:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, MANAGED)
    try:
        pid = os.fork()
        if pid == 0:
            be_child(work, reactor, before)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return pid


def be_child(work: Callable[[], object], reactor: Reactor, mask: Iterable[int]) -> NoReturn:
    """Do `work` in the new process, and end it, whatever happens: nothing of the parent's program runs here."""
    code = 1
    try:
        # Ctrl-C is for the parent, which tells the workers; the others wait for a handler. Not SIG_IGN: what a worker
        # runs would inherit that.
        for signum in MANAGED:
            signal.signal(signum, signal.SIG_DFL if signum == signal.SIGTERM else ignore)
        for channel in reactor.channels:
            if channel.socket is not None:
                channel.socket.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        work()
        code = 0
    except SystemExit as error:
        code = exit_code(error)
    except BaseException:
        log.exception("process %d: a worker failed", os.getpid())
    finally:
        with contextlib.suppress(BaseException):
            logging.shutdown()
            for stream in (sys.stdout, sys.stderr):
                if stream is not None:
                    stream.flush()
        os._exit(code)


def ignore(signum: int, frame: object) -> None:
    """Do nothing about a signal."""


def exit_code(error: SystemExit) -> int:
    """Return the exit code that Python would make of `error`, and say what it says."""
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    print(error.code, file=sys.stderr)
    return 1
