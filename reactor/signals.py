"""Signals, delivered on the loop instead of in the middle of whatever runs."""

from __future__ import annotations

import signal
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any

from .wakeup import SocketPairWaker, Waker

_with_signals: list[SignalHandlers] = []
"""The reactors of this process that have handlers, in their order: the last one has the wakeup descriptor."""
_foreign_descriptor = -1


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

    def install(self, signum: int, callback: Callable[[], object]) -> None:
        """Have `callback` called on the loop whenever the signal comes."""

        def handler(number: int, frame: FrameType | None) -> None:
            deliver = self._deliver()
            if deliver is not None:
                deliver(callback)

        before = signal.signal(signum, handler)
        if not self._before and isinstance(self._waker, SocketPairWaker):
            self._take_wakeups()
        self._before.setdefault(signum, before)

    def restore(self, signum: int) -> None:
        """Put back what was there before."""
        if signum in self._before:
            signal.signal(signum, self._before.pop(signum))
            if not self._before and self in _with_signals:
                self._give_wakeups_back()

    def _take_wakeups(self) -> None:
        """Have the signals that another thread receives wake this reactor: its select would sleep on."""
        global _foreign_descriptor  # noqa: PLW0603
        assert isinstance(self._waker, SocketPairWaker)
        before = signal.set_wakeup_fd(self._waker.sender_fileno(), warn_on_full_buffer=False)
        if not _with_signals:
            _foreign_descriptor = before
        _with_signals.append(self)

    def _give_wakeups_back(self) -> None:
        """The descriptor must not stay behind: another socket may get its number."""
        assert isinstance(self._waker, SocketPairWaker)
        _with_signals.remove(self)
        current = signal.set_wakeup_fd(-1)
        if current != self._waker.sender_fileno():
            heir = current  # somebody has taken it over since
        elif _with_signals:
            waker = _with_signals[-1]._waker
            assert isinstance(waker, SocketPairWaker)
            heir = waker.sender_fileno()
        else:
            heir = _foreign_descriptor
        signal.set_wakeup_fd(heir, warn_on_full_buffer=False)

    def restore_all(self) -> None:
        """Put everything back."""
        for signum in list(self._before):
            self.restore(signum)

    def abandon(self) -> None:
        """In the child of a fork: a signal here must not wake the parent, and means what it did before the reactor."""
        if self in _with_signals:
            _with_signals.remove(self)
            signal.set_wakeup_fd(-1)  # the socket pair is shared
        self.restore_all()
