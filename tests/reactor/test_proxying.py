"""The PROXY protocol: the headers as bytes, what a listener makes of them, and the proxies that people have."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor.errors import AddressError, ProxyError
from reactor.limits import DEFAULT_LIMITS
from reactor.proxying import (
    ALPN,
    AUTHORITY,
    CRC32C,
    NOOP,
    SIGNATURE,
    UNIQUE_ID,
    HeaderDecoder,
    Proxies,
    ProxyHeader,
    crc32c,
    speaks_for_itself,
)
from reactor.simulation import HARMLESS, World, simulate
from tests import certificates
from tests.conftest import (
    KEY,
    Accepting,
    FakeClock,
    RecordingConnection,
    RecordingStream,
    raw_client,
    run_until,
)
from tests.tls_peers import client_context

MAXIMUM = DEFAULT_LIMITS.maximum_proxy_header
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
ANNA = ("192.0.2.1", 56324)

# Headers, made by other hands than those that read them


def value(number: int, data: bytes) -> bytes:
    return bytes([number]) + struct.pack("!H", len(data)) + data


def block(command: int, kind: int, addresses: bytes = b"", *values: bytes) -> bytes:
    rest = addresses + b"".join(values)
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(rest)) + rest


def inet(source: tuple[str, int], destination: tuple[str, int] = ("198.51.100.7", 443)) -> bytes:
    family = socket.AF_INET6 if ":" in source[0] else socket.AF_INET
    hosts = b"".join(socket.inet_pton(family, host) for host, _ in (source, destination))
    return hosts + struct.pack("!HH", source[1], destination[1])


def unix(source: bytes, destination: bytes = b"/run/proxy") -> bytes:
    return source.ljust(108, b"\0") + destination.ljust(108, b"\0")


def summed(header: bytes) -> bytes:
    """Put the checksum in, bit by bit, where `header` has four zeros for it at its end."""
    assert header[-7:] == value(CRC32C, bytes(4))
    bits = [byte >> bit & 1 for byte in header for bit in range(8)]
    register = 0xFFFFFFFF
    for bit in bits:
        register = register >> 1 ^ (0x82F63B78 if (register ^ bit) & 1 else 0)
    return header[:-4] + struct.pack("!I", register ^ 0xFFFFFFFF)


BLOCK = block(0x21, 0x11, inet(ANNA))
SUMMED = summed(block(0x21, 0x11, inet(ANNA), value(NOOP, b"\3\0\4"), value(CRC32C, bytes(4))))

GOOD: dict[str, tuple[bytes, ProxyHeader]] = {
    "line of IPv4": (LINE, ProxyHeader(1, ANNA, ("198.51.100.7", 443), "stream")),
    "line of IPv6": (
        b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n",
        ProxyHeader(1, ("2001:db8::1", 0, 0, 0), ("::1", 65535, 0, 0), "stream"),
    ),
    "shortest line of IPv6": (
        b"PROXY TCP6 :: :: 1 2\r\n",
        ProxyHeader(1, ("::", 1, 0, 0), ("::", 2, 0, 0), "stream"),
    ),
    "longest line of IPv6": (
        b"PROXY TCP6 %b %b 65535 65535\r\n" % ((b":".join([b"ffff"] * 8),) * 2),
        ProxyHeader(1, *[(":".join(["ffff"] * 8), 65535, 0, 0)] * 2, "stream"),
    ),
    "line of IPv4 in IPv6": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n",
        ProxyHeader(1, ("192.0.2.1", 1), ("::1", 2, 0, 0), "stream"),
    ),
    "line of nobody": (b"PROXY UNKNOWN\r\n", ProxyHeader(1)),
    "longest line of nobody": (b"PROXY UNKNOWN " + b"f" * 91 + b"\r\n", ProxyHeader(1)),
    "line of nobody with ends of lines in it": (b"PROXY UNKNOWN \n\r \r\r\n", ProxyHeader(1)),
    "IPv4": (BLOCK, ProxyHeader(2, ANNA, ("198.51.100.7", 443), "stream")),
    "IPv4 of a datagram": (
        block(0x21, 0x12, inet(ANNA)),
        ProxyHeader(2, ANNA, ("198.51.100.7", 443), "datagram"),
    ),
    "IPv6": (
        block(0x21, 0x21, inet(("2001:db8::1", 7), ("::1", 8))),
        ProxyHeader(2, ("2001:db8::1", 7, 0, 0), ("::1", 8, 0, 0), "stream"),
    ),
    "IPv4 in IPv6": (
        block(0x21, 0x21, inet(("::ffff:192.0.2.1", 7), ("::1", 8))),
        ProxyHeader(2, ("192.0.2.1", 7), ("::1", 8, 0, 0), "stream"),
    ),
    "Unix": (block(0x21, 0x31, unix(b"/run/anna")), ProxyHeader(2, "/run/anna", "/run/proxy", "stream")),
    "Unix without a name": (block(0x21, 0x31, unix(b"")), ProxyHeader(2, "", "/run/proxy", "stream")),
    "Unix without a file": (
        block(0x21, 0x31, unix(b"\0anna", b"x" * 108)),
        ProxyHeader(2, b"\0anna", "x" * 108, "stream"),
    ),
    "itself": (block(0x20, 0x00), ProxyHeader(2, is_local=True)),
    "itself, and all that counts not": (
        block(0x20, 0xFF, b"\1\2\3", value(CRC32C, b"wrong")),
        ProxyHeader(2, is_local=True),
    ),
    "unspecified": (block(0x21, 0x00), ProxyHeader(2)),
    "unspecified transport": (block(0x21, 0x10, inet(ANNA)), ProxyHeader(2)),
    "unspecified family": (
        block(0x21, 0x01, b"", value(UNIQUE_ID, b"7")),
        ProxyHeader(2, values=((UNIQUE_ID, b"7"),)),
    ),
    "values": (
        block(0x21, 0x11, inet(ANNA), value(ALPN, b"h2"), value(NOOP, b""), value(AUTHORITY, b"a.example"),
              value(0xE0, b"")),
        ProxyHeader(
            2, ANNA, ("198.51.100.7", 443), "stream",
            values=((ALPN, b"h2"), (NOOP, b""), (AUTHORITY, b"a.example"), (0xE0, b"")),
        ),
    ),
    "checksum": (
        SUMMED,
        ProxyHeader(
            2, ANNA, ("198.51.100.7", 443), "stream", values=((NOOP, b"\3\0\4"), (CRC32C, SUMMED[-4:])),
        ),
    ),
}  # fmt: skip

BAD: dict[str, tuple[bytes, str]] = {
    "nothing like it": (b"hello there\r\n", "what came is something else, and a PROXY header has to come first"),
    "HTTP": (b"GET / HTTP/1.1\r\n", "this is an HTTP request, and a PROXY header"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", r"this is a TLS handshake.*send-proxy-v2 in HAProxy"),
    "small letters": (b"proxy TCP4 ", "something else"),
    "two spaces": (b"PROXY  TCP4 192.0.2.1 198.51.100.7 1 2\r\n", "makes no sense"),
    "another transport": (b"PROXY UDP4 192.0.2.1 198.51.100.7 1 2\r\n", "makes no sense"),
    "more behind it": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1 2 3\r\n", "makes no sense"),
    "too few": (b"PROXY TCP4 192.0.2.1 198.51.100.7 1\r\n", "makes no sense"),
    "nothing": (b"PROXY \r\n", "makes no sense"),
    "unknown word": (b"PROXY UNKNOWNS\r\n", "makes no sense"),
    "line feed alone": (LINE[:-2] + b"\n" + b"x" * 100, "no end within 107 bytes"),
    "one byte too long": (b"PROXY UNKNOWN " + b"f" * 92 + b"\r\n", "no end within 107 bytes"),
    "no IPv4": (b"PROXY TCP4 192.0.2.256 198.51.100.7 1 2\r\n", "no addresses of TCP4"),
    "octal": (b"PROXY TCP4 192.0.2.01 198.51.100.7 1 2\r\n", "no addresses of TCP4"),
    "IPv6 in place of IPv4": (b"PROXY TCP4 ::1 ::1 1 2\r\n", "no addresses of TCP4"),
    "IPv4 in place of IPv6": (b"PROXY TCP6 192.0.2.1 198.51.100.7 1 2\r\n", "no addresses of TCP6"),
    "no IPv6": (b"PROXY TCP6 1::2::3 ::1 1 2\r\n", "no addresses of TCP6"),
    "scope": (b"PROXY TCP6 fe80::1%1 ::1 1 2\r\n", "makes no sense"),
    "large port": (b"PROXY TCP4 192.0.2.1 198.51.100.7 65536 2\r\n", "a port that is none"),
    "port with a zero": (b"PROXY TCP4 192.0.2.1 198.51.100.7 01 2\r\n", "makes no sense"),
    "port with a sign": (b"PROXY TCP4 192.0.2.1 198.51.100.7 +1 2\r\n", "makes no sense"),
    "broken signature": (SIGNATURE[:-1] + b"\r", "something else"),
    "version 3": (block(0x31, 0x11, inet(ANNA)), "version and command 0x31"),
    "command 2": (block(0x22, 0x11, inet(ANNA)), "version and command 0x22"),
    "family 4": (block(0x21, 0x41, inet(ANNA)), "addresses of the kind 0x41"),
    "transport 3": (block(0x21, 0x13, inet(ANNA)), "addresses of the kind 0x13"),
    "short IPv4": (block(0x21, 0x11, inet(ANNA)[:-1]), "has 27 bytes; with its addresses it would have 28"),
    "short IPv6": (block(0x21, 0x21, inet(ANNA)), "has 28 bytes; with its addresses it would have 52"),
    "short Unix": (block(0x21, 0x31, b"/run/anna"), "it would have 232"),
    "value cut off": (block(0x21, 0x11, inet(ANNA), value(ALPN, b"h2")[:-1]), "ends within a value"),
    "value without a length": (block(0x21, 0x11, inet(ANNA), b"\1\0"), "ends within a value"),
    "wrong checksum": (block(0x21, 0x11, inet(ANNA), value(CRC32C, b"\1\2\3\4")), "was changed on its way"),
    "short checksum": (block(0x21, 0x11, inet(ANNA), value(CRC32C, b"\1")), "no single checksum of four bytes"),
    "two checksums": (block(0x21, 0x11, inet(ANNA), *[value(CRC32C, bytes(4))] * 2), "no single checksum"),
    "too large": (block(0x21, 0x11, inet(ANNA), value(NOOP, bytes(MAXIMUM))), r"4127 bytes; the limit is 4096"),
}  # fmt: skip


def outcome(pieces: list[bytes]) -> ProxyHeader | type[ProxyError] | None:
    """Return what a decoder makes of `pieces`: the header, the error, or neither."""
    decoder = HeaderDecoder(MAXIMUM)
    for piece in pieces:
        try:
            header = decoder.feed(piece)
        except ProxyError:
            return ProxyError
        if header is not None:
            return header
    return None


@pytest.mark.parametrize("name", GOOD)
def test_header_is_read_whole_at_every_cut_and_byte_by_byte(name: str) -> None:
    data, expected = GOOD[name]
    for cut in range(len(data)):
        assert outcome([data[:cut], data[cut:]]) == expected
        assert outcome([data[:cut]]) is None
    assert outcome([bytes([byte]) for byte in data]) == expected


@pytest.mark.parametrize("name", GOOD)
def test_what_stands_behind_the_header_is_kept(name: str) -> None:
    data, _ = GOOD[name]
    for cut in range(len(data) + 1):
        decoder = HeaderDecoder(MAXIMUM)
        if cut and cut < len(data):
            assert decoder.feed(data[:cut]) is None
            assert decoder.feed(data[cut:] + b"\r\nPROXY") is not None
        else:
            assert decoder.feed(data + b"\r\nPROXY") is not None
        assert decoder.rest == b"\r\nPROXY"


@pytest.mark.parametrize("name", GOOD)
def test_who_feeds_no_more_than_is_needed_takes_nothing_of_what_follows(name: str) -> None:
    data, _ = GOOD[name]
    stream = data + b"\r\n" * 60
    for largest in (1, 3, 1 << 16):
        decoder, position, receives = HeaderDecoder(MAXIMUM), 0, 0
        while True:
            size = min(decoder.needed, largest)
            assert size >= 1
            header = decoder.feed(stream[position : position + size])
            position += size
            receives += 1
            if header is not None:
                break
        assert (position, decoder.rest) == (len(data), b"")
    if "nobody" not in name:
        assert receives <= 16


@pytest.mark.parametrize("name", BAD)
def test_header_that_is_none_is_refused_with_the_reason_however_it_is_cut(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(ProxyError, match=reason):
        HeaderDecoder(MAXIMUM).feed(data)
    for cut in range(len(data)):
        assert outcome([data[:cut], data[cut:]]) is ProxyError
    assert outcome([bytes([byte]) for byte in data]) is ProxyError


@pytest.mark.parametrize("name", [name for name in BAD if BAD[name][0][:6] not in (b"PROXY ", SIGNATURE[:6])])
def test_what_is_no_header_is_refused_with_the_first_byte_that_tells(name: str) -> None:
    assert outcome([BAD[name][0][:1]]) is ProxyError


def test_what_a_refusal_says_is_one_bounded_line() -> None:
    for data, _ in BAD.values():
        with pytest.raises(ProxyError) as caught:
            HeaderDecoder(MAXIMUM).feed(data)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400


def test_end_of_the_stream_is_said_to_be_within_the_header_or_in_front_of_it() -> None:
    decoder = HeaderDecoder(MAXIMUM)
    assert "no PROXY header came" in str(decoder.finish())
    decoder.feed(LINE[:7])
    assert "within the PROXY header: b'PROXY T'" in str(decoder.finish())


def test_checksum_is_that_of_castagnoli() -> None:
    # RFC 3720, appendix B.4, and the check value of the catalogue of checksums.
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


def test_checksum_finds_every_byte_that_was_changed() -> None:
    for position in range(16, len(SUMMED)):
        changed = bytearray(SUMMED)
        changed[position] ^= 1
        if position not in (28, 29, 30, 34, 35, 36):  # those of numbers and lengths: then it is another header
            with pytest.raises(ProxyError, match="changed on its way"):
                HeaderDecoder(MAXIMUM).feed(bytes(changed))


@pytest.mark.parametrize("proxy", [ANNA, ("::ffff:192.0.2.1", 56324, 0, 0)])
def test_proxy_that_names_itself_speaks_for_itself(proxy: Any) -> None:
    header = GOOD["line of IPv4"][1]
    assert speaks_for_itself(header, proxy)
    assert not speaks_for_itself(header, ("192.0.2.1", 56325))
    assert not speaks_for_itself(header, "")
    assert not speaks_for_itself(GOOD["line of nobody"][1], proxy)
    assert speaks_for_itself(GOOD["itself"][1], "")


def test_values_are_found_by_their_number() -> None:
    _, header = GOOD["values"]
    assert header.value(AUTHORITY) == b"a.example"
    assert header.value(UNIQUE_ID) is None


HEADS = st.sampled_from([data for data, _ in (*GOOD.values(), *BAD.values())])


@given(head=HEADS, cut=st.integers(0, 300), tail=st.binary(max_size=300), pieces=st.lists(st.integers(1, 40)))
def test_whatever_comes_the_outcome_does_not_depend_on_the_cuts(
    head: bytes, cut: int, tail: bytes, pieces: list[int]
) -> None:
    stream = head[:cut] + tail
    parts, position = [], 0
    for size in pieces:
        parts.append(stream[position : position + size])
        position += size
    assert outcome([*parts, stream[position:]]) == outcome([stream])


# Who is believed


@pytest.mark.parametrize(
    ("names", "inside", "outside"),
    [
        (["127.0.0.1"], ("127.0.0.1", 5), ("127.0.0.2", 5)),
        (["10.0.0.0/8"], ("10.255.0.1", 5), ("11.0.0.1", 5)),
        (["10.0.0.0/8"], ("::ffff:10.1.2.3", 5, 0, 0), ("::ffff:11.1.2.3", 5, 0, 0)),
        (["fd00::/8", "::1"], ("fd12::1", 5, 0, 0), ("fe80::1%eth0", 5, 0, 2)),
        (["fe80::/10"], ("fe80::1%eth0", 5, 0, 2), ("127.0.0.1", 5)),
        (["unix"], "", ("127.0.0.1", 5)),
        (["127.0.0.1"], ("127.0.0.1", 5), ""),
        (["unix", "0.0.0.0/0"], b"\0name", ("::1", 5, 0, 0)),
    ],
)
def test_proxies_are_hosts_networks_and_those_of_unix_sockets(names: list[str], inside: Any, outside: Any) -> None:
    proxies = Proxies(names)
    assert inside in proxies
    assert outside not in proxies


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["localhost"], "'localhost' is no host or network; give numbers"),
        (["10.0.0.1/8"], "bits behind its mask; is '10.0.0.0/8' meant"),
        (["10.0.0.0/33"], "no host or network"),
        ([10], "10 is no host or network"),
        ("10.0.0.0/8", r"one string; give a list of them: \['10.0.0.0/8'\]"),
    ],
)
def test_proxies_that_are_none_are_refused_with_the_way_out(loop: reactor.Reactor, names: Any, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        reactor.Listener(("127.0.0.1", 0), RecordingStream, proxies=names, reactor=loop)


# A listener


class Echo(RecordingStream):
    def handle_open(self) -> None:
        self.events.append(("open", self.peer))

    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


class Introduced(reactor.Listener):
    """Writes down what proxies say, and does what the test wants with their channels."""

    def __init__(self, *args: Any, then: Callable[[reactor.Channel], object] = str, **options: Any) -> None:
        self.headers: list[ProxyHeader] = []
        self.then = then
        super().__init__(*args, **options)

    def handle_introduced(self, channel: reactor.Channel, header: ProxyHeader) -> None:
        self.headers.append(header)
        self.then(channel)


class Serving:
    """A listener that believes its own machine, and the channels that it has made."""

    def __init__(self, loop: reactor.Reactor, kind: Callable[[], Any] = Echo, **options: Any) -> None:
        self.loop = loop
        self.accepted = Accepting(kind)
        options = {"address": ("127.0.0.1", 0), "proxies": ["127.0.0.1", "unix"], **options}
        self.listener = Introduced(factory=self.accepted, reactor=loop, **options)

    def connect(self) -> socket.socket:
        """Connect, and wait until that was accepted."""
        before = len(self.accepted.channels)
        client = raw_client(self.listener.address)
        self.run_until(lambda: len(self.accepted.channels) > before)
        return client

    def run_until(self, condition: Callable[[], Any]) -> None:
        run_until(self.loop, condition)

    @property
    def channel(self) -> Any:
        """The one that was made last."""
        return self.accepted.channels[-1]


@pytest.mark.parametrize("name", ["line of IPv4", "IPv4", "values"])
def test_peer_is_the_one_that_the_proxy_names_and_its_bytes_are_delivered(loop: reactor.Reactor, name: str) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        assert serving.channel.state.name == "Introducing"
        assert serving.channel.peer[0] == "127.0.0.1"
        client.sendall(GOOD[name][0] + b"hello")
        serving.run_until(lambda: serving.channel.received == b"hello")
        assert serving.channel.of("open") == [ANNA]
        assert str(serving.channel) == "Echo with 192.0.2.1:56324 (Open)"
        assert serving.listener.last_accepted == ANNA
        serving.loop.poll()
        assert client.recv(100) == b"hello"


def test_header_may_come_byte_by_byte_with_what_follows_it(loop: reactor.Reactor) -> None:
    serving = Serving(loop)
    for header in (LINE, BLOCK):
        with serving.connect() as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in header + b"hello":
                client.send(bytes([byte]))
                loop.poll(0.01)
            serving.run_until(lambda: serving.channel.received == b"hello")
            assert serving.channel.peer == ANNA


def test_header_that_comes_in_very_many_pieces_is_no_sign_of_a_descriptor_that_spins(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in block(0x21, 0x31, unix(b"/run/anna")):
            client.send(bytes([byte]))
            loop.poll(1)
        serving.run_until(lambda: serving.channel.of("open"))
        assert caplog.records == []


@pytest.mark.parametrize("name", ["line of nobody", "itself", "unspecified"])
def test_proxy_that_names_nobody_is_the_peer_itself(loop: reactor.Reactor, name: str) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.sendall(GOOD[name][0] + b"hello")
        serving.run_until(lambda: serving.channel.received == b"hello")
        assert serving.channel.of("open") == [client.getsockname()]


def test_others_are_served_as_they_are(loop: reactor.Reactor) -> None:
    serving = Serving(loop, proxies=["192.0.2.0/24", "unix"])
    with serving.connect() as client:
        client.sendall(LINE)
        serving.run_until(lambda: serving.channel.received == LINE)
        assert serving.channel.peer == client.getsockname()


def test_proxy_on_a_unix_socket_is_believed_where_that_is_said(loop: reactor.Reactor, socket_path: str) -> None:
    serving = Serving(loop, address=socket_path)
    with serving.connect() as client:
        client.sendall(BLOCK + b"hello")
        serving.run_until(lambda: serving.channel.received == b"hello")
        assert serving.channel.peer == ANNA
    serving.run_until(lambda: not serving.listener.connections)
    serving.listener.close()


def test_peers_on_a_unix_socket_are_not_believed_where_only_hosts_are(loop: reactor.Reactor, socket_path: str) -> None:
    serving = Serving(loop, address=socket_path, proxies=["0.0.0.0/0", "::/0"])
    with serving.connect() as client:
        client.sendall(LINE)
        serving.run_until(lambda: serving.channel.received == LINE)
    serving.listener.close()


def test_peer_behind_a_proxy_may_be_a_unix_socket(loop: reactor.Reactor) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.sendall(GOOD["Unix"][0])
        serving.run_until(lambda: serving.channel.of("open"))
        assert str(serving.channel) == "Echo with unix:/run/anna (Open)"
    serving.run_until(lambda: not serving.listener.connections)


def test_what_is_no_header_closes_the_connection_with_a_line_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        serving.run_until(lambda: serving.channel.state.name == "Closed")
        (reason,) = serving.channel.of("close")
        assert isinstance(reason, ProxyError)
        assert serving.channel.of("open") == []
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith("Echo with 127.0.0.1:")
    assert "(Introducing): this is an HTTP request, and a PROXY header has to come first" in record.getMessage()


def test_proxy_that_only_looks_whether_somebody_listens_is_no_line_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(loop)
    serving.connect().close()
    serving.run_until(lambda: serving.channel.state.name == "Closed")
    assert [type(reason) for reason in serving.channel.of("close")] == [reactor.PeerClosed]
    assert caplog.records == []


def test_connection_that_ends_within_the_header_is_a_line_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.sendall(LINE[:20])
    serving.run_until(lambda: serving.channel.state.name == "Closed")
    assert "the connection ended within the PROXY header: b'PROXY TCP4 192.0.2.1'" in caplog.text


@pytest.mark.parametrize(("begun", "is_logged"), [(b"", False), (LINE[:9], True)])
def test_connection_that_is_reset_is_a_line_in_the_log_if_the_header_had_begun(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, begun: bytes, is_logged: bool
) -> None:
    serving = Serving(loop)
    client = serving.connect()
    client.sendall(begun)
    loop.poll(0.01)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    serving.run_until(lambda: serving.channel.state.name == "Closed")
    (reason,) = serving.channel.of("close")
    assert isinstance(reason, reactor.ConnectionLost)
    assert ("Connection reset by peer" in caplog.text) == is_logged


@pytest.mark.parametrize("is_in_a_hurry", [False, True])
@pytest.mark.parametrize("is_new", [False, True])
@pytest.mark.parametrize("kind", [Echo, RecordingConnection])
def test_health_checks_are_served_and_what_becomes_of_them_is_no_line_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, kind: Any, is_new: bool, is_in_a_hurry: bool
) -> None:
    serving = Serving(loop, kind, authkey=KEY if kind is RecordingConnection else None)
    client = serving.connect()
    host, port = client.getsockname()
    itself = b"PROXY TCP4 %b 127.0.0.1 %d 80\r\n" % (host.encode(), port)
    client.sendall(GOOD["itself"][0] if is_new else itself)
    serving.run_until(lambda: serving.channel.state.name in ("Open", "Authenticating"))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", is_in_a_hurry, 0))
    client.close()
    serving.run_until(lambda: serving.channel.state.name == "Closed")
    assert len(serving.channel.of("close")) == 1
    assert serving.channel.of("error") == []
    assert caplog.records == []
    assert serving.listener._checks == set()


def test_proxy_that_sends_no_header_has_a_deadline(timed: reactor.Reactor, clock: FakeClock) -> None:
    serving = Serving(timed, limits=reactor.Limits(proxy_timeout=4, tls_timeout=1, authentication_timeout=1))
    with serving.connect() as client:
        client.sendall(LINE[:20])
        timed.poll(0.01)
        clock.advance(3.9)
        timed.poll()
        assert serving.channel.state.name == "Introducing"
        clock.advance(0.2)
        timed.poll()
        (reason,) = serving.channel.of("close")
        assert isinstance(reason, reactor.DeadlineError)
        assert "no PROXY header within 4 s (proxy_timeout)" in str(reason)


def test_deadline_of_the_header_ends_with_the_header(timed: reactor.Reactor, clock: FakeClock) -> None:
    serving = Serving(timed, limits=reactor.Limits(proxy_timeout=4))
    with serving.connect() as client:
        client.sendall(LINE)
        serving.run_until(lambda: serving.channel.of("open"))
        clock.advance(100)
        timed.poll()
        assert serving.channel.state.name == "Open"


def test_silent_proxies_have_a_share_in_the_cap_and_the_oldest_makes_room(loop: reactor.Reactor) -> None:
    serving = Serving(loop, limits=reactor.Limits(maximum_unauthenticated=2))
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(serving.connect()) for _ in range(3)]
        first, second, third = serving.accepted.channels
        serving.run_until(lambda: first.of("close"))
        assert "the next one needs the place: 2 (maximum_unauthenticated)" in str(first.of("close")[0])
        for client in clients[1:]:
            client.sendall(LINE)
        serving.run_until(lambda: second.of("open") and third.of("open"))
        # Who is open has no share in it any more.
        more = [stack.enter_context(serving.connect()) for _ in range(2)]
        assert [channel.state.name for channel in serving.accepted.channels[3:]] == ["Introducing"] * 2
        assert (second.state.name, third.state.name, len(more)) == ("Open", "Open", 2)


def test_limit_for_each_host_counts_the_real_one_and_not_the_proxy(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    serving = Serving(loop, limits=reactor.Limits(maximum_connections_per_peer=2))
    headers = [b"PROXY TCP4 192.0.2.%d 127.0.0.1 %d 80\r\n" % (host, port) for host, port in
               ((1, 1), (1, 2), (2, 3), (2, 4), (3, 5), (1, 6))]  # fmt: skip
    with contextlib.ExitStack() as stack:
        clients = []
        for header in headers:
            clients.append(stack.enter_context(serving.connect()))
            clients[-1].sendall(header)
        serving.run_until(lambda: [channel.state.name for channel in serving.accepted.channels].count("Open") == 5)
        refused = serving.channel
        serving.run_until(lambda: refused.of("close"))
        assert "this host has 2 connections already (maximum_connections_per_peer)" in caplog.text
        assert "Echo with 192.0.2.1:6" in caplog.text
        assert refused.of("open") == []
        # One that leaves makes room for another one.
        clients[0].close()
        serving.run_until(lambda: serving.listener.connections == 4)
        clients.append(stack.enter_context(serving.connect()))
        clients[-1].sendall(headers[0])
        serving.run_until(lambda: serving.channel.of("open"))
        # Proxies that speak for themselves are not counted against the limit.
        for _ in range(4):
            clients.append(stack.enter_context(serving.connect()))
            clients[-1].sendall(GOOD["itself"][0])
            serving.run_until(lambda: serving.channel.of("open"))
    serving.run_until(lambda: not serving.listener.connections)
    assert serving.listener._peers == {}


def test_what_was_pushed_and_the_wish_to_close_wait_for_the_header(loop: reactor.Reactor) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        serving.channel.push(b"welcome")
        serving.channel.close_when_done()
        loop.poll(0.01)
        assert serving.channel.state.name == "Introducing"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(1)
        client.settimeout(10)
        client.sendall(LINE)
        serving.run_until(lambda: serving.channel.state.name == "Closing")
        loop.poll()
        assert client.recv(100) == b"welcome"


def test_listener_is_told_what_the_proxy_has_said(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    peers: list[Any] = []
    listener = Introduced(("127.0.0.1", 0), accepted, proxies=["127.0.0.1"], reactor=loop,
                          then=lambda channel: peers.append(channel.peer))  # fmt: skip
    with raw_client(listener.address) as client:
        client.sendall(GOOD["values"][0])
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
    assert listener.headers == [GOOD["values"][1]]
    assert peers == [ANNA]


def test_listener_can_refuse_whom_a_proxy_has_introduced(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    listener = Introduced(("127.0.0.1", 0), accepted, proxies=["127.0.0.1"], reactor=loop,
                          then=lambda channel: channel.close())  # fmt: skip
    with raw_client(listener.address) as client:
        client.sendall(LINE + b"hello")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(10) == b""
    assert accepted.channels[0].of("open") == []


def test_hook_that_raises_closes_the_connection_and_the_listener_goes_on(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = Accepting(Echo)
    listener = Introduced(("127.0.0.1", 0), accepted, proxies=["127.0.0.1"], reactor=loop,
                          then=lambda channel: channel.no_such_thing)  # fmt: skip
    with raw_client(listener.address) as client:
        client.sendall(LINE)
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    assert "AttributeError" in caplog.text
    assert listener.state.name == "Listening"


def test_shutdown_closes_who_was_not_introduced(loop: reactor.Reactor) -> None:
    serving = Serving(loop)
    with serving.connect() as client:
        client.sendall(LINE[:9])
        loop.poll(0.01)
        shutdown = loop.shutdown()
        loop.loop(timeout=5)
        assert shutdown.is_complete
        assert shutdown.cut == []


def test_strangers_behind_a_proxy_of_this_user_may_send_no_pickles(loop: reactor.Reactor, socket_path: str) -> None:
    with pytest.raises(reactor.UnsafePickleError):
        reactor.Listener(socket_path, RecordingConnection, proxies=["unix"], reactor=loop)
    # Where it can be seen only once somebody comes, it is refused then.
    serving = Serving(loop, RecordingConnection, address=socket_path)
    with raw_client(socket_path) as client:
        client.settimeout(5)
        run_until(loop, lambda: serving.accepted.channels)
        loop.poll(0.01)
        assert client.recv(1) == b""
    serving.listener.close()


# With what comes behind the header: TLS, and the key


@pytest.mark.parametrize("name", ["line of IPv4", "values"])
def test_tls_follows_the_header_in_one_piece(loop: reactor.Reactor, in_thread: Callable[..., Any], name: str) -> None:
    serving = Serving(loop, tls=certificates.certificate())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    session = client_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        session.do_handshake()
    with serving.connect() as client:
        client.sendall(GOOD[name][0] + outgoing.read())  # in one segment
        client.settimeout(0.01)
        got = b""

        def answered() -> bool:
            nonlocal got
            with contextlib.suppress(TimeoutError):
                incoming.write(client.recv(65536))
            with contextlib.suppress(ssl.SSLWantReadError):
                session.do_handshake()
                if not got:
                    session.write(b"hello")
                got += session.read(100)
            client.sendall(outgoing.read())
            return got.endswith(b"hello")

        serving.run_until(answered)
        assert serving.channel.of("open") == [ANNA]
        assert serving.channel.tls.version() == "TLSv1.3"


def test_key_follows_the_header_for_a_client_of_the_standard_library(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    serving = Serving(loop, RecordingConnection, authkey=KEY)

    def talk() -> None:
        client = raw_client(serving.listener.address)
        client.sendall(LINE)
        client.settimeout(None)
        with Connection(client.detach()) as connection:
            answer_challenge(connection, KEY)
            deliver_challenge(connection, KEY)
            connection.send("hello")
            assert connection.recv() == "and you"

    in_thread(talk)
    serving.run_until(lambda: serving.accepted.channels and serving.channel.of("message") == ["hello"])
    assert serving.channel.peer == ANNA
    serving.channel.send("and you")
    serving.run_until(lambda: serving.channel.of("close"))


# In the simulation: what a proxy sends is cut anywhere, and comes in its own time


class Proxied(RecordingStream):
    """A client that is a proxy: it says who is behind it, and then much that must not be lost."""

    header = LINE

    def handle_open(self) -> None:
        self._open_queue().append(self.header)  # past the witness, which would miss it on the other side
        self.push(bytes(range(256)) * 40)


@pytest.mark.parametrize("header", [LINE, BLOCK, GOOD["values"][0], GOOD["longest line of nobody"][0]])
def test_header_is_taken_exactly_whatever_the_network_does(header: bytes) -> None:
    def scenario(world: World) -> None:
        accepted = Accepting(Echo)
        world.listen(("server", 6000), accepted, proxies=["10.0.0.0/8"])
        proxy = Proxied()
        proxy.header = header
        world.connect(("server", 6000), lambda: proxy)
        world.run(until=lambda: len(proxy.received) == 256 * 40, timeout=60)
        (channel,) = accepted.channels
        assert channel.received == proxy.received == bytes(range(256)) * 40
        if header in (LINE, BLOCK):
            assert channel.peer == ANNA

    simulate(scenario, seeds=50, faults=HARMLESS)


# The proxies that people have


def needs(*programs: str) -> pytest.MarkDecorator:
    """Skip where one of `programs` is missing."""
    missing = [program for program in programs if find(program) is None]
    return pytest.mark.skipif(bool(missing), reason=f"no {' and '.join(missing)} here")


def find(program: str) -> str | None:
    return shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")


NGINX_STREAM = next(
    (path for path in (Path("/usr/lib/nginx/modules"), Path("/usr/lib64/nginx/modules"))
     if (path / "ngx_stream_module.so").exists()), None)  # fmt: skip


@contextlib.contextmanager
def running(argv: list[str], directory: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block is left; what it says stands in the file ``log``."""
    with (directory / "log").open("wb") as log, subprocess.Popen(argv, stdout=log, stderr=log, **options) as process:
        try:
            yield process
        except BaseException:
            print((directory / "log").read_text())
            raise
        finally:
            process.terminate()
            process.wait(20)


