"""What the conversations have in common: channels that check what they are told, and questions to a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reactor
from reactor.errors import ReactorError
from reactor.simulation import HARMLESS, Host, World

PORT = 6000
SERVER = ("server", PORT)
PATIENCE = reactor.Backoff()
AGES = 200_000.0
"""Virtual seconds. The longest timeout of all is a day, so what ever ends has ended by then."""


class Checked:
    """Mixed into a channel class: every end is the network's doing, or was asked for; nobody here makes mistakes.

    Attributes:
        ended: why the channel was closed, as soon as it is.
    """

    ended: ReactorError | None = None

    def handle_close(self, reason: ReactorError) -> None:
        assert isinstance(reason, reactor.RemoteError | reactor.ClosedHere), repr(reason)
        self.ended = reason


class Client(Checked):
    """Mixed into the class of a connecting side, which says `finish` when it has got all that it came for.

    Arguments:
        done: where it puts itself then.
    """

    def __init__(self, done: list[Any]) -> None:
        self.done = done

    def finish(self) -> None:
        self.done.append(self)
        self.close()  # type: ignore[attr-defined]


class EchoStream(Checked, reactor.Stream):
    """Sends back what came."""

    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Echo(Checked, reactor.Connection):
    """Sends back every frame."""

    codec = "bytes"

    def handle_message(self, message: bytes) -> None:
        self.send(message)


class Greeter(Client, reactor.Stream):
    """Says hello to an `EchoStream`, and leaves when it has heard that again."""

    heard = b""

    def handle_open(self) -> None:
        self.push(b"hello")

    def handle_data(self, data: bytes) -> None:
        self.heard += data
        assert b"hello".startswith(self.heard)
        if self.heard == b"hello":
            self.finish()


class Asker(Client, reactor.Connection):
    """Asks an `Echo` one question, and leaves with the answer."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.send(b"question")

    def handle_message(self, message: bytes) -> None:
        assert message == b"question"
        self.finish()


def serving(factory: Callable[[], reactor.Channel], **options: Any) -> Callable[[Host], object]:
    """Return a setup for a host that listens on `PORT`; see `Listener` for the `options`."""
    return lambda host: host.listen(PORT, factory, **options)


def begin(
    world: World,
    factory: Callable[[list[Any]], Any],
    *,
    address: tuple[str, int] = SERVER,
    is_steady: bool = True,
    **options: Any,
) -> list[Any]:
    """Have a `Client` connect, and once more whenever that ends too early.

    Arguments:
        factory: makes the client; given the list that the client puts itself into when it is done.
        is_steady: whether it is to be done at once, unless something happens that breaks connections.
        options: see `World.connect`.
    Returns: that list.
    """
    done: list[Any] = []
    clients: list[Any] = []

    def next_client() -> Any:
        assert not (clients and is_steady) or is_broken(world), f"{clients[-1]} had to connect again"
        clients.append(factory(done))
        return clients[-1]

    world.connect(address, next_client, reconnect=PATIENCE, **options)
    return done


def talk(world: World, factory: Callable[[list[Any]], Any], **options: Any) -> None:
    """Have a `Client` connect, and wait until it has got all that it came for; the options are those of `begin`."""
    done = begin(world, factory, **options)
    world.run(until=lambda: done, timeout=AGES)


def settle(world: World, *names: str, within: float = AGES) -> None:
    """Wait until nothing but listeners is left on the hosts `names`; on all of them, if none is named."""
    hosts = [world.host(name) for name in names or world.hosts]

    def only_listeners_are_left() -> bool:
        return all(is_quiet(host.reactor) if host.is_up else not host.can_restart for host in hosts)

    world.run(until=only_listeners_are_left, timeout=within)


def is_quiet(loop: reactor.Reactor) -> bool:
    """Return whether `loop` has no channels but listeners."""
    return all(isinstance(channel, reactor.Listener) for channel in loop.channels)


def still_serves(world: World, factory: Callable[[list[Any]], Any], **options: Any) -> None:
    """From now on all goes well: a client that comes now gets what it wants, and nothing is left of all the others."""
    with world.tape.calm():
        talk(world, factory, source="fresh", is_steady=False, **options)
        settle(world)


def is_broken(world: World) -> bool:
    """Return whether something has happened of which a right program may notice more than a delay."""
    return not HARMLESS.issuperset(world.faults)
