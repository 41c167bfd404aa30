"""Address forms, families and URLs: what is understood, and what is refused with a reason."""

from __future__ import annotations

import collections
import socket
import sys
from multiprocessing.connection import address_type
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import addresses
from reactor.addresses import FAMILIES, Endpoint, check_family, family_name, format_address, numeric, parse_address
from reactor.errors import AddressError
from tests.properties import steady

UNIX, INET, INET6, EITHER = socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC
Pair = collections.namedtuple("Pair", "host port")


UNDERSTOOD: list[tuple[Any, int, Any]] = [
    (("localhost", 6000), EITHER, ("localhost", 6000)),
    (("", 0), EITHER, ("", 0)),
    ((None, 65535), EITHER, ("", 65535)),
    ((b"localhost", 6000), EITHER, ("localhost", 6000)),
    ((b"xn--mnchen-3ya", 1), EITHER, ("m\u00fcnchen", 1)),
    (Pair("::1", 6000), EITHER, ("::1", 6000)),
    (("fe80::1", 6000, 0, 2), INET6, ("fe80::1", 6000, 0, 2)),
    ("/run/socket", UNIX, "/run/socket"),
    ("socket", UNIX, "socket"),
    (b"/run/socket", UNIX, b"/run/socket"),
    ("\0abstract", UNIX, "\0abstract"),
    ("tcp://localhost:6000", EITHER, ("localhost", 6000)),
    ("tcp://:6000", EITHER, ("", 6000)),
    ("tcp://127.0.0.1:0", EITHER, ("127.0.0.1", 0)),
    ("tcp://[::1]:6000", EITHER, ("::1", 6000)),
    ("unix:///run/socket", UNIX, "/run/socket"),
    ("unix://relative/socket", UNIX, "relative/socket"),
    ("unix:///run/a?b#c%20d", UNIX, "/run/a?b#c%20d"),
    ("unix:///run/ socket", UNIX, "/run/ socket"),
]


def test_every_form_is_understood() -> None:
    for address, family, location in UNDERSTOOD:
        assert parse_address(address) == Endpoint(family, location)


REFUSED: list[Any] = [
        "", b"", None, 5, ["localhost", 6000], bytearray(b"/run/socket"), (), ("localhost",), ("a", 1, 2),
        ("a", 1, 2, 3, 4),
        (5, 6000), ("localhost", "6000"), ("localhost", None), ("localhost", -1), ("localhost", 65536),
        ("localhost", 1.0),
        (b"\xff", 80), (b"xn--\xff", 80), (b"xn--a-\x80", 80),
        "http://localhost:80", "udp://localhost:80", "://localhost:80", "tcp://", "tcp://localhost", "tcp://localhost:",
        "tcp://localhost:http", "tcp://localhost:-1", "tcp://localhost:65536", "tcp://localhost:80/path",
        "tcp://localhost:80?query", "tcp://localhost:80#fragment", "tcp://user@localhost:80",
        "tcp://user:word@localhost:80",
        "tcp://[::1:80", "tcp://::1]:80", "tcp://\u2100:80", "unix://", " tcp://localhost", "unix://tcp://localhost:80x",
]  # fmt: skip


def test_what_is_no_address_is_refused_with_an_address_error() -> None:
    for address in REFUSED:
        with pytest.raises(AddressError) as caught:
            parse_address(address)
        assert isinstance(caught.value, ValueError)


def of_datagrams(url: Any) -> Any:
    """Return `url` with the scheme ``udp`` in place of ``tcp``; anything else as it is."""
    return url.replace("tcp://", "udp://") if isinstance(url, str) else url


def test_urls_of_datagrams_are_understood_where_datagrams_are_wanted_and_mean_the_same() -> None:
    for address, family, location in UNDERSTOOD:
        assert parse_address(of_datagrams(address), scheme="udp") == Endpoint(family, location)
    assert parse_address("udp://[::1]:53", "AF_INET6", "udp") == Endpoint(INET6, ("::1", 53))


def test_urls_that_are_refused_for_connections_are_refused_for_datagrams_too() -> None:
    for address in REFUSED:
        if address != "udp://localhost:80":
            with pytest.raises(AddressError):
                parse_address(of_datagrams(address), scheme="udp")


