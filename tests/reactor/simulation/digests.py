"""A program for any Python that runs the simulation: prints a digest of the trace of each scenario and seed.

With the name of a scenario and a seed it prints that trace. It needs nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import reactor
from reactor.simulation import ALL, Host, World
from reactor.simulation.running import run_once

SEEDS = 12
KEY = b"a long secret key"
WORDS = {"one", "two", "three", "four", "five", "six"}
"""A set, whose order is another one under every PYTHONHASHSEED; the scenarios do not let it show."""


class Worker(reactor.Connection):
    """Answers with a file, an iterator, and what a thread has computed."""

    def handle_message(self, message: Any) -> None:
        file = tempfile.TemporaryFile()
        file.write(message.encode() * 5000)
        file.seek(0)
        self.push(file)
        self.push(b"%d" % number for number in range(5))
        self.reactor.run_in_thread(sum, range(10), on_result=lambda result: self.send_bytes(b"%d" % result))


class Customer(reactor.Connection):
    """Asks with each word, on a new connection where one has broken."""

    def __init__(self, answered: set[str]) -> None:
        self.answered = answered

    def handle_open(self) -> None:
        for word in sorted(WORDS - self.answered):
            self.send(word)

    def handle_frame(self, data: bytes) -> None:
        for word in WORDS:
            if data == word.encode() * 5000:
                self.answered.add(word)
        if self.answered == WORDS:
            self.close_when_done()


class Relay(reactor.Stream):
    """Passes on to the next host what comes in."""

    following: reactor.Stream

    def handle_open(self) -> None:
        self.following = Sink.connect(("last", 6000), reconnect=reactor.Backoff())

    def handle_data(self, data: bytes) -> None:
        self.following.push(data)

    def handle_close(self, reason: Exception) -> None:
        if hasattr(self, "following"):
            self.following.close_when_done()


class Sink(reactor.Stream):
    """Takes what comes."""

    def handle_data(self, data: bytes) -> None:
        pass


class Source(reactor.Stream):
    """Sends, and ends."""

    def handle_open(self) -> None:
        self.push(bytes(range(256)) * 2000)
        self.close_when_done()


def work(world: World) -> None:
    answered: set[str] = set()
    world.host("server", lambda host: host.listen(6000, Worker, authkey=KEY))
    world.connect(("server", 6000), lambda: Customer(answered), authkey=KEY, reconnect=reactor.Backoff(maximum=2))
    world.run(until=lambda: answered == WORDS, timeout=10_000)


def relay(world: World) -> None:
    world.host("last", lambda host: host.listen(6000, Sink))
    world.host("middle", lambda host: host.listen(6000, Relay))
    for number in range(3):
        world.connect(("middle", 6000), Source, source=f"client{number}")
    world.run(timeout=100)


def datagrams(world: World) -> None:
    hosts = [world.host(name) for name in ("one", "two", "three")]
    sockets = []
    for host in hosts:
        with world.tape.calm():
            sock: Any = host.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
            sock.bind(("", 53))
        sockets.append(sock)
    for number in range(20):
        for sock, host in zip(sockets, hosts, strict=True):
            try:
                sock.sendto(b"%d" % number, (world.choose(hosts).addresses[socket.AF_INET], 53))
                world.note(f"took {sock.recv(100)!r}", host.name)
            except OSError as error:
                world.note(str(error), host.name)
        world.call_later(0.1, len, sockets)
        world.run(timeout=0.1)
    for sock in sockets:
        try:
            sock.close()
        except OSError as error:
            world.note(str(error))


def outages(world: World) -> None:
    def ask(host: Host) -> None:
        host.connect(("server", 6000), Source, reconnect=reactor.Backoff(maximum=2))

    world.host("server", lambda host: host.listen(6000, Sink))
    world.host("client", ask)
    world.call_later(1, world.partition, "server", "client")
    world.call_later(3, world.host("server").kill, True)
    world.call_later(4, world.heal, "server", "client")
    world.call_later(5, world.host("server").restart)
    world.call_later(60, world.host("client").kill)
    world.run(timeout=120)


SCENARIOS = [work, relay, datagrams, outages]


def trace_of(name: str, seed: int) -> list[str]:
    """Return what happened, and how it ended."""
    scenario = next(scenario for scenario in SCENARIOS if scenario.__name__ == name)
    outcome = run_once(scenario, seed, faults=ALL, tracing=True)
    return [*outcome.trace, str(outcome.report), repr(outcome.failure)]


def digests() -> dict[str, str]:
    """Return a digest for each scenario and seed."""
    return {
        f"{scenario.__name__} {seed}": hashlib.sha256("\n".join(trace_of(scenario.__name__, seed)).encode()).hexdigest()
        for scenario in SCENARIOS
        for seed in range(SEEDS)
    }


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print("\n".join(trace_of(sys.argv[1], int(sys.argv[2]))))
    else:
        json.dump(digests(), sys.stdout)
