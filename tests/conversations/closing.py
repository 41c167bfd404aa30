"""How connections end: in good order or in the middle, from either side, and by what a hook does."""

from __future__ import annotations

import socket
import struct
from functools import partial
from typing import Any

import reactor
from reactor.simulation import World
from tests.conftest import Accepting

from .peers import (
    AGES,
    PATIENCE,
    SERVER,
    Asker,
    Checked,
    Client,
    Echo,
    begin,
    is_broken,
    serving,
    settle,
    still_serves,
    talk,
)

PAGES = [struct.pack("!I", index) * 100 for index in range(150)]
"""Many small frames: what waits while a channel closes."""


class Lecturer(Checked, reactor.Connection):
    """Queues all that it has, and closes when that is sent."""

    codec = "bytes"

    def handle_open(self) -> None:
        for page in PAGES:
            self.send(page)
        self.close_when_done()


class Student(Client, reactor.Connection):
    """Hears a lecture to its end."""

    codec = "bytes"

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.to_come = iter(PAGES)

    def handle_message(self, message: bytes) -> None:
        assert message == next(self.to_come)

    def handle_eof(self) -> None:
        if next(self.to_come, None) is None:
            self.finish()
        super().handle_eof()


class Guest(Checked, reactor.Connection):
    """Gives a lecture where it is a client, and does not hear whether anybody listened."""

    codec = "bytes"
    handle_open = Lecturer.handle_open


class Leaver(Student):
    """Leaves in the middle of a lecture, with input unread."""

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        if message == PAGES[20]:
            self.finish()


