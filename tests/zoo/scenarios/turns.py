"""Worlds in which somebody wants more of a turn than its share, raises, or comes at the wrong time."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import reactor
from reactor.errors import ReactorError
from reactor.framing import encode_frame
from reactor.limits import ACCEPTS_PER_TURN, FRAMES_PER_TURN, RECEIVE_SIZE
from reactor.simulation import World
from tests.conftest import KEY
from tests.faults import stack_depth
from tests.zoo.scenarios.peers import SERVER, Accepting, Echo, EchoMessages, Ended, Messages, Sink, Talker


class Planted(Exception):
    """What a hook of the scenario raises."""


def fair_shares(world: World) -> None:
    """Nobody has more than a share of a turn: frames, bytes, connections, calls, timers."""
    shares: Counter[tuple[int, str]] = Counter()
    taken: Counter[str] = Counter()
    wanted = {"frames": 1500, "bytes": 200_000, "connections": 2 * ACCEPTS_PER_TURN, "calls": 50, "timers": 50}

    def takes(loop: reactor.Reactor, what: str, most: int, much: int = 1) -> None:
        taken[what] += much
        shares[loop.turns, what] += much
        assert shares[loop.turns, what] <= most, f"{what} took {shares[loop.turns, what]} in one turn, not {most}"

    class Frames(Messages):
        def handle_message(self, message: bytes) -> None:
            takes(self.reactor, "frames", 2 * FRAMES_PER_TURN)  # the last of one receive, the first of the next

    class Bytes(Sink):
        def handle_data(self, data: bytes) -> None:
            takes(self.reactor, "bytes", RECEIVE_SIZE, len(data))

    class Counting(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            takes(self.reactor, "connections", ACCEPTS_PER_TURN)

    def call_again() -> None:
        takes(loop, "calls", 1)
        if taken["calls"] < wanted["calls"]:
            loop.call_soon(call_again)

    def run_again() -> None:
        takes(loop, "timers", 1)
        if taken["timers"] < wanted["timers"]:
            loop.call_at(0.0, run_again)

    server = world.host("server")
    loop = server.reactor
    world.listen(("server", 6000), Frames)
    world.listen(("server", 6001), Bytes)
    Counting(("0.0.0.0", 6002), Sink, reactor=loop)
    world.connect(("server", 6000), Sink).push(encode_frame(b"") * wanted["frames"])
    world.connect(("server", 6001), Sink).push(bytes(wanted["bytes"]))
    for _ in range(wanted["connections"]):
        world.connect((server.addresses[socket.AF_INET], 6002), Sink)
    loop.call_soon(call_again)
    loop.call_at(0.0, run_again)
    world.run(until=lambda: taken == wanted, timeout=600)


def raising_hooks(world: World) -> None:
    """Every hook and every callback raises: the good peer notices nothing, and each ends once."""
    world.tolerate(Planted)

    def raising(*hooks: str) -> type[Echo]:
        def fail(self: Any, *_: object) -> None:
            raise Planted

        def fail_at_close(self: Any, reason: ReactorError) -> None:
            Echo.handle_close(self, reason)
            raise Planted

        methods = {hook: fail_at_close if hook == "handle_close" else fail for hook in hooks}
        return type("Victim", (Echo,), methods)

    def fail(*_: object) -> Any:
        raise Planted

    class Refusing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            raise Planted

    class Pinger(Sink):
        def handle_open(self) -> None:
            self.push(b"ping")
            self.reactor.call_later(0.5, self.close_when_done)

    server = world.host("server")
    world.listen(SERVER, EchoMessages, authkey=KEY)
    talker = world.connect(SERVER, Talker, authkey=KEY)
    made = [
        Accepting(raising(*hooks.split()))
        for hooks in (
            "handle_open", "handle_data", "handle_eof", "handle_drained", "handle_close", "handle_data handle_error",
            "handle_data handle_error handle_close",
        )
    ]  # fmt: skip
    for port, factory in enumerate(made, start=7000):
        world.listen(("server", port), factory)
        world.connect(("server", port), Pinger)
    world.listen(("server", 7100), fail)
    world.connect(("server", 7100), Pinger)
    Refusing(("0.0.0.0", 7101), Sink, reactor=server.reactor)
    world.connect(("server", 7101), Pinger)
    server.reactor.call_soon(fail)
    server.reactor.call_later(0.1, fail)
    server.reactor.run_in_thread(fail, on_error=fail)
    try:
        world.run(until=talker.is_content)
        world.run(until=lambda: all(factory.channels and factory.channels[0].reason for factory in made))
        again = world.connect(SERVER, Talker, authkey=KEY)
        world.run(until=again.is_content)
    except Planted as error:
        raise AssertionError("an exception of a handler came out of the loop") from error


def nesting(world: World) -> None:
    """Calls that call themselves, hooks that close and connect others: no hook runs inside another."""
    inside: list[str] = []
    depths: set[int] = set()
    left = [200]

    class Watched(Ended, reactor.Stream):
        def enters(self, name: str, work: Callable[[], object]) -> None:
            assert not inside, f"{name} runs inside {inside}"
            inside.append(name)
            work()
            inside.pop()

        def handle_open(self) -> None:
            self.enters("handle_open", lambda: self.push(b"ping"))

        def handle_data(self, data: bytes) -> None:
            self.enters("handle_data", self.close_the_next)

        def handle_close(self, reason: ReactorError) -> None:
            super().handle_close(reason)
            self.enters("handle_close", self.close_the_next)

        def handle_error(self, error: Exception) -> None:
            self.enters("handle_error", lambda: None)

        def close_the_next(self) -> None:
            made.channels[made.channels.index(self) - 1].close()
            server.connect(("10.0.0.99", 1), Last)  # which fails at once: no descriptor is left

    class Last(Watched):
        def close_the_next(self) -> None:
            pass

    def chain() -> None:
        depths.add(stack_depth())
        left[0] -= 1
        if left[0]:
            loop.call_soon(chain)

    made = Accepting(Watched)
    server = world.host("server", descriptors=8)
    loop = server.reactor
    loop.call_soon(chain)
    world.listen(SERVER, made)
    clients = [world.connect(SERVER, Sink) for _ in range(6)]
    world.run(until=lambda: len(made.channels) == 6 and not left[0])
    assert len(depths) == 1, f"the stack grows: {sorted(depths)}"
    for client in clients:
        client.push(b"ping")
    world.run(until=lambda: all(channel.reason is not None for channel in made.channels))


def timetable(world: World) -> None:
    """Timers run when they are due, in their order; deadlines come when they should."""
    made = Accepting(Echo)
    world.listen(SERVER, made, limits=reactor.Limits(idle_timeout=30.0))
    world.connect(SERVER, Sink)
    world.run(until=lambda: made.channels, timeout=5)
    loop = world.hosts["server"].reactor
    began = world.now
    ran: list[tuple[float, int]] = []
    set_for: list[tuple[float, int]] = []

    def run(due: float, number: int) -> None:
        assert world.now >= due, f"a timer runs {due - world.now} s before its time"
        ran.append((due, number))

    for number in range(60):
        due = began + number * 7919 % 13
        timer = loop.call_at(due, run, due, number)
        if number % 5:
            set_for.append((due, number))
        else:
            timer.cancel()
    every = loop.call_every(2.0, lambda: None)
    world.run(until=lambda: len(ran) == len(set_for), timeout=15)
    assert ran == sorted(set_for), "timers ran out of order"
    every.cancel()
    world.run(until=lambda: made.channels[0].reason is not None, timeout=1000)
    assert world.now - began >= 25, "the idle deadline came too early"