@pytest.mark.parametrize(
    ("url", "scheme", "reason"),
    [
        ("tcp://localhost:80", "udp", "has the scheme 'tcp'; udp:// and unix:// are understood here"),
        ("udp://localhost:80", "tcp", "has the scheme 'udp'; tcp:// and unix:// are understood here"),
        ("udp://localhost", "udp", "give udp://host:port"),
        ("udp://[localhost]:80", "udp", r"as in udp://\[::1\]:80"),
        ("", "udp", "'udp://host:port'"),
    ],
)
def test_scheme_that_is_not_wanted_is_refused_with_the_one_that_is(url: str, scheme: str, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_address(url, scheme=scheme)


@pytest.mark.parametrize("numbers", [(1 << 20, 0), (0, 1 << 32)])
def test_flow_or_scope_that_no_socket_takes_is_refused(numbers: tuple[int, int]) -> None:
    with pytest.raises(AddressError):
        parse_address(("::1", 80, *numbers))


def test_url_with_a_blank_in_front_is_refused_or_means_what_it_says() -> None:
    try:
        endpoint = parse_address(" unix:///run/socket")
    except AddressError:
        return
    assert endpoint.location == "/run/socket"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        (("localhost", 65536), "65536 is no port; give a whole number from 0 to 65535"),
        (("localhost",), r"give \(host, port\), both of them"),
        ("tcp://localhost", "give tcp://host:port"),
        ("unix://", "names no path"),
        ("http://localhost", "has the scheme 'http'; tcp:// and unix:// are understood"),
        (7, "7 is no address; give"),
    ],
)
def test_refusal_says_what_to_give(address: Any, reason: str) -> None:
    with pytest.raises(AddressError, match=reason):
        parse_address(address)


texts = st.one_of(
    st.text(max_size=30),
    st.tuples(st.sampled_from(["tcp://", "unix://", "tcp://[", "tcp:", "//", "\\\\"]), st.text(max_size=20)).map(
        "".join
    ),
    st.tuples(st.sampled_from(["tcp://", "tcp://["]), st.text("[]:@/?#%019a.\u2100\t\n ", max_size=20)).map("".join),
)
anything = st.one_of(
    texts,
    st.binary(max_size=20),
    st.none(),
    st.lists(st.one_of(texts, st.binary(max_size=20), st.integers(), st.none(), st.floats()), max_size=5).map(tuple),
)


@steady
@given(anything, st.sampled_from([None, "AF_INET", "AF_INET6", "AF_UNIX", "AF_PIPE", "AF_NONE"]))
def test_any_address_is_understood_or_refused_with_an_address_error(address: Any, family: str | None) -> None:
    try:
        endpoint = parse_address(address, family)
    except AddressError:
        return
    assert str(endpoint).isprintable() or not isinstance(address, str | bytes)
    if family is not None:
        assert endpoint.family == FAMILIES[family]


@pytest.mark.parametrize("address", [("localhost", 6000), "/run/socket"])
def test_form_means_what_the_standard_library_takes_it_for(address: Any) -> None:
    endpoint = parse_address(address)
    assert address_type(address) == ("AF_UNIX" if endpoint.is_unix else "AF_INET")


# Families


@pytest.mark.parametrize(
    ("address", "family", "expected"),
    [
        (("localhost", 6000), "AF_INET", INET),
        (("localhost", 6000), "AF_INET6", INET6),
        ("tcp://localhost:6000", "AF_INET6", INET6),
        ("/run/socket", "AF_UNIX", UNIX),
        ("unix:///run/socket", "AF_UNIX", UNIX),
    ],
)
def test_family_that_is_given_wins_over_the_form(address: Any, family: str, expected: int) -> None:
    assert parse_address(address, family).family == expected


@pytest.mark.parametrize(
    ("address", "family"),
    [("/run/socket", "AF_INET"), (b"/run/socket", "AF_INET6"), (("localhost", 1), "AF_UNIX"), ("tcp://a:1", "AF_UNIX")],
)
def test_family_that_does_not_fit_the_form_is_refused(address: Any, family: str) -> None:
    with pytest.raises(AddressError, match=f"is no address of the family {family}"):
        parse_address(address, family)


def test_unknown_family_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        AddressError, match="'AF_X25' is no family of this system; there are AF_INET, AF_INET6, AF_UNIX"
    ):
        check_family("AF_X25")


def test_families_are_those_of_the_standard_library() -> None:
    assert FAMILIES == {"AF_INET": INET, "AF_INET6": INET6, "AF_UNIX": UNIX}
    for name, number in FAMILIES.items():
        check_family(name)
        assert family_name(number) == name
    assert family_name(EITHER) == "AF_UNSPEC"
    assert family_name(12345) == "AF_UNSPEC"


