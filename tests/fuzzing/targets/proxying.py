"""The headers of proxies, from any bytes."""

from __future__ import annotations

import socket
from typing import Any

from reactor.addresses import format_address
from reactor.errors import ProxyError
from reactor.proxying import HeaderDecoder, ProxyHeader, speaks_for_itself
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.models import CRC32C, SIGNATURE, Introduction, NoIntroduction, crc32c, read_introduction
from tests.fuzzing.targets.texts import assert_printable, assert_readable

MAXIMA = (4096, 300, 28, 16)


def proxy_header(data: bytes) -> None:
    """A header says what a plain reading says, however it is cut, and nothing behind it is taken."""
    decisions = Decisions(data)
    maximum = MAXIMA[decisions.below(len(MAXIMA))]
    is_summed = decisions.flag()
    cutting = decisions.cutting()
    stream = decisions.rest()
    if is_summed:
        stream = summed(stream)
    try:
        expected = read_introduction(stream, maximum)
    except NoIntroduction:
        for way in (Cutting(), cutting, Cutting(stride=1)):
            assert_refused(HeaderDecoder(maximum), way.pieces(stream))
        return
    for way in (Cutting(), cutting, Cutting(stride=1)):
        decoder = HeaderDecoder(maximum)
        found = fed_in_pieces(decoder, way.pieces(stream))
        assert (found is None) == (expected is None)
        if found is None:
            assert_readable(str(decoder.finish()))
        elif expected is not None:
            assert_says(found, expected)
            assert stream[expected.size :].startswith(decoder.rest)
    decoder = HeaderDecoder(maximum)
    found, taken = fed_what_is_needed(decoder, stream)
    assert (found is None) == (expected is None)
    if expected is not None:
        assert (taken, decoder.rest) == (expected.size, b"")


def summed(stream: bytes) -> bytes:
    """Return `stream` with a checksum at the end of its header, where it has a whole one of version 2."""
    end = 16 + int.from_bytes(stream[14:16])
    if not stream.startswith(SIGNATURE) or len(stream) < end or end > 1000:
        return stream
    head = stream[:14] + (end - 9).to_bytes(2) + stream[16:end] + bytes([CRC32C]) + b"\0\x04"
    return head + crc32c(head + bytes(4)).to_bytes(4) + stream[end:]


def fed_in_pieces(decoder: HeaderDecoder, pieces: list[bytes]) -> ProxyHeader | None:
    """Feed `pieces` until there is a header."""
    for piece in pieces:
        assert decoder.needed >= 1
        header = decoder.feed(piece)
        if header is not None:
            return header
    return None


def fed_what_is_needed(decoder: HeaderDecoder, stream: bytes) -> tuple[ProxyHeader | None, int]:
    """Feed no more than is needed at a time, as a channel does; return the header, and how much that took."""
    position = 0
    while position < len(stream):
        piece = stream[position : position + decoder.needed]
        header = decoder.feed(piece)
        position += len(piece)
        if header is not None:
            return header, position
    return None, position


def assert_refused(decoder: HeaderDecoder, pieces: list[bytes]) -> None:
    """Assert that there is no header in `pieces`, and that it is said why."""
    try:
        header = fed_in_pieces(decoder, pieces)
    except ProxyError as error:
        assert_readable(str(error))
    else:
        raise AssertionError(f"this was taken for a header: {header}")


def assert_says(header: ProxyHeader, expected: Introduction) -> None:
    """Assert that `header` says what is expected, in the words of the socket module."""
    places = [header.source, header.destination]
    if not expected.places:
        assert places == [None, None]
    for place, (family, host, port) in zip(places, expected.places, strict=False):
        assert_means(place, family, host, port)
        assert_printable(format_address(place))
    assert header.transport == (None, "stream", "datagram")[expected.transport]
    assert header.is_local == expected.is_local
    assert header.values == tuple(expected.values)
    assert speaks_for_itself(header, ("192.0.2.1", 7)) == (header.is_local or header.source == ("192.0.2.1", 7))


def assert_means(place: Any, family: int | str, host: bytes, port: int) -> None:
    """Assert that `place` is the one that was said: an IPv4 address, whatever the form, has two parts."""
    if family == "unix":
        path = host.rstrip(b"\0") if host.startswith(b"\0") else host.partition(b"\0")[0]
        assert place in (path, path.decode("utf-8", "surrogateescape"))
        return
    mapped = bytes(10) + b"\xff\xff"
    if family == 6 and not host.startswith(mapped):
        assert (socket.inet_pton(socket.AF_INET6, place[0]), *place[1:]) == (host, port, 0, 0)
    else:
        assert (socket.inet_pton(socket.AF_INET, place[0]), *place[1:]) == (host.removeprefix(mapped), port)
