"""Peers that fall silent, or whose power is cut: a deadline ends every state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reactor
from reactor.simulation import World
from tests.conftest import KEY, Accepting

from .peers import AGES, SERVER, Asker, Checked, Client, Echo, begin, is_broken, serving, settle, still_serves

SHORT = reactor.Limits(
    authentication_timeout=4, idle_timeout=20, stall_timeout=10, drain_timeout=6, linger_timeout=2,
)  # fmt: skip


class Mute(Checked, reactor.Stream):
    """Connects, and says nothing."""

    def handle_data(self, data: bytes) -> None:
        """It does not care."""


class Visitor(Client, reactor.Connection):
    """Is there, and does nothing."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.done.append(self)


class Flooding(Echo):
    """Sends much after a moment."""

    def handle_open(self) -> None:
        self.reactor.call_later(1, self.flood)

    def flood(self) -> None:
        for _ in range(5):
            self.send(bytes(100_000))


class FloodingAndClosing(Flooding):
    """Sends much after a moment, and closes behind it."""

    def flood(self) -> None:
        super().flood()
        self.close_when_done()


class Closing(Flooding):
    """Closes after a moment, when it has sent a little."""

    def flood(self) -> None:
        self.send(b"good bye")
        self.close_when_done()


def peer_says_nothing(world: World) -> None:
    server = Accepting(Echo)
    world.host("server", serving(server, authkey=KEY, limits=SHORT))
    client = world.connect(SERVER, Mute)
    world.run(until=lambda: client.ended, timeout=AGES)
    assert is_broken(world) or server.channels[0].ended.limit == "authentication_timeout"
    still_serves(world, Asker, authkey=KEY)


def vanishes(world: World, factory: Callable[[], Any], limits: set[str]) -> None:
    """The client's power is cut while it is connected; `limits` are what may end its channel at the server."""
    server = Accepting(factory)
    world.host("server", serving(server, limits=SHORT))
    opened = begin(world, Visitor)
    world.run(until=lambda: opened, timeout=AGES)
    world.host("client").kill(power_cut=True)
    settle(world, "server")
    for channel in server.channels:
        assert is_broken(world) or getattr(channel.ended, "limit", "") in limits
    still_serves(world, Asker)


def peer_vanishes_from_an_idle_connection(world: World) -> None:
    vanishes(world, Echo, {"idle_timeout", ""})  # or keepalive, where the loop is woken for nothing again and again


def peer_vanishes_while_much_is_sent_to_it(world: World) -> None:
    vanishes(world, Flooding, {"stall_timeout"})


def peer_vanishes_while_the_server_closes(world: World) -> None:
    vanishes(world, FloodingAndClosing, {"drain_timeout"})


def peer_vanishes_before_its_last_byte(world: World) -> None:
    vanishes(world, Closing, {"", "drain_timeout"})  # the last one where the buffers are tiny
