"""Worlds in which what goes to and fro is encrypted, or should be."""

from __future__ import annotations

import socket
from typing import Any

import reactor
from reactor.simulation import World
from reactor.simulation.witness import endpoint_of
from tests.conftest import KEY
from tests.conversations.encryption import client_tls, server_tls
from tests.zoo.scenarios.peers import MESSAGES, SERVER, Accepting, Echo, EchoMessages, Ended, Sink, Talker

NO_RECORD = b"\x17\x03\x03\x00\x20" + bytes(32)
PLAINTEXT = b"a request in plaintext\r\n"
PATIENCE = reactor.Limits(tls_timeout=4.0)
CROWD = reactor.Limits(tls_timeout=None, maximum_unauthenticated=3)


class Keeping(Ended, reactor.Stream):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.heard = b""

    def handle_data(self, data: bytes) -> None:
        self.heard += data


def encrypted_conversation(world: World) -> None:
    """Messages of all sizes go to a server and come back, encrypted, by TLS 1.3 and by TLS 1.2."""
    server = world.listen(SERVER, EchoMessages, authkey=KEY, tls=server_tls())
    for tls in (client_tls(), client_tls(is_old=True)):
        talker = world.connect(SERVER, Talker, authkey=KEY, tls=tls)
        world.run(until=talker.is_content)
        assert talker.messages == MESSAGES, "other messages came back"
        talker.close_when_done()
        world.run(until=lambda: not server.connections)


def question_in_advance(world: World) -> None:
    """A question is queued before there is a connection; the server answers it, and ends the connection."""

    class Brief(Keeping):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            if self.heard == b"question":
                self.push(b"answer")
                self.close_when_done()

    made = Accepting(Brief)
    world.listen(SERVER, made, tls=server_tls())
    client = world.connect(SERVER, Keeping, tls=client_tls())
    client.push(b"question")
    world.run(until=lambda: client.reason is not None)
    assert client.heard == b"answer"
    world.run(until=lambda: made.channels[0].reason is not None)
    assert isinstance(client.reason, reactor.PeerClosed), f"the end was taken for something else: {client.reason!r}"


def farewell(world: World) -> None:
    """A client closes, and the server takes that for the end that it is."""
    made = Accepting(Keeping)
    world.listen(SERVER, made, tls=server_tls())
    client = world.connect(SERVER, Keeping, tls=client_tls())
    world.run(until=lambda: made.channels and client.state.name == made.channels[0].state.name == "Open")
    world.run(timeout=1)  # what the server says of its own accord has come: unread, it would lead to a reset
    client.close()
    world.run(until=lambda: made.channels[0].reason is not None)
    reason = made.channels[0].reason
    assert isinstance(reason, reactor.PeerClosed), f"the end was taken for something else: {reason!r}"


def damage(world: World) -> None:
    """Behind a message comes what nobody has encrypted, and then nothing: both are noticed."""
    made = Accepting(Keeping)
    world.listen(SERVER, made, tls=server_tls())
    client = world.connect(SERVER, Sink, tls=client_tls())
    world.run(until=lambda: made.channels and client.state.name == made.channels[0].state.name == "Open")
    (server,) = made.channels
    world.run(timeout=1)
    with world.tape.calm():
        client.socket.send(b"message")
        client.socket._raw.send(NO_RECORD)
    endpoint_of(client).ledger = None  # it knows nothing of this
    world.run(until=lambda: server.reason is not None)
    assert server.heard == b"message"
    assert isinstance(server.reason, reactor.TlsError), f"the damage was taken for something else: {server.reason!r}"


def truncation(world: World) -> None:
    """Somebody in between ends a connection in good order, as far as TCP is concerned."""
    made = Accepting(Keeping)
    world.listen(SERVER, made, tls=server_tls())
    client = world.connect(SERVER, Sink, tls=client_tls())
    client.push(b"all of")
    world.run(until=lambda: made.channels and made.channels[0].heard == b"all of")
    (server,) = made.channels
    endpoint_of(client).shutdown(socket.SHUT_WR)
    world.run(until=lambda: server.reason is not None)
    assert isinstance(server.reason, reactor.TruncatedError), f"it was taken for the end: {server.reason!r}"


