"""Telnet: both sides against any bytes, and against one another."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from typing import Any

from protocols.telnet.lines import Line
from protocols.telnet.options import Option, Side, State
from protocols.telnet.session import Data, Event, OptionDisabled, OptionEnabled, Session, TerminalType, WindowSize
from protocols.telnet.wire import Command, Decoder, LimitExceeded, Negotiation, Subnegotiation, escape
from reactor.errors import LocalError
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.models import joined, read_telnet

ROLES = ("server", "client")
LINES = (None, 1 << 16, 5)
PARTICULARS = (512, 12, 1)
OPTIONS = tuple(Option)
MOST_STATES = 2 * len(OPTIONS)
"""An option that is not known is never on."""
LONGEST_ANSWER = 8
"""Bytes sent for each that came: six of them ask for the name of a terminal, which is told in 46."""
LONGEST_ACT = 16
LONGEST_EXCHANGE = 32
"""Bytes of a whole exchange for each that begins it: three of them make a server ask for that name."""

Act = Callable[[Session], None]


def make_session(role: str, maximum_line: int | None, maximum_subnegotiation: int = 512) -> Session:
    """Return a session that tells the most that it can."""
    options: Any = {"terminal_types": ["A" * 40, "B"], "window_size": (255, 65535)} if role == "client" else {}
    return Session(role, maximum_line=maximum_line, maximum_subnegotiation=maximum_subnegotiation, **options)


def any_act(decisions: Decisions) -> Act:
    """Return something that the program behind a session does; what makes no sense for its role is refused."""
    kind, option = decisions.below(8), OPTIONS[decisions.below(len(OPTIONS))]
    size = decisions.number(), decisions.number(2)
    data = decisions.take(4)

    def act(session: Session) -> None:
        with contextlib.suppress(LocalError):
            match kind:
                case 0:
                    session.will(option)
                case 1:
                    session.wont(option)
                case 2:
                    session.do(option)
                case 3:
                    session.dont(option)
                case 4:
                    session.request_terminal_type()
                case 5:
                    session.set_window_size(*size)
                case 6:
                    session.send_command(Command.ARE_YOU_THERE)
                case 7:
                    session.send_data(data)

    return act


# Any peer


def telnet(data: bytes) -> None:
    """Any bytes mean what a plain reading says, wherever they are cut, and cost little memory and few answers."""
    decisions = Decisions(data)
    role = ROLES[decisions.below(2)]
    maximum_line, maximum = LINES[decisions.below(len(LINES))], PARTICULARS[decisions.below(len(PARTICULARS))]
    cutting = decisions.cutting()
    script: list[Act | bytes] = []
    while decisions:
        script.append(any_act(decisions) if decisions.below(4) == 0 else decisions.string())
    runs = [
        played(make_session(role, maximum_line, maximum), script, way)
        for way in (Cutting(), cutting, Cutting(stride=1))
    ]
    assert runs[0] == runs[1] == runs[2]
    stream = b"".join(step for step in script if isinstance(step, bytes))
    decoder = Decoder(maximum)
    assert joined([plainly(token) for token in decoder.feed(stream)]) == read_telnet(stream, maximum)
    for binary in (False, True):
        (arrived,) = read_telnet(escape(stream, binary), maximum) or [b""]
        assert (arrived if binary else arrived.replace(b"\r\0", b"\r")) == stream


def played(session: Session, script: list[Act | bytes], way: Cutting) -> tuple[list[Any], list[bytes]]:
    """Let a session live through `script`; return its events, and what it sends in each step."""
    events: list[Any] = []
    sent: list[bytes] = []
    allowed = 0
    for step in script:
        if isinstance(step, bytes):
            for part in way.pieces(step):
                found = session.feed(part)
                assert len(found) <= 2 * len(part)
                assert_are_events(found)
                assert_is_small(session)
                events += [event.data if isinstance(event, Data) else event for event in found]
            allowed += LONGEST_ANSWER * len(step)
        else:
            step(session)
            allowed += LONGEST_ACT
        sent.append(session.data_to_send())
        assert_is_telnet(sent[-1])
        assert sum(map(len, sent)) <= allowed
    found = session.finish()
    assert_are_events(found)
    return joined(events + found), sent


def plainly(token: Any) -> Any:
    """Return `token` in the words of the model."""
    match token:
        case Negotiation(verb, option):
            return verb.value, option
        case Subnegotiation(option, content):
            return option, content
        case LimitExceeded():
            return "too long"
        case _:
            return token


def assert_are_events(events: list[Event]) -> None:
    """Assert that `events` are what the session may tell."""
    for event in events:
        match event:
            case Data(data):
                assert data
            case Line(data):
                assert not re.search(rb"[\r\n]", data)
            case WindowSize(width, height):
                assert 0 <= width <= 65535
                assert 0 <= height <= 65535
            case TerminalType(name):
                assert 1 <= len(name) <= 40
                assert name.isascii()
                assert name.isprintable()
            case OptionEnabled(side, option) | OptionDisabled(side, option):
                assert type(side) is Side
                assert type(option) is Option
            case _:
                assert type(event) in (Command, LimitExceeded)


def assert_is_small(session: Session) -> None:
    """Assert that a session holds no more than its limits say."""
    decoder = session._decoder
    assert len(decoder._begun) <= 2
    assert len(decoder._content or b"") <= decoder._maximum
    assert len(session._negotiator._states) <= MOST_STATES
    if session.lines is not None:
        assert len(session.lines._begun) <= session.lines.maximum


def assert_is_telnet(sent: bytes) -> None:
    """Assert that what a session sends is whole: its peer waits for no more of it."""
    tokens = read_telnet(sent + b"\xff\xf1", 100)
    assert tokens[-1:] == [Command.NO_OPERATION.value]
    assert "too long" not in tokens


# One another


def telnet_link(data: bytes) -> None:
    """Two sides fall silent, and agree, whatever their programs want and however the link cuts.

    That holds for what the two of them say. Somebody between them who puts in a DO and a DONT has them exchange
    these for ever: each takes the other's answer for a request (RFC 1143 knows no other way).
    """
    decisions = Decisions(data)
    sides = [make_session(role, None) for role in ROLES]
    under_way = [b"", b""]
    fed = [0, 0]

    def carry(to: int, count: int) -> None:
        arriving, under_way[to] = under_way[to][:count], under_way[to][count:]
        fed[to] += len(arriving)
        assert_are_events(sides[to].feed(arriving))
        under_way[1 - to] += sides[to].data_to_send()

    while decisions:
        to = decisions.below(2)
        if decisions.below(4) == 0:
            any_act(decisions)(sides[1 - to])
            under_way[to] += sides[1 - to].data_to_send()
        else:
            carry(to, 1 + decisions.number())
    spoken = sum(fed) + sum(map(len, under_way))
    while any(under_way):
        for to in range(2):
            carry(to, 1 << 10)
        assert sum(fed) <= LONGEST_EXCHANGE * (spoken + 1)
    for option in OPTIONS:
        for local, remote in (sides, sides[::-1]):
            states = local._negotiator.state(Side.LOCAL, option), remote._negotiator.state(Side.REMOTE, option)
            assert states in ((State.NO, State.NO), (State.YES, State.YES))
