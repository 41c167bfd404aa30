"""What the simulation has found, one test for each defect, named after what must hold."""

from __future__ import annotations

from functools import partial

import pytest

import reactor
from reactor.simulation import World, simulate, torture
from tests.conftest import KEY

from .closing import Complaint, Suspicious
from .encryption import encrypted_half_close_is_answered_late
from .listening import listener_pauses, one_peer_has_as_many_connections_as_it_may
from .peers import AGES, SERVER, Asker, Checked, Echo, EchoStream, Greeter, serving, settle, still_serves
from .sending import Box, large_frames
from .timeouts import Mute


def connects_or_fails_at_once(world: World) -> bool:
    """Return whether one try to connect was enough."""
    world.host("server", serving(EchoStream))
    client = world.connect(SERVER, lambda: Greeter([]))
    world.run(until=lambda: client.ended, timeout=1)
    settle(world)
    return bool(client.done)


def test_connect_fails_at_once_where_the_selector_refuses_its_descriptor() -> None:
    report = torture(connects_or_fails_at_once, only=lambda call: call == "register")
    assert report.faults["register ENOSPC"] >= 2


def test_open_channel_is_lost_where_the_selector_refuses_another_interest() -> None:
    report = torture(large_frames, only=lambda call: call == "modify")
    assert report.faults["modify ENOMEM"] >= 2


def test_listener_tries_again_where_the_selector_refuses_it_when_it_resumes() -> None:
    report = torture(listener_pauses, only=lambda call: call == "register")
    assert report.faults["register ENOSPC"] >= 2


@pytest.mark.parametrize("call", ["getsockopt", "getsockname", "getpeername"])
def test_connect_fails_at_once_where_the_new_connection_cannot_be_asked_about(call: str) -> None:
    report = torture(connects_or_fails_at_once, only=lambda name: name == call)
    assert report.faults[f"{call} EINVAL"] >= 1


def test_connect_tries_again_where_it_is_told_to() -> None:
    outcomes: list[bool] = []

    def scenario(world: World) -> None:
        outcomes.append(connects_or_fails_at_once(world))

    torture(scenario, faults={"connect EAGAIN"})
    assert outcomes == [True, False, True]  # undisturbed; failed after a while; told so at once


def test_close_that_fails_hides_no_failure_of_connect() -> None:
    report = torture(connects_or_fails_at_once, faults={"connect ECONNREFUSED", "close EIO"}, pairs=True)
    assert report.faults["close EIO"] >= 3


def test_close_that_fails_is_no_failure_of_the_listener() -> None:
    report = torture(one_peer_has_as_many_connections_as_it_may, faults={"close EIO"})
    assert report.faults["close EIO"] >= 3


class Reserved(Complaint):
    """Does not read what is answered until later."""

    def handle_open(self) -> None:
        super().handle_open()
        self.pause_reading()


def answer_comes_before_a_frame_that_is_too_large(world: World) -> None:
    world.host("server", serving(Echo, limits=reactor.Limits(maximum_frame=1000)))
    client = world.connect(SERVER, partial(Reserved, b"hello"))
    world.call_later(0.1, client.send, bytes(600_000))
    world.call_later(1, client.resume_reading)
    world.run(until=lambda: client.ended, timeout=AGES)
    assert client.heard == [b"hello"]


def test_answer_survives_a_frame_that_makes_no_sense_and_comes_later() -> None:
    simulate(answer_comes_before_a_frame_that_is_too_large, seeds=1, tape="")


def evicted_peer_takes_the_others_with_it(world: World) -> None:
    limits = reactor.Limits(maximum_unauthenticated=2)
    world.host("server", serving(partial(Suspicious, {}), authkey=KEY, limits=limits))
    mutes = [world.connect(SERVER, Mute) for _ in range(3)]
    world.run(until=lambda: all(mute.ended for mute in mutes), timeout=AGES)
    still_serves(world, Asker, authkey=KEY)


def test_handler_of_an_evicted_peer_may_close_the_peer_that_takes_its_place() -> None:
    simulate(evicted_peer_takes_the_others_with_it, seeds=1, tape="")


class LastStraw:
    """A producer that closes its channel when it is closed itself."""

    def __init__(self, channel: reactor.Channel) -> None:
        self.channel = channel

    def more(self) -> bytes:
        return b""

    def close(self) -> None:
        self.channel.close()


class Burdened(Checked, reactor.Stream):
    """Pushes bytes and a `LastStraw` between them."""

    def handle_open(self) -> None:
        self.push(b"before")
        self.push(LastStraw(self))
        self.push(b"behind")


class BurdenedPorter(Checked, reactor.Connection):
    """Has a `LastStraw` waiting before it knows its peer."""

    codec = "bytes"

    def __init__(self) -> None:
        self.push(LastStraw(self))


def producer_ends_with_its_channel(world: World) -> None:
    world.host("server", serving(Burdened))
    client = world.connect(SERVER, Mute)
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)


def producer_ends_with_a_handshake(world: World) -> None:
    world.host("server", serving(BurdenedPorter, authkey=KEY))
    client = world.connect(SERVER, partial(Asker, []), authkey=b"another secret key")
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)


def test_producer_may_close_its_channel_when_it_is_at_its_end() -> None:
    simulate(producer_ends_with_its_channel, seeds=1, tape="")


def test_producer_may_close_its_channel_when_the_handshake_fails() -> None:
    simulate(producer_ends_with_a_handshake, seeds=1, tape="")


class Faithful(Mute):
    """Connects again whenever it is closed, by its own hand."""

    def handle_close(self, reason: reactor.ReactorError) -> None:
        super().handle_close(reason)
        Faithful.connect(SERVER, reactor=self.reactor)


def program_connects_again_while_it_shuts_down(world: World) -> None:
    world.tolerate(reactor.ReactorError)  # which may well tell it that this is no moment to connect
    world.host("server", serving(EchoStream))
    client = world.connect(SERVER, Faithful)
    world.run(timeout=1)
    shutdown = client.reactor.shutdown(grace=2)
    world.run(until=lambda: shutdown.is_complete, timeout=10)


def test_shutdown_comes_to_its_end_where_handle_close_connects_again() -> None:
    simulate(program_connects_again_while_it_shuts_down, seeds=1, tape="")


def channel_is_to_close_before_it_is_open(world: World) -> None:
    heard: list[bytes] = []
    world.host("server", serving(lambda: Box(heard)))
    client = world.connect(SERVER, partial(Complaint, b"from handle_open"))
    client.close_when_done()
    world.run(until=lambda: client.ended, timeout=AGES)
    settle(world)
    assert heard == []


def test_nothing_leaves_that_is_pushed_after_close_when_done_in_handle_open_either() -> None:
    simulate(channel_is_to_close_before_it_is_open, seeds=1, tape="")


def test_last_word_of_tls_is_said_again_where_it_is_interrupted() -> None:
    report = torture(encrypted_half_close_is_answered_late, faults={"send EINTR"})
    assert report.faults["send EINTR"] >= 6
