"""Frames: every header form, in every piece in which the bytes may come."""

from __future__ import annotations

import array
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection as StandardConnection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor.errors import FrameError
from reactor.framing import (
    LARGEST_SHORT,
    LONG,
    LONG_MARK,
    SHORT,
    FrameDecoder,
    complete_frames,
    encode_frame,
    encode_frames,
    frame_header,
)
from tests.properties import cuts, every_way, peak_memory, pieces, steady

MAXIMUM = 1 << 20


def short(data: bytes) -> bytes:
    return SHORT.pack(len(data)) + data


def long(data: bytes) -> bytes:
    return LONG_MARK + LONG.pack(len(data)) + data


class StrictDecoder(FrameDecoder):
    """A decoder that takes no frame under three bytes, and no long header."""

    minimum = 3
    long_headers = False


def decode(parts: list[bytes], maximum: int = MAXIMUM) -> tuple[list[bytes], str | None, str | None]:
    """Return what a decoder makes of `parts`: the frames, its failure, and what an end of the stream means there."""
    decoder = FrameDecoder(maximum)
    frames = [frame for part in parts for frame in decoder.feed(part)]
    failure, end = decoder.failure, decoder.finish()
    # How much of the input is quoted depends on how much of it is there; what is said does not.
    return frames, failure and str(failure).partition("; it begins")[0], end and str(end)


@pytest.fixture
def pipe() -> Iterator[tuple[StandardConnection, StandardConnection]]:
    """A connection of the standard library for reading and one for writing."""
    reading, writing = os.pipe()
    with StandardConnection(reading, writable=False) as reader, StandardConnection(writing, readable=False) as writer:
        yield reader, writer


@pytest.mark.parametrize(
    ("size", "header"),
    [
        (0, "00000000"),
        (1, "00000001"),
        (0x7FFFFFFF, "7fffffff"),
        (0x80000000, "ffffffff0000000080000000"),
        (3 << 30, "ffffffff00000000c0000000"),
    ],
)
def test_header_is_short_up_to_the_largest_signed_number_and_long_above(size: int, header: str) -> None:
    assert frame_header(size).hex() == header


def test_largest_short_size_is_what_the_standard_library_takes_for_it() -> None:
    assert LARGEST_SHORT == 0x7FFFFFFF


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 60000])
def test_standard_library_reads_what_we_write(pipe: tuple[StandardConnection, StandardConnection], size: int) -> None:
    reader, writer = pipe
    data = os.urandom(size)
    os.write(writer.fileno(), encode_frame(data))
    assert reader.recv_bytes() == data


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 60000])
def test_decoder_reads_what_the_standard_library_writes(
    pipe: tuple[StandardConnection, StandardConnection], size: int
) -> None:
    reader, writer = pipe
    data = os.urandom(size)
    writer.send_bytes(data)
    assert decode([os.read(reader.fileno(), 1 << 16)]) == ([data], None, None)


def test_standard_library_reads_a_long_header_as_we_do(pipe: tuple[StandardConnection, StandardConnection]) -> None:
    reader, writer = pipe
    os.write(writer.fileno(), long(b"message"))
    assert reader.recv_bytes() == b"message"
    assert decode([long(b"message")]) == ([b"message"], None, None)


frames_of_both_forms = st.lists(st.tuples(st.sampled_from([short, long]), st.binary(max_size=60)), max_size=12)


@steady
@given(frames_of_both_forms, cuts)
def test_frames_are_the_same_wherever_the_stream_is_cut(frames, places) -> None:  # type: ignore[no-untyped-def]
    stream = b"".join(form(data) for form, data in frames)
    expected = [data for _, data in frames], None, None
    assert decode(pieces(stream, places)) == expected


def test_frames_are_the_same_cut_at_every_byte_and_fed_a_byte_at_a_time() -> None:
    payloads = [b"", b"one", b"", b"\xff\xff\xff\xff", b"four" * 5, b"", b"end"]
    stream = b"".join(form(data) for data in payloads for form in (short, long))
    expected = [data for data in payloads for _ in "ab"], None, None
    for parts in every_way(stream):
        assert decode(parts) == expected


def test_complete_frames_are_seen_at_every_cut_and_none_that_is_not_complete() -> None:
    payloads = [b"one", b"", b"\xff\xff\xff\xff", b"four" * 5, b"", b"end"]
    stream = b"".join(map(short, payloads))
    ends = [0]
    for data in payloads:
        ends.append(ends[-1] + len(short(data)))
    for place in range(len(stream) + 1):
        count = sum(end <= place for end in ends) - 1
        assert complete_frames(stream[:place]) == (payloads[:count], ends[count])


