"""Address forms, families and URLs. No I/O: names are not resolved here.

Understood are the forms of ``multiprocessing.connection`` (a tuple is ``AF_INET``, a string is
``AF_UNIX``, a string that starts with two backslashes is a Windows pipe) and URLs: ``tcp://host:port``
and ``unix://path``.
"""

from __future__ import annotations

import dataclasses
import re
import socket
import sys
import unicodedata
from typing import Any

from .errors import AddressError

Address = tuple[Any, ...] | str | bytes

FAMILIES = {name: getattr(socket, name) for name in ("AF_INET", "AF_INET6", "AF_UNIX") if hasattr(socket, name)}
"""The families by the names that ``multiprocessing`` has for them, as far as the platform has them."""

LARGEST_FLOW = 0xFFFFF
"""Of IPv6: 20 bits (RFC 8200, section 3)."""
LARGEST_SCOPE = 0xFFFFFFFF

HOST_AND_PORT = re.compile(r"(?:\[([^][/?#@ ]+)\]|([^][/?#@: ]*)):([0-9]{1,5})")
"""What stands behind ``tcp://``: every character counts, so nothing is stripped, and no user or query is dropped."""


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """An address that was understood.

    Attributes:
        family: ``socket.AF_UNIX``, ``AF_INET``, ``AF_INET6``, or ``AF_UNSPEC`` for a name that may be either.
        location: what the socket module takes for it: (host, port), or a path.
    """

    family: int
    location: Any

    def __str__(self) -> str:
        return format_address(self.location)

    @property
    def is_unix(self) -> bool:
        """Whether this is the address of a Unix socket."""
        return bool(self.family == FAMILIES.get("AF_UNIX", -1))

    @property
    def is_abstract(self) -> bool:
        """Whether this is a Unix address in Linux's abstract name space, which has no file."""
        return self.is_unix and bool(self.location[:1] in ("\0", b"\0"))


class Description(str):
    """What stands in place of the address of a peer that has none."""

    __slots__ = ()


def parse_address(address: Address, family: str | None = None, scheme: str = "tcp") -> Endpoint:
    """Return the `Endpoint` that `address` means.

    Arguments:
        address: (host, port), a path, a path that starts with NUL (Linux's abstract name space),
            ``tcp://host:port``, ``tcp://[::1]:port``, ``unix:///path`` or ``unix://relative/path``.
        family: ``'AF_INET'``, ``'AF_INET6'``, ``'AF_UNIX'``, or None to take it from the form.
        scheme: ``"udp"`` where datagrams are wanted: it stands in URLs in place of ``tcp`` then.

    Raises:
        AddressError: the form is unknown, the port is none, or the family does not fit.
    """
    if family is not None:
        check_family(family)
    if isinstance(address, str) and address.startswith("\\\\"):
        check_family("AF_PIPE")
    if isinstance(address, str) and "://" in address:
        endpoint = _parse_url(address, scheme)
    elif isinstance(address, tuple):
        endpoint = _parse_inet(address)
    elif isinstance(address, str | bytes) and address:
        if "AF_UNIX" not in FAMILIES:
            raise AddressError(f"this system has no Unix sockets: {address!r}")
        endpoint = Endpoint(FAMILIES["AF_UNIX"], address)
        if (b"\0" if isinstance(address, bytes) else "\0") in address and not endpoint.is_abstract:  # type: ignore[operator]
            raise AddressError(f"{address!r} is no path: there is a NUL in it")
    else:
        raise AddressError(
            f"{address!r} is no address; give (host, port), a path, '{scheme}://host:port' or 'unix:///path'"
        )
    if family is None:
        return endpoint
    if endpoint.is_unix != (family == "AF_UNIX") or (len(endpoint.location) == 4 and family == "AF_INET"):
        raise AddressError(f"{address!r} is no address of the family {family}")
    return Endpoint(FAMILIES[family], endpoint.location)


def check_family(family: str) -> None:
    """Raise AddressError where this system has no such `family`."""
    if family == "AF_PIPE" and sys.platform != "win32":
        raise AddressError("Windows named pipes (AF_PIPE) exist on Windows alone; use a Unix socket's path here")
    if family == "AF_PIPE":
        raise AddressError("a reactor cannot select on Windows named pipes (AF_PIPE); use ('localhost', port)")
    if family not in FAMILIES:
        raise AddressError(f"{family!r} is no family of this system; there are {', '.join(FAMILIES)}")


