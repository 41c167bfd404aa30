"""Addresses and excerpts, from any text."""

from __future__ import annotations

import socket
from ast import literal_eval
from typing import Any

from reactor.addresses import FAMILIES, Endpoint, family_name, format_address, numeric, parse_address
from reactor.errors import EXCERPT, AddressError, excerpt, printable
from tests.fuzzing.decisions import Decisions

LONGEST_LINE = 500
"""No error that quotes a peer has more characters than this."""

LONGEST_PRINTABLE = 203
"""What `printable` gives out has no more characters than this."""

WAYS_TO_NAME_A_FAMILY = (None, *FAMILIES, "AF_PIPE", "AF_NONE")


def assert_readable(text: str) -> None:
    """Assert that `text`, part of which a peer chose, is short and on one line."""
    assert text.isprintable(), text
    assert len(text) <= LONGEST_LINE, text


def assert_printable(said: object) -> None:
    """Assert that `said`, as it is printed, is on one line."""
    assert str(said).isprintable(), str(said)


def any_text(data: bytes) -> str:
    """Return `data` as text in which everything may occur: beside UTF-8, half a surrogate for each bad byte."""
    return data.decode("utf-8", "surrogateescape")


def addresses(data: bytes) -> None:
    """An address is refused, or means what it says, and still means that when it is parsed again."""
    decisions = Decisions(data)
    family = WAYS_TO_NAME_A_FAMILY[decisions.below(len(WAYS_TO_NAME_A_FAMILY))]
    address = any_address(decisions)
    try:
        endpoint = parse_address(address, family)
    except AddressError as error:
        assert_printable(error)
        return
    assert family is None or endpoint.family == FAMILIES[family]
    assert parse_address(endpoint.location, family_name_or_none(endpoint)) == endpoint
    assert_known_if_numeric(endpoint)
    if endpoint.is_unix:
        assert type(endpoint.location) in (str, bytes)
        assert endpoint.location
    else:
        host, port, *others = endpoint.location
        assert type(host) is str
        assert type(port) is int
        assert 0 <= port <= 65535
        assert not others or endpoint.family == socket.AF_INET6
        assert all(type(number) is int for number in others)
    if isinstance(address, tuple):
        return
    assert_printable(endpoint)
    if isinstance(address, bytes) or "://" not in address:
        assert endpoint.location == address
    elif address.startswith("unix://"):
        assert endpoint.is_unix
        assert endpoint.location == address.removeprefix("unix://")
    else:
        assert_url_means_what_it_says(address, endpoint)
        if "::ffff:" not in address:  # an IPv4 address in there is printed without it
            assert parse_address(f"tcp://{endpoint}", family) == endpoint


def any_address(decisions: Decisions) -> Any:
    """Return an address of any form: text, bytes, a URL, or a tuple of anything."""
    kind = decisions.below(4)
    if kind == 0:
        return any_text(decisions.rest())
    if kind == 1:
        return decisions.rest()
    if kind == 2:
        port = decisions.number(2)
        return f"tcp://{any_text(decisions.rest())}:{port}"
    return tuple(any_item(decisions) for _ in range(decisions.below(6)))


def any_item(decisions: Decisions) -> Any:
    """Return something that could stand in the tuple of an address."""
    match decisions.below(7):
        case 0:
            return any_text(decisions.string())
        case 1:
            return decisions.number(2)
        case 2:
            return decisions.string()
        case 3:
            return decisions.number(3) - (1 << 23)
        case 4:
            return decisions.number() / 2
        case 5:
            return decisions.flag()
        case _:
            return None


def family_name_or_none(endpoint: Endpoint) -> str | None:
    """Return the name of the family of `endpoint`, or None where it may be either."""
    name = family_name(endpoint.family)
    return None if name == "AF_UNSPEC" else name


def assert_known_if_numeric(endpoint: Endpoint) -> None:
    """Assert that the family is filled in for a host that is a number of that family, and for no other."""
    known = numeric(endpoint)
    if endpoint.is_unix:
        assert known == endpoint
        return
    families = [
        family
        for family in (socket.AF_INET, socket.AF_INET6)
        if endpoint.family in (family, socket.AF_UNSPEC) and is_number(endpoint.location[0], family)
    ]
    assert known.family == (families[0] if families else socket.AF_UNSPEC)
    assert known.location == (endpoint.location if families else endpoint.location[:2])


def is_number(host: str, family: int) -> bool:
    """Whether `host` is an address of `family` in digits."""
    try:
        socket.inet_pton(family, host)
    except (OSError, ValueError):
        return False
    return True


def assert_url_means_what_it_says(url: str, endpoint: Endpoint) -> None:
    """Assert that every character of a ``tcp://`` URL counts, and stands in the address."""
    host, port = endpoint.location
    written = url.removeprefix("tcp://")
    said_host, _, said_port = written.rpartition(":")
    assert int(said_port) == port
    assert said_host.lower() in (host.lower(), f"[{host.lower()}]")


def excerpts(data: bytes) -> None:
    """Whatever a peer sent is quoted on one line, in few characters, and truly."""
    quoted = excerpt(data)
    assert_readable(quoted)
    if len(data) <= EXCERPT:
        assert literal_eval(quoted) == data
    else:
        start, _, rest = quoted.rpartition("...")
        assert literal_eval(start) == data[:EXCERPT]
        assert rest == f" ({len(data)} bytes)"
    for text in (
        any_text(data),
        data.decode("latin-1"),
        data.decode("utf-16-le", "surrogatepass" if len(data) % 2 == 0 else "replace"),
    ):
        shown = printable(text)
        assert shown.isprintable()
        assert len(shown) <= LONGEST_PRINTABLE
        if text.isprintable() and len(text) < LONGEST_PRINTABLE - 3:
            assert shown == text
    for path in (data, any_text(data)):
        assert_printable(format_address(path))
