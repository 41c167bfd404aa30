"""Worlds in which bytes go to and fro, or do not."""

from __future__ import annotations

import socket
import tracemalloc
from collections.abc import Iterator
from typing import Any

import reactor
from reactor.framing import SHORT, encode_frame
from reactor.simulation import World
from tests.conftest import KEY
from tests.zoo.scenarios.peers import (
    FIRST,
    MESSAGES,
    REPLY,
    SERVER,
    Accepting,
    Deaf,
    EchoMessages,
    Ended,
    Messages,
    Sink,
    Talker,
)

QUEUES = reactor.Limits(high_water=4096, low_water=1024, maximum_output=65536, stall_timeout=20.0)
CHUNK = 500


def conversation(world: World) -> None:
    """Messages of all sizes go to a server and come back."""
    server = world.listen(SERVER, EchoMessages, authkey=KEY)
    talker = world.connect(SERVER, Talker, authkey=KEY)
    world.run(until=talker.is_content)
    assert talker.messages == MESSAGES, "other messages came back"
    talker.close_when_done()
    world.run(until=lambda: not server.connections)


def endurance(world: World) -> None:
    """A client connects again and again until it has its answer, whatever breaks."""
    answered: list[Talker] = []

    class Patient(Talker):
        def handle_message(self, message: bytes) -> None:
            super().handle_message(message)
            if self.is_content():
                answered.append(self)
                self.close()

    world.host(SERVER[0], lambda host: host.listen(SERVER[1], EchoMessages, authkey=KEY))
    world.connect(SERVER, Patient, authkey=KEY, reconnect=reactor.Backoff())
    world.run(until=lambda: answered, timeout=100_000)


def impostor(world: World) -> None:
    """Whoever has no key, or a wrong one, gets no message through; whoever has it, does."""
    made = Accepting(Messages)
    world.listen(SERVER, made, authkey=KEY)
    strangers: list[Any] = [
        world.connect(SERVER, Talker, authkey=KEY + b"!", source="stranger"),
        world.connect(SERVER, Talker, source="stranger"),
    ]
    world.run(until=lambda: all(stranger.reason is not None for stranger in strangers))
    reasons = [stranger.reason for stranger in strangers]
    assert all(isinstance(reason, reactor.AuthenticationError) for reason in reasons), reasons
    world.connect(SERVER, Talker, authkey=KEY)
    world.run(until=lambda: len(made.channels) == 3 and len(made.channels[2].messages) == FIRST)
    assert not any(channel.messages for channel in made.channels[:2]), "a stranger got a message through"


def endless_input(world: World) -> None:
    """Headers announce more than is allowed, and zeros follow without end."""

    class Pump(Sink):
        def handle_open(self) -> None:
            self.push(bytes.fromhex("7fffffff"))
            self.push(bytes(50_000) for _ in range(100))

    made = Accepting(Messages)
    for port, authkey in ((6000, None), (6001, KEY)):
        world.listen(("server", port), made, authkey=authkey)
        world.connect(("server", port), Pump)
    world.run(until=lambda: len(made.channels) == 2 and all(channel.reason for channel in made.channels), timeout=9)
    for channel in made.channels:
        assert isinstance(channel.reason, reactor.FrameError | reactor.AuthenticationError), channel.reason
        assert "limit" in str(channel.reason)