def format_address(address: Any) -> str:
    """Return `address` as a person writes it: ``127.0.0.1:80``, ``[::1]:80`` or ``unix:/path``."""
    if isinstance(address, tuple) and len(address) >= 2:
        host, port = address[0], address[1]
        if isinstance(host, str) and host.startswith("::ffff:") and "." in host:
            host = host[7:]  # an IPv4 peer on a dual-stack socket
        return f"[{host}]:{port}" if isinstance(host, str) and ":" in host else f"{host}:{port}"
    if isinstance(address, Description):
        return str(address)
    if isinstance(address, bytes):
        address = address.decode("utf-8", "backslashreplace")
    if not address:
        return "unix:(unnamed)"
    return f"unix:{address}" if str(address).isprintable() else f"unix:{str(address)!r}"


def family_name(family: int) -> str:
    """Return ``'AF_INET'`` and the like for the number `family`."""
    for name, number in FAMILIES.items():
        if number == family:
            return name
    return "AF_UNSPEC"


def numeric(endpoint: Endpoint) -> Endpoint:
    """Return `endpoint` with its family filled in, if its host is a number; else with none."""
    if endpoint.is_unix:
        return endpoint
    for family in (socket.AF_INET, socket.AF_INET6):
        if endpoint.family in (family, socket.AF_UNSPEC):
            try:
                socket.inet_pton(family, endpoint.location[0])
            except (OSError, ValueError):  # a ValueError for a NUL in it
                continue
            return Endpoint(family, endpoint.location)
    return Endpoint(socket.AF_UNSPEC, endpoint.location[:2])


def _parse_inet(address: tuple[Any, ...]) -> Endpoint:
    if len(address) not in (2, 4) or not isinstance(address[0], str | bytes | None):
        raise AddressError(f"{address!r} is no address; give (host, port), both of them: ('localhost', 6000)")
    for number, largest in zip(address[2:], (LARGEST_FLOW, LARGEST_SCOPE), strict=False):
        if type(number) is not int or not 0 <= number <= largest:
            raise AddressError(f"{address!r} is no address of IPv6; give (host, port, flow, scope), with whole numbers")
    port = address[1]
    if type(port) is not int or not 0 <= port <= 65535:
        raise AddressError(f"{port!r} is no port; give a whole number from 0 to 65535")
    host = address[0] or ""
    if isinstance(host, bytes):
        try:
            host = host.decode("idna")
        except UnicodeError:
            raise AddressError(f"{host!r} is no name of a host; give it as a string") from None
    return Endpoint(socket.AF_INET6 if len(address) == 4 else socket.AF_UNSPEC, (host, *address[1:]))


def _parse_url(url: str, wanted: str) -> Endpoint:
    scheme, _, rest = url.partition("://")
    if scheme == "unix":
        if not rest or "://" in rest:
            raise AddressError(f"{url!r} names no path; give unix:///path")
        return parse_address(rest)
    if scheme != wanted:
        raise AddressError(f"{url!r} has the scheme {scheme!r}; {wanted}:// and unix:// are understood here")
    parts = HOST_AND_PORT.fullmatch(rest)
    # A letter that stands for several, as in IDNA, must not bring in what was refused.
    plain = unicodedata.normalize("NFKC", rest)
    if parts is None or not HOST_AND_PORT.fullmatch(plain) or not rest.isprintable():
        raise AddressError(f"{url!r} is no address; give {wanted}://host:port")
    if parts[1] and not _is_ipv6(parts[1]):
        raise AddressError(f"{url!r} is no address; brackets are for numbers of IPv6, as in {wanted}://[::1]:80")
    return _parse_inet((parts[1] or parts[2].lower(), int(parts[3])))


def _is_ipv6(host: str) -> bool:
    number, _, scope = host.partition("%")
    try:
        socket.inet_pton(socket.AF_INET6, number)
    except OSError:
        return False
    return bool(scope) or "%" not in host
