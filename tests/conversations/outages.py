"""Outages: hosts that are killed, networks that part, and a shutdown with peers that do not help."""

from __future__ import annotations

from functools import partial
from typing import Any

import reactor
from reactor.simulation import World
from tests.conftest import KEY, Accepting

from .peers import AGES, PATIENCE, PORT, SERVER, Asker, Checked, Client, Echo, begin, is_broken, serving, still_serves
from .timeouts import Mute

STEPS = 12


class Persistent(Client, reactor.Connection):
    """Counts with an `Echo`, a step every half second; each connection goes on where the one before it ended.

    Arguments:
        steps: how far it has come.
    """

    codec = "bytes"

    def __init__(self, steps: list[bytes], done: list[Any]) -> None:
        super().__init__(done)
        self.steps = steps

    def handle_open(self) -> None:
        self.ask()

    def ask(self) -> None:
        self.send(bytes([len(self.steps)]))

    def handle_message(self, message: bytes) -> None:
        assert message == bytes([len(self.steps)])
        self.steps.append(message)
        if len(self.steps) == STEPS:
            self.finish()
        else:
            self.reactor.call_later(0.5, self.ask)


class Generous(Checked, reactor.Connection):
    """Sends much, and stays."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.send(bytes(600_000))


class Resident(Client, reactor.Connection):
    """Is there, and takes what comes."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.done.append(self)

    def handle_message(self, message: bytes) -> None:
        assert len(message) == 600_000


class Sleeper(Resident):
    """Is there, and takes nothing."""

    def handle_open(self) -> None:
        super().handle_open()
        self.pause_reading()


def server_is_killed_and_restarted(world: World) -> None:
    server = world.host("server", serving(Echo))
    for second, power_cut in (1, False), (4, True):
        world.call_later(second, server.kill, power_cut)
        world.call_later(second + 2, server.restart)
    every = [begin(world, partial(Persistent, []), is_steady=False) for _ in range(2)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Asker)


def network_parts_and_heals(world: World) -> None:
    world.host("server", serving(Echo))
    for second in (1, 5):
        world.call_later(second, world.partition, "client", "server")
        world.call_later(second + 3, world.heal, "client", "server")
    every = [begin(world, partial(Persistent, [])) for _ in range(3)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Asker)


def client_and_server_are_one_program(world: World) -> None:
    world.host("server").listen(("", PORT), Echo)
    every = [begin(world, Asker, source="server", address=(name, PORT)) for name in ("server", "localhost", "::1")]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Asker)


def shutdown_cuts_off_who_does_not_drain(world: World) -> None:
    server = world.host("server")
    generous = Accepting(Generous)
    server.listen(PORT, generous)
    opened: list[Any] = []
    peers = [
        world.connect(SERVER, partial(factory, opened), source=source)
        for factory, source in ((Resident, "one"), (Resident, "one"), (Sleeper, "two"), (Sleeper, "three"))
    ]
    world.run(until=lambda: all(peer in opened or peer.ended for peer in peers), timeout=AGES)
    world.run(until=lambda: len(generous.channels) == len(peers) or is_broken(world), timeout=AGES)
    world.run(timeout=1)
    world.host("three").kill(power_cut=True)
    for channel in generous.channels:
        channel.send(bytes(600_000))
    shutdown = server.reactor.shutdown(grace=5)
    began = world.now
    world.run(until=lambda: shutdown.is_complete, timeout=AGES)
    assert world.now - began < 8 or is_broken(world)
    assert not server.reactor.channels
    assert len(shutdown.cut) == 2 or is_broken(world)
    server.listen(PORT, Echo)
    still_serves(world, Asker)


def shutdown_finds_channels_in_every_state(world: World) -> None:
    server = world.host("server")
    other = world.host("other", serving(Echo))
    server.listen(PORT, Generous).pause()
    server.listen(PORT + 1, Echo, authkey=KEY)
    server.listen(PORT + 2, Generous)
    world.connect(("server", PORT + 1), Mute)  # in the handshake
    world.connect(("server", PORT + 2), partial(Sleeper, []), source="other")  # throttled
    mine = [
        server.connect(("void", PORT), partial(Resident, []), reconnect=PATIENCE),
        server.connect(("other", PORT + 1), partial(Resident, []), reconnect=PATIENCE),  # waits, and tries again
        server.connect(("other", PORT), partial(Sleeper, []), reconnect=PATIENCE),  # paused
        server.connect(("other", PORT), partial(Resident, []), reconnect=PATIENCE),
    ]
    world.host("void").kill(power_cut=True)
    world.run(timeout=2)
    mine[-1].close_when_done()
    shutdown = server.reactor.shutdown(grace=5)
    began = world.now
    world.run(until=lambda: shutdown.is_complete, timeout=AGES)
    assert world.now - began < 8 or is_broken(world)
    assert not server.reactor.channels
    assert other.is_up or is_broken(world)
