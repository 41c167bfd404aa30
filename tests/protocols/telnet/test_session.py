"""The session: every rule of the Telnet standards by its name, in every piece in which the bytes may come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.telnet import (
    Command,
    Data,
    Event,
    LimitExceeded,
    Line,
    Option,
    OptionDisabled,
    OptionEnabled,
    Session,
    Side,
    TerminalType,
    WindowSize,
)
from protocols.telnet.options import MEANINGS, TRANSITIONS, WORDS, Cause, State
from protocols.telnet.session import HOST_OPTIONS, SUPPORTED, TERMINAL_OPTIONS
from protocols.telnet.wire import Verb, encode_negotiation, encode_subnegotiation
from reactor.errors import LocalError
from tests.properties import cuts, every_way, peak_memory, pieces, steady

LOCAL, REMOTE = Side.LOCAL, Side.REMOTE
BINARY, ECHO, GO_AHEAD = Option.BINARY, Option.ECHO, Option.SUPPRESS_GO_AHEAD
TERMINAL, WINDOW = Option.TERMINAL_TYPE, Option.WINDOW_SIZE
ROLES = ["server", "client"]


def will(option: int) -> bytes:
    return encode_negotiation(Verb.WILL, option)


def wont(option: int) -> bytes:
    return encode_negotiation(Verb.WONT, option)


def do(option: int) -> bytes:
    return encode_negotiation(Verb.DO, option)


def dont(option: int) -> bytes:
    return encode_negotiation(Verb.DONT, option)


SEND_TERMINAL = encode_subnegotiation(TERMINAL, b"\x01")


def is_terminal(name: bytes) -> bytes:
    return encode_subnegotiation(TERMINAL, b"\0" + name)


def is_window(size: str) -> bytes:
    return encode_subnegotiation(WINDOW, bytes.fromhex(size))


def client(**options: object) -> Session:
    """A client that tells all that a client can tell."""
    return Session("client", **{"terminal_types": ["XTERM"], "window_size": (80, 24), **options})  # type: ignore[arg-type]


def feed(session: Session, *parts: bytes) -> list[Event]:
    """Feed `parts`; return the events, data that stand beside one another joined."""
    events: list[Event] = []
    for part in parts:
        for event in session.feed(part):
            last = events[-1] if events else None
            if isinstance(event, Data) and isinstance(last, Data):
                events[-1] = Data(last.data + event.data)
            else:
                events.append(event)
    return events


def enabled(session: Session, side: Side, option: Option) -> Session:
    """Return `session` with `option` on at `side`, and nothing to be sent."""
    session.do(option) if side is REMOTE else session.will(option)
    session.feed(will(option) if side is REMOTE else do(option))
    session.data_to_send()
    assert session.is_enabled(side, option)
    return session


# Data (RFC 854)


def test_data_are_told_as_they_come() -> None:
    session = Session()
    assert feed(session, b"some data") == [Data(b"some data")]
    assert session.data_to_send() == b""


def test_all_bytes_survive_the_way_there_and_back() -> None:
    everything = bytes(range(256)) * 2 + bytes(
        byte for low in range(256) for byte in (low, 13, low, 10, low, 255, low, 0)
    )
    for side in ("server", "client"):
        sender, receiver = Session(side), Session()
        sender.send_data(everything)
        wire = sender.data_to_send()
        assert feed(receiver, wire) == [Data(everything)]
        assert feed(Session(), *(wire[i : i + 1] for i in range(len(wire)))) == [Data(everything)]


@steady
@given(st.lists(st.lists(st.sampled_from([b"\r", b"\n", b"\0", b"\xff", b"a", b"\xf0"])).map(b"".join)), cuts)
def test_data_survive_however_the_sender_and_the_network_cut_them(sent: list[bytes], places: list[int]) -> None:
    sender = Session()
    for data in sent:
        sender.send_data(data)
    received = feed(Session("client"), *pieces(sender.data_to_send(), places))
    assert received == ([Data(b"".join(sent))] if any(sent) else [])


def test_carriage_return_and_nul_mean_a_carriage_return() -> None:
    for parts in every_way(b"a\r\0b\r\nc\r\0\0d\0e\r\0"):
        assert feed(Session(), *parts) == [Data(b"a\rb\r\nc\r\0d\0e\r")]


def test_carriage_return_that_the_standard_forbids_is_passed_on_as_it_is() -> None:
    for parts in every_way(b"a\rb\r\r\0c"):
        assert feed(Session(), *parts) == [Data(b"a\rb\r\rc")]


def test_command_between_a_carriage_return_and_its_nul_changes_nothing() -> None:
    for parts in every_way(b"a\r\xff\xf1\0b"):
        assert feed(Session(), *parts) == [Data(b"a\r"), Command.NO_OPERATION, Data(b"b")]


def test_data_are_sent_with_the_line_ends_of_the_network_virtual_terminal() -> None:
    session = Session()
    session.send_data(b"a\rb\r\nc\xffd\r")
    session.send_data(b"\n")
    assert session.data_to_send() == b"a\r\0b\r\nc\xff\xffd\r\0\n"
    assert session.data_to_send() == b""


# Commands (RFC 854)


@pytest.mark.parametrize("command", Command)
def test_commands_are_told_between_the_data_where_they_stand(command: Command) -> None:
    wire = b"before" + bytes([255, command]) + b"behind"
    for parts in every_way(wire):
        session = Session()
        assert feed(session, *parts) == [Data(b"before"), command, Data(b"behind")]
        assert session.data_to_send() == b""


@pytest.mark.parametrize("command", Command)
def test_commands_that_one_side_sends_are_told_at_the_other(command: Command) -> None:
    session = Session("client")
    session.send_data(b"a")
    session.send_command(command)
    assert feed(Session(), session.data_to_send()) == [Data(b"a"), command]


def test_commands_that_do_not_exist_are_ignored() -> None:
    for parts in every_way(b"a\xff\x00b\xff\x7fc\xff\xf0d"):
        assert feed(Session(), *parts) == [Data(b"abcd")]


# Negotiation (RFC 855, 1143)


@pytest.mark.parametrize("role", ROLES)
def test_every_option_that_is_not_known_is_refused_once_for_each_time_it_comes_up(role: str) -> None:
    for option in set(range(256)) - set(Option):
        for parts in every_way(will(option) + do(option) + wont(option) + dont(option) + will(option)):
            session = Session(role)
            assert feed(session, *parts) == []
            assert session.data_to_send() == dont(option) + wont(option) + dont(option)


def test_environment_is_refused_and_what_is_said_of_it_all_the_same_is_ignored() -> None:
    for option in (35, 36, 39):  # X-DISPLAY-LOCATION, ENVIRON, NEW-ENVIRON (RFC 1096, 1408, 1572)
        said = encode_subnegotiation(option, b"\0\0USER\x01-f root")
        for role in ROLES:
            session = Session(role)
            assert feed(session, will(option) + do(option) + said + b"data") == [Data(b"data")]
            assert session.data_to_send() == dont(option) + wont(option)


@pytest.mark.parametrize("option", [BINARY, GO_AHEAD, TERMINAL, WINDOW])
def test_server_agrees_to_what_a_terminal_offers(option: Option) -> None:
    session = Session()
    assert feed(session, will(option)) == [OptionEnabled(REMOTE, option)]
    assert session.data_to_send().startswith(do(option))
    assert feed(session, wont(option)) == [OptionDisabled(REMOTE, option)]
    assert session.data_to_send() == dont(option)


@pytest.mark.parametrize("option", [BINARY, GO_AHEAD, TERMINAL, WINDOW])
def test_client_agrees_to_what_a_host_asks_for(option: Option) -> None:
    session = client()
    assert feed(session, do(option)) == [OptionEnabled(LOCAL, option)]
    assert session.data_to_send().startswith(will(option))
    assert feed(session, dont(option)) == [OptionDisabled(LOCAL, option)]
    assert session.data_to_send() == wont(option)


def test_server_echoes_only_where_it_has_offered_to() -> None:
    session = Session()
    assert feed(session, do(ECHO)) == []
    assert session.data_to_send() == wont(ECHO)
    session.will(ECHO)
    assert feed(session, do(ECHO)) == [OptionEnabled(LOCAL, ECHO)]
    assert session.data_to_send() == will(ECHO)


def test_client_lets_the_server_echo_and_does_not_echo_itself() -> None:
    """RFC 857: were both to echo, a character would go round for ever."""
    session = client()
    assert feed(session, will(ECHO)) == [OptionEnabled(REMOTE, ECHO)]
    assert session.data_to_send() == do(ECHO)
    assert feed(session, do(ECHO)) == []
    assert session.data_to_send() == wont(ECHO)


@pytest.mark.parametrize("role", ROLES)
def test_suppress_go_ahead_is_always_agreed_to(role: str) -> None:
    """RFC 1123, section 3.2.2."""
    session = Session(role)
    assert feed(session, will(GO_AHEAD) + do(GO_AHEAD)) == [
        OptionEnabled(REMOTE, GO_AHEAD),
        OptionEnabled(LOCAL, GO_AHEAD),
    ]
    assert session.data_to_send() == do(GO_AHEAD) + will(GO_AHEAD)


@pytest.mark.parametrize("role", ROLES)
def test_timing_mark_is_answered_each_time_although_it_is_refused(role: str) -> None:
    """RFC 860: the answer is the mark, be it yes or no."""
    session = Session(role)
    feed(session, do(6) * 3)
    assert session.data_to_send() == wont(6) * 3


@pytest.mark.parametrize("role", ROLES)
def test_what_is_on_already_is_not_answered_again(role: str) -> None:
    session = Session(role)
    assert len(feed(session, will(GO_AHEAD) * 5 + do(GO_AHEAD) * 5)) == 2
    assert session.data_to_send() == do(GO_AHEAD) + will(GO_AHEAD)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_off_already_is_not_answered(role: str) -> None:
    session = Session(role)
    assert feed(session, b"".join(wont(option) + dont(option) for option in range(256))) == []
    assert session.data_to_send() == b""


def test_request_is_sent_once_and_told_when_it_is_granted() -> None:
    session = Session()
    session.will(ECHO)
    session.will(ECHO)
    session.do(GO_AHEAD)
    session.do(GO_AHEAD)
    assert session.data_to_send() == will(ECHO) + do(GO_AHEAD)
    assert not session.is_enabled(LOCAL, ECHO)
    assert feed(session, do(ECHO) + will(GO_AHEAD)) == [OptionEnabled(LOCAL, ECHO), OptionEnabled(REMOTE, GO_AHEAD)]
    assert session.is_enabled(LOCAL, ECHO)
    session.will(ECHO)
    assert session.data_to_send() == b""


def test_refusal_of_a_request_is_no_event_and_not_answered() -> None:
    session = Session()
    session.will(ECHO)
    session.do(WINDOW)
    session.data_to_send()
    assert feed(session, dont(ECHO) + wont(WINDOW)) == []
    assert session.data_to_send() == b""
    assert not session.is_enabled(LOCAL, ECHO)


def test_this_side_stops_at_once_and_the_peer_when_it_says_so() -> None:
    session = enabled(enabled(Session(), LOCAL, BINARY), REMOTE, BINARY)
    session.wont(BINARY)
    session.dont(BINARY)
    assert session.data_to_send() == wont(BINARY) + dont(BINARY)
    assert not session.is_enabled(LOCAL, BINARY)
    assert session.is_enabled(REMOTE, BINARY)
    assert feed(session, b"\r\0" + dont(BINARY) + wont(BINARY) + b"\r\0") == [
        Data(b"\r\0"),
        OptionDisabled(REMOTE, BINARY),
        Data(b"\r"),
    ]
    assert session.data_to_send() == b""


def test_change_of_mind_waits_for_the_answer_to_what_was_said_before() -> None:
    session = Session()
    session.will(ECHO)
    session.wont(ECHO)
    assert session.data_to_send() == will(ECHO)
    assert feed(session, do(ECHO)) == []
    assert session.data_to_send() == wont(ECHO)
    session.will(ECHO)
    assert session.data_to_send() == b""
    assert feed(session, dont(ECHO)) == []
    assert session.data_to_send() == will(ECHO)
    assert feed(session, do(ECHO)) == [OptionEnabled(LOCAL, ECHO)]


@pytest.mark.parametrize(
    ("role", "side", "option"),
    [
        ("server", LOCAL, TERMINAL),
        ("server", LOCAL, WINDOW),
        ("server", REMOTE, ECHO),
        ("client", LOCAL, ECHO),
        ("client", REMOTE, TERMINAL),
        ("client", REMOTE, WINDOW),
    ],
)
def test_option_that_makes_no_sense_for_a_role_cannot_be_asked_for(role: str, side: Side, option: Option) -> None:
    session = Session(role)
    with pytest.raises(LocalError, match=f"no {option.name} on the {side.value} side"):
        session.will(option) if side is LOCAL else session.do(option)
    assert session.data_to_send() == b""


@pytest.mark.parametrize("option", [99, "ECHO", None])
def test_option_that_is_not_known_cannot_be_asked_for(option: Any) -> None:
    session = Session()
    with pytest.raises(LocalError, match=f"no {option} on the remote side"):
        session.do(option)
    with pytest.raises(LocalError, match=f"no {option} on the local side"):
        session.will(option)
    assert session.data_to_send() == b""


@pytest.mark.parametrize("command", [5, 250, 253, 255, 300, -1, "AYT", None])
def test_command_that_is_none_cannot_be_sent(command: Any) -> None:
    session = Session()
    with pytest.raises(LocalError, match="is no command of Telnet"):
        session.send_command(command)
    assert session.data_to_send() == b""


def test_role_that_does_not_exist_is_refused() -> None:
    with pytest.raises(LocalError, match="'server' or 'client', not 'peer'"):
        Session("peer")


def bring_to(session: Session, side: Side, option: Option, state: State) -> None:
    """Bring `option` into `state` on `side`, as a program and its peer would."""
    want, unwant = (session.will, session.wont) if side is LOCAL else (session.do, session.dont)
    if state is not State.NO:
        want(option)
    if state in (State.YES, State.WANT_NO, State.WANT_NO_THEN_YES):
        session.feed(do(option) if side is LOCAL else will(option))
    if state in (State.WANT_NO, State.WANT_NO_THEN_YES, State.WANT_YES_THEN_NO):
        unwant(option)
    if state is State.WANT_NO_THEN_YES:
        want(option)
    assert session._negotiator.state(side, option) is state
    session.data_to_send()


PARTICULARS = {
    ("server", REMOTE, TERMINAL): SEND_TERMINAL,
    ("client", LOCAL, WINDOW): is_window("00500018"),
}
"""What is said besides when an option comes on."""


@pytest.mark.parametrize("agrees", [True, False])
@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize(
    ("role", "side", "option"),
    [(role, side, option) for role in ROLES for side in Side for option in sorted(SUPPORTED[role][side])],
)
def test_every_command_in_every_state_has_the_answer_of_the_table_and_tells_what_it_changes(
    role: str, side: Side, option: Option, state: State, agrees: bool
) -> None:
    session = client() if role == "client" else Session()
    bring_to(session, side, option, state)
    was_enabled = session.is_enabled(side, option)
    (verb,) = (verb for verb, meaning in MEANINGS.items() if meaning == (side, agrees))
    events = feed(session, encode_negotiation(verb, option))
    agreed = Cause.UNWELCOME if (side, option) == (LOCAL, ECHO) else Cause.OFFERED
    cause = agreed if agrees else Cause.DENIED
    after, says = TRANSITIONS[state, cause]
    assert session._negotiator.state(side, option) is after
    answer = b"" if says is None else encode_negotiation(WORDS[side, says], option)
    if session.is_enabled(side, option) == was_enabled:
        assert events == []
    else:
        assert events == [OptionDisabled(side, option) if was_enabled else OptionEnabled(side, option)]
        if after is State.YES:
            answer += PARTICULARS.get((role, side, option), b"")
    assert session.data_to_send() == answer


# BINARY (RFC 856)


def test_carriage_returns_are_left_alone_in_binary_both_ways() -> None:
    session = enabled(enabled(Session(), LOCAL, BINARY), REMOTE, BINARY)
    for parts in every_way(b"a\r\0b\r\nc\xff\xff\r"):
        assert feed(session, *parts) == [Data(b"a\r\0b\r\nc\xff\r")]
    session.send_data(b"a\r\0b\r\nc\xff\r")
    assert session.data_to_send() == b"a\r\0b\r\nc\xff\xff\r"


def test_binary_is_negotiated_for_each_direction_by_itself() -> None:
    session = enabled(Session(), REMOTE, BINARY)
    session.send_data(b"\r")
    assert session.data_to_send() == b"\r\0"
    session = enabled(Session(), LOCAL, BINARY)
    session.send_data(b"\r")
    assert session.data_to_send() == b"\r"
    assert feed(session, b"\r\0") == [Data(b"\r")]


def test_binary_takes_effect_at_its_place_among_the_data() -> None:
    for parts in every_way(b"\r\0" + will(BINARY) + b"\r\0" + wont(BINARY) + b"\r\0"):
        assert feed(Session(), *parts) == [
            Data(b"\r"),
            OptionEnabled(REMOTE, BINARY),
            Data(b"\r\0"),
            OptionDisabled(REMOTE, BINARY),
            Data(b"\r"),
        ]


def test_nul_at_the_beginning_of_binary_belongs_to_no_carriage_return_before_it() -> None:
    for parts in every_way(b"\r" + will(BINARY) + b"\0" + wont(BINARY) + b"\0"):
        assert [event for event in feed(Session(), *parts) if isinstance(event, Data)] == [
            Data(b"\r"),
            Data(b"\0"),
            Data(b"\0"),
        ]


# The size of the window (RFC 1073)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("00500018", (80, 24)),
        ("00ff00ff", (255, 255)),
        ("ffffffff", (65535, 65535)),
        ("00000000", (0, 0)),
        ("01020304", (258, 772)),
    ],
)
def test_window_size_is_told_each_time_it_comes(size: str, expected: tuple[int, int]) -> None:
    for parts in every_way(is_window(size) * 2 + b"x"):
        session = enabled(Session(), REMOTE, WINDOW)
        assert feed(session, *parts) == [WindowSize(*expected), WindowSize(*expected), Data(b"x")]


@pytest.mark.parametrize("size", ["", "00", "005000", "0050001800"])
def test_window_size_of_another_length_is_ignored(size: str) -> None:
    assert feed(enabled(Session(), REMOTE, WINDOW), is_window(size)) == []


def test_particulars_of_an_option_that_is_off_are_ignored() -> None:
    """RFC 855: they belong to an option that both sides have agreed on."""
    for session in (Session(), client()):
        assert feed(session, is_window("00500018") + is_terminal(b"XTERM") + SEND_TERMINAL) == []
        assert session.data_to_send() == b""


def test_client_tells_the_size_of_its_window_when_it_is_asked_and_when_that_changes() -> None:
    session = client()
    session.set_window_size(100, 255)
    assert session.data_to_send() == b""
    assert feed(session, do(WINDOW)) == [OptionEnabled(LOCAL, WINDOW)]
    assert session.data_to_send() == will(WINDOW) + b"\xff\xfa\x1f\x00\x64\x00\xff\xff\xff\xf0"
    session.set_window_size(65535, 0)
    assert session.data_to_send() == b"\xff\xfa\x1f\xff\xff\xff\xff\x00\x00\xff\xf0"
    feed(session, dont(WINDOW))
    session.data_to_send()
    session.set_window_size(1, 1)
    assert session.data_to_send() == b""


def test_client_that_has_no_window_says_so_until_it_has_one() -> None:
    session = Session("client")
    assert feed(session, do(WINDOW)) == []
    assert session.data_to_send() == wont(WINDOW)
    with pytest.raises(LocalError, match="no WINDOW_SIZE"):
        session.will(WINDOW)
    session.set_window_size(80, 24)
    session.will(WINDOW)
    assert session.data_to_send() == will(WINDOW)
    feed(session, do(WINDOW))
    assert session.data_to_send() == is_window("00500018")


@pytest.mark.parametrize("size", [(-1, 24), (80, -1), (65536, 24), (80, 65536), (1.5, 2), (80, "24")])
def test_window_that_cannot_be_told_is_refused(size: Any) -> None:
    with pytest.raises(LocalError, match="give numbers from 0 to 65535"):
        Session("client", window_size=size)
    session = client()
    with pytest.raises(LocalError, match="give numbers from 0 to 65535"):
        session.set_window_size(*size)


@pytest.mark.parametrize("size", [80, "80x24", (80,), (80, 24, 1), (80, None)])
def test_window_that_is_none_is_refused(size: Any) -> None:
    with pytest.raises(LocalError, match="give numbers from 0 to 65535"):
        Session("client", window_size=size)


# The type of the terminal (RFC 1091)


def test_server_asks_for_the_terminal_as_soon_as_the_client_is_willing() -> None:
    session = Session()
    session.request_terminal_type()
    session.request_terminal_type()
    assert session.data_to_send() == do(TERMINAL)
    assert feed(session, will(TERMINAL)) == [OptionEnabled(REMOTE, TERMINAL)]
    assert session.data_to_send() == SEND_TERMINAL
    assert feed(session, is_terminal(b"DEC-VT100")) == [TerminalType("DEC-VT100")]
    session.request_terminal_type()
    assert session.data_to_send() == SEND_TERMINAL


def test_server_that_wants_the_terminal_no_more_does_not_ask_for_it() -> None:
    session = Session()
    session.request_terminal_type()
    session.dont(TERMINAL)
    session.data_to_send()
    feed(session, will(TERMINAL))
    assert session.data_to_send() == dont(TERMINAL)


@pytest.mark.parametrize(
    "name", [b"", b"\0", b"a\nb", b"\x1b[2J", b"x" * 41, b"vt\xff100", b"\x80", b"a\x7f", "\u00e9".encode("latin-1")]
)
def test_terminal_type_that_is_not_printable_or_too_long_is_ignored(name: bytes) -> None:
    assert feed(enabled(Session(), REMOTE, TERMINAL), is_terminal(name)) == []


@pytest.mark.parametrize("name", ["x", "xterm-256color", "IBM-3278-2", "x" * 40, "../../etc/passwd", "Mudlet 4.1"])
def test_terminal_type_is_told_as_the_peer_wrote_it(name: str) -> None:
    session = enabled(Session(), REMOTE, TERMINAL)
    assert feed(session, is_terminal(name.encode())) == [TerminalType(name)]


def test_client_tells_its_terminals_in_turn_the_last_one_twice_and_begins_again() -> None:
    session = enabled(client(terminal_types=["XTERM", "VT220", "VT100"]), LOCAL, TERMINAL)
    told = []
    for _ in range(9):
        assert feed(session, SEND_TERMINAL) == []
        told.append(session.data_to_send())
    names = [b"XTERM", b"VT220", b"VT100", b"VT100"]
    assert told == [is_terminal(name) for name in [*names, *names, b"XTERM"]]


def test_client_begins_with_its_best_terminal_when_the_option_is_agreed_anew() -> None:
    session = enabled(client(terminal_types=["XTERM", "VT220"]), LOCAL, TERMINAL)
    feed(session, SEND_TERMINAL + dont(TERMINAL) + do(TERMINAL) + SEND_TERMINAL)
    assert session.data_to_send() == is_terminal(b"XTERM") + wont(TERMINAL) + will(TERMINAL) + is_terminal(b"XTERM")


def test_client_without_a_terminal_refuses_to_tell_it() -> None:
    session = Session("client")
    feed(session, do(TERMINAL) + SEND_TERMINAL)
    assert session.data_to_send() == wont(TERMINAL)


@pytest.mark.parametrize("name", ["", "x" * 41, "\u00e9", "a\nb", b"XTERM", None])
def test_terminal_type_that_cannot_be_told_is_refused(name: Any) -> None:
    with pytest.raises(LocalError, match="is no terminal type"):
        Session("client", terminal_types=["XTERM", name])


def test_one_terminal_type_is_not_taken_for_as_many_as_it_has_letters() -> None:
    with pytest.raises(LocalError, match=r"give \('xterm',\)"):
        Session("client", terminal_types="xterm")


# Lines


def test_lines_are_cut_from_the_data_and_commands_keep_their_places() -> None:
    wire = b"one\r\ntw\xff\xf1o\r\0three\nf\xff\xff\rrest"
    expected: list[Event] = [
        Line(b"one"),
        Command.NO_OPERATION,
        Line(b"two"),
        Line(b"three"),
        Line(b"f\xff"),
        Line(b"rest"),
    ]
    for parts in every_way(wire):
        session = Session(maximum_line=100)
        assert feed(session, *parts) + session.finish() == expected
        assert session.finish() == []


def test_return_key_in_each_mode_ends_one_line() -> None:
    for end in (b"\r\n", b"\r\0", b"\n", b"\r\0\n"):
        for parts in every_way(b"a" + end + b"b" + end):
            assert feed(Session(maximum_line=9), *parts) == [Line(b"a"), Line(b"b")]
    session = enabled(Session(maximum_line=9), REMOTE, BINARY)
    assert feed(session, b"a\rb\r\nc\n") == [Line(b"a"), Line(b"b"), Line(b"c")]


def test_line_too_long_is_told_where_it_exceeds_the_limit() -> None:
    wire = b"abc\xff\xf1defgh\xff\xf1ijk\r\nnext\r\n"
    for parts in every_way(wire):
        assert feed(Session(maximum_line=7), *parts) == [
            Command.NO_OPERATION,
            LimitExceeded("maximum_line", 7),
            Command.NO_OPERATION,
            Line(b"next"),
        ]


def test_data_have_no_rest_at_the_end() -> None:
    session = Session()
    assert feed(session, b"data\xff") == [Data(b"data")]
    assert session.finish() == []


# Bounds


def test_subnegotiation_over_its_limit_is_told_once() -> None:
    wire = b"a" + encode_subnegotiation(TERMINAL, b"\0" + b"x" * 100) + b"b"
    for parts in every_way(wire):
        assert feed(Session(maximum_subnegotiation=50), *parts) == [
            Data(b"a"),
            LimitExceeded("maximum_subnegotiation", 50),
            Data(b"b"),
        ]


@pytest.mark.parametrize("make", [Session, client], ids=ROLES)
def test_peer_that_negotiates_for_ever_costs_no_memory(make: Callable[[], Session]) -> None:
    everything = b"".join(verb(option) for option in range(256) for verb in (will, do, wont, dont, do, will))

    def negotiate() -> Session:
        session = make()
        for _ in range(10):
            session.feed(everything)
            session.data_to_send()
        return session

    negotiate()
    assert peak_memory(negotiate) < 500 * 1024  # the tokens and answers of one round
    session = negotiate()
    assert peak_memory(lambda: session.feed(will(GO_AHEAD) + wont(GO_AHEAD))) < 4096
    assert len(session._negotiator._states) <= 10


@pytest.mark.parametrize("make", [Session, client], ids=ROLES)
def test_answers_are_no_longer_than_a_small_multiple_of_the_questions(make: Callable[[], Session]) -> None:
    for option in range(256):
        session = make()
        for question in (will, do, wont, dont, do, will):
            session.feed(question(option))
            assert len(session.data_to_send()) <= 3 + 9  # a yes, and the size of a window
        session.feed(SEND_TERMINAL)
        assert len(session.data_to_send()) <= 6 + 40


fragments = st.one_of(
    st.binary(max_size=6),
    st.sampled_from([b"\xff", b"\xff\xff", b"\xff\xfa", b"\xff\xf0", b"\r", b"\0", b"\n", b"text", b"x" * 30]),
    st.builds(encode_negotiation, st.sampled_from(Verb), st.sampled_from([*Option, 6, 39, 255])),
    st.builds(encode_subnegotiation, st.sampled_from([*Option, 39]), st.binary(max_size=12)),
    st.just(SEND_TERMINAL),
)
hostile = st.lists(fragments, max_size=30).map(b"".join)


def make_session(role: str, maximum_line: int | None) -> Session:
    options = {"terminal_types": ["A" * 40, "B"], "window_size": (255, 65535)} if role == "client" else {}
    session = Session(role, maximum_line=maximum_line, maximum_subnegotiation=10, **options)  # type: ignore[arg-type]
    session.will(GO_AHEAD)
    session.do(GO_AHEAD)
    if role == "server":
        session.will(ECHO)
        session.do(WINDOW)
        session.request_terminal_type()
    session.data_to_send()
    return session


@steady
@given(st.sampled_from(ROLES), st.sampled_from([None, 20]), hostile, cuts)
def test_any_bytes_give_the_same_events_and_answers_wherever_they_are_cut(
    role: str, maximum_line: int | None, stream: bytes, places: list[int]
) -> None:
    whole, cut = make_session(role, maximum_line), make_session(role, maximum_line)
    events = feed(whole, stream) + whole.finish()
    assert feed(cut, *pieces(stream, places)) + cut.finish() == events
    answers = whole.data_to_send()
    assert cut.data_to_send() == answers
    assert len(answers) <= 16 * len(stream)


# Two sessions with one another


class Link:
    """A server and a client, and the bytes that are under way between them."""

    def __init__(self) -> None:
        self.sides = (Session(), client())
        self.under_way = (deque[int](), deque[int]())
        self.sent = [b"", b""]
        self.received: tuple[list[Event], list[Event]] = ([], [])
        self.bytes_sent = 0

    def send(self, number: int) -> None:
        data = self.sides[number].data_to_send()
        self.bytes_sent += len(data)
        self.under_way[1 - number].extend(data)

    def deliver(self, number: int, size: int) -> None:
        """Let the side `number` receive so many bytes."""
        arriving = self.under_way[number]
        data = bytes(arriving.popleft() for _ in range(min(size, len(arriving))))
        self.received[number].extend(self.sides[number].feed(data))
        self.send(number)

    def act(self, number: int, action: str, option: Option) -> None:
        """Let a program do something; what makes no sense for it, it does not do."""
        side = self.sides[number]
        match action:
            case "data":
                data = b"a\r\nb\xff%d" % option
                side.send_data(data)
                self.sent[number] += data
            case "will" if side._supports(LOCAL, option):
                side.will(option)
            case "do" if side._supports(REMOTE, option):
                side.do(option)
            case "wont":
                side.wont(option)
            case "dont":
                side.dont(option)
        self.send(number)

    def settle(self) -> None:
        """Deliver everything, and fail if there is no end to it."""
        steps = 0
        while any(self.under_way):
            for number in (0, 1):
                self.deliver(number, 1000)
            steps += 1
            assert steps < 100, "they talk for ever"

    def data(self, number: int) -> bytes:
        return b"".join(event.data for event in self.received[number] if isinstance(event, Data))


actions = st.tuples(
    st.sampled_from([0, 1]), st.sampled_from(["will", "wont", "do", "dont", "data"]), st.sampled_from(Option)
)
deliveries = st.tuples(st.sampled_from([0, 1]), st.integers(1, 9))


@steady
@given(st.lists(st.one_of(actions, deliveries), max_size=60))
def test_two_sessions_end_in_agreement_whatever_they_want_and_however_the_link_cuts(
    steps: list[tuple[int, str, Option] | tuple[int, int]],
) -> None:
    link = Link()
    for step in steps:
        if len(step) == 2:
            link.deliver(*step)
        else:
            link.act(*step)
    link.settle()
    server, terminal = link.sides
    for option in Option:
        for side, other in ((LOCAL, REMOTE), (REMOTE, LOCAL)):
            state = server._negotiator.state(side, option)
            assert state in (State.YES, State.NO)
            assert terminal._negotiator.state(other, option) is state
    assert link.data(0) == link.sent[1]
    assert link.data(1) == link.sent[0]
    # Each wish costs a request and an answer, and particulars at the most.
    assert link.bytes_sent <= len(b"".join(link.sent)) * 2 + len(steps) * 2 * 3 * 20


@pytest.mark.parametrize("option", sorted(TERMINAL_OPTIONS | HOST_OPTIONS))
def test_both_sides_can_ask_for_the_same_thing_at_the_same_time(option: Option) -> None:
    link = Link()
    server_side = LOCAL if option in HOST_OPTIONS else REMOTE
    for number, verb in ((0, "will"), (1, "do")) if server_side is LOCAL else ((0, "do"), (1, "will")):
        link.act(number, verb, option)
    before = link.bytes_sent
    link.settle()
    assert link.sides[0].is_enabled(server_side, option)
    assert link.sides[1].is_enabled(REMOTE if server_side is LOCAL else LOCAL, option)
    if option in (BINARY, ECHO, GO_AHEAD):
        assert link.bytes_sent == before  # the two requests were the answers to one another


def test_server_learns_all_about_the_terminal() -> None:
    link = Link()
    server, terminal = link.sides
    server.do(WINDOW)
    server.request_terminal_type()
    link.send(0)
    link.settle()
    terminal.set_window_size(132, 50)
    link.send(1)
    link.settle()
    assert [event for event in link.received[0] if isinstance(event, WindowSize | TerminalType)] == [
        WindowSize(80, 24),
        TerminalType("XTERM"),
        WindowSize(132, 50),
    ]
