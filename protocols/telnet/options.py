"""Which options are on, and who says what about them: negotiation that cannot loop (RFC 1143). No I/O.

Each option is negotiated for each side by itself. The Q method of RFC 1143 never answers an answer, and never has
two requests under way for the same thing; so however two sides contradict one another, and themselves, there
is an end to it, and both know how it ended.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from .wire import Verb


class Option(enum.IntEnum):
    """The options that are known here. All others are refused, to whoever asks."""

    BINARY = 0
    """Eight bits, and carriage returns as they are (RFC 856)."""
    ECHO = 1
    """This side sends back what the other one types (RFC 857)."""
    SUPPRESS_GO_AHEAD = 3
    """This side sends no `Command.GO_AHEAD` when it is the other one's turn (RFC 858)."""
    TERMINAL_TYPE = 24
    """This side tells what terminal it has (RFC 1091)."""
    WINDOW_SIZE = 31
    """This side tells how large its window is: NAWS (RFC 1073)."""


class Side(enum.StrEnum):
    """Who does what an option is about."""

    LOCAL = "local"
    REMOTE = "remote"


class State(enum.StrEnum):
    """Where an option stands on one side, as this program sees it."""

    NO = "off"
    YES = "on"
    WANT_NO = "this program has said no, and waits for the answer"
    WANT_NO_THEN_YES = "it has said no, and will ask for it again when the answer is there"
    WANT_YES = "this program has asked for it, and waits for the answer"
    WANT_YES_THEN_NO = "it has asked for it, and will say no when the answer is there"


class Cause(enum.StrEnum):
    """What can happen to an option."""

    WANTED = "this program wants it on"
    UNWANTED = "this program wants it off"
    OFFERED = "the peer says WILL or DO, and this program would agree"
    UNWELCOME = "the peer says WILL or DO, and this program would not agree"
    DENIED = "the peer says WONT or DONT"


class Step(NamedTuple):
    """What follows from a cause.

    Attributes:
        state: the state that follows.
        says: True for WILL or DO, False for WONT or DONT, None for not a word.
    """

    state: State
    says: bool | None = None


TRANSITIONS: dict[tuple[State, Cause], Step] = {
    (State.NO, Cause.WANTED): Step(State.WANT_YES, says=True),
    (State.NO, Cause.UNWANTED): Step(State.NO),
    (State.NO, Cause.OFFERED): Step(State.YES, says=True),
    (State.NO, Cause.UNWELCOME): Step(State.NO, says=False),
    (State.NO, Cause.DENIED): Step(State.NO),
    (State.YES, Cause.WANTED): Step(State.YES),
    (State.YES, Cause.UNWANTED): Step(State.WANT_NO, says=False),
    (State.YES, Cause.OFFERED): Step(State.YES),
    (State.YES, Cause.UNWELCOME): Step(State.YES),
    (State.YES, Cause.DENIED): Step(State.NO, says=False),
    (State.WANT_NO, Cause.WANTED): Step(State.WANT_NO_THEN_YES),
    (State.WANT_NO, Cause.UNWANTED): Step(State.WANT_NO),
    (State.WANT_NO, Cause.OFFERED): Step(State.NO),  # no answer to our no; RFC 1143 takes it for one
    (State.WANT_NO, Cause.UNWELCOME): Step(State.NO),
    (State.WANT_NO, Cause.DENIED): Step(State.NO),
    (State.WANT_NO_THEN_YES, Cause.WANTED): Step(State.WANT_NO_THEN_YES),
    (State.WANT_NO_THEN_YES, Cause.UNWANTED): Step(State.WANT_NO),
    (State.WANT_NO_THEN_YES, Cause.OFFERED): Step(State.YES),
    (State.WANT_NO_THEN_YES, Cause.UNWELCOME): Step(State.YES),
    (State.WANT_NO_THEN_YES, Cause.DENIED): Step(State.WANT_YES, says=True),
    (State.WANT_YES, Cause.WANTED): Step(State.WANT_YES),
    (State.WANT_YES, Cause.UNWANTED): Step(State.WANT_YES_THEN_NO),
    (State.WANT_YES, Cause.OFFERED): Step(State.YES),
    (State.WANT_YES, Cause.UNWELCOME): Step(State.YES),
    (State.WANT_YES, Cause.DENIED): Step(State.NO),
    (State.WANT_YES_THEN_NO, Cause.WANTED): Step(State.WANT_YES),
    (State.WANT_YES_THEN_NO, Cause.UNWANTED): Step(State.WANT_YES_THEN_NO),
    (State.WANT_YES_THEN_NO, Cause.OFFERED): Step(State.WANT_NO, says=False),
    (State.WANT_YES_THEN_NO, Cause.UNWELCOME): Step(State.WANT_NO, says=False),
    (State.WANT_YES_THEN_NO, Cause.DENIED): Step(State.NO),
}
"""(state, cause) -> what follows. It is the table of RFC 1143, section 7, for both sides."""

IN_EFFECT: dict[Side, frozenset[State]] = {
    Side.LOCAL: frozenset({State.YES}),
    Side.REMOTE: frozenset({State.YES, State.WANT_NO, State.WANT_NO_THEN_YES}),
}
"""The states in which a side does what the option is about: the peer does it until its own no has come."""

MEANINGS: dict[Verb, tuple[Side, bool]] = {
    Verb.WILL: (Side.REMOTE, True),
    Verb.WONT: (Side.REMOTE, False),
    Verb.DO: (Side.LOCAL, True),
    Verb.DONT: (Side.LOCAL, False),
}
"""Verb from the peer -> the side that it is about, and whether it is a yes."""

WORDS: dict[tuple[Side, bool], Verb] = {
    (Side.LOCAL, True): Verb.WILL,
    (Side.LOCAL, False): Verb.WONT,
    (Side.REMOTE, True): Verb.DO,
    (Side.REMOTE, False): Verb.DONT,
}
"""The side that a yes or no is about -> the verb for the peer."""


class Negotiator:
    """Where every option stands on both sides. It holds something only for options that are not off."""

    __slots__ = ("_states",)

    def __init__(self) -> None:
        self._states: dict[tuple[Side, int], State] = {}

    def state(self, side: Side, option: int) -> State:
        """Return where `option` stands on `side`."""
        return self._states.get((side, option), State.NO)

    def is_in_effect(self, side: Side, option: int) -> bool:
        """Return whether `side` does at present what `option` is about."""
        return self.state(side, option) in IN_EFFECT[side]

    def step(self, side: Side, option: int, cause: Cause) -> Verb | None:
        """Let `cause` happen to `option` on `side`; return what is to be said to the peer, if anything is."""
        state, says = TRANSITIONS[self.state(side, option), cause]
        if state is State.NO:
            self._states.pop((side, option), None)
        else:
            self._states[side, option] = state
        return None if says is None else WORDS[side, says]
