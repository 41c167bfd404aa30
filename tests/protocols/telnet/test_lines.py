"""Lines: every end of a line that Telnet clients send, wherever the bytes are cut, and none too long."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.telnet.lines import Line, LineSplitter
from protocols.telnet.wire import LimitExceeded
from tests.properties import cuts, every_way, peak_memory, pieces, steady

MAXIMUM = 10
TOO_LONG = LimitExceeded("maximum_line", MAXIMUM)


def split(parts: list[bytes], maximum: int = MAXIMUM) -> list[Line | LimitExceeded]:
    splitter = LineSplitter(maximum)
    found = [line for part in parts if part for line in splitter.feed(part)]
    return [*found, *splitter.finish()]


def lines(*contents: bytes) -> list[Line]:
    return [Line(content) for content in contents]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"one\r\ntwo\r\n", lines(b"one", b"two")),
        (b"one\ntwo\n", lines(b"one", b"two")),
        (b"one\rtwo\r", lines(b"one", b"two")),
        (b"one\r\n\ntwo\r\r\n", lines(b"one", b"", b"two", b"")),
        (b"\n\r", lines(b"", b"")),
        (b"\r\n\r\n", lines(b"", b"")),
        (b"", []),
        (b"a\x0bb\x0cc\x1cd\x85e\n", lines(b"a\x0bb\x0cc\x1cd\x85e")),
    ],
)
def test_line_ends_with_carriage_return_or_line_feed_or_both(text: bytes, expected: list[Line]) -> None:
    for parts in every_way(text):
        assert split(parts) == expected


def test_line_is_there_with_its_carriage_return_and_waits_for_nothing_more() -> None:
    splitter = LineSplitter(MAXIMUM)
    assert splitter.feed(b"line\r") == [Line(b"line")]
    assert splitter.feed(b"\nnext") == []
    assert splitter.feed(b"\n") == [Line(b"next")]


def test_line_that_the_end_of_the_input_cuts_short_is_not_lost() -> None:
    for parts in every_way(b"one\r\ntwo"):
        assert split(parts) == lines(b"one", b"two")


def test_line_at_the_maximum_is_taken_and_one_above_is_refused_once() -> None:
    text = b"a" * 10 + b"\r\n" + b"b" * 11 + b"\n" + b"c" * 200 + b"\r" + b"d" * 10
    for parts in every_way(text):
        assert split(parts) == [Line(b"a" * 10), TOO_LONG, TOO_LONG, Line(b"d" * 10)]


def test_line_too_long_is_refused_before_its_end_has_come() -> None:
    splitter = LineSplitter(MAXIMUM)
    assert splitter.feed(b"x" * 11) == [TOO_LONG]
    assert splitter.feed(b"x" * 11) == []
    assert splitter.feed(b"\nnext\n") == [Line(b"next")]


def test_line_without_an_end_takes_no_memory() -> None:
    def receive() -> LineSplitter:
        splitter = LineSplitter(1000)
        assert sum(len(splitter.feed(b"x" * 4096)) for _ in range(10_000)) == 1
        return splitter

    assert peak_memory(receive) < 50 * 1024


@steady
@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"bb", b"c" * 11])), cuts)
def test_lines_are_the_same_wherever_the_text_is_cut(parts: list[bytes], places: list[int]) -> None:
    text = b"".join(parts)
    found = split(pieces(text, places))
    assert found == split([text])
    contents = re.split(rb"\r\n|\r|\n", text)
    if contents[-1] == b"":
        contents.pop()
    assert found == [Line(content) if len(content) <= MAXIMUM else TOO_LONG for content in contents]
