"""The handshake in both roles, with peers that know the key and with others."""

from __future__ import annotations

import hmac
import struct
from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import reactor
from reactor.simulation import World
from tests.conftest import KEY

from .peers import (
    AGES,
    SERVER,
    Asker,
    Checked,
    Client,
    Echo,
    begin,
    is_broken,
    serving,
    still_serves,
    talk,
)

WRONG_KEY = b"another secret key"
CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"


class Porter(Echo):
    """An `Echo` that writes down who was let in."""

    def __init__(self, admitted: list[Any]) -> None:
        self.admitted = admitted

    def handle_open(self) -> None:
        self.admitted.append(self)


class Stranger(Asker):
    """Is never let in by whoever wants a key of it."""

    def handle_open(self) -> None:
        raise AssertionError("a stranger was let in")


class Talker(Client, reactor.Stream):
    """Speaks frames by hand, as its `dialogue` says: that yields for each frame of the peer."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.input = b""
        self.steps = self.dialogue()

    def dialogue(self) -> Generator[None, bytes, None]:
        raise NotImplementedError

    def handle_open(self) -> None:
        next(self.steps)

    def handle_data(self, data: bytes) -> None:
        self.input += data
        while len(self.input) >= 4 and len(self.input) >= 4 + (size := struct.unpack_from("!i", self.input)[0]):
            frame, self.input = self.input[4 : 4 + size], self.input[4 + size :]
            try:
                self.steps.send(frame)
            except StopIteration:
                self.finish()
                return

    def say(self, frame: bytes) -> None:
        self.push(struct.pack("!i", len(frame)) + frame)

    def challenge(self) -> Generator[None, bytes, None]:
        """Challenge the peer as Python 3.11 and older do."""
        message = self.reactor.random(20)
        self.say(CHALLENGE + message)
        assert (yield) == hmac.digest(KEY, message, "md5")
        self.say(WELCOME)

    def answer(self) -> Generator[None, bytes, None]:
        """Answer the peer's challenge as Python 3.11 and older do, whatever that challenge names."""
        question = yield
        assert question.startswith(CHALLENGE)
        self.say(hmac.digest(KEY, question[len(CHALLENGE) :], "md5"))
        assert (yield) == WELCOME


class OldClient(Talker):
    """Calls as Python 3.11 and older do."""

    def dialogue(self) -> Generator[None, bytes, None]:
        yield from self.answer()
        yield from self.challenge()
        self.say(b"question")
        assert (yield) == b"question"


class OldServer(Talker):
    """Is called as Python 3.11 and older are; answers one question."""

    def dialogue(self) -> Generator[None, bytes, None]:
        yield from self.challenge()
        yield from self.answer()
        while True:
            self.say((yield))


class OutdatedClient(Talker):
    """Calls as Python 3.11 and older do, and hears that this is not enough."""

    def dialogue(self) -> Generator[None, bytes, None]:
        question = yield
        self.say(hmac.digest(KEY, question[len(CHALLENGE) :], "md5"))
        assert (yield) == FAILURE


class Reflector(Talker):
    """Pretends to be a server: has one client answer the challenge that another one has sent.

    Arguments:
        stolen: the challenges that clients have sent; all reflectors share them.
        done: those to whom a client has said that it does not answer such a challenge.
    """

    def __init__(self, stolen: list[bytes], done: list[Any]) -> None:
        super().__init__(done)
        self.stolen = stolen

    def dialogue(self) -> Generator[None, bytes, None]:
        if self.stolen:
            self.say(CHALLENGE + self.stolen.pop())
            assert (yield) == FAILURE
        else:
            self.say(CHALLENGE + self.reactor.random(20))
            yield
            self.say(WELCOME)
            challenge = yield
            self.stolen.append(challenge[len(CHALLENGE) :])
            yield  # which never comes: the client waits for its own answer


