"""The states and their table: what can happen, what cannot, and that a stale event is harmless."""

from __future__ import annotations

import ast
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor.errors import ClosedHere, DeadlineError, LimitError, StateError
from reactor.limits import Limits
from reactor.states import MEANINGS, TRANSITIONS, State, abandon, become, draw
from tests.conftest import Accepting, RecordingStream, raw_client, run_until

EVENTS = sorted({event for _, event in TRANSITIONS})
STATES = sorted({state for state, _ in TRANSITIONS} | set(TRANSITIONS.values()))
CHANNELS = (reactor.Stream, reactor.Connection, reactor.Listener)


# The table


class Noted(State):
    """A state that writes down who has entered it."""

    def __init__(self, name: str, entered: list[tuple[str, str]]) -> None:
        self.name = name
        self.entered = entered

    def enter(self, channel: Any) -> None:
        self.entered.append((self.name, channel.state.name))


class Bare:
    """The least that a channel needs for a transition."""

    def __init__(self, state: str) -> None:
        self.entered: list[tuple[str, str]] = []
        self._states = {name: Noted(name, self.entered) for name in STATES}
        self.state = self._states[state]

    def __str__(self) -> str:
        return "a bare channel"


@pytest.mark.parametrize("state", STATES)
def test_transition_happens_if_it_stands_in_the_table(state: str) -> None:
    for event in EVENTS:
        channel: Any = Bare(state)
        after = TRANSITIONS.get((state, event))
        if after is not None:
            become(channel, event)
            assert channel.state is channel._states[after]
            assert channel.entered == [(after, after)]


@pytest.mark.parametrize("state", STATES)
def test_transition_that_stands_not_in_the_table_raises_and_changes_nothing(state: str) -> None:
    for event in [*EVENTS, "unheard of"]:
        if (state, event) in TRANSITIONS:
            continue
        channel: Any = Bare(state)
        with pytest.raises(
            StateError, match=f"a bare channel: '{event}' is not possible for a channel that is {state}"
        ):
            become(channel, event)
        assert channel.state is channel._states[state]
        assert channel.entered == []


@pytest.mark.parametrize("state", STATES)
def test_channel_that_is_abandoned_is_closed_without_a_word(state: str) -> None:
    channel: Any = Bare(state)
    abandon(channel)
    assert channel.state is channel._states["Closed"]
    assert channel.entered == []
    assert not channel._output.append(b"late")


def test_every_state_can_be_reached_from_new_and_reaches_closed() -> None:
    def reached(start: str) -> set[str]:
        found, new = set(), {start}
        while new:
            found |= new
            new = {after for (before, _), after in TRANSITIONS.items() if before in new} - found
        return found

    assert reached("New") == set(STATES)
    assert all("Closed" in reached(state) for state in STATES)


def test_every_state_but_closed_can_close_at_once_and_nothing_leaves_closed() -> None:
    assert {state for state, event in TRANSITIONS if event == "close"} == set(STATES) - {"Closed"}
    assert {TRANSITIONS[key] for key in TRANSITIONS if key[1] == "close"} == {"Closed"}
    assert all(before != "Closed" for before, _ in TRANSITIONS)
    assert all(after != "New" for after in TRANSITIONS.values())


def test_every_state_has_its_meaning_and_there_are_no_others() -> None:
    assert sorted(MEANINGS) == STATES
    assert all(meaning and meaning.isprintable() for meaning in MEANINGS.values())


def test_every_state_of_the_table_is_an_object_that_bears_its_name() -> None:
    implemented = {name for kind in CHANNELS for name in kind._states}
    assert implemented == set(STATES)
    for kind in CHANNELS:
        for name, state in kind._states.items():
            assert state.name == name


def test_states_hold_no_data_so_that_channels_can_share_them() -> None:
    for kind in CHANNELS:
        for state in kind._states.values():
            assert vars(state) == {}


