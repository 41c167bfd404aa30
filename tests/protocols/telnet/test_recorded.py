"""Conversations with real programs, recorded: played again, in every piece in which the bytes may come.

In a recording, a line that begins with ``!`` tells what the program behind our session did, ``>`` what our session
sent for that or in answer, and ``<`` what the other program sent. What the two of them say to one another as data is
left out of ``>``.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

from protocols.telnet import (
    Command,
    Data,
    Event,
    Line,
    Option,
    OptionDisabled,
    OptionEnabled,
    Session,
    Side,
    TerminalType,
    WindowSize,
)
from tests.properties import every_way

LOCAL, REMOTE = Side.LOCAL, Side.REMOTE
BINARY, ECHO, GO_AHEAD = Option.BINARY, Option.ECHO, Option.SUPPRESS_GO_AHEAD
TERMINAL, WINDOW = Option.TERMINAL_TYPE, Option.WINDOW_SIZE

EXPECTED: dict[str, list[Event]] = {
    "telnet": [
        OptionEnabled(REMOTE, WINDOW),
        WindowSize(255, 50),
        OptionEnabled(REMOTE, TERMINAL),
        TerminalType("XTERM-256COLOR"),
        Line(b"anna"),
        Line(b"\xfc\xc3\xbc\xff"),
        WindowSize(100, 24),
        Command.ARE_YOU_THERE,
        Command.INTERRUPT_PROCESS,
        Command.DATA_MARK,
        Command.BREAK,
        Command.ABORT_OUTPUT,
        Command.ERASE_CHARACTER,
        Command.ERASE_LINE,
        Command.GO_AHEAD,
        Command.NO_OPERATION,
        Command.END_OF_FILE,
        Command.SUSPEND,
        Command.ABORT,
        Command.END_OF_RECORD,
        OptionEnabled(LOCAL, ECHO),
        OptionEnabled(LOCAL, GO_AHEAD),
        Line(b"ab"),
        Line(b"\x7f\x03x"),
        OptionEnabled(LOCAL, BINARY),
        OptionEnabled(REMOTE, BINARY),
        Line(b"q"),
        OptionDisabled(REMOTE, BINARY),
        Line(b"end"),
    ],
    "telnet_eager": [
        OptionEnabled(LOCAL, GO_AHEAD),
        OptionEnabled(REMOTE, TERMINAL),
        OptionEnabled(REMOTE, WINDOW),
        TerminalType("XTERM-256COLOR"),
        WindowSize(255, 50),
        TerminalType("XTERM-256COLOR"),
        Line(b"anna"),
        OptionEnabled(LOCAL, ECHO),
        Line(b"x"),
        Line(b"\x03"),
    ],
    "plink": [
        OptionEnabled(REMOTE, WINDOW),
        OptionEnabled(REMOTE, TERMINAL),
        OptionEnabled(REMOTE, GO_AHEAD),
        OptionEnabled(LOCAL, GO_AHEAD),
        WindowSize(255, 50),
        TerminalType("XTERM"),
        TerminalType("XTERM"),
        Line(b"anna"),
        OptionEnabled(LOCAL, ECHO),
        Line(b"x"),
        WindowSize(100, 24),
        OptionEnabled(LOCAL, BINARY),
        OptionEnabled(REMOTE, BINARY),
        Line(b"\x03q"),
    ],
    "busybox": [  # which does not double the 255 of its window
        OptionEnabled(REMOTE, WINDOW),
        WindowSize(255, 50),
        OptionEnabled(REMOTE, TERMINAL),
        TerminalType("xterm-256color"),
        Line(b"anna"),
        OptionEnabled(LOCAL, ECHO),
        OptionEnabled(LOCAL, GO_AHEAD),
        Line(b"x"),
        Line(b"\x03q"),
    ],
    "curl": [
        Line(b"anna"),
        OptionEnabled(REMOTE, WINDOW),
        WindowSize(0, 0),
        OptionEnabled(REMOTE, BINARY),
        OptionEnabled(LOCAL, BINARY),
        OptionEnabled(REMOTE, GO_AHEAD),
        OptionEnabled(LOCAL, GO_AHEAD),
        Line(b"x\xffy"),
    ],
    "curl_options": [
        Line(b"anna"),
        OptionEnabled(REMOTE, WINDOW),
        WindowSize(0, 0),
        OptionEnabled(REMOTE, TERMINAL),
        OptionEnabled(REMOTE, BINARY),
        OptionEnabled(LOCAL, BINARY),
        OptionEnabled(REMOTE, GO_AHEAD),
        OptionEnabled(LOCAL, GO_AHEAD),
        Line(b"bye"),
        TerminalType("vt100"),
    ],
    "telnetd": [
        OptionEnabled(LOCAL, TERMINAL),
        OptionEnabled(REMOTE, GO_AHEAD),
        OptionEnabled(LOCAL, WINDOW),
        OptionEnabled(REMOTE, ECHO),
        OptionEnabled(LOCAL, BINARY),
        Data(b"255 100\r\nTERM is xterm\r\nhello \xff\r\nsaid: hello \xff\r\n\r\n[Yes]\r\nbye\r\nsaid: bye\r\n"),
    ],
}


class Stretch(NamedTuple):
    """What happens from one act of our program to the next.

    Attributes:
        act: the name of a method of the session and its arguments; nothing at the beginning.
        received: all that the other program sends.
        sent: all that our session sends.
    """

    act: list[str]
    received: bytes
    sent: bytes


def stretches(name: str) -> list[Stretch]:
    """Return the recording `name`."""
    found = [Stretch([], b"", b"")]
    for line in (Path(__file__).parent / "recorded" / f"{name}.txt").read_text("ascii").splitlines():
        kind, _, rest = line.partition(" ")
        last = found[-1]
        match kind:
            case "!":
                found.append(Stretch(rest.split(), b"", b""))
            case "<":
                found[-1] = last._replace(received=last.received + ast.literal_eval(rest))
            case ">":
                found[-1] = last._replace(sent=last.sent + ast.literal_eval(rest))
            case _:
                assert kind == "#"
    return found


def new_session(name: str) -> Session:
    if name == "telnetd":
        return Session("client", terminal_types=["xterm", "vt100"], window_size=(100, 255))
    return Session("server", maximum_line=1000)


def play(session: Session, stretch: Stretch, parts: list[bytes]) -> list[Event]:
    """Let the session live through `stretch`, in which its input comes in `parts`; return the events."""
    if stretch.act:
        method, *words = stretch.act
        arguments = [int(word) if word.isdecimal() else Option[word] for word in words]
        getattr(session, method)(*arguments)
    events = [event for part in parts for event in session.feed(part)]
    assert session.data_to_send() == stretch.sent
    return events


def joined(events: list[Event]) -> list[Event]:
    """Return `events` with data that stand beside one another joined."""
    found: list[Event] = []
    for event in events:
        last = found[-1] if found else None
        if isinstance(event, Data) and isinstance(last, Data):
            found[-1] = Data(last.data + event.data)
        else:
            found.append(event)
    return found


def test_every_recording_is_played() -> None:
    assert {path.stem for path in (Path(__file__).parent / "recorded").iterdir()} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_recorded_conversation_gives_the_same_events_and_answers_wherever_it_is_cut(name: str) -> None:
    recording = stretches(name)
    for number, stretch in enumerate(recording):
        for parts in every_way(stretch.received):
            session = new_session(name)
            events: list[Event] = []
            for other_number, other in enumerate(recording):
                events += play(session, other, parts if other_number == number else [other.received])
            assert joined(events + session.finish()) == EXPECTED[name]