class Browser(Checked, reactor.Stream):
    """Has been told the wrong port."""

    def __init__(self, done: list[Any]) -> None:
        """Nothing ever gets done."""

    def handle_open(self) -> None:
        self.push(b"GET / HTTP/1.1\r\nHost: server\r\n\r\n")

    def handle_data(self, data: bytes) -> None:
        """What comes is no answer that it understands."""


class SlowLoris(Browser):
    """Seems to begin a handshake, and keeps it up for as long as it can."""

    def handle_open(self) -> None:
        self.drip(b"\0\0\0\x14" + b"a long answer to come")

    def drip(self, text: bytes) -> None:
        self.push(text[:1])
        if text[1:] and self.ended is None:
            self.reactor.call_later(1, self.drip, text[1:])


class Forward(Asker):
    """Does not wait until it is let in: its questions follow the handshake in one piece."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.push(b"question")
        self.missing = 3
        self.push(b"question" for _ in range(2))

    def handle_open(self) -> None:
        """All is said."""

    def handle_message(self, message: bytes) -> None:
        assert message == b"question"
        self.missing -= 1
        if not self.missing:
            self.finish()


def both_know_the_key(world: World) -> None:
    world.host("server", serving(Echo, authkey=KEY))
    talk(world, Asker, authkey=KEY)
    still_serves(world, Asker, authkey=KEY)


def old_python_calls(world: World) -> None:
    world.host("server", serving(Echo, authkey=KEY))
    talk(world, OldClient)
    still_serves(world, Asker, authkey=KEY)


def old_python_is_called(world: World) -> None:
    world.host("server", serving(partial(OldServer, [])))
    talk(world, Asker, authkey=KEY)
    still_serves(world, Asker, authkey=KEY)


def old_python_calls_where_md5_is_not_enough(world: World) -> None:
    world.host("server", serving(Echo, authkey=KEY, minimum_digest="sha256"))
    talk(world, OutdatedClient)
    still_serves(world, Asker, authkey=KEY, minimum_digest="sha256")


def refused(world: World, stranger: Callable[[list[Any]], Any], **options: Any) -> None:
    """A server that has `KEY` does not let `stranger` in, and lets others in all the same."""
    admitted: list[Any] = []
    done: list[Any] = []
    world.host("server", serving(partial(Porter, admitted), authkey=KEY))
    client = world.connect(SERVER, lambda: stranger(done), **options)
    world.run(until=lambda: client.ended, timeout=AGES)
    assert isinstance(client.ended, reactor.RemoteError)
    assert not done
    assert not admitted
    still_serves(world, Asker, authkey=KEY)


def client_has_another_key(world: World) -> None:
    refused(world, Stranger, authkey=WRONG_KEY)


def client_has_no_key(world: World) -> None:
    refused(world, Asker)


def client_speaks_http(world: World) -> None:
    refused(world, Browser)


def server_has_no_key(world: World) -> None:
    world.host("server", serving(Echo))
    client = world.connect(SERVER, lambda: Stranger([]), authkey=KEY)
    world.run(until=lambda: client.ended, timeout=AGES)
    assert world.elapsed < 20 or is_broken(world)
    assert isinstance(client.ended, reactor.RemoteError)
    still_serves(world, Asker)


def challenge_is_reflected(world: World) -> None:
    stolen: list[bytes] = []
    refusals: list[Any] = []
    world.host("server", serving(partial(Reflector, stolen, refusals)))
    for source in ("victim", "helper"):
        begin(world, Stranger, source=source, authkey=KEY, is_steady=False)
    world.run(until=lambda: refusals, timeout=AGES)


def client_speaks_one_byte_a_second(world: World) -> None:
    refused(world, SlowLoris)


def client_sends_before_it_is_authenticated(world: World) -> None:
    world.host("server", serving(Echo, authkey=KEY))
    talk(world, Forward, authkey=KEY)
    still_serves(world, Asker, authkey=KEY)
