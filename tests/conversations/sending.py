"""What is sent: small and large, pipelined, produced, and to peers that do not read."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import reactor
from reactor.simulation import World
from tests.conftest import Accepting

from .peers import AGES, SERVER, Asker, Checked, Client, Echo, is_broken, serving, settle, still_serves, talk

IN_FLIGHT = 16
SMALL = [struct.pack("!I", index) * 5 for index in range(40)]
LARGE = [bytes(range(256)) * 1200, b"", b"\xff" * 70_000]
"""More than a socket's buffers, and more than one receive."""
EMPTY = [b"", b"", b"x", b"", b"yy", b"", b""]
FILE = Path(reactor.__file__).parent / "eventloop.py"
CHUNKS = [b"%d." % index * index for index in range(1, 200)]


class Pipeliner(Client, reactor.Connection):
    """Keeps some frames in flight; an `Echo` brings back every one, in order.

    Arguments:
        frames: what it sends.
    """

    codec = "bytes"

    def __init__(self, frames: list[bytes], done: list[Any]) -> None:
        super().__init__(done)
        self.to_send = iter(frames)
        self.to_come = iter(frames)
        self.missing = len(frames)

    def handle_open(self) -> None:
        for _ in range(IN_FLIGHT):
            self.send_next()

    def handle_message(self, message: bytes) -> None:
        assert message == next(self.to_come)
        self.send_next()
        self.missing -= 1
        if not self.missing:
            self.finish()

    def send_next(self) -> None:
        frame = next(self.to_send, None)
        if frame is not None:
            self.send(frame)


class Countdown:
    """A producer as asynchat had them."""

    def __init__(self) -> None:
        self.chunks = iter(CHUNKS)

    def more(self) -> bytes:
        return next(self.chunks, b"")


class Publisher(Checked, reactor.Stream):
    """Sends all that can be pushed, whoever connects."""

    def handle_open(self) -> None:
        self.push(b"first")
        self.push(iter(CHUNKS))
        self.push(FILE.open("rb"))
        self.push(Countdown())
        self.push(bytearray(b"last"))
        self.close_when_done()


class FramePublisher(Checked, reactor.Connection):
    """The same in frames."""

    codec = "bytes"
    handle_open = Publisher.handle_open


class Reader(Client, reactor.Stream):
    """Reads what a `Publisher` sends."""

    text = b"first" + b"".join(CHUNKS) + FILE.read_bytes() + b"".join(CHUNKS) + b"last"
    heard = 0

    def handle_data(self, data: bytes) -> None:
        assert data == self.text[self.heard : self.heard + len(data)]
        self.heard += len(data)

    def handle_eof(self) -> None:
        if self.heard == len(self.text):
            self.finish()
        super().handle_eof()


class FrameReader(Client, reactor.Connection):
    """Reads what a `FramePublisher` sends."""

    codec = "bytes"

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.to_come = iter([b"first", *CHUNKS, FILE.read_bytes(), *CHUNKS, b"last"])

    def handle_message(self, message: bytes) -> None:
        assert message == next(self.to_come)

    def handle_eof(self) -> None:
        if next(self.to_come, None) is None:
            self.finish()
        super().handle_eof()


class Fountain(Checked, reactor.Stream):
    """Sends without end, and stops producing when it is closed."""

    def handle_open(self) -> None:
        self.push(self.water())

    def water(self) -> Iterator[bytes]:
        number = 0
        while True:
            yield struct.pack("!Q", number) * 512
            number += 1


