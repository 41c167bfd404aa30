"""Shutting down: accept no more, drain every queue, close all, cut off who is left."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .errors import ClosedHere, DeadlineError, PeerClosed, ReactorError

if TYPE_CHECKING:
    from .channel import Channel
    from .eventloop import Reactor

log = logging.getLogger("reactor")


class Shutdown:
    """A shutdown under way.

    Attributes:
        cut: the channels that did not come to a good end, by their class and peer.
        is_complete: whether all channels are closed; the loop then returns.
    """

    def __init__(self, reactor: Reactor, grace: float) -> None:
        self.cut: list[str] = []
        self._reactor = reactor
        self.is_complete = False
        self._timer = reactor.call_later(grace, self.cut_off)

    def start(self) -> None:
        """Ask every channel to come to its end."""
        for channel in list(self._reactor.channels):
            channel.state.shutdown(channel)

    def note(self, channel: Channel, reason: ReactorError) -> None:
        """`channel` is closed: was it cut off?"""
        if not isinstance(reason, ClosedHere | PeerClosed):
            self.cut.append(channel._name)

    def complete(self) -> None:
        """The last channel is gone."""
        self.is_complete = True
        self._timer.cancel()
        if self._reactor.is_running:
            self._reactor.stop()

    def cut_off(self) -> None:
        """Close whoever is left, now."""
        for channel in list(self._reactor.channels):
            if channel._is_unfinished:
                log.warning("%s: cut off at shutdown, before it was done", channel)
                channel.close(DeadlineError("cut off at shutdown", "grace"))
            else:
                channel.close()