@contextlib.contextmanager
def haproxy(directory: Path, server: str, front: str = "", back: str = "") -> Iterator[Any]:
    """Run HAProxy in front of `server`, give the address on which it listens."""
    config = directory / "haproxy.cfg"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config.write_text(
            f"global\n  maxconn 100\ndefaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n"
            f"  timeout server 20s\nfrontend front\n  bind fd@{listening.fileno()} {front}\n  default_backend back\n"
            f"backend back\n  server ours {server} {back}\n"
        )
        program = find("haproxy")
        assert program is not None
        with running([program, "-db", "-f", str(config)], directory, pass_fds=[listening.fileno()]):
            yield listening.getsockname()


@contextlib.contextmanager
def nginx(directory: Path, server: str, upstream: str = "") -> Iterator[Any]:
    """Run nginx in front of `server`, give the address on which it listens."""
    config = directory / "nginx.conf"
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        user = "user root;\n" if os.geteuid() == 0 else ""  # else its workers may not connect to our Unix sockets
        config.write_text(
            f"load_module {NGINX_STREAM}/ngx_stream_module.so;\ndaemon off;\nworker_processes 1;\n{user}"
            f"pid {directory}/pid;\nerror_log stderr;\nevents {{ worker_connections 50; }}\n"
            f"stream {{ server {{ listen {host}:{port}; proxy_pass {server}; proxy_protocol on; {upstream} }} }}\n"
        )
        program = find("nginx")
        assert program is not None
        with running(
            [program, "-c", str(config), "-p", str(directory), "-e", "stderr"],
            directory,
            pass_fds=[listening.fileno()],
            env={**os.environ, "NGINX": f"{listening.fileno()};"},  # it inherits the socket, so no port is guessed
        ):
            yield (host, port)