@pytest.mark.parametrize("behind", [long(b"message"), SHORT.pack(-2) + b"more", SHORT.pack(-0x80000000), LONG_MARK])
def test_long_header_and_a_bad_one_end_the_search_for_complete_frames(behind: bytes) -> None:
    assert complete_frames(short(b"one") + behind + short(b"two")) == ([b"one"], 7)
    assert complete_frames(behind + short(b"two")) == ([], 0)


@steady
@given(st.binary(max_size=80))
def test_what_is_seen_in_any_bytes_is_what_the_decoder_makes_of_them(data) -> None:  # type: ignore[no-untyped-def]
    frames, end = complete_frames(data)
    assert decode([data[:end]]) == (frames, None, None)
    assert len(encode_frames(frames)) == end


def test_many_messages_are_encoded_as_one_by_one() -> None:
    messages = [b"", b"one", b"x" * 20_000]
    assert encode_frames(iter(messages)) == b"".join(map(short, messages))
    assert encode_frames([bytearray(b"ab"), memoryview(b"cd"), array.array("H", [1, 2])]) == b"".join(
        [short(b"ab"), short(b"cd"), short(array.array("H", [1, 2]).tobytes())]
    )
    assert encode_frames([]) == b""


@steady
@given(st.binary(max_size=80), cuts)
def test_any_bytes_give_the_same_frames_and_the_same_failure_wherever_they_are_cut(stream, places) -> None:  # type: ignore[no-untyped-def]
    assert decode(pieces(stream, places), 40) == decode([stream], 40)


@steady
@given(frames_of_both_forms, st.binary(max_size=20), cuts)
def test_frames_in_front_of_a_bad_one_are_not_lost(frames, behind, places) -> None:  # type: ignore[no-untyped-def]
    stream = b"".join(form(data) for form, data in frames) + SHORT.pack(-2) + behind
    found, failure, end = decode(pieces(stream, places))
    assert found == [data for _, data in frames]
    assert failure == "a frame cannot be -2 bytes long"
    assert end is None


def test_nothing_comes_out_once_the_stream_has_failed() -> None:
    decoder = FrameDecoder(10)
    assert decoder.feed(short(b"good") + short(b"far too large") + short(b"late")) == [b"good"]
    failure = decoder.failure
    assert decoder.feed(short(b"later")) == []
    assert decoder.failure is failure


@steady
@given(frames_of_both_forms)
def test_feeding_what_is_needed_gives_one_frame_at_a_time_and_takes_nothing_behind_it(frames) -> None:  # type: ignore[no-untyped-def]
    stream = b"".join(form(data) for form, data in frames)
    decoder = FrameDecoder(MAXIMUM)
    ends, end = [], 0
    for form, data in frames:
        end += len(form(data))
        ends.append(end)
    position = 0
    found = []
    while position < len(stream):
        assert decoder.needed >= 1
        position += decoder.needed
        new = decoder.feed(stream[position - decoder.needed : position])
        assert len(new) <= 1
        if new:
            assert position == ends[len(found)]
        found += new
    assert found == [data for _, data in frames]


def test_needed_counts_down_through_each_part_of_a_long_header() -> None:
    decoder = FrameDecoder(MAXIMUM)
    counts = []
    for byte in long(b"ab"):
        counts.append(decoder.needed)
        decoder.feed(bytes([byte]))
    assert counts == [4, 3, 2, 1, 8, 7, 6, 5, 4, 3, 2, 1, 2, 1]
    assert decoder.needed == 4


@pytest.mark.parametrize("form", [short, long])
def test_end_of_stream_is_clean_between_two_frames_only(form) -> None:  # type: ignore[no-untyped-def]
    stream = form(b"message")
    header = len(stream) - len(b"message")
    for place in range(len(stream) + 1):
        decoder = FrameDecoder(MAXIMUM)
        decoder.feed(stream[:place])
        error = decoder.finish()
        if place in (0, len(stream)):
            assert error is None
        elif place < header:
            assert str(error) == f"end of stream after {place} bytes of a frame's header"
        else:
            assert str(error) == f"end of stream after {place - header} of 7 bytes of a frame"


def test_decoder_knows_where_a_frame_and_where_a_part_of_one_begins() -> None:
    boundaries = []
    stream = short(b"ab") + long(b"cde") + short(b"") + short(b"f")
    decoder = FrameDecoder(MAXIMUM)
    for place in range(len(stream) + 1):
        assert decoder.is_between_parts or not decoder.is_between
        boundaries.append((place, decoder.is_between) if decoder.is_between_parts else None)
        decoder.feed(stream[place : place + 1])
    # Before and behind the header, and behind the mark of a long one.
    places = [
        (0, True),
        (4, False),
        (6, True),
        (10, False),
        (18, False),
        (21, True),
        (25, True),
        (29, False),
        (30, True),
    ]
    assert [boundary for boundary in boundaries if boundary] == places


