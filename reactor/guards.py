"""Guards for the loop: against a descriptor that is ready for nothing, and a handler that holds it."""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .channel import Channel
    from .eventloop import Reactor
    from .states import State
    from .timers import Timer

log = logging.getLogger("reactor")

TURNS_WITHOUT_PROGRESS = 100
PARKED = 1.0
"""Seconds for which a spinning channel is left alone."""
STACK_DEPTH = 8


class SpinGuard:
    """Parks a channel that is ready turn after turn while nothing comes of it.

    States say whether an event made progress: a byte, an accept, a transition. What made none is
    counted here, in turns of the loop; one turn in which nothing is counted starts from zero again.
    """

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = weakref.proxy(reactor)
        self._suspects: weakref.WeakKeyDictionary[Channel, tuple[int, int]] = weakref.WeakKeyDictionary()
        self._parked: dict[Channel, Timer] = {}

    def count(self, channel: Channel, event: str) -> None:
        """Take note of an `event` ("readable", "writable") that came to nothing."""
        turn = self._reactor.turns
        last, times = self._suspects.pop(channel, (turn, 0))
        times = times + 1 if turn - last <= 1 else 1
        if times < TURNS_WITHOUT_PROGRESS:
            self._suspects[channel] = (turn, times)
            return
        log.warning(
            "%s: %s for %d turns of the loop in a row, and nothing came of it; left alone for %g s",
            channel,
            event,
            times,
            PARKED,
        )
        state, interest = channel.state, channel._interest
        channel._want(0)
        self._parked[channel] = self._reactor.call_later(PARKED, self._unpark, channel, state, interest)

    def forget(self, channel: Channel) -> None:
        """`channel` is closed."""
        self._suspects.pop(channel, None)
        timer = self._parked.pop(channel, None)
        if timer is not None:
            timer.cancel()

    def _unpark(self, channel: Channel, state: State, interest: int) -> None:
        del self._parked[channel]
        if channel.state is state and not channel._interest:
            channel._want(interest)


class Watchdog:
    """Reports, with the place where it stands, whatever holds the loop for too long.

    The thread looks at the loop about every half `threshold`. While the loop sleeps the thread does
    too, without waking up; the first turn that finds it asleep wakes it.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._began: float | None = None
        self._loop_thread = 0
        self._wanted = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """The loop has woken up and calls handlers from now on."""
        self._began = time.monotonic()
        if not self._wanted.is_set():
            self._loop_thread = threading.get_ident()
            self._wanted.set()
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="reactor-watchdog", daemon=True)
                self._thread.start()

    def end(self) -> None:
        """The loop is about to sleep."""
        self._began = None

    def close(self) -> None:
        """End the thread."""
        self._closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        reported: float | None = None
        while self._wanted.wait() and not self._closed:
            began = self._began
            if began is None:
                self._wanted.clear()
                if self._began is not None:  # the loop woke up in between, and saw the flag still set
                    self._wanted.set()
                continue
            time.sleep(self._threshold / 2)
            if self._began == began and began != reported and time.monotonic() - began >= self._threshold:
                reported = began
                self._report(time.monotonic() - began)

    def _report(self, held: float) -> None:
        frame = sys._current_frames().get(self._loop_thread)
        stack = traceback.format_stack(frame, None)[-STACK_DEPTH:] if frame is not None else []
        log.warning("the loop has been held for %.3f s; it stands at:\n%s", held, "".join(stack).rstrip())