def talk_through(serving: Serving, address: Any) -> tuple[Any, Any]:
    """Say hello by way of a proxy that listens at `address`; return the client's own address, and the peer it has."""
    with raw_client(address) as client:
        client.sendall(b"hello")
        serving.run_until(lambda: any(channel.received == b"hello" for channel in serving.accepted.channels))
        serving.loop.poll(0.01)
        assert client.recv(100) == b"hello"
        (channel,) = [channel for channel in serving.accepted.channels if channel.received]
        return client.getsockname(), channel.peer


@needs("haproxy")
@pytest.mark.parametrize(
    ("option", "version"),
    [("send-proxy", 1), ("send-proxy-v2", 2), ("send-proxy-v2 proxy-v2-options crc32c,unique-id", 2)],
)
def test_haproxy_tells_who_is_behind_it(loop: reactor.Reactor, tmp_path: Path, option: str, version: int) -> None:
    serving = Serving(loop)
    host, port = serving.listener.address
    with haproxy(tmp_path, f"{host}:{port}", back=option) as address:
        own, peer = talk_through(serving, address)
        assert own == peer
        (header,) = serving.listener.headers
        assert (header.version, header.destination) == (version, address)
        assert (header.value(CRC32C) is not None) == ("crc32c" in option)
        serving.run_until(lambda: not serving.listener.connections)


