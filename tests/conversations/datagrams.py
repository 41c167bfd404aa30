"""Datagrams over a small channel of their own: lost, doubled, overtaken, refused, empty, too large."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar

import reactor
from reactor.eventloop import READ
from reactor.limits import DEFAULT_LIMITS
from reactor.sending import STATES
from reactor.simulation import Host, World
from reactor.states import State, become

from .peers import PORT, is_broken

HOURS = 10_000.0
"""Virtual seconds in which every question is answered."""
QUESTIONS = [b"question %d" % number for number in range(10)] + [b"", bytes(60_000)]
TOO_LARGE = bytes(65_508)


class Exchanging(State):
    """The one state of a `Mailbox` while it lives."""

    name = "Open"
    reads = READ

    def enter(self, channel: reactor.Channel) -> None:
        channel._want(READ)

    def readable(self, channel: reactor.Channel) -> bool:
        assert isinstance(channel, Mailbox)
        try:
            data, address = channel.socket.recvfrom(65536)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            channel.errors.append(error.errno)
            return True
        channel.handle_letter(data, address)
        return True

    def flush(self, channel: reactor.Channel) -> bool:
        assert isinstance(channel, Mailbox)
        letters = channel.letters
        while letters:
            data, address = letters.popleft()
            try:
                if address is None:
                    channel.socket.send(data)
                else:
                    channel.socket.sendto(data, address)
            except (BlockingIOError, InterruptedError):
                pass  # it is lost, as so many are on their way
            except OSError as error:
                channel.errors.append(error.errno)
        return True


class Mailbox(reactor.Channel):
    """A channel for datagrams.

    Arguments:
        host: where it is.
        port: its port; 0 for any.
        peer: the only address that it speaks with, if it is to have one.

    Attributes:
        errors: what the calls on its socket have reported.
        letters: what waits to be sent.
    """

    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": Exchanging()}

    def __init__(self, host: Host, port: int = 0, peer: Any = None) -> None:
        self.errors: list[int | None] = []
        self.letters: deque[tuple[bytes, Any]] = deque()
        with host.world.tape.calm():
            sock = host.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind(("0.0.0.0", port))
            if peer is not None:
                sock.connect(peer)
            self._attach(host.reactor, peer, DEFAULT_LIMITS)
            self.socket = sock
            become(self, "open")

    def write(self, data: bytes, address: Any = None) -> None:
        self.letters.append((data, address))
        self.reactor.flush_soon(self)

    def handle_letter(self, data: bytes, address: Any) -> None:
        """A datagram came."""


class EchoMailbox(Mailbox):
    """Sends back what comes."""

    def handle_letter(self, data: bytes, address: Any) -> None:
        self.write(data, address)


class Correspondent(Mailbox):
    """Asks until all is answered.

    Attributes:
        open_questions: what is not.
    """

    def ask(self, address: Any, questions: list[bytes]) -> None:
        self.open_questions = dict.fromkeys(questions)
        self.ask_again(address)

    def ask_again(self, address: Any) -> None:
        for question in self.open_questions:
            self.write(question, address)
        if self.open_questions:
            self.reactor.call_later(0.5, self.ask_again, address)

    def handle_letter(self, data: bytes, address: Any) -> None:
        assert data in QUESTIONS
        self.open_questions.pop(data, None)


def server_address(world: World) -> tuple[str, int]:
    return world.host("server").addresses[socket.AF_INET], PORT


def datagrams_are_answered(world: World) -> None:
    world.host("server", lambda host: EchoMailbox(host, PORT))
    client = Correspondent(world.host("client"))
    client.ask(server_address(world), QUESTIONS)
    world.run(until=lambda: not client.open_questions, timeout=HOURS)
    assert not client.errors or is_broken(world)
    client.close()


def datagram_is_too_large(world: World) -> None:
    world.host("server", lambda host: EchoMailbox(host, PORT))
    client = Correspondent(world.host("client"))
    client.ask(server_address(world), [TOO_LARGE, b"question 1"])
    world.run(until=lambda: client.errors and [*client.open_questions] == [TOO_LARGE], timeout=HOURS)
    assert {*client.errors} == {errno.EMSGSIZE} or is_broken(world)


def nobody_takes_datagrams(world: World) -> None:
    address = server_address(world)
    client = Correspondent(world.host("client"), peer=address)
    client.ask(None, [b"question 1"])
    world.run(until=lambda: errno.ECONNREFUSED in client.errors, timeout=HOURS)
    world.host("server", lambda host: EchoMailbox(host, PORT))
    world.run(until=lambda: not client.open_questions, timeout=HOURS)
