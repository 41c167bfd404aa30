"""Frames, from any bytes."""

from __future__ import annotations

import re
import sys

from reactor.authentication import ChallengeSpotter, HandshakeDecoder
from reactor.errors import AuthenticationError, FrameError
from reactor.framing import FrameDecoder, encode_frame
from tests.fuzzing.decisions import Decisions
from tests.fuzzing.models import CHALLENGE, LONGEST_HANDSHAKE_FRAME, Reading, long_form, read_frames, short_form
from tests.fuzzing.targets.texts import assert_readable


class StrictDecoder(FrameDecoder):
    """A decoder that takes no frame under three bytes, and no long header."""

    __slots__ = ()
    minimum = 3
    long_headers = False


DECODERS = (
    (FrameDecoder, 0, True),
    (HandshakeDecoder, 1, False),
    (ChallengeSpotter, 0, True),
    (StrictDecoder, 3, False),
)
"""Each with the smallest frame that it should take, and whether it should take a long header."""
MAXIMA = (64 << 20, 1 << 62, 40, LONGEST_HANDSHAKE_FRAME, 1, 0)


def frames(data: bytes) -> None:
    """Frames, failure and end of stream are those of a plain reading, however the stream is cut."""
    decisions = Decisions(data)
    kind, minimum, long_headers = DECODERS[decisions.below(len(DECODERS))]
    maximum = MAXIMA[decisions.below(len(MAXIMA))]
    cutting = decisions.cutting()
    stream = decisions.rest()
    expected = read_frames(stream, minimum, maximum, long_headers)
    demands_key = kind is ChallengeSpotter and begins_with_challenge(expected.frames)
    if demands_key:
        expected = Reading([], 0)
    said = set()
    for decoder, found in (
        fed_in_pieces(kind(maximum), [stream]),
        fed_in_pieces(kind(maximum), cutting.pieces(stream)),
        fed_what_is_needed(kind(maximum), stream),
    ):
        assert found == expected.frames
        assert_are(found, stream[: expected.consumed])
        end = decoder.finish()
        assert end is None or type(end) is FrameError
        assert tuple(map(int, re.findall(r"\d+", str(end)))) == expected.cut_short
        failure = decoder.failure
        if demands_key:
            assert type(failure) is AuthenticationError
        elif expected.refused is not None:
            assert type(failure) is FrameError
        else:
            assert failure is None
        if failure is not None:
            assert_readable(str(failure))
            assert decoder.feed(encode_frame(b"more")) == []
            assert decoder.failure is failure
        # How much of the stream is quoted depends on how much of it is there; what is said does not.
        said.add(re.split("; it begins|, not a frame", str(failure))[0])
    assert len(said) == 1, said


def begins_with_challenge(found: list[bytes]) -> bool:
    """Whether the first frame is what a peer sends that demands a key."""
    return bool(found) and found[0].startswith(CHALLENGE) and len(found[0]) <= LONGEST_HANDSHAKE_FRAME


def fed_in_pieces(decoder: FrameDecoder, parts: list[bytes]) -> tuple[FrameDecoder, list[bytes]]:
    """Feed `parts`; return the decoder and the frames. What it holds may not grow faster than what came."""
    found = []
    fed = 0
    for part in parts:
        found += decoder.feed(part)
        fed += len(part)
        held = sum(sys.getsizeof(getattr(decoder, name)) for name in FrameDecoder.__slots__)
        assert held <= 2 * fed + 1024, f"{held} bytes are held after {fed} came"
    return decoder, found


def fed_what_is_needed(decoder: FrameDecoder, stream: bytes) -> tuple[FrameDecoder, list[bytes]]:
    """Feed no more than `decoder` says it needs; each frame must end where such a piece does."""
    found: list[bytes] = []
    begun = position = 0
    while position < len(stream) and decoder.failure is None:
        needed = decoder.needed
        assert needed >= 1
        piece = stream[position : position + needed]
        new = decoder.feed(piece)
        position += len(piece)
        assert len(new) <= 1
        if new:
            assert_are(new, stream[begun:position])
            begun = position
        found += new
    return decoder, found


def assert_are(found: list[bytes], consumed: bytes) -> None:
    """Assert that the frames `found`, behind headers of either form, are the bytes `consumed`, to the last."""
    for frame in found:
        written = encode_frame(frame)
        assert written == short_form(frame)
        if not consumed.startswith(written):
            written = long_form(frame)
        assert consumed.startswith(written)
        consumed = consumed[len(written) :]
    assert consumed == b""
