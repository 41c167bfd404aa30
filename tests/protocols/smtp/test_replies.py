"""Replies: to bytes and back, bounded both ways, and never more of them than were meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.replies import LONGEST_LINE, MOST_LINES, Reply, ReplyDecoder
from reactor import LocalError
from tests.properties import cuts, every_way, peak_memory, pieces, steady


def read(parts: list[bytes]) -> tuple[list[Reply], str | None]:
    """Return the replies in `parts`, and what is wrong with them."""
    decoder = ReplyDecoder()
    found = []
    for part in parts:
        decoder.feed(part)
        while (reply := decoder.next_reply()) is not None:
            found.append(reply)
    return found, decoder.failure


def test_reply_says_code_status_and_text_on_one_line() -> None:
    assert Reply(550, "no such user", "5.1.1").encode() == b"550 5.1.1 no such user\r\n"


def test_status_that_is_not_given_says_no_more_than_the_code() -> None:
    assert [Reply(code, "x").status for code in (250, 354, 451, 552)] == ["2.0.0", "", "4.0.0", "5.0.0"]


def test_reply_of_several_lines_has_code_and_status_on_each() -> None:
    assert Reply(214, "one\ntwo", "2.0.0").encode() == b"214-2.0.0 one\r\n214 2.0.0 two\r\n"


def test_reply_may_have_neither_status_nor_text() -> None:
    assert Reply(220, "host", "").encode() == b"220 host\r\n"
    assert Reply(334, "").encode() == b"334 \r\n"


@pytest.mark.parametrize("text", ["a\r\n250 b", "a\n250 b", "a\r250 b", "a\x00b\x1b[31m", "ä\u2028ö", "\x85"])
def test_text_can_neither_end_a_reply_nor_begin_another(text: str) -> None:
    wire = Reply(550, text).encode()
    assert wire.isascii()
    (reply,), failure = read([wire])
    assert (reply.code, failure) == (550, None)
    assert all(line.startswith(b"550") for line in wire.split(b"\r\n")[:-1])


def test_text_that_is_long_becomes_several_lines_and_at_most_a_hundred() -> None:
    lines = Reply(550, "x" * 2000).encode().split(b"\r\n")[:-1]
    assert len(lines) == 4
    assert max(map(len, lines)) == LONGEST_LINE - 2
    assert len(Reply(550, "x\n" * 1000 + "é" * 100_000).encode()) <= MOST_LINES * LONGEST_LINE


@pytest.mark.parametrize("code", [0, 100, 199, 600, -250])
def test_code_that_is_none_is_a_mistake_of_this_program(code: int) -> None:
    with pytest.raises(LocalError):
        Reply(code, "x")


@pytest.mark.parametrize("status", ["x", "5.1", "4.1.1", "5.1.1 ", "5.1.1111", "6.0.0"])
def test_status_that_does_not_go_with_the_code_is_a_mistake_of_this_program(status: str) -> None:
    with pytest.raises(LocalError):
        Reply(550, "x", status)


@pytest.mark.parametrize(
    ("wire", "expected"),
    [
        (b"250 ok\r\n", Reply(250, "ok", "")),
        (b"250\r\n", Reply(250, "", "")),
        (b"250 \r\n", Reply(250, "", "")),
        (b"250 2.1.0 ok\r\n", Reply(250, "ok", "2.1.0")),
        (b"250 2.1.0\r\n", Reply(250, "", "2.1.0")),
        (b"250 5.1.0 ok\r\n", Reply(250, "5.1.0 ok", "")),
        (b"250-host\r\n250-SIZE 10\r\n250 HELP\r\n", Reply(250, "host\nSIZE 10\nHELP", "")),
        (b"550-5.1.1 no\r\n550 5.1.1 such user\r\n", Reply(550, "no\nsuch user", "5.1.1")),
        (b"550 \xff\xc3\xa4\r\n", Reply(550, "\ufffdä", "")),
    ],
)
def test_reply_is_read_wherever_its_bytes_are_cut(wire: bytes, expected: Reply) -> None:
    for parts in every_way(wire + wire):
        assert read(parts) == ([expected, expected], None)


@pytest.mark.parametrize(
    ("wire", "complaint"),
    [
        (b"hello\r\n", "this is no line of a reply: b'hello'"),
        (b"\r\n", "this is no line of a reply: b''"),
        (b"25 ok\r\n", "this is no line of a reply"),
        (b"2500 ok\r\n", "this is no line of a reply"),
        (b"150 ok\r\n", "this is no line of a reply"),
        (b"650 ok\r\n", "this is no line of a reply"),
        ("٢٥٠ ok\r\n".encode(), "this is no line of a reply"),
        (b"250-a\r\n550 b\r\n", "a reply that began with 250 goes on with 550"),
        (b"250 ok\n250 ok\r\n", "a CR or an LF that stands alone"),
        (b"250 " + b"x" * 5000, "a line of a reply is too long"),
        (b"250-x\r\n" * 101, "more than 100 lines"),
    ],
)
def test_bytes_that_are_no_reply_are_told_wherever_they_are_cut(wire: bytes, complaint: str) -> None:
    for parts in every_way(b"220 hi\r\n" + wire) if len(wire) < 100 else [[b"220 hi\r\n" + wire]]:
        replies, failure = read([*parts, b"250 ok\r\n"])
        assert replies == [Reply(220, "hi", "")]
        assert complaint in (failure or "")


@steady
@given(
    st.lists(
        st.tuples(
            st.integers(200, 599),
            st.text(st.characters(min_codepoint=32, max_codepoint=126) | st.just("\n"), max_size=40),
        ),
        max_size=6,
    ),
    cuts,
)
def test_replies_come_out_as_they_were_put_in(said: list[tuple[int, str]], places: list[int]) -> None:
    replies = [Reply(code, "\n".join(text.splitlines())) for code, text in said]
    wire = b"".join(reply.encode() for reply in replies)
    assert read(pieces(wire, places)) == (replies, None)


@steady
@given(st.binary(max_size=100) | st.text("25 -\r\n.", max_size=60).map(str.encode), cuts)
def test_any_bytes_give_the_same_replies_and_the_same_failure_wherever_they_are_cut(
    stream: bytes, places: list[int]
) -> None:
    assert read(pieces(stream, places)) == read([stream])


def test_replies_without_an_end_take_little_memory() -> None:
    def receive() -> ReplyDecoder:
        decoder = ReplyDecoder()
        for _ in range(10_000):
            decoder.feed(b"250-" + b"x" * 1000 + b"\r\n")
            decoder.next_reply()
        return decoder

    assert peak_memory(receive) < 500_000