@needs("haproxy")
@pytest.mark.parametrize("option", ["send-proxy-v2", "send-proxy"])
def test_health_checks_of_haproxy_are_served_and_are_no_line_in_the_log(
    loop: reactor.Reactor, tmp_path: Path, caplog: pytest.LogCaptureFixture, option: str
) -> None:
    serving = Serving(loop)
    host, port = serving.listener.address
    with haproxy(tmp_path, f"{host}:{port}", back=f"{option} check inter 50ms") as address:
        serving.run_until(lambda: len(serving.accepted.channels) >= 3)
        own, peer = talk_through(serving, address)
        assert own == peer
        serving.run_until(lambda: serving.listener.connections <= 1)
    assert [record.getMessage() for record in caplog.records] == []


@needs("haproxy")
def test_haproxy_passes_tls_through_behind_its_header(
    loop: reactor.Reactor, tmp_path: Path, in_thread: Callable[..., Any], socket_path: str
) -> None:
    serving = Serving(loop, tls=certificates.certificate(), address=socket_path)
    with haproxy(tmp_path, f"unix@{socket_path}", back="send-proxy-v2") as address:
        said: list[Any] = []

        def talk() -> None:
            with raw_client(address) as raw, client_context().wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(b"hello")
                said.extend([client.recv(100), client.getsockname()])

        in_thread(talk)
        serving.run_until(lambda: len(said) == 2)
        assert said == [b"hello", serving.channel.peer]
        serving.run_until(lambda: not serving.listener.connections)
    serving.listener.close()


