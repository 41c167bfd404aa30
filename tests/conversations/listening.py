"""Listeners that pause, run out of descriptors, or have as many peers as they may have."""

from __future__ import annotations

import reactor
from reactor.simulation import World
from tests.conftest import KEY

from .peers import AGES, PORT, SERVER, Asker, Echo, EchoStream, Greeter, begin, serving, still_serves
from .timeouts import Mute


class Dawdler(Greeter):
    """Stays for a while when it has heard what it wanted to."""

    def finish(self) -> None:
        self.reactor.call_later(0.5, self.leave)

    def leave(self) -> None:
        super().finish()


class Choosy(reactor.Listener):
    """Refuses some, and rests after others."""

    accepted = 0

    def handle_accepted(self, channel: reactor.Channel) -> None:
        self.accepted += 1
        if self.accepted % 3 == 1:
            channel.close()
        if self.accepted % 3 == 2:
            self.pause()
            self.reactor.call_later(0.2, self.resume)


def listener_pauses(world: World) -> None:
    listener = world.listen(SERVER, EchoStream)
    listener.pause()
    done = begin(world, Greeter)
    world.run(timeout=5)
    assert not done
    listener.resume()
    world.run(until=lambda: done, timeout=AGES)
    still_serves(world, Greeter)


def listener_pauses_again_and_again(world: World) -> None:
    listener = world.listen(SERVER, EchoStream)
    for step in range(20):
        world.call_later(step * 0.03, listener.resume if step % 2 else listener.pause)
    every = [begin(world, Dawdler) for _ in range(4)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)


def descriptors_run_out(world: World) -> None:
    world.host("server", serving(EchoStream), descriptors=6)  # one for the waker, one for the listener
    every = [begin(world, Dawdler) for _ in range(9)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)


def connections_are_as_many_as_may_be(world: World) -> None:
    world.host("server", serving(EchoStream, limits=reactor.Limits(maximum_connections=3)))
    every = [begin(world, Dawdler) for _ in range(8)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)


def one_peer_has_as_many_connections_as_it_may(world: World) -> None:
    world.host("server", serving(EchoStream, limits=reactor.Limits(maximum_connections_per_peer=2)))
    every = [begin(world, Dawdler, is_steady=False) for _ in range(3)]
    every.append(begin(world, Greeter, source="neighbour"))
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)


def silent_peers_take_every_place(world: World, limits: reactor.Limits) -> None:
    """Those who say nothing are sent away for one who authenticates."""
    world.host("server", serving(Echo, authkey=KEY, limits=limits))
    mutes = [world.connect(SERVER, Mute, source="crowd") for _ in range(5)]
    done = begin(world, Asker, authkey=KEY, is_steady=False)
    world.run(until=lambda: done and all(mute.ended for mute in mutes), timeout=AGES)
    still_serves(world, Asker, authkey=KEY)


def silent_peers_take_every_place_of_the_unauthenticated(world: World) -> None:
    silent_peers_take_every_place(world, reactor.Limits(maximum_unauthenticated=3))


def silent_peers_take_every_connection(world: World) -> None:
    silent_peers_take_every_place(world, reactor.Limits(maximum_connections=3))


def listener_is_choosy(world: World) -> None:
    world.host("server", lambda host: Choosy(("0.0.0.0", PORT), EchoStream, reactor=host.reactor))
    every = [begin(world, Dawdler, is_steady=False) for _ in range(6)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)


def listener_closes_while_peers_wait(world: World) -> None:
    listener = world.listen(SERVER, EchoStream)
    inside = begin(world, Dawdler, is_steady=False)
    world.run(until=lambda: inside or listener.connections, timeout=AGES)
    listener.pause()
    outside = begin(world, Greeter, is_steady=False)
    world.run(timeout=0.1)
    listener.close()
    world.run(timeout=1)
    world.listen(SERVER, EchoStream)
    world.run(until=lambda: inside and outside, timeout=AGES)
    still_serves(world, Greeter)


def factory_fails_now_and_then(world: World) -> None:
    world.tolerate(ZeroDivisionError)
    accepted: list[None] = []

    def factory() -> EchoStream:
        accepted.append(None)
        return EchoStream() if len(accepted) % 2 == 0 else 1 // 0  # type: ignore[return-value]

    world.host("server", serving(factory))
    every = [begin(world, Greeter, is_steady=False) for _ in range(3)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter)
