"""Multicast: the options of a socket that have to do with groups, for IPv4 and IPv6 (ip(7), ipv6(7), RFC 3493)."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

from .addresses import family_name, numeric, parse_address
from .errors import AddressError, LocalError

ANYWHERE = bytes(4)
MOST_HOPS = 255


def join_group(sock: Any, group: str, interface: str | None) -> None:
    """Have `sock` receive what is sent to `group`; see `Datagram.join_group`."""
    _set_membership(sock, group, interface, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)


def leave_group(sock: Any, group: str, interface: str | None) -> None:
    """Undo `join_group`."""
    _set_membership(sock, group, interface, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)


def set_multicast(sock: Any, interface: str | None, hops: int, loopback: bool) -> None:
    """Say how datagrams to groups leave `sock`; see `Datagram.set_multicast`."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise LocalError(f"there are no groups for a socket of {family_name(sock.family)}")
    if type(hops) is not int or not 0 <= hops <= MOST_HOPS:
        raise LocalError(f"{hops!r} is no number of hops; give a whole number from 0 to {MOST_HOPS}")
    index = _index(interface)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, hops)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, loopback)
        with contextlib.suppress(OSError):  # it may serve both families; Linux has the options of both for it
            _set_multicast_of_ipv4(sock, index, hops, loopback)
    else:
        _set_multicast_of_ipv4(sock, index, hops, loopback)


def _set_multicast_of_ipv4(sock: Any, index: int, hops: int, loopback: bool) -> None:
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4s4si", ANYWHERE, ANYWHERE, index))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, hops)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, loopback)


def _set_membership(sock: Any, group: str, interface: str | None, for_ipv4: int, for_ipv6: int) -> None:
    family, number = _parse_group(group)
    if sock.family not in (family, socket.AF_INET6):  # one of IPv6 may serve both families
        raise AddressError(
            f"{group!r} is a group of {family_name(family)}, and this socket is one of {family_name(sock.family)}"
        )
    index = _index(interface)
    if family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, for_ipv4, struct.pack("=4s4si", number, ANYWHERE, index))
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, for_ipv6, struct.pack("=16sI", number, index))


def _parse_group(group: str) -> tuple[int, bytes]:
    """Return the family of a group, and its number."""
    endpoint = numeric(parse_address((group, 0)))
    if endpoint.family != socket.AF_UNSPEC:
        number = socket.inet_pton(endpoint.family, endpoint.location[0])
        if 224 <= number[0] <= 239 if endpoint.family == socket.AF_INET else number[0] == 0xFF:
            return endpoint.family, number
    raise AddressError(
        f"{group!r} is no address of a group; give a number from 224.0.0.0 to 239.255.255.255, or one of IPv6 "
        "that begins with ff, like 'ff02::1234'"
    )


def _index(interface: str | None) -> int:
    """Return the number of a network interface; 0 leaves it to the system."""
    if interface is None:
        return 0
    try:
        return socket.if_nametoindex(interface)
    except (OSError, ValueError):  # a ValueError for a NUL in it
        names = ", ".join(name for _, name in socket.if_nameindex())
        raise LocalError(f"no network interface is called {interface!r}; there are {names}") from None