class System:
    """Stands for the module `sys` of another system."""

    def __init__(self, platform: str) -> None:
        self.platform = platform


@pytest.mark.parametrize(("address", "family"), [(r"\\.\pipe\name", None), (("localhost", 1), "AF_PIPE")])
@pytest.mark.parametrize(
    ("platform", "reason"),
    [(sys.platform, "exist on Windows alone"), ("win32", "cannot select on Windows named pipes")],
)
def test_windows_pipe_is_refused_with_what_to_use_instead(
    monkeypatch: pytest.MonkeyPatch, address: Any, family: str | None, platform: str, reason: str
) -> None:
    monkeypatch.setattr(addresses, "sys", System(platform))
    with pytest.raises(AddressError, match=reason):
        parse_address(address, family)


def test_path_is_refused_where_the_system_has_no_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(FAMILIES, "AF_UNIX")
    with pytest.raises(AddressError, match="no Unix sockets"):
        parse_address("/run/socket")
    with pytest.raises(AddressError, match="'AF_UNIX' is no family of this system"):
        parse_address("/run/socket", "AF_UNIX")
    assert not parse_address(("localhost", 1)).is_unix


# Endpoints and how they are written


@pytest.mark.parametrize(
    ("address", "is_unix", "is_abstract"),
    [
        ("/run/socket", True, False),
        ("\0name", True, True),
        (b"\0name", True, True),
        (b"/run/socket", True, False),
        (("\0", 1), False, False),
    ],
)
def test_endpoint_knows_whether_it_is_unix_and_abstract(address: Any, is_unix: bool, is_abstract: bool) -> None:
    endpoint = parse_address(address)
    assert (endpoint.is_unix, endpoint.is_abstract) == (is_unix, is_abstract)


@pytest.mark.parametrize(
    ("address", "written"),
    [
        (("127.0.0.1", 80), "127.0.0.1:80"),
        (("::1", 80, 0, 0), "[::1]:80"),
        (("fe80::1%eth0", 80, 0, 2), "[fe80::1%eth0]:80"),
        (("::ffff:10.0.0.1", 80, 0, 0), "10.0.0.1:80"),
        (("::ffff:a00:1", 80, 0, 0), "[::ffff:a00:1]:80"),
        (("localhost", 80), "localhost:80"),
        (("", 80), ":80"),
        ("/run/socket", "unix:/run/socket"),
        (b"/run/socket", "unix:/run/socket"),
        (b"/run/\xff", r"unix:/run/\xff"),
        ("\0abstract", r"unix:'\x00abstract'"),
        ("/run/two\nlines", r"unix:'/run/two\nlines'"),
        ("", "unix:(unnamed)"),
        (b"", "unix:(unnamed)"),
        (None, "unix:(unnamed)"),
    ],
)
def test_address_is_written_as_a_person_would(address: Any, written: str) -> None:
    assert format_address(address) == written


def test_endpoint_is_written_as_its_address() -> None:
    assert str(parse_address("tcp://[::1]:80")) == "[::1]:80"
    assert str(parse_address("unix:///run/socket")) == "unix:/run/socket"


@pytest.mark.parametrize(
    ("address", "family", "expected"),
    [
        (("127.0.0.1", 80), None, Endpoint(INET, ("127.0.0.1", 80))),
        (("::1", 80), None, Endpoint(INET6, ("::1", 80))),
        (("fe80::1", 80, 0, 2), None, Endpoint(INET6, ("fe80::1", 80, 0, 2))),
        (("::1", 80), "AF_INET", Endpoint(EITHER, ("::1", 80))),
        (("127.0.0.1", 80), "AF_INET6", Endpoint(EITHER, ("127.0.0.1", 80))),
        (("localhost", 80), None, Endpoint(EITHER, ("localhost", 80))),
        (("localhost", 80, 0, 2), None, Endpoint(EITHER, ("localhost", 80))),
        (("", 80), None, Endpoint(EITHER, ("", 80))),
        ("/run/socket", None, Endpoint(UNIX, "/run/socket")),
    ],
)
def test_family_of_a_host_that_is_a_number_is_known_without_a_resolver(
    address: Any, family: str | None, expected: Endpoint
) -> None:
    assert numeric(parse_address(address, family)) == expected


def test_host_with_a_control_byte_is_no_number_and_no_crash() -> None:
    for host in ("local\0host", "\ud800", "::1\n"):
        try:
            endpoint = numeric(parse_address((host, 80)))
        except AddressError:
            continue
        assert endpoint.family == EITHER
