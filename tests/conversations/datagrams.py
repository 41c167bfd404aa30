"""Datagrams: lost, doubled, overtaken, refused, empty, too large, too many; and what is asked again is answered."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import reactor
from reactor.errors import AddressError, ClosedHere, DatagramError, LimitError, LocalError, ReactorError, RemoteError
from reactor.simulation import World

from .peers import PORT, SERVER, Checked, is_broken

HOURS = 10_000.0
"""Virtual seconds in which every question is answered."""
PATIENCE = 0.5
"""Virtual seconds after which something is tried again."""
QUESTIONS = [b"question %d" % number for number in range(10)] + [b"", bytes(60_000)]
LARGE = QUESTIONS[-1]
TOO_LARGE = bytes(65_528)


class Mailbox(Checked, reactor.Datagram):
    """A channel that is told of losses, and goes on.

    Arguments:
        told: where it puts what it is told.

    Attributes:
        again: makes another one, when this one is lost all the same.
    """

    again: Callable[[], None]

    def __init__(self, told: list[Exception]) -> None:
        self.told = told

    def handle_error(self, error: Exception) -> None:
        assert isinstance(error, RemoteError), repr(error)
        self.told.append(error)

    def handle_close(self, reason: ReactorError) -> None:
        super().handle_close(reason)
        if isinstance(reason, RemoteError):
            self.reactor.call_later(PATIENCE, self.again)


class EchoMailbox(Mailbox):
    """Sends back what comes."""

    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.send_to(data, address)


class Correspondent(Mailbox):
    """Asks until all is answered, then closes.

    Arguments:
        told: see `Mailbox`.
        open_questions: what is not answered yet.
        addresses: whom to ask; None for the peer.
    """

    def __init__(self, told: list[Exception], open_questions: dict[bytes, None], *addresses: Any) -> None:
        super().__init__(told)
        self.open_questions = open_questions
        self.addresses = addresses or (None,)

    def handle_open(self) -> None:
        self.ask()

    def ask(self) -> None:
        for question in self.open_questions:
            for address in self.addresses:
                with suppress(AddressError):  # it was told that there is no IPv6 here
                    self.send_to(question, address)
        if self.open_questions and not self.ended:
            self.reactor.call_later(PATIENCE, self.ask)

    def handle_datagram(self, data: bytes, address: Any) -> None:
        assert data in QUESTIONS
        self.open_questions.pop(data, None)
        if not self.open_questions:
            self.close()


def keep(loop: reactor.Reactor, make: Callable[[], Mailbox]) -> None:
    """Have the mailbox that `make` makes, and another one whenever it is lost."""
    again = partial(keep, loop, make)
    try:
        make().again = again
    except OSError:
        loop.call_later(PATIENCE, again)


def serve(world: World, **options: Any) -> list[Exception]:
    """Have an `EchoMailbox` on the server; return what it is told."""
    told: list[Exception] = []

    def make(loop: reactor.Reactor) -> EchoMailbox:
        with world.tape.calm():  # else it might serve one family alone, and a client would never be told
            return EchoMailbox.bind(("", PORT), lambda: EchoMailbox(told), reactor=loop, **options)

    world.host("server", lambda host: keep(host.reactor, partial(make, host.reactor)))
    return told


def ask(
    world: World, kind: type[Correspondent] = Correspondent, **options: Any
) -> tuple[list[Exception], dict[bytes, None]]:
    """Have a connected client ask all questions; return what it is told, and the questions that are open."""
    loop = world.host("client").reactor
    told: list[Exception] = []
    open_questions = dict.fromkeys(QUESTIONS)
    keep(loop, lambda: kind.connect(SERVER, lambda: kind(told, open_questions), reactor=loop, **options))
    return told, open_questions


def datagrams_are_answered(world: World) -> None:
    serve(world)
    told, open_questions = ask(world)
    world.run(until=lambda: not open_questions, timeout=HOURS)
    assert not told or is_broken(world)


def datagrams_go_to_both_families(world: World) -> None:
    serve(world)
    loop = world.host("client").reactor
    addresses = [(host, PORT) for host in world.host("server").addresses.values()]
    told: list[Exception] = []
    open_questions = dict.fromkeys(QUESTIONS)
    make = partial(Correspondent, told, open_questions, *addresses)
    keep(loop, lambda: Correspondent.bind(("", 0), make, reactor=loop))
    world.run(until=lambda: not open_questions, timeout=HOURS)
    assert not told or is_broken(world)


def datagram_is_too_large_for_the_server(world: World) -> None:
    told_server = serve(world, limits=reactor.Limits(maximum_datagram=1_000))
    told, open_questions = ask(world)

    def only_the_large_one_is_left() -> bool:
        return [*open_questions] == [LARGE] and any(isinstance(error, LimitError) for error in told_server)

    world.run(until=only_the_large_one_is_left, timeout=HOURS)
    assert not told or is_broken(world)
    assert {type(error) for error in told_server} == {LimitError} or is_broken(world)


def datagram_is_too_large_for_the_network(world: World) -> None:
    refused: list[LocalError] = []

    class Clumsy(Correspondent):
        def ask(self) -> None:
            try:
                self.send_to(TOO_LARGE)
            except LocalError as error:
                refused.append(error)
            super().ask()

    serve(world)
    told, open_questions = ask(world, Clumsy)
    world.run(until=lambda: not open_questions, timeout=HOURS)
    assert (refused and not told) or is_broken(world)


def nobody_takes_datagrams(world: World) -> None:
    world.host("server")
    told, open_questions = ask(world)

    def is_refused() -> bool:
        return any(isinstance(error, DatagramError) and error.errno == errno.ECONNREFUSED for error in told)

    world.run(until=is_refused, timeout=HOURS)
    assert len(open_questions) == len(QUESTIONS)
    serve(world)
    world.run(until=lambda: not open_questions, timeout=HOURS)


def more_datagrams_are_sent_than_may_wait(world: World) -> None:
    limits = reactor.Limits(maximum_output=70_000, high_water=1_000, low_water=500)

    class Hasty(Correspondent):
        """Does not wait until it is open."""

        @classmethod
        def connect(cls, *args: Any, **options: Any) -> Any:
            channel = super().connect(*args, **options)
            assert [channel.send_to(LARGE) for _ in range(3)] == [True, False, False]
            return channel

    serve(world)
    told, open_questions = ask(world, Hasty, limits=limits)
    world.run(until=lambda: not open_questions, timeout=HOURS)
    # Once for each time that there is no room; and while calls fail, that may be more than one.
    assert {type(error) for error in told} == {LimitError} or is_broken(world)


def mailbox_pauses(world: World) -> None:
    class Moody(Correspondent):
        """Takes one answer at a time."""

        is_reading = True

        def handle_datagram(self, data: bytes, address: Any) -> None:
            assert self.is_reading
            super().handle_datagram(data, address)
            if self.open_questions:
                self.is_reading = False
                self.pause_reading()
                self.reactor.call_later(0.01, self.go_on)

        def go_on(self) -> None:
            self.is_reading = True
            self.resume_reading()

    serve(world)
    told, open_questions = ask(world, Moody)
    world.run(until=lambda: not open_questions, timeout=HOURS)
    assert not told or is_broken(world)


def all_is_sent_before_a_mailbox_closes(world: World) -> None:
    arrived: set[bytes] = set()
    told: list[Exception] = []

    class Taker(Mailbox):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            arrived.add(data)

    class Brief(Mailbox):
        """Writes all its letters, and leaves; and once more, until all have arrived."""

        def handle_close(self, reason: ReactorError) -> None:
            super().handle_close(reason)
            if isinstance(reason, ClosedHere) and len(arrived) < len(QUESTIONS):
                self.reactor.call_later(PATIENCE, self.again)

    def take(loop: reactor.Reactor) -> Taker:
        with world.tape.calm():
            return Taker.bind(("", PORT), lambda: Taker(told), reactor=loop)

    def write() -> Brief:
        brief = Brief.connect(SERVER, lambda: Brief(told), reactor=loop)
        for letter in QUESTIONS:
            assert brief.send_to(letter)
        brief.close_when_done()
        assert not brief.send_to(b"too late")
        return brief

    world.host("server", lambda host: keep(host.reactor, partial(take, host.reactor)))
    loop = world.host("client").reactor
    keep(loop, write)
    world.run(until=lambda: len(arrived) == len(QUESTIONS), timeout=HOURS)
    assert not told or is_broken(world)


SCENARIOS = [
    datagrams_are_answered,
    datagrams_go_to_both_families,
    datagram_is_too_large_for_the_server,
    datagram_is_too_large_for_the_network,
    nobody_takes_datagrams,
    more_datagrams_are_sent_than_may_wait,
    mailbox_pauses,
    all_is_sent_before_a_mailbox_closes,
]
"""All of them, for a campaign of their own."""