class Drinker(Client, reactor.Stream):
    """Takes some of what a `Fountain` sends, with pauses, and goes."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.heard = bytearray()

    def handle_data(self, data: bytes) -> None:
        self.heard += data
        if len(self.heard) < 300_000:
            self.pause_reading()
            self.reactor.call_later(0.05, self.resume_reading)
            return
        whole = len(self.heard) // 8
        assert list(struct.unpack_from(f"!{whole}Q", self.heard)) == [number // 512 for number in range(whole)]
        self.finish()


class Greedy(Client, reactor.Connection):
    """Asks an `Echo` for more than that may hold back, and reads nothing until later."""

    codec = "bytes"

    def __init__(self, done: list[Any]) -> None:
        super().__init__(done)
        self.heard = 0

    def handle_open(self) -> None:
        for number in range(8):
            self.send(bytes([number]) * 60_000)
        self.pause_reading()
        self.reactor.call_later(3, self.resume_reading)

    def handle_message(self, message: bytes) -> None:
        assert message == bytes([self.heard]) * 60_000
        self.heard += 1
        if self.heard == 8:
            self.finish()


class Deaf(Greedy):
    """Reads nothing at all."""

    def resume_reading(self) -> None:
        """It never does."""


class Shouter(Checked, reactor.Connection):
    """Sends far more than its peer takes."""

    codec = "bytes"

    def handle_open(self) -> None:
        for _ in range(8):
            self.send(bytes(100_000))


class Thoughtful(Echo):
    """Pauses now and then, in the middle of what came in one piece."""

    heard = 0

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        self.heard += 1
        if self.heard % 100 == 0:
            self.pause_reading()
            self.reactor.call_later(0.1, self.resume_reading)


class Hasty(Pipeliner):
    """Sends all at once, and more than one turn of the loop delivers."""

    def __init__(self, done: list[Any]) -> None:
        super().__init__([struct.pack("!I", number) for number in range(600)], done)

    def handle_open(self) -> None:
        for frame in self.to_send:
            self.send(frame)


class Letter(Checked, reactor.Connection):
    """Is sent, and gets no answer."""

    codec = "bytes"


class Box(Checked, reactor.Connection):
    """Keeps what comes.

    Arguments:
        heard: where.
    """

    codec = "bytes"

    def __init__(self, heard: list[bytes]) -> None:
        self.heard = heard

    def handle_message(self, message: bytes) -> None:
        self.heard.append(message)


def small_frames_in_flight(world: World) -> None:
    world.host("server", serving(Echo))
    talk(world, partial(Pipeliner, SMALL))
    still_serves(world, Asker)


def large_frames(world: World) -> None:
    world.host("server", serving(Echo))
    talk(world, partial(Pipeliner, LARGE))
    still_serves(world, Asker)


def empty_frames(world: World) -> None:
    world.host("server", serving(Echo))
    talk(world, partial(Pipeliner, EMPTY))
    still_serves(world, Asker)


def producers_on_a_stream(world: World) -> None:
    world.host("server", serving(Publisher))
    talk(world, Reader)
    still_serves(world, Reader)


def producers_in_frames(world: World) -> None:
    world.host("server", serving(FramePublisher))
    talk(world, FrameReader)
    still_serves(world, FrameReader)


def producer_without_end(world: World) -> None:
    world.host("server", serving(Fountain))
    talk(world, Drinker)
    still_serves(world, Drinker)


def peer_reads_late(world: World) -> None:
    limits = reactor.Limits(high_water=100_000, low_water=20_000)
    world.host("server", serving(Echo, limits=limits))
    talk(world, Greedy)
    still_serves(world, Asker)


def peer_never_reads(world: World) -> None:
    server = Accepting(Echo)
    world.host("server", serving(server, limits=reactor.Limits(high_water=100_000, low_water=20_000, stall_timeout=20)))
    client = world.connect(SERVER, lambda: Deaf([]))
    world.run(until=lambda: client.ended, timeout=AGES)
    assert is_broken(world) or [channel.ended.limit for channel in server.channels] == ["stall_timeout"]
    still_serves(world, Asker)


def peer_takes_less_than_is_sent(world: World) -> None:
    server = Accepting(Shouter)
    world.host("server", serving(server, limits=reactor.Limits(maximum_output=300_000)))
    client = world.connect(SERVER, lambda: Deaf([]))
    world.run(until=lambda: client.ended, timeout=AGES)
    assert is_broken(world) or [channel.ended.limit for channel in server.channels] == ["maximum_output"]
    settle(world)


def many_frames_come_at_once(world: World) -> None:
    world.host("server", serving(Thoughtful, limits=reactor.Limits(high_water=2_000, low_water=500)))
    talk(world, Hasty)
    still_serves(world, Asker)


def all_is_sent_before_the_connection_is_there(world: World) -> None:
    heard: list[bytes] = []
    world.host("server", serving(lambda: Box(heard)))
    letter = world.connect(SERVER, Letter)
    letter.push(b"first")
    letter.push(FILE.open("rb"))
    letter.push(iter(CHUNKS))
    letter.push(b"last")
    letter.close_when_done()
    letter.push(b"too late")
    world.run(until=lambda: letter.ended, timeout=AGES)
    settle(world)
    assert heard == [b"first", FILE.read_bytes(), *CHUNKS, b"last"] or is_broken(world)
