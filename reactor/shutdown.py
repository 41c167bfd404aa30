"""Shutting down: accept no more, drain every queue, close all, cut off who is left."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .eventloop import Reactor

log = logging.getLogger("reactor")


class Shutdown:
    """A shutdown under way. Attribute `cut`: the names of the peers that had to be cut off, at the end."""

    def __init__(self, reactor: Reactor, grace: float) -> None:
        self.cut: list[str] = []
        self._reactor = reactor
        self._timer = reactor.call_later(grace, self._cut_off)
        for channel in list(reactor.channels):
            channel.state.shutdown(channel)
        if not reactor.channels:
            self.complete()

    def complete(self) -> None:
        """The last channel is gone."""
        self._timer.cancel()
        self._reactor.stop()

    def _cut_off(self) -> None:
        for channel in list(self._reactor.channels):
            self.cut.append(str(channel))
            log.warning("%s: cut off at shutdown, %d bytes unsent", channel, channel.output_size)
            channel.close()