class Ousting(Checked, reactor.Connection):
    """Closes with most of what it has queued unsent."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.send(bytes(500_000))
        self.reactor.call_later(0.1, self.close)


class Listless(Checked, reactor.Connection):
    """Reads nothing for now, and is not sent a whole frame."""

    codec = "bytes"

    def handle_open(self) -> None:
        self.pause_reading()

    def handle_message(self, message: bytes) -> None:
        raise AssertionError("a part of a frame was taken for a frame")


class Asking(Client, reactor.Stream):
    """Says all that it has to say, ends its own direction, and still hears the answer."""

    heard = b""

    def handle_open(self) -> None:
        self.push(b"question")

    def handle_drained(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.close(reactor.ConnectionLost("the peer is gone", error.errno))

    def handle_data(self, data: bytes) -> None:
        self.heard += data

    def handle_eof(self) -> None:
        if self.heard == b"an answer to question":
            self.finish()
        super().handle_eof()


class Answering(Checked, reactor.Stream):
    """Answers a while after its peer has sent its last byte."""

    heard = b""

    def handle_data(self, data: bytes) -> None:
        self.heard += data

    def handle_eof(self) -> None:
        self.reactor.call_later(1, self.answer)

    def answer(self) -> None:
        self.push(b"an answer to ")
        self.push(self.heard)
        self.close_when_done()


class Hurried(Echo):
    """Closes as soon as it has answered once, at the same moment as its client does."""

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        self.close_when_done()


class Parting(Asker):
    """Asks, and closes in good order with the answer."""

    def handle_message(self, message: bytes) -> None:
        self.done.append(self)
        self.close_when_done()


class Rival(Echo):
    """Closes all others as soon as it hears something: their events may be in the same batch.

    Arguments:
        living: every rival that lives.
    """

    def __init__(self, living: dict[Rival, None]) -> None:
        self.living = living
        living[self] = None

    def handle_message(self, message: bytes) -> None:
        for other in self.living:
            if other is not self:
                other.close()
        super().handle_message(message)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        del self.living[self]
        super().handle_close(reason)


class Raising(reactor.Connection):
    """Raises in one of its hooks, as long as there are hooks left to raise in.

    Arguments:
        hooks: in which; each object takes one away.
    """

    codec = "bytes"

    def __init__(self, hooks: list[str]) -> None:
        self.hook = hooks.pop() if hooks else ""

    def misbehave(self, hook: str) -> None:
        if self.hook == hook:
            raise ZeroDivisionError(hook)

    def handle_open(self) -> None:
        self.misbehave("open")

    def handle_message(self, message: bytes) -> None:
        self.misbehave("message")
        self.send(message)

    def handle_drained(self) -> None:
        self.misbehave("drained")

    def handle_eof(self) -> None:
        self.misbehave("eof")
        super().handle_eof()

    def handle_error(self, error: Exception) -> None:
        self.misbehave("error")
        super().handle_error(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.misbehave("close")


class Suspicious(Rival):
    """Closes all others where it fails itself: their deadlines may be the same."""

    def handle_error(self, error: Exception) -> None:
        for other in self.living:
            if other is not self:
                other.close()
        super().handle_error(error)


class Tap(Checked, reactor.Stream):
    """Sends without end."""

    def handle_open(self) -> None:
        self.drip()

    def drip(self) -> None:
        if self.ended is None:
            self.push(bytes(1000))
            self.reactor.call_later(0.05, self.drip)


class Fed(Checked, reactor.Stream):
    """Has enough at once, answers, and closes in good order."""

    def handle_data(self, data: bytes) -> None:
        self.push(b"thank you")
        self.close_when_done()


class Complaint(Checked, reactor.Connection):
    """Sends frames of which the last one is wrong.

    Attributes:
        heard: what was answered to the others.
    """

    codec = "bytes"

    def __init__(self, *frames: bytes) -> None:
        self.frames = frames
        self.heard: list[bytes] = []

    def handle_open(self) -> None:
        for frame in self.frames:
            self.send(frame)

    def handle_message(self, message: bytes) -> None:
        self.heard.append(message)


class JsonEcho(Checked, reactor.Connection):
    """Sends back every message."""

    codec = "json"

    def handle_message(self, message: str) -> None:
        self.send(message)


def queue_is_sent_before_the_server_closes(world: World) -> None:
    world.host("server", serving(Lecturer))
    talk(world, Student)
    still_serves(world, Student)


def queue_is_sent_before_the_client_closes(world: World) -> None:
    heard: list[Any] = []
    world.host("server", serving(partial(Student, heard)))
    guest = world.connect(SERVER, Guest)
    world.run(until=lambda: guest.ended, timeout=AGES)
    settle(world)
    assert heard or is_broken(world)
    with world.tape.calm():
        world.connect(SERVER, Guest, reconnect=PATIENCE)
        world.run(until=lambda: heard, timeout=AGES)


def client_leaves_in_the_middle(world: World) -> None:
    world.host("server", serving(Lecturer))
    talk(world, Leaver)
    still_serves(world, Student)


def server_closes_in_the_middle(world: World) -> None:
    server = Accepting(Ousting)
    world.host("server", serving(server))
    client = world.connect(SERVER, Listless)

    def server_has_closed() -> bool:
        return (
            client.state.name == "Paused"
            and server.channels != []
            and all(channel.ended for channel in server.channels)
        )

    world.run(until=lambda: client.ended or server_has_closed(), timeout=AGES)
    client.resume_reading()
    world.run(until=lambda: client.ended, timeout=AGES)
    assert isinstance(client.ended, reactor.FrameError | reactor.PeerClosed) or is_broken(world)
    settle(world)


def half_close_is_answered_late(world: World) -> None:
    world.host("server", serving(Answering))
    talk(world, Asking)
    still_serves(world, Asking)


def both_close_at_once(world: World) -> None:
    world.host("server", serving(Hurried))
    talk(world, Parting)
    still_serves(world, Parting)


def handlers_close_others_of_their_batch(world: World) -> None:
    world.host("server", serving(partial(Rival, {})))
    every = [begin(world, Asker, is_steady=False) for _ in range(5)]
    world.run(until=lambda: all(every), timeout=AGES)
    still_serves(world, Asker)


def hooks_raise(world: World) -> None:
    world.tolerate(ZeroDivisionError)
    hooks = ["open", "message", "drained", "eof", "error", "close"]
    world.host("server", serving(partial(Raising, hooks)))
    while hooks:
        talk(world, Asker, is_steady=False)
    still_serves(world, Asker)


def peer_sends_on_while_the_server_closes(world: World) -> None:
    world.host("server", serving(Fed))
    client = world.connect(SERVER, Tap)
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)


def frame_is_too_large(world: World) -> None:
    server = Accepting(Echo)
    world.host("server", serving(server, limits=reactor.Limits(maximum_frame=1000)))
    client = world.connect(SERVER, partial(Complaint, b"hello", bytes(1001)))
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)
    assert [type(channel.ended) for channel in server.channels] == [reactor.FrameError] or is_broken(world)


def frame_makes_no_sense(world: World) -> None:
    server = Accepting(JsonEcho)
    world.host("server", serving(server))
    client = world.connect(SERVER, partial(Complaint, b'"hello"', b"{"))
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)
    assert [type(channel.ended) for channel in server.channels] == [reactor.DecodingError] or is_broken(world)
    assert client.heard == [b'"hello"'] or is_broken(world)


def deadlines_fall_together(world: World) -> None:
    world.host("server", serving(partial(Suspicious, {}), limits=reactor.Limits(idle_timeout=5)))
    peers = [world.connect(SERVER, Listless) for _ in range(4)]
    world.run(timeout=10)
    for peer in peers:
        peer.resume_reading()
    world.run(until=lambda: all(peer.ended for peer in peers), timeout=AGES)
    settle(world)
