"""Shutting down: accept no more, drain every queue, close all, cut off who is left."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .eventloop import Reactor

log = logging.getLogger("reactor")


class Shutdown:
    """A shutdown under way.

    Attributes:
        cut: the names of the peers that were cut off while something waited for them.
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

    def complete(self) -> None:
        """The last channel is gone."""
        self.is_complete = True
        self._timer.cancel()
        self._reactor.stop()

    def cut_off(self) -> None:
        """Close whoever is left, now."""
        for channel in list(self._reactor.channels):
            if channel.output_size:
                self.cut.append(str(channel))
                log.warning("%s: cut off at shutdown, %d bytes unsent", channel, channel.output_size)
            channel.close()
