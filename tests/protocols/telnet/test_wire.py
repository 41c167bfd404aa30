"""Telnet's bytes: data and commands told apart, escaped and unescaped, in every piece in which they may come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.telnet.wire import (
    Command,
    Decoder,
    LimitExceeded,
    Negotiation,
    Subnegotiation,
    Token,
    Verb,
    encode_negotiation,
    encode_subnegotiation,
    escape,
)
from tests.properties import cuts, every_way, peak_memory, pieces, steady

MAXIMUM = 20


def decode(parts: list[bytes]) -> list[Token]:
    """Return what a decoder makes of `parts`, data that stand beside one another joined."""
    decoder = Decoder(MAXIMUM)
    tokens: list[Token] = []
    for part in parts:
        for token in decoder.feed(part):
            if isinstance(token, bytes) and tokens and isinstance(tokens[-1], bytes):
                tokens[-1] += token
            else:
                tokens.append(token)
    return tokens


def test_data_are_escaped_by_doubling_the_byte_255() -> None:
    assert escape(b"a\xffb\xff\xff") == b"a\xff\xffb\xff\xff\xff\xff"
    assert decode([b"a\xff\xffb\xff\xff\xff\xff"]) == [b"a\xffb\xff\xff"]


@pytest.mark.parametrize(
    ("data", "sent"),
    [
        (b"a\r\nb", b"a\r\nb"),
        (b"a\rb", b"a\r\0b"),
        (b"a\r", b"a\r\0"),
        (b"\r\r\n", b"\r\0\r\n"),
        (b"\r\0", b"\r\0\0"),
        (b"\n\r", b"\n\r\0"),
        (b"\r\xff", b"\r\0\xff\xff"),
        (b"\0", b"\0"),
    ],
)
def test_carriage_return_is_followed_by_line_feed_or_nul_alone(data: bytes, sent: bytes) -> None:
    assert escape(data) == sent


def test_carriage_return_is_left_alone_in_binary() -> None:
    assert escape(b"a\rb\r\n\r\0\xff", binary=True) == b"a\rb\r\n\r\0\xff\xff"


@pytest.mark.parametrize("command", Command)
def test_every_command_is_found_between_data_wherever_it_is_cut(command: Command) -> None:
    for parts in every_way(b"before" + bytes([255, command]) + b"behind"):
        assert decode(parts) == [b"before", command, b"behind"]


def test_numbers_of_the_commands_are_those_of_the_standard() -> None:
    # RFC 854, page 14; RFC 1184, section 2; RFC 885.
    assert (Command.NO_OPERATION, Command.DATA_MARK, Command.BREAK, Command.INTERRUPT_PROCESS) == (241, 242, 243, 244)
    assert (Command.ABORT_OUTPUT, Command.ARE_YOU_THERE, Command.ERASE_CHARACTER) == (245, 246, 247)
    assert (Command.ERASE_LINE, Command.GO_AHEAD) == (248, 249)
    assert (Verb.WILL, Verb.WONT, Verb.DO, Verb.DONT) == (251, 252, 253, 254)
    assert (Command.END_OF_FILE, Command.SUSPEND, Command.ABORT, Command.END_OF_RECORD) == (236, 237, 238, 239)


@pytest.mark.parametrize("verb", Verb)
@pytest.mark.parametrize("option", [0, 1, 39, 240, 250, 254, 255])
def test_negotiation_of_any_option_is_found_wherever_it_is_cut(verb: Verb, option: int) -> None:
    for parts in every_way(b"before" + encode_negotiation(verb, option) + b"behind"):
        assert decode(parts) == [b"before", Negotiation(verb, option), b"behind"]


def test_commands_that_do_not_exist_mean_nothing() -> None:
    known = {255, 250, *Command, *Verb}
    for code in set(range(256)) - known:
        for parts in every_way(b"a" + bytes([255, code]) + b"b"):
            assert decode(parts) == [b"ab"]


@steady
@given(st.integers(0, 254), st.binary(max_size=MAXIMUM - 1), cuts)
def test_subnegotiation_comes_back_as_it_was_sent(option: int, content: bytes, places: list[int]) -> None:
    stream = b"a" + encode_subnegotiation(option, content) + b"b"
    assert decode(pieces(stream, places)) == [b"a", Subnegotiation(option, content), b"b"]


def test_byte_255_is_doubled_in_a_subnegotiation_too() -> None:
    assert encode_subnegotiation(31, b"\x00\xff\xff\x00") == b"\xff\xfa\x1f\x00\xff\xff\xff\xff\x00\xff\xf0"


def test_carriage_return_in_a_subnegotiation_is_left_alone() -> None:
    assert encode_subnegotiation(24, b"\r") == b"\xff\xfa\x18\r\xff\xf0"


def test_subnegotiation_without_an_option_means_nothing() -> None:
    assert decode([b"a\xff\xfa\xff\xf0b"]) == [b"ab"]


def test_end_of_a_subnegotiation_that_never_began_means_nothing() -> None:
    assert decode([b"a\xff\xf0b"]) == [b"ab"]


@pytest.mark.parametrize(
    ("command", "token"),
    [
        (b"\xff\xfb\x01", Negotiation(Verb.WILL, 1)),
        (b"\xff\xf4", Command.INTERRUPT_PROCESS),
        (b"\xff\xfa\x1f\0\x50\0\x18\xff\xf0", Subnegotiation(31, b"\0\x50\0\x18")),
    ],
)
def test_subnegotiation_whose_end_was_forgotten_is_dropped_and_the_command_in_it_counts(
    command: bytes, token: Token
) -> None:
    for parts in every_way(b"\xff\xfa\x18\0name" + command + b"data"):
        assert decode(parts) == [token, b"data"]


@pytest.mark.parametrize("code", [0, 50, 235])
def test_byte_255_that_is_not_doubled_in_a_subnegotiation_is_read_as_it_was_meant_where_that_is_clear(
    code: int,
) -> None:
    wire = b"\xff\xfa\x1f\0\xff" + bytes([code]) + b"\x18\xff\xf0data"
    for parts in every_way(wire):
        assert decode(parts) == [Subnegotiation(31, b"\0\xff" + bytes([code]) + b"\x18"), b"data"]


def test_subnegotiation_at_the_maximum_is_taken_and_one_above_is_refused_once() -> None:
    longest = encode_subnegotiation(24, b"x" * (MAXIMUM - 1))
    longer = encode_subnegotiation(24, b"x" * MAXIMUM)
    much_longer = encode_subnegotiation(24, b"\xff" * 1000)
    for parts in every_way(longest + longer + much_longer + longest + b"data"):
        assert decode(parts) == [
            Subnegotiation(24, b"x" * (MAXIMUM - 1)),
            LimitExceeded("maximum_subnegotiation", MAXIMUM),
            LimitExceeded("maximum_subnegotiation", MAXIMUM),
            Subnegotiation(24, b"x" * (MAXIMUM - 1)),
            b"data",
        ]


def test_subnegotiation_without_an_end_takes_no_memory() -> None:
    def receive() -> Decoder:
        decoder = Decoder(512)
        decoder.feed(b"\xff\xfa\x18")
        refused = [token for _ in range(2000) for token in decoder.feed(b"\xff\xffx" * 4096)]
        assert refused == [LimitExceeded("maximum_subnegotiation", 512)]
        return decoder

    assert peak_memory(receive) < 100 * 1024


@steady
@given(
    st.lists(st.one_of(st.binary(max_size=8), st.sampled_from([b"\xff", b"\xff\xfa", b"\xff\xf0", b"\xff\xfb"]))), cuts
)
def test_any_bytes_mean_the_same_wherever_they_are_cut(parts: list[bytes], places: list[int]) -> None:
    stream = b"".join(parts)
    assert decode(pieces(stream, places)) == decode([stream])
