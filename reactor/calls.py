"""Handles of calls: those that happen soon, and those that happen on a thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .channel import Channel

log = logging.getLogger("reactor")


class Call:
    """A call that will happen soon; the handle that cancels it."""

    __slots__ = ("args", "callback", "channel")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], channel: Channel | None = None) -> None:
        self.callback: Callable[..., object] | None = callback
        self.args = args
        self.channel = channel

    def cancel(self) -> None:
        """Call it off. Cancelling what has run, or was cancelled before, does nothing."""
        self.callback = None
        self.args = ()


class ThreadCall:
    """A call that runs on a thread; its outcome comes back to the loop.

    Made by `Reactor.run_in_thread`.
    """

    __slots__ = ("_on_error", "_on_result")

    def __init__(
        self,
        on_result: Callable[[Any], object] | None,
        on_error: Callable[[BaseException], object] | None,
    ) -> None:
        self._on_result = on_result
        self._on_error = on_error or log_error

    def cancel(self) -> None:
        """Drop the outcome. The function itself, once it runs, cannot be stopped: no thread can."""
        self._on_result = None
        self._on_error = ignore_error

    def deliver(self, result: Any, error: BaseException | None) -> None:
        """The call has ended, with a result or an error."""
        if error is not None:
            self._on_error(error)
        elif self._on_result is not None:
            self._on_result(result)


def ignore_error(error: BaseException) -> None:
    pass


def log_error(error: BaseException) -> None:
    log.error("a call on a thread failed: %s: %s", type(error).__name__, error, exc_info=error)
