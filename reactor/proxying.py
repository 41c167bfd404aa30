"""The PROXY protocol, versions 1 and 2: in which a proxy says who is behind it. No I/O.

It is described in HAProxy's ``proxy-protocol.txt``. A header stands in front of everything else that comes over a
connection, and must not be believed from anybody but proxies that are known as such.
"""

from __future__ import annotations

import dataclasses
import functools
import ipaddress
import os
import re
from collections.abc import Iterable
from typing import Any

from .errors import AddressError, ProxyError, excerpt, guess_protocol

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
WORD = b"PROXY "
SHORTEST = len(b"PROXY UNKNOWN\r\n")
"""Bytes in the shortest header of all, so that whoever reads so many has read nothing behind it."""
LONGEST_LINE = 107
END = b"\r\n"
FIXED = 16
"""Bytes of version 2 in front of the addresses; the last two tell how many follow."""

LINE = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")
UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: .*)?\r\n", re.DOTALL)
"""What stands between the word and the end of the line is to be ignored."""

ALPN = 0x01
AUTHORITY = 0x02
CRC32C = 0x03
NOOP = 0x04
UNIQUE_ID = 0x05
SSL = 0x20
NETNS = 0x30

LOCAL = 0x20
PROXY = 0x21
TRANSPORTS = (None, "stream", "datagram")
INET, INET6, UNIX = 1, 2, 3
ADDRESS_SIZES = {0: 0, INET: 12, INET6: 36, UNIX: 216}

Host = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclasses.dataclass(frozen=True, slots=True)
class ProxyHeader:
    """What a proxy has said about a connection.

    Attributes:
        version: of the protocol, 1 or 2.
        source: who has connected to the proxy, as the socket module writes it; None where the proxy does not say,
            or speaks for itself.
        destination: where that connection went.
        transport: ``"stream"`` or ``"datagram"``, as it was between the two; None where the proxy does not say.
        is_local: whether the proxy speaks for itself, to find out whether this server is well.
        values: what it has added, each with its number: `ALPN`, `AUTHORITY` and so on.
    """

    version: int
    source: Any = None
    destination: Any = None
    transport: str | None = None
    is_local: bool = False
    values: tuple[tuple[int, bytes], ...] = ()

    def value(self, number: int) -> bytes | None:
        """Return the first of the values with `number`; None where there is none."""
        return next((value for kind, value in self.values if kind == number), None)


class Proxies:
    """The proxies that are believed.

    Arguments:
        names: numbers of hosts and networks, ``"127.0.0.1"``, ``"10.0.0.0/8"``, ``"fd00::/8"``; and ``"unix"`` for
            whoever connects to a Unix socket.

    Raises:
        AddressError: one of them is something else.
    """

    def __init__(self, names: Iterable[str]) -> None:
        if isinstance(names, str):
            raise AddressError(f"proxies={names!r} is one string; give a list of them: [{names!r}]")
        self.names = tuple(names)
        self.include_unix = "unix" in self.names
        self._networks = [as_network(name) for name in self.names if name != "unix"]

    def __contains__(self, peer: Any) -> bool:
        """Whether `peer`, as the socket module writes it, is one of them."""
        if not isinstance(peer, tuple):
            return self.include_unix
        address = plain(as_host(peer[0]))
        return any(address in network for network in self._networks)


def speaks_for_itself(header: ProxyHeader, proxy: Any) -> bool:
    """Return whether `proxy`, whose address this is, only looks whether this server is well: nobody is behind it.

    In version 1 it can say so only by naming itself.
    """
    if header.is_local or not isinstance(proxy, tuple):
        return header.is_local
    return bool(header.source == as_location(as_host(proxy[0]), proxy[1]))