@needs("haproxy")
def test_haproxy_tells_what_it_has_seen_of_the_tls_that_it_ends(
    loop: reactor.Reactor, tmp_path: Path, in_thread: Callable[..., Any]
) -> None:
    accepted = Accepting(Echo)
    listener = Introduced(("127.0.0.1", 0), accepted, proxies=["127.0.0.1"], reactor=loop)
    host, port = listener.address
    with haproxy(
        tmp_path,
        f"{host}:{port}",
        front=f"ssl crt {certificates.certificate()} alpn h2",
        back="send-proxy-v2-ssl-cn proxy-v2-options authority",
    ) as address:

        def talk() -> None:
            context = client_context(protocols=("h2",))
            with raw_client(address) as raw, context.wrap_socket(raw, server_hostname="localhost") as client:
                client.sendall(b"hello")
                assert client.recv(100) == b"hello"

        in_thread(talk)
        run_until(loop, lambda: accepted.channels and accepted.channels[-1].of("close"))
    (header,) = listener.headers
    assert header.value(AUTHORITY) == b"localhost"
    seen = header.value(0x20)
    assert seen is not None
    assert b"TLSv1.3" in seen


nginx_is_here = pytest.mark.skipif(NGINX_STREAM is None, reason="no stream module of nginx here")