def test_the_code_says_every_event_of_the_table_and_no_other() -> None:
    said = set()
    for path in Path(reactor.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "become":
                assert isinstance(node.args[1], ast.Constant), "an event is written out, so that it can be found"
                said.add(node.args[1].value)
    assert said == set(EVENTS)


def test_state_changes_nowhere_but_in_become() -> None:
    """The exceptions are the birth of a channel, which is New, and the copies of channels that a fork makes."""
    places = []
    for path in Path(reactor.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and node.attr == "state" and isinstance(node.ctx, ast.Store):
                        places.append((path.stem, function.name.strip("_"), ast.unparse(node)))
    changes = {place for place in places if not place[2].startswith("error.")}
    assert changes == {
        ("channel", "new", "self.state"),
        ("states", "become", "channel.state"),
        ("states", "abandon", "channel.state"),
        ("states", "abandon", "channel.state"),
    }


def test_diagram_is_the_table_and_can_be_parsed() -> None:
    first, *lines = draw().splitlines()
    assert first == "stateDiagram-v2"
    arrows = [re.fullmatch(r"    (\[\*\]|\w+) --> (\[\*\]|\w+)(?:: (\w+))?", line) for line in lines]
    assert all(arrows)
    found = [arrow.groups() for arrow in arrows if arrow]
    assert found[0] == ("[*]", "New", None)
    assert found[-1] == ("Closed", "[*]", None)
    assert {(before, event): after for before, after, event in found[1:-1]} == TRANSITIONS
    assert len(found) == len(TRANSITIONS) + 2


# Channels that are attached to nothing


def test_channel_that_is_new_can_be_closed_without_harm_and_does_not_pause() -> None:
    channel = RecordingStream()
    channel.close()
    channel.close_when_done()
    channel.resume_reading()
    with pytest.raises(StateError, match="a channel that is New does not read, so it cannot pause"):
        channel.pause_reading()
    assert channel.state.name == "New"
    assert channel.events == []


def test_channel_serves_one_connection_only(loop: reactor.Reactor) -> None:
    channel = RecordingStream()
    channel._attach(loop, None, Limits())
    with pytest.raises(StateError, match="one channel serves one connection"):
        channel._attach(loop, None, Limits())
    channel.close()


def test_channel_that_is_attached_and_still_new_is_closed_once(loop: reactor.Reactor) -> None:
    class Refusing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.close()
            channel.close()

    accepted = Accepting(RecordingStream)
    listener = Refusing(("localhost", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
        assert client.recv(10) == b""
    (channel,) = accepted.channels
    assert [event[0] for event in channel.events] == ["close"]
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert listener.connections == 0


# A closed channel


def test_stale_event_of_a_closed_channel_is_harmless(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("localhost", 0), accepted, reactor=loop)
    with raw_client(listener.address):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
        (channel,) = accepted.channels
        channel.close()
        run_until(loop, lambda: channel.of("close"))
    before = list(channel.events)
    state = channel.state
    assert not state.readable(channel)
    assert not state.writable(channel)
    assert not state.flush(channel)
    state.expired(channel)
    state.relieved(channel)
    state.pressed(channel)
    state.shutdown(channel)
    channel.pause_reading()
    channel.resume_reading()
    channel.push(b"x" * 1_000_000)
    channel.push(iter([b"late"]))
    channel.close_when_done()
    channel.close(ValueError("late"))
    listener.close()
    loop.loop(timeout=10)
    assert channel.state is state
    assert channel.events == before
    assert channel.output_size == 0
    assert loop.is_idle()


def test_closing_drops_what_waits_and_closes_its_producers(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("localhost", 0), accepted, reactor=loop)
    pulled, ended = [], []

    def generate() -> Iterator[bytes]:
        try:
            while True:
                pulled.append(True)
                yield b"x" * 10_000
        finally:
            ended.append(True)

    with raw_client(listener.address):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
        (channel,) = accepted.channels
        channel.push(generate())
        channel.push(b"behind it")
        run_until(loop, lambda: pulled)
        assert channel.output_size > 0
        channel.close()
        assert ended == [True]
        run_until(loop, lambda: channel.of("close"))
    assert len(channel.of("close")) == 1


# A channel that is not open yet


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def waiting_loop(clock: Clock) -> Iterator[reactor.Reactor]:
    """A reactor with a clock of the test's own, in which no name is ever resolved."""
    end = threading.Event()

    def resolver(*args: Any) -> list[Any]:
        end.wait(30)
        return []

    with reactor.Reactor(clock=clock, resolver=resolver) as loop:
        yield loop
        end.set()


def connecting(loop: reactor.Reactor, limits: Limits) -> RecordingStream:
    channel = RecordingStream.connect(("nowhere.invalid", 1), reactor=loop, limits=limits)
    loop.poll(0)
    assert channel.state.name == "Connecting"
    return channel


def test_connecting_ends_at_its_deadline_and_not_before(waiting_loop: reactor.Reactor, clock: Clock) -> None:
    channel = connecting(waiting_loop, Limits(connect_timeout=5))
    clock.now += 4.9
    waiting_loop.poll(0)
    assert channel.events == []
    clock.now += 0.2
    waiting_loop.poll(0)
    waiting_loop.poll(0)
    (reason,) = channel.of("close")
    assert isinstance(reason, DeadlineError)
    assert reason.limit == "connect_timeout"
    assert reason.state == "Connecting"
    assert "no connection within 5 s (connect_timeout)" in str(reason)


def test_what_is_pushed_while_connecting_waits_up_to_the_limit(waiting_loop: reactor.Reactor) -> None:
    channel = connecting(waiting_loop, Limits(low_water=10, high_water=20, maximum_output=30))
    channel.push(b"x" * 20)
    channel.push(b"x" * 10)
    waiting_loop.poll(0)
    assert channel.output_size == 30
    assert channel.events == []
    channel.push(b"x")
    waiting_loop.poll(0)
    waiting_loop.poll(0)
    (reason,) = channel.of("close")
    assert isinstance(reason, LimitError)
    assert reason.limit == "maximum_output"
    assert "31 bytes wait for a peer that does not take them; the limit is 30" in str(reason)


def test_channel_that_connects_does_not_pause_and_closes_at_once_when_told(waiting_loop: reactor.Reactor) -> None:
    channel = connecting(waiting_loop, Limits())
    with pytest.raises(StateError, match="a channel that is Connecting does not read"):
        channel.pause_reading()
    channel.close()
    waiting_loop.poll(0)
    assert isinstance(channel.of("close")[0], ClosedHere)


def test_what_was_pushed_before_the_connection_arrives_although_the_channel_is_to_close(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    received = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(10)

        def accept() -> None:
            sock, _ = server.accept()
            with sock, sock.makefile("rb") as file:
                received.append(file.read())

        in_thread(accept)
        channel = RecordingStream.connect(server.getsockname(), reactor=loop)
        channel.push(b"in time")
        channel.close_when_done()
        channel.push(b"too late")
        run_until(loop, lambda: channel.of("close") and received)
    assert received == [b"in time"]
    assert isinstance(channel.of("close")[0], ClosedHere)


def test_listener_that_is_to_close_when_done_closes_at_once(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("localhost", 0), RecordingStream, reactor=loop)
    listener.close_when_done()
    assert listener.state.name == "Closed"
    loop.loop(timeout=10)
    assert loop.is_idle()


def test_every_state_says_what_a_shutdown_means(loop: reactor.Reactor) -> None:
    reasons = []

    class Told(reactor.Listener):
        def handle_close(self, reason: reactor.ReactorError) -> None:
            reasons.append(str(reason))

    Told(("localhost", 0), RecordingStream, reactor=loop)
    loop.shutdown(1)
    loop.loop(timeout=10)
    assert reasons == ["the reactor was shut down"]