class HeaderDecoder:
    """Takes the header from the beginning of a stream, whatever pieces that comes in.

    Arguments:
        maximum: the largest header of version 2 accepted, in bytes; those of version 1 end at 107.

    Attributes:
        rest: what was fed behind the header. Who never feeds more than is `needed` finds nothing there.
    """

    __slots__ = ("_head", "maximum", "rest")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.rest = b""
        self._head = b""

    @property
    def needed(self) -> int:
        """How many bytes, at least one, are still part of the header for certain."""
        head = self._head
        if len(head) < SHORTEST:
            return SHORTEST - len(head)
        if head.startswith(WORD):
            return missing_in_line(head)
        return (FIXED if len(head) < FIXED else size_of(head)) - len(head)

    @property
    def has_begun(self) -> bool:
        """Whether anything has come."""
        return bool(self._head)

    def feed(self, data: bytes) -> ProxyHeader | None:
        """Take `data`; return the header once it is complete.

        Raises:
            ProxyError: this is none, or one that makes no sense. It is said as early as it can be known.
        """
        head = self._head = self._head + data
        if WORD.startswith(head[: len(WORD)]):
            return self._feed_line(head)
        if SIGNATURE.startswith(head[: len(SIGNATURE)]):
            return self._feed_block(head)
        raise no_header(head)

    def finish(self) -> ProxyError:
        """Return the error that an end of the stream at this place means."""
        if self._head:
            return ProxyError(f"the connection ended within the PROXY header: {excerpt(self._head)}")
        return ProxyError("the connection ended, and no PROXY header came")

    def _feed_line(self, head: bytes) -> ProxyHeader | None:
        end = head.find(END, 0, LONGEST_LINE)
        if end >= 0:
            self.rest = head[end + len(END) :]
            return parse_line(head[: end + len(END)])
        if len(head) >= LONGEST_LINE:
            raise ProxyError(f"the PROXY header has no end within {LONGEST_LINE} bytes; it begins {excerpt(head)}")
        return None

    def _feed_block(self, head: bytes) -> ProxyHeader | None:
        if len(head) < FIXED:
            return None
        check_kind(head)
        size = size_of(head)
        if size > self.maximum:
            raise ProxyError(f"the PROXY header has {size} bytes; the limit is {self.maximum} (maximum_proxy_header)")
        if len(head) < size:
            return None
        self.rest = head[size:]
        return parse_block(head[:size])


def missing_in_line(head: bytes) -> int:
    """Return how many bytes are missing at least of the line of version 1 that begins with `head`."""
    missing = 1 if head.endswith(END[:1]) else 2
    if not head.startswith(b"PROXY TCP"):
        return missing
    shortest = (5, 4, 7, 7, 1, 1) if head[9:10] == b"4" else (5, 4, 2, 2, 1, 1)
    begun = head.count(b" ")
    if head.endswith(b" "):
        missing += sum(shortest[begun : begun + 1])
    return missing + sum(1 + size for size in shortest[begun + 1 :])


def parse_line(line: bytes) -> ProxyHeader:
    """Return what a header of version 1 says, a whole line.

    Raises:
        ProxyError: it makes no sense.
    """
    if UNKNOWN.fullmatch(line):
        return ProxyHeader(1)
    found = LINE.fullmatch(line)
    if found is None:
        raise ProxyError(f"the PROXY header makes no sense: {excerpt(line)}")
    kind = ipaddress.IPv4Address if found[1] == b"4" else ipaddress.IPv6Address
    try:
        hosts = [kind(host.decode()) for host in found.group(2, 3)]
    except ValueError:
        raise ProxyError(f"the PROXY header has no addresses of TCP{found[1].decode()}: {excerpt(line)}") from None
    ports = [int(port) for port in found.group(4, 5)]
    if max(ports) > 65535:
        raise ProxyError(f"the PROXY header has a port that is none: {excerpt(line)}")
    source, destination = map(as_location, hosts, ports)
    return ProxyHeader(1, source, destination, "stream")


def size_of(head: bytes) -> int:
    """Return how many bytes the header of version 2 has that begins with `head`."""
    return FIXED + int.from_bytes(head[14:16], "big")


def check_kind(head: bytes) -> None:
    """Raise ProxyError where a header of version 2, of which 16 bytes have come, is of no kind that is known."""
    command, kind = head[12], head[13]
    if command not in (LOCAL, PROXY):
        raise ProxyError(f"the PROXY header has the version and command {command:#04x}; known are 0x20 and 0x21")
    if command == PROXY and (kind >> 4 not in ADDRESS_SIZES or kind & 15 >= len(TRANSPORTS)):
        raise ProxyError(f"the PROXY header has addresses of the kind {kind:#04x}, which is none")


def parse_block(block: bytes) -> ProxyHeader:
    """Return what a header of version 2 says, all of it, whose kind is known.

    Raises:
        ProxyError: it makes no sense.
    """
    if block[12] == LOCAL:  # then nothing counts that follows
        return ProxyHeader(2, is_local=True)
    family, transport = block[13] >> 4, TRANSPORTS[block[13] & 15]
    end = FIXED + ADDRESS_SIZES[family]
    if len(block) < end:
        raise ProxyError(f"the PROXY header has {len(block)} bytes; with its addresses it would have {end}")
    places = find_values(block, end)
    check_sum(block, [place for number, place in places if number == CRC32C])
    values = tuple((number, block[place]) for number, place in places)
    if not family or transport is None:
        return ProxyHeader(2, values=values)
    return ProxyHeader(2, *parse_addresses(family, block[FIXED:end]), transport, values=values)