@pytest.mark.parametrize("form", [short, long])
def test_frame_at_the_maximum_is_taken_and_one_above_is_refused_with_both_sizes(form) -> None:  # type: ignore[no-untyped-def]
    decoder = FrameDecoder(100)
    assert decoder.feed(form(b"x" * 100)) == [b"x" * 100]
    assert decoder.failure is None
    assert decoder.feed(form(b"x" * 101)) == []
    assert isinstance(decoder.failure, FrameError)
    assert "a frame of 101 bytes is over the limit of 100 (maximum_frame)" in str(decoder.failure)


def test_frame_under_the_minimum_is_refused() -> None:
    decoder = StrictDecoder(100)
    assert decoder.feed(short(b"abc") + short(b"ab")) == [b"abc"]
    assert "a frame of 2 bytes is under the minimum of 3" in str(decoder.failure)


@pytest.mark.parametrize("size", [-2, -100, -0x80000000])
def test_negative_length_is_refused_where_the_standard_library_reads_an_empty_message(size: int) -> None:
    decoder = FrameDecoder(MAXIMUM)
    assert decoder.feed(SHORT.pack(size) + b"more") == []
    assert f"cannot be {size} bytes long" in str(decoder.failure)


def test_long_header_is_refused_where_it_is_not_wanted() -> None:
    for parts in every_way(long(b"data")):
        decoder = StrictDecoder(MAXIMUM)
        assert [frame for part in parts for frame in decoder.feed(part)] == []
        assert "cannot be -1 bytes long" in str(decoder.failure)


@pytest.mark.parametrize(
    ("start", "who"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "an HTTP request"),
        (b"POST /form HTTP/1.1\r\n", "an HTTP request"),
        (b"HEAD / HTTP/1.0\r\n", "an HTTP request"),
        (b"PUT /x HTTP/1.1\r\n", "an HTTP request"),
        (b"OPTIONS * HTTP/1.1\r\n", "an HTTP request"),
        (b"CONNECT host:443 HTTP/1.1\r\n", "an HTTP request"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "an HTTP/2 request"),
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP response"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "an SSH peer"),
        (b"\x16\x03\x01\x02\x00\x01\x00", "a TLS handshake"),
        (b"\x16\x03\x03\x02\x00\x01\x00", "a TLS handshake"),
        (b"EHLO example.org\r\n", "an SMTP client"),
    ],
)
def test_stranger_is_called_by_name_wherever_its_bytes_are_cut(start: bytes, who: str) -> None:
    for parts in every_way(start):
        decoder = FrameDecoder(64 << 20)
        for part in parts:
            decoder.feed(part)
        assert f"this is {who}, not a frame" in str(decoder.failure)


def test_refusal_quotes_a_bounded_part_of_the_input_on_one_line() -> None:
    decoder = FrameDecoder(10)
    decoder.feed(b"\x7f\n\r\x1b[31m" + b"A" * 100_000)
    message = str(decoder.failure)
    assert message.isprintable()
    assert len(message) < 200


@pytest.mark.parametrize("header", [SHORT.pack(LARGEST_SHORT), LONG_MARK + LONG.pack(1 << 40)])
def test_header_bomb_takes_no_memory_even_within_the_limit(header: bytes) -> None:
    def bombs() -> list[FrameDecoder]:
        decoders = [FrameDecoder(1 << 62) for _ in range(100)]
        for decoder in decoders:
            assert decoder.feed(header + b"x" * 100) == []
            assert decoder.failure is None
        return decoders

    assert peak_memory(bombs) < 100 * 1024


def test_header_bomb_over_the_limit_is_refused_by_its_header_alone() -> None:
    decoder = FrameDecoder(MAXIMUM)
    decoder.feed(LONG_MARK + LONG.pack((1 << 64) - 1))
    assert f"a frame of {(1 << 64) - 1} bytes is over the limit" in str(decoder.failure)


def test_large_frame_in_many_pieces_is_held_once() -> None:
    size = 8 << 20
    piece = b"x" * (64 << 10)

    def receive() -> list[bytes]:
        decoder = FrameDecoder(size)
        frames = decoder.feed(frame_header(size))
        for _ in range(size // len(piece)):
            frames += decoder.feed(piece)
        assert [len(frame) for frame in frames] == [size]
        return frames

    assert peak_memory(receive) < 1.5 * size
