"""Multicast: the options of a socket that have to do with groups, for IPv4 and IPv6 (ip(7), ipv6(7), RFC 3493)."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

from .addresses import numeric, parse_address
from .errors import AddressError

ANYWHERE = bytes(4)


def join_group(sock: Any, group: str, interface: str | None) -> None:
    """Have `sock` receive what is sent to `group`; see `Datagram.join_group`."""
    _set_membership(sock, group, interface, socket.IP_ADD_MEMBERSHIP, socket.IPV6_JOIN_GROUP)


def leave_group(sock: Any, group: str, interface: str | None) -> None:
    """Undo `join_group`."""
    _set_membership(sock, group, interface, socket.IP_DROP_MEMBERSHIP, socket.IPV6_LEAVE_GROUP)


def set_multicast(sock: Any, interface: str | None, hops: int, loopback: bool) -> None:
    """Say how datagrams to groups leave `sock`; see `Datagram.set_multicast`."""
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
    index = _index(interface)
    family = numeric(parse_address((group, 0))).family
    if family == socket.AF_INET:
        request = struct.pack("=4s4si", socket.inet_pton(family, group), ANYWHERE, index)
        sock.setsockopt(socket.IPPROTO_IP, for_ipv4, request)
    elif family == socket.AF_INET6:
        request = struct.pack("=16sI", socket.inet_pton(family, group), index)
        sock.setsockopt(socket.IPPROTO_IPV6, for_ipv6, request)
    else:
        raise AddressError(f"{group!r} is no address of a group; give a number, like '239.1.2.3' or 'ff02::1234'")


def _index(interface: str | None) -> int:
    """Return the number of a network interface; 0 leaves it to the system."""
    return 0 if interface is None else socket.if_nametoindex(interface)
