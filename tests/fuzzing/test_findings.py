"""What fuzzing has found: a test with a name for each."""

from __future__ import annotations

import copyreg
import pickle
import subprocess
import sys
from types import ModuleType
from typing import Any

import pytest

from protocols.smtp.client_session import ClientSession, Finished
from reactor.addresses import parse_address
from reactor.authentication import ChallengeSpotter
from reactor.codecs import RestrictedPickle
from reactor.errors import AddressError
from reactor.framing import encode_frame
from reactor.splitting import Splitter, Terminator
from tests.fuzzing.models import CHALLENGE

# restricted_pickle


def test_restricted_pickle_refuses_an_extension_code_that_another_pickle_has_used_before() -> None:
    """The C of pickle remembers what such a code stood for, and then does not ask `find_class`."""
    copyreg.add_extension("os", "putenv", 240)
    try:
        pickle.loads(b"\x82\xf0.")
        with pytest.raises(pickle.UnpicklingError, match=r"os\.putenv is not on the allow-list"):
            RestrictedPickle().loads(b"\x82\xf0.")
    finally:
        copyreg.remove_extension("os", "putenv", 240)


@pytest.mark.parametrize("data", [b"ccommands\ngetoutput\n.", b"\x80\x02ccommands\ngetoutput\n."])
def test_restricted_pickle_gives_out_what_is_named_and_not_what_python_2_called_so(
    monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    """In old pickles `commands` means the module `subprocess` of today, and that is looked up after the check."""
    ours = ModuleType("commands")
    ours.getoutput = len  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "commands", ours)
    found = RestrictedPickle(["commands.getoutput"]).loads(data)
    assert found is not subprocess.getoutput
    assert found is len


# addresses


@pytest.mark.parametrize(
    "url", ["unix://tcp://localhost:80", "unix://unix:///run/socket", "unix://" * 2000 + "/run/socket"]
)
def test_url_within_a_url_is_refused(url: str) -> None:
    """The first one was taken for TCP, although it says unix; the last one ended in a RecursionError."""
    with pytest.raises(AddressError):
        parse_address(url)


@pytest.mark.parametrize(
    "url",
    [
        "tcp://local\nhost:80", "tcp://local\thost:80", "tcp://localhost:80\r\n", "tcp://localhost:8\n0",
        "tcp://localhost:80?", "tcp://localhost:80#", "tcp://localhost:80/?#", "tcp://before[::1]:80",
        "tcp://[::1]behind:80", "tcp://:80@localhost:90",
    ],
)  # fmt: skip
def test_url_of_which_not_every_character_counts_is_refused(url: str) -> None:
    with pytest.raises(AddressError):
        parse_address(url)


@pytest.mark.parametrize("url", ["tcp://[name]:80", "tcp://[B]:80", "tcp://[127.0.0.1]:80"])
def test_brackets_around_anything_but_a_number_of_ipv6_are_refused(url: str) -> None:
    """Printed, they were gone, and what was left meant another host: capital letters count only in brackets."""
    with pytest.raises(AddressError):
        parse_address(url)


def test_url_with_a_control_byte_is_refused_or_printed_on_one_line() -> None:
    for character in "\0\x0b\x1b\x85\u2028\udc80":
        try:
            endpoint = parse_address(f"tcp://local{character}host:80")
        except AddressError:
            continue
        assert str(endpoint).isprintable()


@pytest.mark.parametrize(
    ("address", "family"),
    [
        (("localhost", True), None),
        (("::1", 80, "0", 0), None),
        (("::1", 80, 0, None), "AF_INET6"),
        (("::1", 80, 0, 0.5), None),
        (("127.0.0.1", 80, 0, 0), "AF_INET"),
    ],
)
def test_tuple_that_no_socket_takes_is_refused(address: Any, family: str | None) -> None:
    """A `Listener` raised what the module `socket` said of them: a TypeError, or an OSError without a number."""
    with pytest.raises(AddressError):
        parse_address(address, family)


# frames


@pytest.mark.parametrize("behind", [b"\0\0", encode_frame(b"cut short")[:-1], encode_frame(b"whole")])
def test_spotter_keeps_nothing_of_what_came_together_with_the_challenge(behind: bytes) -> None:
    """Fed apart it was dropped; fed together, a part of it was kept, and was missing at the end of the stream."""
    demand = encode_frame(CHALLENGE + b"{sha256}" + bytes(40))
    for parts in ([demand, behind], [demand + behind]):
        spotter = ChallengeSpotter(1 << 20)
        assert [frame for part in parts for frame in spotter.feed(part)] == []
        assert spotter.failure is not None
        assert spotter.finish() is None


# splitter


@pytest.mark.parametrize(
    ("terminator", "data"), [(None, b"x" * 60_000), (70_000, b"x" * 60_000), (b"\n", b"x" * 60_000)]
)
def test_splitter_that_has_handed_out_everything_holds_nothing(terminator: Terminator, data: bytes) -> None:
    """Each idle channel held what it had received last, up to 64 KiB, until more came."""
    splitter = Splitter(terminator)
    splitter.feed(data)
    assert list(iter(splitter.next_piece, None)) == [(data, False)]
    assert sum(sys.getsizeof(getattr(splitter, name)) for name in Splitter.__slots__) < 2000


# smtp_client


def test_client_session_that_is_over_keeps_nothing_of_what_still_comes() -> None:
    """It kept all of it, and looked at none."""
    session = ClientSession("client.example")
    assert [type(event) for event in session.feed(b"421 go away\r\n")] == [Finished]
    assert session.feed(b"250 more\r\n" + b"x" * 1000) == []
    assert not session._replies._input
