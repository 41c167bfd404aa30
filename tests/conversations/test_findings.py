"""What the simulation has found, one test for each defect, named after what must hold."""

from __future__ import annotations

from functools import partial

import pytest

import reactor
from reactor.simulation import World, simulate, torture

from .closing import Complaint
from .listening import listener_pauses, one_peer_has_as_many_connections_as_it_may
from .peers import AGES, SERVER, Echo, EchoStream, Greeter, serving, settle
from .sending import large_frames


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
