"""Lines and contents: cut anywhere, ended by CRLF alone, and by CRLF.CRLF alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.lines import ContentDecoder, ContentFault, Input, LineFault, canonical, encode_content
from tests.properties import cuts, every_way, peak_memory, pieces, steady

MAXIMUM = 40

hostile = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\r\n.", b"a", b"bc", b"\0", b"\xff"]), max_size=30)
"""Bytes of the kind that ends lines and messages, or seems to."""


def lines_of(parts: list[bytes], maximum: int = MAXIMUM) -> list[bytes | LineFault]:
    """Return the lines in `parts`, and the faults."""
    waiting = Input()
    found = []
    for part in parts:
        waiting.feed(part)
        while (line := waiting.take_line(maximum)) is not None:
            found.append(line)
    return found


def decode(
    parts: list[bytes], maximum: int = 10_000, maximum_line: int = 1000
) -> tuple[bytes, ContentFault | None, bytes] | None:
    """Return the content in `parts`, what is wrong with it, and what stands behind it; None where it has no end."""
    decoder = ContentDecoder(maximum, maximum_line)
    for number, part in enumerate(parts):
        rest = decoder.feed(part)
        if rest is not None:
            return decoder.content, decoder.fault, rest + b"".join(parts[number + 1 :])
    return None


# Lines


def test_lines_end_with_crlf() -> None:
    assert lines_of([b"one\r\n\r\ntwo\r\nthree"]) == [b"one", b"", b"two"]


def test_lines_and_faults_are_the_same_cut_at_every_byte() -> None:
    stream = b"one\r\n\r\nb\nare\r\ntwo\r\n\rbare\r\nb\r\r\n" + b"x" * 60 + b"\r\n" + b"y" * 38 + b"\r\nend\r\n\n\r\n"
    expected = [b"one", b"", LineFault.BARE, b"two", LineFault.BARE, LineFault.BARE, LineFault.TOO_LONG, b"y" * 38,
                b"end", LineFault.BARE]  # fmt: skip
    for parts in every_way(stream):
        assert lines_of(parts) == expected


@steady
@given(hostile.map(b"".join), cuts)
def test_any_bytes_give_the_same_lines_wherever_they_are_cut(stream: bytes, places: list[int]) -> None:
    found = lines_of(pieces(stream, places), 12)
    assert found == lines_of([stream], 12)
    assert all(isinstance(line, LineFault) or not {*b"\r\n"} & {*line} for line in found)


@pytest.mark.parametrize("bare", [b"\n", b"\r", b"\n\r", b"\r\r", b"\n\n"])
def test_cr_or_lf_alone_ends_no_line_and_spoils_it_once(bare: bytes) -> None:
    assert lines_of([b"MAIL" + bare + b"RCPT" + bare + b"DATA\r\nnext\r\n"]) == [LineFault.BARE, b"next"]


def test_fault_is_told_before_the_line_has_ended() -> None:
    assert lines_of([b"QUIT\n"]) == [LineFault.BARE]
    assert lines_of([b"x" * (MAXIMUM - 1)]) == [LineFault.TOO_LONG]


def test_line_at_the_maximum_is_taken_and_one_above_is_not() -> None:
    assert lines_of([b"x" * (MAXIMUM - 2) + b"\r\n"]) == [b"x" * (MAXIMUM - 2)]
    assert lines_of([b"x" * (MAXIMUM - 1) + b"\r\nnext\r\n"]) == [LineFault.TOO_LONG, b"next"]


def test_line_without_an_end_takes_no_memory() -> None:
    def receive() -> Input:
        waiting = Input()
        for _ in range(1000):
            waiting.feed(b"x" * 65536)
            waiting.take_line(MAXIMUM)
        assert len(waiting) == 0
        return waiting

    assert peak_memory(receive) < 300_000


def test_what_is_cleared_or_taken_whole_is_gone() -> None:
    waiting = Input()
    waiting.feed(b"a line\nthat is refused")
    assert waiting.take_line(MAXIMUM) is LineFault.BARE
    waiting.clear()
    waiting.feed(b"next\r\nrest")
    assert waiting.take_line(MAXIMUM) == b"next"
    assert waiting.take_all() == b"rest"
    assert len(waiting) == 0


# Contents


@pytest.mark.parametrize(
    ("wire", "content"),
    [
        (b".\r\n", b""),
        (b"\r\n.\r\n", b"\r\n"),
        (b"text\r\n.\r\n", b"text\r\n"),
        (b"..\r\n.\r\n", b".\r\n"),
        (b"...\r\n.\r\n", b"..\r\n"),
        (b".x\r\n.\r\n", b"x\r\n"),
        (b"a.\r\n.b.\r\n.\r\n", b"a.\r\nb.\r\n"),
        (b"a\r\n..\r\n..b\r\n.\r\n", b"a\r\n.\r\n.b\r\n"),
        (b"\x01\x80\xff\r\n.\r\n", b"\x01\x80\xff\r\n"),
    ],
)
def test_content_is_taken_without_the_dots_that_were_put_in(wire: bytes, content: bytes) -> None:
    for parts in every_way(wire + b"QUIT\r\n"):
        assert decode(parts) == (content, None, b"QUIT\r\n")


BARE_ENDS = [b"\n", b"\r", b"\r\r", b"\n\n", b"\n\r", b"\r\0\n", b"\r\n\n", b"\r\r\n", b"\0", b"\x85", b""]
SMUGGLED = [
    before + b"." + behind
    for before, behind in itertools.product([*BARE_ENDS, b"\r\n"], repeat=2)
    if (before[-2:], behind[:2]) != (b"\r\n", b"\r\n")
]
"""Everything that somebody somewhere took for the end of a message, and that is none."""


@pytest.mark.parametrize("false_end", SMUGGLED, ids=repr)
def test_smuggled_end_does_not_end_the_content(false_end: bytes) -> None:
    wire = b"text" + false_end + b"MAIL FROM:<x@example.org>\r\nrest\r\n.\r\n"
    for parts in every_way(wire):
        found = decode(parts)
        assert found is not None
        content, fault, rest = found
        assert rest == b""
        assert fault in (ContentFault.BARE, ContentFault.NUL) or b"MAIL FROM:<x@example.org>" in content


@pytest.mark.parametrize("bare", [b"\r", b"\n", b"\r\r\n", b"\n\r\n", b".\r", b"\n."], ids=repr)
@pytest.mark.parametrize("place", [b"%sx\r\n.\r\n", b"x%sx\r\n.\r\n", b"x%s\r\n.\r\n", b"\r\n%s\r\n.\r\n"])
def test_content_with_a_cr_or_an_lf_alone_is_at_fault_as_a_whole(bare: bytes, place: bytes) -> None:
    for parts in every_way(place % bare):
        found = decode(parts)
        assert found is not None
        assert found[1:] == (ContentFault.BARE, b"")


@pytest.mark.parametrize("content", [b"\0", b"a\0b", b"a\r\n.\0", b"\0.", b"\r\n\0"], ids=repr)
def test_content_with_a_nul_is_at_fault_as_a_whole(content: bytes) -> None:
    for parts in every_way(content + b"\r\n.\r\n"):
        found = decode(parts)
        assert found is not None
        assert found[1:] == (ContentFault.NUL, b"")


@pytest.mark.parametrize(("bad", "fault"), [(b"x\ny", ContentFault.BARE), (b"x\0y", ContentFault.NUL)])
def test_fault_that_ends_a_session_is_not_hidden_behind_one_that_does_not(bad: bytes, fault: ContentFault) -> None:
    for parts in every_way(bad + b"x" * 30 + b"\r\n.\r\n"):
        found = decode(parts, maximum=20, maximum_line=10)
        assert found is not None
        assert found[1] is fault


@steady
@given(hostile.map(b"".join), cuts)
def test_any_bytes_give_the_same_content_and_the_same_fault_wherever_they_are_cut(
    stream: bytes, places: list[int]
) -> None:
    def told(parts: list[bytes]) -> tuple[object, ...] | None:
        found = decode(parts, 20, 12)
        return found and (found[0] if found[1] is None else b"", *found[1:])

    assert told(pieces(stream, places)) == told([stream])


@steady
@given(hostile.map(b"".join))
def test_content_ends_at_the_first_crlf_dot_crlf_and_nowhere_else(stream: bytes) -> None:
    lined = b"\r\n" + stream
    end = lined.find(b"\r\n.\r\n")
    found = decode([stream])
    if end < 0:
        assert found is None
    else:
        assert found is not None
        assert found[2] == lined[end + 5 :]


@steady
@given(hostile.map(b"".join), cuts)
def test_content_comes_out_as_it_was_put_in(content: bytes, places: list[int]) -> None:
    content = content.replace(b"\0", b"")
    wire = encode_content(canonical(content))
    assert wire.endswith(b".\r\n")
    assert decode(pieces(wire + b"behind", places)) == (canonical(content), None, b"behind")


@pytest.mark.parametrize(
    ("given_in", "sent"),
    [
        (b"", b""),
        (b"x", b"x\r\n"),
        (b"a\nb\rc\r\nd", b"a\r\nb\r\nc\r\nd\r\n"),
        (b"a\n\rb", b"a\r\n\r\nb\r\n"),
        (b"a\r\r\nb\r", b"a\r\n\r\nb\r\n"),
        (b"\n.\n", b"\r\n.\r\n"),
        (b"as it is\r\n", b"as it is\r\n"),
    ],
)
def test_canonical_content_has_crlf_at_the_end_of_every_line_and_nowhere_half_of_one(
    given_in: bytes, sent: bytes
) -> None:
    assert canonical(given_in) == sent


@pytest.mark.parametrize("stuffed", [b"x" * 50 + b"\r\n", b".." + b"x" * 49 + b"\r\n"])
def test_content_over_its_maximum_is_read_to_its_end_and_not_kept(stuffed: bytes) -> None:
    for parts in every_way(stuffed + b".\r\n"):
        assert decode(parts, 52) == (stuffed.removeprefix(b"."), None, b"")
        assert decode(parts, 51) == (b"", ContentFault.TOO_LARGE, b"")


def test_content_above_twice_its_maximum_is_known_to_be_so_before_its_end_has_come() -> None:
    decoder = ContentDecoder(100, 1000)
    assert decoder.feed(b"x" * 198 + b"\r\n") is None
    assert decoder.fault is ContentFault.TOO_LARGE
    assert decoder.feed(b"..x\r\n") is None
    assert decoder.fault is ContentFault.FAR_TOO_LARGE


def test_content_far_over_its_maximum_takes_no_memory() -> None:
    def receive() -> ContentDecoder:
        decoder = ContentDecoder(100_000, 1000)
        for _ in range(1000):
            assert decoder.feed(b"x" * 998 + b"\r\n") is None
        return decoder

    assert peak_memory(receive) < 400_000


@pytest.mark.parametrize("line", [b"x" * 10, b".." + b"x" * 9], ids=repr)
def test_line_of_a_content_over_its_maximum_is_at_fault(line: bytes) -> None:
    for parts in every_way(b"short\r\n" + line + b"\r\nshort\r\n.\r\n"):
        fine, too_long = decode(parts, maximum_line=12), decode(parts, maximum_line=11)
        assert fine is not None
        assert too_long is not None
        assert (fine[1], too_long[1]) == (None, ContentFault.LONG_LINE)


def test_large_content_in_many_pieces_is_held_once() -> None:
    size, line = 8 << 20, b"x" * 62 + b"\r\n"

    def receive() -> bytes:
        decoder = ContentDecoder(size, 1000)
        for _ in range(size // (len(line) * 1024)):
            assert decoder.feed(line * 1024) is None
        assert decoder.feed(b".\r\n") == b""
        content = decoder.content
        assert len(content) == size
        return content

    assert peak_memory(receive) < 1.5 * size