@needs("nginx")
@nginx_is_here
def test_nginx_tells_who_is_behind_it(loop: reactor.Reactor, tmp_path: Path) -> None:
    serving = Serving(loop)
    host, port = serving.listener.address
    with nginx(tmp_path, f"{host}:{port}") as address:
        own, peer = talk_through(serving, address)
        assert own == peer
        serving.run_until(lambda: not serving.listener.connections)


@needs("nginx")
@nginx_is_here
def test_nginx_speaks_tls_to_the_server_behind_its_header(
    loop: reactor.Reactor, tmp_path: Path, socket_path: str
) -> None:
    serving = Serving(loop, tls=certificates.certificate(), address=socket_path)
    with nginx(tmp_path, f"unix:{socket_path}", "proxy_ssl on;") as address:
        own, peer = talk_through(serving, address)
        assert own == peer
        serving.run_until(lambda: not serving.listener.connections)
    serving.listener.close()


class Page(reactor.Stream):
    """Answers the first request of HTTP with the address of who asks."""

    def handle_data(self, data: bytes) -> None:
        body = reactor.format_address(self.peer).encode()
        self.push(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        self.close_when_done()


def curl(loop: reactor.Reactor, *arguments: str) -> list[str]:
    """Run curl with a proxy's header, and return the lines that it prints."""
    program = find("curl")
    assert program is not None
    with subprocess.Popen(
        [program, "--silent", "--show-error", "--max-time", "10", "--haproxy-protocol", *arguments],
        stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        run_until(loop, lambda: process.poll() is not None)
        assert process.stdout is not None
        assert process.returncode == 0
        return process.stdout.read().splitlines()


@needs("curl")
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_curl_tells_who_it_is(loop: reactor.Reactor, is_encrypted: bool) -> None:
    tls = certificates.certificate() if is_encrypted else None
    listener = reactor.Listener(("127.0.0.1", 0), Page, tls=tls, proxies=["127.0.0.1"], reactor=loop)
    scheme = "https" if is_encrypted else "http"
    url = f"{scheme}://localhost:{listener.address[1]}/"
    seen, own = curl(loop, "--cacert", certificates.authorities(), "-4", "-w", "\n%{local_ip}:%{local_port}\n", url)
    assert seen == own


@needs("curl")
def test_curl_on_a_unix_socket_names_nobody(loop: reactor.Reactor, socket_path: str) -> None:
    listener = reactor.Listener(socket_path, Page, proxies=["unix"], reactor=loop)
    assert curl(loop, "--unix-socket", socket_path, "http://localhost/") == [f"unix:{socket_path}"]
    listener.close()
