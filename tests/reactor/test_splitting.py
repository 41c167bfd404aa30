"""The splitter gives the same pieces however its input is cut, and looks at no byte twice."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.errors import LocalError
from reactor.splitting import Splitter, Terminator, borders
from tests.properties import every_way, steady

few_letters = st.binary(max_size=40).map(lambda data: bytes(byte % 2 + 97 for byte in data))
some_terminator = st.binary(min_size=1, max_size=6).map(lambda data: bytes(byte % 2 + 97 for byte in data))


def taken(splitter: Splitter) -> list[tuple[bytes, bool]]:
    """Return all pieces that are there."""
    return list(iter(splitter.next_piece, None))


def lines_of(splitter: Splitter, parts: list[bytes]) -> tuple[list[bytes], bytes]:
    """Feed `parts`; return what stood in front of each terminator, and what stood behind the last."""
    lines, line = [], b""
    for part in parts:
        splitter.feed(part)
        for data, is_end in taken(splitter):
            line += data
            if is_end:
                lines.append(line)
                line = b""
    return lines, line + splitter.take_rest()


@pytest.mark.parametrize("terminator", [b"\n", b"\r\n", b"\r\n.\r\n", b"aab", b"aaaa", b"abab"])
def test_every_cut_gives_the_same_lines(terminator: bytes) -> None:
    data = b"one" + terminator + terminator + b"two\r\n.\r" + terminator + b"aaabaaaaaabababab" + terminator[:-1]
    *lines, rest = data.split(terminator)
    for parts in every_way(data):
        assert lines_of(Splitter(terminator), parts) == (lines, rest)


@steady
@given(few_letters, some_terminator, st.lists(st.integers(0, 40), max_size=8))
def test_any_terminator_is_found_where_bytes_split_finds_it(data: bytes, terminator: bytes, places: list[int]) -> None:
    bounds = [0, *sorted(min(place, len(data)) for place in places), len(data)]
    parts = [data[start:stop] for start, stop in itertools.pairwise(bounds)]
    *lines, rest = data.split(terminator)
    assert lines_of(Splitter(terminator), parts) == (lines, rest)


def test_number_counts_down_and_then_everything_is_handed_out() -> None:
    splitter = Splitter(5)
    splitter.feed(b"abc")
    assert taken(splitter) == [(b"abc", False)]
    assert splitter.terminator == 2
    splitter.feed(b"defg")
    assert taken(splitter) == [(b"de", True), (b"fg", False)]
    assert splitter.terminator == 0


@pytest.mark.parametrize("terminator", [None, 0])
def test_without_a_terminator_everything_is_handed_out_as_it_comes(terminator: Any) -> None:
    splitter = Splitter(terminator, 3)
    for data in (b"a longer piece than lines may have", b"b"):
        splitter.feed(data)
        assert taken(splitter) == [(data, False)]


def test_terminator_changes_in_the_middle_of_the_input() -> None:
    """As HTTP does it: lines, then a body of so many bytes, then lines."""
    data = b"length 7\r\n\r\na\r\nb\r\ncnext\r\n"
    for parts in every_way(data):
        splitter = Splitter(b"\r\n\r\n")
        pieces: list[bytes] = []
        line = b""
        for part in parts:
            splitter.feed(part)
            while (piece := splitter.next_piece()) is not None:
                line += piece[0]
                if piece[1]:
                    pieces.append(line)
                    line = b""
                    splitter.set_terminator([b"\r\n\r\n", 7, b"\r\n"][min(len(pieces), 2)])
        assert pieces == [b"length 7", b"a\r\nb\r\nc", b"next"]


def test_terminator_that_changes_gives_back_what_was_held_for_the_old_one() -> None:
    splitter = Splitter(b"abc")
    splitter.feed(b"xab")
    assert taken(splitter) == [(b"x", False)]
    splitter.set_terminator(b"b")
    assert taken(splitter) == [(b"a", True)]


def test_lines_cut_ahead_are_cut_anew_when_the_terminator_changes() -> None:
    splitter = Splitter(b"\n")
    splitter.feed(b"one\ntwo\nthree")
    assert next(splitter.lines) == b"one"
    splitter.set_terminator(2)
    assert taken(splitter) == [(b"tw", True), (b"o\nthree", False)]


@pytest.mark.parametrize("cut", [1, 7, 4096])
def test_line_without_an_end_fails_at_the_limit(cut: int) -> None:
    splitter = Splitter(b"\r\n", 10_000)
    seen = fed = 0
    while splitter.failure is None:
        assert fed <= 10_000 + cut + 2
        splitter.feed(bytes(cut))
        fed += cut
        seen += sum(len(data) for data, _ in taken(splitter))
    assert seen <= 10_000
    assert "10000 (maximum_line)" in str(splitter.failure)
    splitter.feed(b"more\r\n")
    assert taken(splitter) == []


@pytest.mark.parametrize("size", [10, 11])
def test_limit_counts_what_stands_in_front_of_the_terminator(size: int) -> None:
    for parts in every_way(bytes(size) + b"\r\nnext\r\n"):
        splitter = Splitter(b"\r\n", 10)
        lines, _ = lines_of(splitter, parts)
        assert (lines == [bytes(10), b"next"]) == (size == 10)
        assert (splitter.failure is None) == (size == 10)


@pytest.mark.parametrize("terminator", [b"", -1, True, "\n", 1.5])
def test_what_is_no_terminator_is_refused(terminator: Any) -> None:
    with pytest.raises(LocalError, match="terminator"):
        Splitter(terminator)


class CountingBytes(bytes):
    """Bytes that count how often one of them is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, int):
            CountingBytes.looks += 1
        return super().__getitem__(place)


@pytest.mark.parametrize("cut", [1, 3, 64])
def test_no_cut_makes_a_terminator_that_almost_matches_be_looked_at_again_and_again(cut: int) -> None:
    """The naive way compares the whole terminator anew with every byte that comes."""
    splitter = Splitter(CountingBytes(bytes(500) + b"x"), 1 << 30)
    data = (bytes(499) + b"y") * 40
    CountingBytes.looks = 0
    for place in range(0, len(data), cut):
        splitter.feed(data[place : place + cut])
        taken(splitter)
    assert CountingBytes.looks < 12 * len(data)


def test_borders_are_those_of_the_textbook() -> None:
    assert borders(b"abacaba") == [0, 0, 1, 0, 1, 2, 3]
    assert borders(b"aaaa") == [0, 1, 2, 3]


@pytest.mark.parametrize("changes", [[b"\n", b";"], [b"\n", 3], [b"\n", None], [3, b"\n", 0]])
def test_terminator_that_changes_behind_each_piece_copies_nothing(changes: list[Terminator]) -> None:
    splitter = Splitter(changes[0])
    splitter.feed(b"one\ntwo;" * 1000)
    splitter.next_piece()
    splitter.set_terminator(changes[1])
    buffer = splitter._buffer
    while splitter.next_piece() is not None:
        for terminator in changes:
            splitter.set_terminator(terminator)
            assert splitter._buffer is buffer or not splitter.has_input


def test_input_that_was_held_back_is_there_when_more_comes() -> None:
    splitter = Splitter(b"\r\n")
    splitter.feed(b"abc\r")
    assert splitter.next_piece() == (b"abc", False)
    assert splitter.next_piece() is None
    splitter.set_terminator(b"\r")
    assert splitter.has_input
    splitter.feed(b"def\rghi")
    assert [splitter.next_piece() for _ in range(4)] == [(b"", True), (b"def", True), (b"ghi", False), None]