def silence(world: World) -> None:
    """Peers who say nothing do not keep the loop busy, and have to go after a while."""
    made = Accepting(Echo)
    world.listen(SERVER, made, tls=server_tls(), limits=PATIENCE)
    world.connect(SERVER, Sink)
    world.run(until=lambda: made.channels and made.channels[0].reason is not None, timeout=10)
    assert getattr(made.channels[0].reason, "limit", "") == "tls_timeout", made.channels[0].reason


def crowd(world: World) -> None:
    """Many peers say nothing, and none of them locks anybody else out."""
    made = Accepting(EchoMessages)
    world.listen(SERVER, made, authkey=KEY, tls=server_tls(), limits=CROWD)
    mutes = [world.connect(SERVER, Sink) for _ in range(5)]
    world.run(until=lambda: sum(mute.reason is not None for mute in mutes) == 2)
    talker = world.connect(SERVER, Talker, authkey=KEY, tls=client_tls())
    world.run(until=talker.is_content)


def plaintext(world: World) -> None:
    """A client has never heard of TLS, and no handler ever hears of the client."""
    made = Accepting(Keeping)
    world.listen(SERVER, made, tls=server_tls())
    client = world.connect(SERVER, Sink)
    for step in range(5):
        world.call_later(step / 10, client.push, PLAINTEXT)
    world.run(until=lambda: made.channels and made.channels[0].reason is not None)
    (server,) = made.channels
    assert isinstance(server.reason, reactor.TlsError), f"it was taken for something else: {server.reason!r}"
    assert not server.heard, "it was delivered"


class Upgraded(Ended, reactor.LineChannel):
    """Encrypts when it is asked to; until then, and also behind that, it executes what it hears.

    Arguments:
        delay: seconds until it encrypts.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.executed: list[tuple[str, bool]] = []

    def handle_line(self, line: str) -> None:
        if line == "starttls":
            self.pause_reading()
            self.reactor.call_later(self.delay, self.upgrade)
        else:
            self.executed.append((line, self.tls is not None))
            self.send_line(line)

    def upgrade(self) -> None:
        self.send_line("go on")
        self.start_tls(server_tls())


class Upgrading(Ended, reactor.LineChannel):
    """Asks for TLS, with a command behind that; then it has another command executed.

    Arguments:
        delay: seconds until the first command.
    """

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.heard: list[str] = []

    def handle_open(self) -> None:
        self.send_line("starttls")
        if self.delay:
            self.reactor.call_later(self.delay, self.send_line, "command in plaintext")
        else:
            self.send_line("command in plaintext")

    def handle_line(self, line: str) -> None:
        if line == "go on":
            self.start_tls(client_tls())
            self.send_line("encrypted command")
        else:
            self.heard.append(line)


def command_behind_starttls(world: World, delay: float) -> None:
    made = Accepting(lambda: Upgraded(delay))
    world.listen(SERVER, made)
    client: Any = world.connect(SERVER, lambda: Upgrading(delay / 2))
    world.run(until=lambda: client.heard or client.reason, timeout=30)
    (server,) = made.channels
    assert server.executed in ([], [("encrypted command", True)]), f"it was executed: {server.executed}"
    # Where it comes in still later, it is no part of a handshake.
    assert client.heard == ["encrypted command"] or world.faults, f"it was not dropped: {server.reason!r}"


def command_with_starttls(world: World) -> None:
    """A command in plaintext comes in one piece with the request for TLS: it is dropped."""
    command_behind_starttls(world, 0.0)


def command_behind_a_slow_starttls(world: World) -> None:
    """A command in plaintext comes in while the server still makes up its mind about TLS: it is dropped."""
    command_behind_starttls(world, 2.0)
