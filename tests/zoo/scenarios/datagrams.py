"""Worlds in which datagrams go to and fro, or to nobody."""

from __future__ import annotations

import errno
from typing import Any

import reactor
from reactor.errors import DatagramError, LimitError
from reactor.simulation import World
from tests.zoo.scenarios.peers import SERVER, Ended

LARGEST = 1000
LETTERS = [b"first", b"", bytes(range(250)) * 4, b"", b"last"]
HASTE = reactor.Limits(high_water=1000, low_water=1000, maximum_output=10_000)
AGAIN = 1.0


class Post(Ended, reactor.Datagram):
    """Keeps what it is told has gone wrong."""

    def __init__(self) -> None:
        self.told: list[Exception] = []

    def handle_error(self, error: Exception) -> None:
        self.told.append(error)


class EchoPost(Post):
    """Sends back what comes."""

    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.send_to(data, address)


class Writer(Post):
    """Writes all letters, and one that is too large, again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.missing = set(LETTERS)

    def handle_open(self) -> None:
        self.write()

    def write(self) -> None:
        if self.reason is None:
            self.reactor.call_later(AGAIN, self.write)
            for letter in (*LETTERS, bytes(LARGEST + 1)):
                self.send_to(letter)

    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.missing.discard(data)


def serve(world: World) -> EchoPost:
    limits = reactor.Limits(maximum_datagram=LARGEST)
    with world.tape.calm():
        return EchoPost.bind(("", SERVER[1]), limits=limits, reactor=world.host(SERVER[0]).reactor)


def write(world: World, **options: Any) -> Writer:
    with world.tape.calm():
        return Writer.connect(SERVER, reactor=world.host("client").reactor, **options)


def correspondence(world: World) -> None:
    """Letters of all sizes come back, however often they must be written; all but the one that is too large."""
    server, writer = serve(world), write(world)
    world.run(until=lambda: not writer.missing)
    world.run(until=lambda: any(isinstance(error, LimitError) for error in server.told))
    assert server.reason is None, f"the server was closed: {server.reason}"
    assert writer.reason is None, f"the writer was closed: {writer.reason}"
    mistakes = [error for error in writer.told if not isinstance(error, DatagramError)]
    assert not mistakes, f"the writer was blamed: {mistakes}"


def nobody_home(world: World) -> None:
    """Letters are refused until somebody moves in."""
    world.host(SERVER[0])
    writer = write(world)
    world.run(until=lambda: any(getattr(error, "errno", 0) == errno.ECONNREFUSED for error in writer.told))
    serve(world)
    world.run(until=lambda: not writer.missing)


def haste(world: World) -> None:
    """More is written at once than may wait."""
    serve(world)
    writer = write(world, limits=HASTE)
    taken = [writer.send_to(letter) for letter in LETTERS * 100]
    assert True in taken
    world.run(until=lambda: not writer.missing)
