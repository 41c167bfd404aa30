"""The negotiation of options: the table of RFC 1143, held against its prose and against every course of events."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import pytest

from protocols.telnet.options import IN_EFFECT, MEANINGS, TRANSITIONS, WORDS, Cause, Negotiator, Side, State
from protocols.telnet.wire import Verb

OPTION = 3
PATHS = {
    State.NO: (),
    State.YES: (Cause.OFFERED,),
    State.WANT_NO: (Cause.OFFERED, Cause.UNWANTED),
    State.WANT_NO_THEN_YES: (Cause.OFFERED, Cause.UNWANTED, Cause.WANTED),
    State.WANT_YES: (Cause.WANTED,),
    State.WANT_YES_THEN_NO: (Cause.WANTED, Cause.UNWANTED),
}
"""State -> what must happen to an option that is off to bring it there."""


class Prose:
    """One side of one option, as section 7 of RFC 1143 tells it: the variables `him` and `himq`, in sentences.

    What the RFC calls an error, and leaves to the program, is left without effect, as its implementations do.
    """

    def __init__(self) -> None:
        self.him = "NO"
        self.himq = "EMPTY"
        self.sent: bool | None = None

    def receive_will(self, agree: bool) -> None:
        match self.him, self.himq:
            case "NO", _:
                if agree:
                    self.him = "YES"
                self.sent = agree
            case "WANTNO", "EMPTY":  # error: DONT answered by WILL
                self.him = "NO"
            case "WANTNO", "OPPOSITE":  # error: DONT answered by WILL
                self.him, self.himq = "YES", "EMPTY"
            case "WANTYES", "EMPTY":
                self.him = "YES"
            case "WANTYES", "OPPOSITE":
                self.him, self.himq = "WANTNO", "EMPTY"
                self.sent = False

    def receive_wont(self) -> None:
        match self.him, self.himq:
            case "YES", _:
                self.him = "NO"
                self.sent = False
            case "WANTNO", "EMPTY":
                self.him = "NO"
            case "WANTNO", "OPPOSITE":
                self.him, self.himq = "WANTYES", "EMPTY"
                self.sent = True
            case "WANTYES", _:
                self.him, self.himq = "NO", "EMPTY"

    def ask_to_enable(self) -> None:
        match self.him, self.himq:
            case "NO", _:
                self.him = "WANTYES"
                self.sent = True
            case "WANTNO", "EMPTY":
                self.himq = "OPPOSITE"
            case "WANTYES", "OPPOSITE":
                self.himq = "EMPTY"

    def ask_to_disable(self) -> None:
        match self.him, self.himq:
            case "YES", _:
                self.him = "WANTNO"
                self.sent = False
            case "WANTNO", "OPPOSITE":
                self.himq = "EMPTY"
            case "WANTYES", "EMPTY":
                self.himq = "OPPOSITE"

    def happens(self, cause: Cause) -> bool | None:
        """Return what is sent: True for yes, False for no, None for nothing."""
        self.sent = None
        match cause:
            case Cause.WANTED:
                self.ask_to_enable()
            case Cause.UNWANTED:
                self.ask_to_disable()
            case Cause.DENIED:
                self.receive_wont()
            case _:
                self.receive_will(cause is Cause.OFFERED)
        return self.sent

    @property
    def state(self) -> State:
        name = self.him.replace("WANT", "WANT_")
        if self.himq == "OPPOSITE":
            name += "_THEN_NO" if self.him == "WANTYES" else "_THEN_YES"
        return State[name]


def brought_to(state: State, side: Side) -> Negotiator:
    """Return a negotiator whose option is in `state` on `side`."""
    negotiator = Negotiator()
    for cause in PATHS[state]:
        negotiator.step(side, OPTION, cause)
    assert negotiator.state(side, OPTION) is state
    return negotiator


def test_table_has_a_row_for_each_state_and_cause() -> None:
    assert set(TRANSITIONS) == set(itertools.product(State, Cause))


@pytest.mark.parametrize("cause", Cause)
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("side", Side)
def test_every_row_of_the_table_says_what_the_prose_of_rfc_1143_says(side: Side, state: State, cause: Cause) -> None:
    prose = Prose()
    for earlier in PATHS[state]:
        prose.happens(earlier)
    assert prose.state is state
    says = prose.happens(cause)
    negotiator = brought_to(state, side)
    assert negotiator.step(side, OPTION, cause) == (None if says is None else WORDS[side, says])
    assert negotiator.state(side, OPTION) is prose.state


def test_verbs_mean_what_they_say() -> None:
    assert WORDS == {
        (Side.LOCAL, True): Verb.WILL,
        (Side.LOCAL, False): Verb.WONT,
        (Side.REMOTE, True): Verb.DO,
        (Side.REMOTE, False): Verb.DONT,
    }
    for (side, agrees), verb in WORDS.items():
        other = Side.REMOTE if side is Side.LOCAL else Side.LOCAL
        assert MEANINGS[verb] == (other, agrees)


def test_acknowledgement_is_never_acknowledged() -> None:
    """RFC 854: a request to enter a mode that is in effect already is not answered. It is what makes loops."""
    for state, cause in TRANSITIONS:
        answer = TRANSITIONS[state, cause].says
        if state is State.YES and cause in (Cause.OFFERED, Cause.UNWELCOME):
            assert answer is None
        if state is State.NO and cause is Cause.DENIED:
            assert answer is None


def test_refusal_is_always_respected() -> None:
    """RFC 854: each side may refuse each option, and take it back at any time."""
    for state in State:
        after = TRANSITIONS[state, Cause.DENIED].state
        assert after in (State.NO, State.WANT_YES)
        assert after not in IN_EFFECT[Side.REMOTE]


def test_option_that_was_offered_and_refused_leaves_nothing_behind() -> None:
    negotiator = Negotiator()
    for option in range(256):
        for side in Side:
            answer = negotiator.step(side, option, Cause.UNWELCOME)
            assert answer in (Verb.WONT, Verb.DONT)
            negotiator.step(side, option, Cause.OFFERED)
            negotiator.step(side, option, Cause.DENIED)
    assert negotiator._states == {}


class Course(NamedTuple):
    """A state of the world in which two sides negotiate one option of the near one.

    Attributes:
        near: the state at the side that does what the option is about.
        far: the state at the other side.
        to_far: what is under way from near to far: True for WILL, False for WONT.
        to_near: what is under way from far to near: True for DO, False for DONT.
        wishes: how many times more one of the programs may change its mind.
    """

    near: State
    far: State
    to_far: tuple[bool, ...]
    to_near: tuple[bool, ...]
    wishes: int


def follows(state: State, cause: Cause, under_way: tuple[bool, ...]) -> tuple[State, tuple[bool, ...]]:
    step = TRANSITIONS[state, cause]
    return step.state, under_way if step.says is None else (*under_way, step.says)


def next_courses(course: Course, near_agrees: bool, far_agrees: bool) -> list[Course]:
    """Return everything that can happen next: something arrives, or a program changes its mind."""
    near, far, to_far, to_near, wishes = course
    found = []
    if to_far:
        agreed = Cause.OFFERED if far_agrees else Cause.UNWELCOME
        state, answers = follows(far, agreed if to_far[0] else Cause.DENIED, to_near)
        found.append(Course(near, state, to_far[1:], answers, wishes))
    if to_near:
        agreed = Cause.OFFERED if near_agrees else Cause.UNWELCOME
        state, answers = follows(near, agreed if to_near[0] else Cause.DENIED, to_far)
        found.append(Course(state, far, answers, to_near[1:], wishes))
    if wishes:
        for cause in (Cause.WANTED, Cause.UNWANTED):
            state, sent = follows(near, cause, to_far)
            found.append(Course(state, far, sent, to_near, wishes - 1))
            state, sent = follows(far, cause, to_near)
            found.append(Course(near, state, to_far, sent, wishes - 1))
    return found


@pytest.mark.parametrize("far_agrees", [True, False])
@pytest.mark.parametrize("near_agrees", [True, False])
def test_every_course_of_a_negotiation_ends_and_both_sides_agree_then(near_agrees: bool, far_agrees: bool) -> None:
    """Every order in which two programs can change their minds, six times in all, and the network deliver."""
    seen = set()

    @functools.cache
    def longest(course: Course) -> int:  # a loop would be a RecursionError
        seen.add(course[:2])
        if not course.to_far and not course.to_near:
            assert course.near is course.far
            assert course.near in (State.NO, State.YES)
        return max((1 + longest(after) for after in next_courses(course, near_agrees, far_agrees)), default=0)

    steps = longest(Course(State.NO, State.NO, (), (), wishes=6))
    assert 6 * 2 <= steps <= 6 * 3  # a wish, what it sends, and the answer to that
    assert {near for near, _ in seen} == {far for _, far in seen} == set(State)