def empty_promises(world: World) -> None:
    """Headers announce as much as is allowed, and little follows: it takes no memory."""
    made = Accepting(Messages)
    listener = world.listen(SERVER, made)
    tracemalloc.start()
    try:
        for _ in range(10):
            client = world.connect(SERVER, Sink)
            client.push(SHORT.pack(listener.limits.maximum_frame // 8) + b"x" * 100)
        world.run(until=lambda: len(made.channels) == 10 and all(channel._decoder._body for channel in made.channels))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, f"{peak} bytes were allocated at once"


def half_close(world: World) -> None:
    """A peer ends its side behind its question; the answer is large, and comes at once, or late."""

    class Prompt(Ended, reactor.Stream):
        def handle_data(self, data: bytes) -> None:
            self.push(REPLY)

    class Late(Sink):
        ends = 0

        def handle_eof(self) -> None:
            self.ends += 1
            assert self.ends == 1, "it was told twice of one end"
            self.reactor.call_later(1.0, self.answer)

        def answer(self) -> None:
            self.push(REPLY)
            self.close_when_done()

    class Asker(Ended, reactor.Stream):
        def __init__(self) -> None:
            self.heard = bytearray()

        def handle_open(self) -> None:
            self.push(b"?")

        def handle_drained(self) -> None:
            self.socket.shutdown(socket.SHUT_WR)

        def handle_data(self, data: bytes) -> None:
            self.heard += data

    made = [Accepting(Prompt), Accepting(Late)]
    askers = []
    for port, factory in enumerate(made, start=6000):
        world.listen(("server", port), factory)
        askers.append(world.connect(("server", port), Asker))
    world.run(until=lambda: all(asker.reason is not None for asker in askers))
    assert [bytes(asker.heard) == REPLY for asker in askers] == [True, True], "a reply was lost"
    assert all(isinstance(asker.reason, reactor.PeerClosed) for asker in askers), [asker.reason for asker in askers]
    world.run(until=lambda: all(factory.channels[0].reason is not None for factory in made))


def last_word(world: World) -> None:
    """A server answers and closes while its peer still sends: the answer arrives whole."""

    class Curt(Sink):
        def handle_data(self, data: bytes) -> None:
            self.push(REPLY)
            self.close_when_done()

    class Chatterer(Ended, reactor.Stream):
        def __init__(self) -> None:
            self.heard = bytearray()

        def handle_open(self) -> None:
            self.push(b"?")
            for number in range(5):
                self.reactor.call_later(number / 50, self.push, bytes(1000))

        def handle_data(self, data: bytes) -> None:
            self.heard += data

    made = Accepting(Curt)
    world.listen(SERVER, made)
    client = world.connect(SERVER, Chatterer)
    world.run(until=lambda: client.reason is not None and made.channels[0].reason is not None)
    assert bytes(client.heard) == REPLY, f"{len(REPLY) - len(client.heard)} bytes were lost"
    assert isinstance(client.reason, reactor.PeerClosed), client.reason


def deserters(world: World) -> None:
    """Peers vanish while they are talked to: the next send says so."""

    class Talking(Sink):
        def handle_open(self) -> None:
            self.talk()

        def talk(self) -> None:
            if self.reason is None:
                self.push(bytes(1000))
                self.reactor.call_later(0.1, self.talk)

    made = Accepting(Talking)
    world.listen(SERVER, made)
    clients = [world.connect(SERVER, Deaf) for _ in range(3)]
    world.run(until=lambda: len(made.channels) == 3)
    for client in clients:
        world.call_later(1.0, client.close)
    world.run(until=lambda: all(channel.reason is not None for channel in made.channels), timeout=10)
    reasons = [channel.reason for channel in made.channels]
    assert all(isinstance(reason, reactor.ConnectionLost) for reason in reasons), reasons


def deaf_peer(world: World) -> None:
    """Peers that never read ask for more, are sent more unasked, or are to get all of an endless producer."""

    class Generous(Ended, reactor.Stream):
        def handle_data(self, data: bytes) -> None:
            self.push(bytes(5000))

    class Chattering(Sink):
        def handle_open(self) -> None:
            self.talk()

        def talk(self) -> None:
            if self.reason is None:
                self.push(bytes(20_000))
                self.reactor.call_later(0.1, self.talk)

    class Producing(Sink):
        def handle_open(self) -> None:
            self.push(endless())

    class Greedy(Deaf):
        def handle_open(self) -> None:
            super().handle_open()
            self.ask()

        def ask(self) -> None:
            if self.reason is None:
                self.push(bytes(1000))
                self.reactor.call_later(0.05, self.ask)

    def endless() -> Iterator[bytes]:
        while True:
            yield bytes(CHUNK)

    def producer_is_held_back() -> None:
        for channel in made[-1].channels:
            assert channel.output_size <= QUEUES.low_water + CHUNK, f"{channel.output_size} bytes were pulled"

    made = [Accepting(kind) for kind in (Generous, Chattering, Producing)]
    for port, (factory, client) in enumerate(zip(made, (Greedy, Deaf, Deaf), strict=True), start=6000):
        world.listen(("server", port), factory, limits=QUEUES)
        world.connect(("server", port), client)
    world.invariant(producer_is_held_back)
    world.run(until=lambda: all(factory.channels and factory.channels[0].reason for factory in made))
    reasons = [factory.channels[0].reason for factory in made]
    limits = [getattr(reason, "limit", None) for reason in reasons]
    assert limits == ["stall_timeout", "maximum_output", "stall_timeout"], reasons


def slow_loris(world: World) -> None:
    """A byte a second, in the handshake, while it is talked to, and while it is closed: each has its deadline."""
    limits = reactor.Limits(authentication_timeout=10.0, stall_timeout=10.0, drain_timeout=10.0)
    answer = encode_frame(b"{sha256}" + bytes(32))

    class Trickling(Sink):
        left = answer

        def handle_open(self) -> None:
            self.trickle()

        def trickle(self) -> None:
            if self.reason is None and self.left:
                self.push(self.left[:1])
                self.left = self.left[1:]
                self.reactor.call_later(1.0, self.trickle)

    class DeafTrickling(Trickling):
        def handle_open(self) -> None:
            self.pause_reading()
            self.trickle()

    class Talking(Sink):
        def handle_open(self) -> None:
            self.push(bytes(1 << 20))
            self.talk()

        def talk(self) -> None:
            if self.reason is None:
                self.push(b"and")
                self.reactor.call_later(1.0, self.talk)

    class Leaving(Sink):
        def handle_open(self) -> None:
            self.push(bytes(1 << 20))
            self.close_when_done()

    states = {"Authenticating": (Messages, Trickling), "Open": (Talking, Deaf), "Closing": (Leaving, DeafTrickling)}
    made = {name: Accepting(kind) for name, (kind, _) in states.items()}
    for port, (name, (kind, client)) in enumerate(states.items(), start=6000):
        options = {"authkey": KEY} if kind is Messages else {}
        world.listen(("server", port), made[name], limits=limits, **options)
        world.connect(("server", port), client)

    def all_are_gone() -> bool:
        return all(factory.channels and factory.channels[0].reason for factory in made.values())

    world.run(until=all_are_gone, timeout=14)
    for factory in made.values():
        assert isinstance(factory.channels[0].reason, reactor.DeadlineError), factory.channels[0].reason


def silent_peers(world: World) -> None:
    """Silent peers take all the places that there are: the good one is served all the same, and they go."""
    places = [
        reactor.Limits(authentication_timeout=30.0, maximum_unauthenticated=4),
        reactor.Limits(authentication_timeout=30.0, maximum_connections=6),
    ]
    listeners = []
    for port, limits in enumerate(places, start=6000):
        listeners.append(world.listen(("server", port), EchoMessages, authkey=KEY, limits=limits))
        for _ in range(10):
            world.connect(("server", port), Sink, source="silent")
    world.run(timeout=1)
    talkers = [world.connect(("server", port), Talker, authkey=KEY) for port in (6000, 6001)]
    world.run(until=lambda: all(talker.is_content() for talker in talkers), timeout=10)
    for talker in talkers:
        talker.close()
    world.run(until=lambda: all(listener.connections == 0 for listener in listeners), timeout=35)
