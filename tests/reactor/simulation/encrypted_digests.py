"""A program for any Python that runs the simulation: prints which OpenSSL it has, and a digest of each trace with TLS.

It is given two files: the certificate of a server, and the authority that has signed it. Lengths, and with them the
traces, are those of the certificate, and of one OpenSSL.
"""

from __future__ import annotations

import functools
import hashlib
import json
import ssl
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[3])

import reactor
from reactor.simulation import ALL, World
from reactor.simulation.running import run_once

SEEDS = 4
KEY = b"a long secret key"
WORDS = ["one", "two" * 9000, "three"]
ENOUGH = 200.0


class Worker(reactor.Connection):
    """Sends back what comes."""

    def handle_message(self, message: str) -> None:
        self.send(message)


class Customer(reactor.Connection):
    """Sends all words, and leaves when all have come back."""

    def __init__(self, done: list[Customer]) -> None:
        self.done = done
        self.missing = list(WORDS)

    def handle_open(self) -> None:
        for word in WORDS:
            self.send(word)

    def handle_message(self, message: str) -> None:
        assert message == self.missing.pop(0)
        if not self.missing:
            self.done.append(self)
            self.close_when_done()


def work(server_tls: reactor.ServerTls, client_tls: reactor.ClientTls, world: World) -> None:
    done: list[Customer] = []
    world.host("server", lambda host: host.listen(6000, Worker, authkey=KEY, tls=server_tls))
    world.connect(
        ("server", 6000), lambda: Customer(done), authkey=KEY, tls=client_tls, reconnect=reactor.Backoff(maximum=2)
    )
    world.run(until=lambda: done or world.elapsed > ENOUGH, timeout=10_000)


def digests(certificate: str, authorities: str) -> list[str]:
    """Return a digest of what happened with each seed, and how it ended."""
    scenario = functools.partial(work, reactor.ServerTls(certificate), reactor.ClientTls(authorities))
    found = []
    for seed in range(SEEDS):
        outcome = run_once(scenario, seed, faults=ALL, tracing=True)
        lines = [*outcome.trace, str(outcome.report), repr(outcome.failure)]
        found.append(hashlib.sha256("\n".join(lines).encode()).hexdigest())
    return found


if __name__ == "__main__":
    json.dump([ssl.OPENSSL_VERSION, digests(*sys.argv[1:])], sys.stdout)
