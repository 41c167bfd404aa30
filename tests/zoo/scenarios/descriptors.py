"""Worlds in which descriptors run out, come back, and belong to peers that are gone."""

from __future__ import annotations

import reactor
from reactor.simulation import World
from tests.conftest import KEY
from tests.zoo.scenarios.peers import SERVER, Accepting, Echo, EchoMessages, Ended, Messages, Sink


def rivalry(world: World) -> None:
    """Whoever hears something first closes all others, which may be ready in the same batch."""
    losers: set[reactor.Channel] = set()

    class Rival(Echo):
        def handle_data(self, data: bytes) -> None:
            assert self not in losers, "it was closed, and still hears something"
            super().handle_data(data)
            for other in made.channels:
                if other is not self and other not in losers:
                    losers.add(other)
                    other.close()

    class Client(Sink):
        heard = b""

        def handle_data(self, data: bytes) -> None:
            self.heard += data

    made = Accepting(Rival)
    world.listen(SERVER, made)
    clients = [world.connect(SERVER, Client) for _ in range(5)]
    world.run(until=lambda: len(made.channels) == 5 and all(client.state.name == "Open" for client in clients))
    for client in clients:
        client.push(b"ping")
    world.run(until=lambda: sum(rival.reason is not None for rival in made.channels) == 4)
    world.run(until=lambda: any(client.heard == b"ping" for client in clients))
    assert len(losers) == 4, losers
    late = world.connect(SERVER, Client)  # it gets the descriptor of one that is gone
    late.push(b"pong")
    world.run(until=lambda: late.heard == b"pong")


def too_few_descriptors(world: World) -> None:
    """More peers come than there are descriptors; some stay for a while; all are served in the end."""

    class Guest(Ended, reactor.Stream):
        stay = 0.0
        served = False

        def handle_open(self) -> None:
            self.push(b"ping")

        def handle_data(self, data: bytes) -> None:
            self.served = True
            self.reactor.call_later(self.stay, self.close)

    class Resident(Guest):
        stay = 3.0

    world.host("server", descriptors=6)
    world.listen(SERVER, Echo)
    guests: list[Guest] = [world.connect(SERVER, Resident) for _ in range(4)]
    world.run(until=lambda: all(guest.served for guest in guests))
    guests += [world.connect(SERVER, Guest) for _ in range(4)]
    world.run(until=lambda: all(guest.served for guest in guests), timeout=10)


def doorstep(world: World) -> None:
    """A peer is gone before it is accepted; the next one is served, and nothing is left of the first."""
    answered: list[reactor.Channel] = []

    class Patient(Messages):
        def handle_open(self) -> None:
            self.send(b"ping")

        def handle_message(self, message: bytes) -> None:
            answered.append(self)
            self.close()

    listener = world.listen(SERVER, EchoMessages, authkey=KEY)
    for _ in range(4):
        world.connect(SERVER, Patient, authkey=KEY, reconnect=reactor.Backoff())
    world.run(until=lambda: len(answered) >= 4 and not listener.connections, timeout=3000)
    table = world.hosts["server"].table
    assert len(table) == 2, f"the server has more than its waker and its listener: {sorted(table.values(), key=str)}"
