"""How connections come into being, or do not."""

from __future__ import annotations

import reactor
from reactor.simulation import World

from .peers import (
    AGES,
    PATIENCE,
    PORT,
    SERVER,
    EchoStream,
    Greeter,
    begin,
    is_broken,
    serving,
    settle,
    still_serves,
    talk,
)


class Halfhearted(Greeter):
    """Tries only once."""

    def handle_reconnecting(self, channel: reactor.Channel, delay: float) -> None:
        channel.close()


def stream_connects_and_closes(world: World) -> None:
    world.host("server", serving(EchoStream))
    talk(world, Greeter)
    still_serves(world, Greeter)


def nobody_listens(world: World) -> None:
    world.host("server")
    client = world.connect(SERVER, lambda: Greeter([]))
    world.run(until=lambda: client.ended, timeout=AGES)
    assert world.elapsed < 40 or is_broken(world)
    assert isinstance(client.ended, reactor.ConnectError | reactor.DeadlineError)
    settle(world)


def nobody_answers(world: World) -> None:
    world.host("server").kill(power_cut=True)
    client = world.connect(SERVER, lambda: Greeter([]), limits=reactor.Limits(connect_timeout=5))
    world.run(until=lambda: client.ended, timeout=AGES)
    assert world.elapsed < 10 or is_broken(world)
    assert isinstance(client.ended, reactor.ConnectError | reactor.DeadlineError)
    assert is_broken(world) or getattr(client.ended, "limit", "") == "connect_timeout"
    settle(world, "client")


def name_is_unknown(world: World) -> None:
    client = world.connect(("nowhere", PORT), lambda: Greeter([]))
    world.run(until=lambda: client.ended, timeout=AGES)
    assert world.elapsed < 40 or is_broken(world)
    assert isinstance(client.ended, reactor.ConnectError | reactor.DeadlineError)
    settle(world)


def name_has_addresses_of_two_families(world: World) -> None:
    world.host("server", lambda host: host.listen(("", PORT), EchoStream))
    world.host("other", serving(EchoStream))
    every = [
        begin(world, Greeter, source="one"),
        begin(world, Greeter, source="two", family="AF_INET6"),
        begin(world, Greeter, source="one", address=("fd00::1", PORT)),
        begin(world, Greeter, source="two", address=("other", PORT)),  # which has IPv4 only
    ]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Greeter, family="AF_INET6")


def connect_is_given_up(world: World) -> None:
    world.host("server", serving(EchoStream))
    world.host("void").kill(power_cut=True)
    hopeless = world.connect(("void", PORT), lambda: Greeter([]))
    hasty = world.connect(SERVER, lambda: Greeter([]), reconnect=PATIENCE)
    hasty.close()
    late = world.connect(SERVER, lambda: Greeter([]), reconnect=PATIENCE)
    late.close_when_done()
    world.call_later(1.0, hopeless.close)
    world.run(until=lambda: hopeless.ended and hasty.ended and late.ended, timeout=AGES)
    assert is_broken(world) or isinstance(hopeless.ended, reactor.ClosedHere)
    still_serves(world, Greeter)


def attempts_are_used_up(world: World) -> None:
    world.host("server")
    tries: list[Greeter] = []

    def next_try() -> Greeter:
        tries.append(Greeter([]))
        return tries[-1]

    world.connect(SERVER, next_try, reconnect=reactor.Backoff(attempts=4))
    settle(world)
    assert len(tries) == 4
    assert all(isinstance(one.ended, reactor.ConnectError | reactor.DeadlineError) for one in tries)


def reconnecting_is_called_off(world: World) -> None:
    world.host("server")
    tries: list[Halfhearted] = []

    def next_try() -> Halfhearted:
        tries.append(Halfhearted([]))
        return tries[-1]

    world.connect(SERVER, next_try, reconnect=PATIENCE)
    settle(world)
    assert [type(one.ended) for one in tries[1:]] == [reactor.ClosedHere]