def parse_addresses(family: int, data: bytes) -> tuple[Any, Any]:
    """Return source and destination, of the `family`, as the socket module writes them."""
    if family == UNIX:
        return as_path(data[:108]), as_path(data[108:])
    size = 4 if family == INET else 16
    source, destination = (ipaddress.ip_address(data[at : at + size]) for at in (0, size))
    ports = data[2 * size :]
    return (
        as_location(source, int.from_bytes(ports[:2], "big")),
        as_location(destination, int.from_bytes(ports[2:], "big")),
    )


def find_values(block: bytes, position: int) -> list[tuple[int, slice]]:
    """Return the numbers of the values that stand in `block` from `position` on, and where each one stands.

    Raises:
        ProxyError: the last one is cut off.
    """
    found = []
    while position < len(block):
        begin = position + 3
        end = begin + int.from_bytes(block[position + 1 : begin], "big")
        if end > len(block):
            raise ProxyError(f"the PROXY header ends within a value: {excerpt(block[position:])}")
        found.append((block[position], slice(begin, end)))
        position = end
    return found


def check_sum(block: bytes, places: list[slice]) -> None:
    """Raise ProxyError where a header has checksums at `places`, and they are not one that is right."""
    for place in places:
        if len(places) > 1 or place.stop - place.start != 4:
            raise ProxyError(f"the PROXY header has no single checksum of four bytes, but {excerpt(block)}")
        if crc32c(block[: place.start] + bytes(4) + block[place.stop :]).to_bytes(4, "big") != block[place]:
            raise ProxyError("the PROXY header was changed on its way: its checksum (CRC32C) is another one")


def crc32c(data: bytes) -> int:
    """Return the checksum of `data` by Castagnoli (RFC 4960, appendix B)."""
    table = crc32c_table()
    rest = 0xFFFFFFFF
    for byte in data:
        rest = rest >> 8 ^ table[(rest ^ byte) & 0xFF]
    return rest ^ 0xFFFFFFFF


@functools.cache
def crc32c_table() -> list[int]:
    """Return what each byte makes of a checksum."""
    table = list(range(256))
    for _ in range(8):
        table = [rest >> 1 ^ (0x82F63B78 if rest & 1 else 0) for rest in table]
    return table


def no_header(head: bytes) -> ProxyError:
    """Return the error for a stream that begins with `head`."""
    protocol = guess_protocol(head)
    what = f"this is {protocol}" if protocol else "what came is something else"
    return ProxyError(
        f"{what}, and a PROXY header has to come first from here: {excerpt(head)}; "
        "the proxy must send one (send-proxy-v2 in HAProxy, proxy_protocol on in nginx)"
    )


def as_network(name: str) -> Network:
    """Return the network that `name` means, that of a single host too.

    Raises:
        AddressError: it means none.
    """
    try:
        return ipaddress.ip_network(str(name))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(str(name), strict=False)
    except ValueError:
        raise AddressError(
            f"{name!r} is no host or network; give numbers, '10.1.2.3' or '10.0.0.0/8', or 'unix'"
        ) from None
    raise AddressError(f"{name!r} has bits behind its mask; is {str(meant)!r} meant?")


def as_host(text: str) -> Host:
    """Return the host that `text`, from the socket module, means; without the interface that stands behind a "%"."""
    return ipaddress.ip_address(text.partition("%")[0])


def plain(host: Host) -> Host:
    """Return `host`; where it is one of IPv4 in the form of IPv6, that of IPv4."""
    return getattr(host, "ipv4_mapped", None) or host


def as_location(host: Host, port: int) -> tuple[Any, ...]:
    """Return what the socket module has for `host` and `port`."""
    host = plain(host)
    return (str(host), port) if host.version == 4 else (str(host), port, 0, 0)


def as_path(data: bytes) -> str | bytes:
    """Return what the socket module has for a Unix address, with the zeros that fill it up."""
    if data.startswith(b"\0"):
        return data.rstrip(b"\0") or ""
    return os.fsdecode(data.partition(b"\0")[0])
