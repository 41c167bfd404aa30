"""Signals, delivered on the loop instead of in the middle of whatever runs."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from .wakeup import SocketPairWaker, Waker


class SignalHandlers:
    """The handlers that one reactor has installed, and what was there before.

    Arguments:
        waker: wakes the loop.
        deliver: a weak reference to what has a callback called on the loop; called inside a signal handler.
    """

    def __init__(self, waker: Waker, deliver: weakref.WeakMethod[Callable[..., Any]]) -> None:
        self._waker = waker
        self._deliver = deliver
        self._before: dict[int, Any] = {}
        self._wakeup_before = -1

    def install(self, signum: int, callback: Callable[[], object]) -> None:
        """Have `callback` called on the loop whenever the signal comes."""

        def handler(number: int, frame: FrameType | None) -> None:
            deliver = self._deliver()
            if deliver is not None:
                deliver(callback)

        before = signal.signal(signum, handler)
        if not self._before and isinstance(self._waker, SocketPairWaker):
            # Without it, select would sleep on (PEP 475) although the handler has run.
            self._wakeup_before = signal.set_wakeup_fd(self._waker.sender_fileno(), warn_on_full_buffer=False)
        self._before.setdefault(signum, before)

    def restore(self, signum: int) -> None:
        """Put back what was there before."""
        if signum in self._before:
            signal.signal(signum, self._before.pop(signum))
            if not self._before:
                signal.set_wakeup_fd(self._wakeup_before)

    def restore_all(self) -> None:
        """Put everything back."""
        for signum in list(self._before):
            self.restore(signum)

    def abandon(self) -> None:
        """In the child of a fork: a signal here must not wake the parent, through the shared socket pair."""
        if self._before:
            signal.set_wakeup_fd(-1)
            self._wakeup_before = -1
