"""TLS in simulated worlds: it is real, and yet one seed has one trace; and what the witness knows of it."""

from __future__ import annotations

import json
import ssl
import subprocess
from typing import Any

import pytest

import reactor
from reactor import tls
from reactor.channel import Channel
from reactor.simulation import Violation, World
from reactor.simulation.running import run_once
from reactor.simulation.witness import Ledger
from tests.certificates import steady_authorities, steady_certificate
from tests.interpreters import find_interpreters
from tests.reactor.simulation import encrypted_digests

SERVER = ("server", 6000)


class Keeping(reactor.Stream):
    """Keeps what it hears."""

    heard = b""

    def handle_data(self, data: bytes) -> None:
        self.heard += data


class Deaf(reactor.Stream):
    """Hears nothing."""

    def handle_open(self) -> None:
        self.pause_reading()


def encrypted(world: World, server: type[reactor.Stream] = Keeping) -> reactor.Stream:
    """Return a client that has much to say to a server, encrypted."""
    world.listen(SERVER, server, tls=steady_certificate("server"))
    client = world.connect(SERVER, Keeping, tls=reactor.ClientTls(steady_authorities()))
    client.push(bytes(1_000_000))
    return client


def upgraded(world: World) -> None:
    """Plaintext follows the request of a server for TLS, and is dropped; what is encrypted is heard."""

    class Server(Keeping):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            if self.tls is None:
                self.pause_reading()
                self.reactor.call_later(1, self.start_tls, steady_certificate("server"))

    made: list[Any] = []
    world.listen(SERVER, lambda: made.append(Server()) or made[-1])
    client = world.connect(SERVER, Keeping)
    client.push(b"request")
    world.call_later(0.5, client.push, b"plaintext")
    world.call_later(2, client.start_tls, reactor.ClientTls(steady_authorities()))
    world.call_later(2, client.push, b"ciphertext")
    world.run(timeout=5)
    assert made[0].heard == b"requestciphertext"


def test_run_with_tls_has_the_same_trace_each_time_and_on_every_python() -> None:
    files = steady_certificate("server"), steady_authorities()
    expected = encrypted_digests.digests(*files)
    assert len(set(expected)) == len(expected)
    assert encrypted_digests.digests(*files) == expected
    for version, path in find_interpreters().items():
        if version in ("3.11", "3.12", "3.13"):
            output = subprocess.check_output([path, "-s", "-S", "-B", encrypted_digests.__file__, *files], timeout=60)
            openssl, found = json.loads(output)
            assert found == expected or openssl != ssl.OPENSSL_VERSION, f"{path}: another trace"


def test_trace_shows_when_a_channel_is_secure() -> None:
    outcome = run_once(upgraded, draws={}, tracing=True)
    assert outcome.failure is None
    assert sum("handle_secured()" in line for line in outcome.trace) == 2


def test_channel_that_delivers_what_was_not_encrypted_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        encrypted(world)
        world.run(timeout=1)

    monkeypatch.setattr(Channel, "_start", Channel._begin)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "what was not encrypted is delivered"


def test_channel_that_encrypts_far_ahead_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        encrypted(world, Deaf)
        world.run(timeout=1)

    assert run_once(scenario, draws={}).failure is None
    monkeypatch.setattr(tls, "ENCRYPTED_AT_ONCE", 1 << 20)
    monkeypatch.setattr(tls, "UNASKED_ANSWERS", -(1 << 20))
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a queue is over its limit"


def test_buffer_that_is_not_empty_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def scenario(world: World) -> None:
        encrypted(world)
        world.run(timeout=1)

    right = tls.TlsSocket.send

    def send(self: tls.TlsSocket, data: bytes | memoryview) -> int:
        sent = right(self, data)
        self._outgoing.write(b"left")
        return sent

    monkeypatch.setattr(tls.TlsSocket, "send", send)
    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "a buffer that all connections share is not empty"


@pytest.fixture
def ledger() -> Ledger:
    """What a channel was given to send that begins with TLS in the middle."""
    made = Ledger(reactor.Stream())
    made.add(b"plaintext")
    made.turn()
    made.add(b"secret")
    return made


def test_ledger_expects_plaintext_then_what_is_encrypted(ledger: Ledger) -> None:
    assert ledger.receive(b"plain") is None
    assert ledger.receive(b"text") is None
    ledger.pass_turning_point()
    assert ledger.receive(b"secret") is None


def test_ledger_reports_what_leaves_in_plaintext_behind_the_turning_point(ledger: Ledger) -> None:
    assert ledger.receive(b"plaintextsecret") == "6 bytes were delivered that were never sent"


def test_ledger_reports_plaintext_that_is_delivered_behind_the_turning_point(ledger: Ledger) -> None:
    assert ledger.receive(b"plain") is None
    ledger.pass_turning_point()
    assert str(ledger.receive(b"text")).startswith("other bytes were delivered than were sent")


@pytest.mark.parametrize("said", [b"\x16\x03\x01", b"\x15\x03\x03", b"H"])
def test_ledger_takes_what_tls_says_to_a_program_without_tls(ledger: Ledger, said: bytes) -> None:
    assert ledger.receive(b"plaintext" + said) is None
    assert ledger.receive(b"and so on") is None


def test_ledger_knows_nothing_of_a_turning_point_of_the_other_end_alone() -> None:
    ledger = Ledger(reactor.Stream())
    ledger.add(b"plaintext")
    ledger.pass_turning_point()
    assert ledger.receive(b"plaintext") is None
