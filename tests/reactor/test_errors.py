"""The error tree, and what stands in a log line whatever a peer has sent."""

from __future__ import annotations

import copy
import errno
import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor import errors
from reactor.errors import (
    AddressError,
    AddressInUseError,
    ClosedHere,
    ConnectError,
    ConnectionLost,
    DatagramError,
    DeadlineError,
    LimitError,
    LocalError,
    ReactorError,
    RemoteError,
    excerpt,
    printable,
)
from tests.properties import steady

CLASSES = [found for found in vars(errors).values() if inspect.isclass(found) and issubclass(found, Exception)]
EXAMPLES: list[ReactorError] = [
    ConnectError("no way", ("a: refused", "b: timed out")),
    ConnectionLost.by(ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")),
    DatagramError("a datagram is lost: Connection refused", errno.ECONNREFUSED, ("127.0.0.1", 9)),
    DeadlineError("too slow", "idle_timeout"),
    LimitError("too much", "maximum_output"),
]
EXAMPLES += [found("what happened") for found in CLASSES if found not in map(type, EXAMPLES)]


def tree_of(root: type, depth: int = 0) -> list[tuple[int, str]]:
    below = [line for child in root.__subclasses__() if child in CLASSES for line in tree_of(child, depth + 1)]
    return [(depth, root.__name__), *below]


def test_tree_in_the_docstring_is_the_tree() -> None:
    drawn = []
    for line in (errors.__doc__ or "").splitlines():
        branch, _, rest = line.rpartition("── ")
        if branch or line.strip() == "ReactorError":
            drawn.append((len(branch + "── ") // 4 if branch else 0, rest.split()[0]))
    # A branch is four columns deeper than its root, which is itself indented by four.
    drawn = [(depth - 1 if depth else 0, name) for depth, name in drawn]
    assert sorted(drawn) == sorted(tree_of(ReactorError))


def test_every_error_can_be_caught_by_its_name_in_the_package() -> None:
    for found in CLASSES:
        assert getattr(reactor, found.__name__) is found
        assert found.__name__ in reactor.__all__


def test_every_error_blames_one_side() -> None:
    for found in CLASSES:
        if found not in (ReactorError, ClosedHere):
            assert issubclass(found, LocalError) != issubclass(found, RemoteError)


def test_every_error_says_what_it_means() -> None:
    assert all(inspect.cleandoc(found.__doc__ or "") for found in CLASSES)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_error_names_peer_and_state_once_the_channel_has_seen_it(error: ReactorError) -> None:
    message = str(error)
    fresh = copy.copy(error)
    assert str(fresh) == message
    fresh.peer, fresh.state = "Stream with 10.0.0.1:80", "Open"
    assert str(fresh) == f"Stream with 10.0.0.1:80 (Open): {message}"


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_error_can_be_copied_and_sent_to_another_process(error: ReactorError) -> None:
    for double in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(double) is type(error)
        assert str(double) == str(error)
        assert vars(double) == vars(error)


def test_errors_are_also_what_the_standard_library_would_raise() -> None:
    assert issubclass(AddressError, ValueError)
    assert issubclass(AddressInUseError, OSError)
    assert str(AddressInUseError("somebody listens there")) == "somebody listens there"


def test_errors_carry_what_a_program_can_act_on() -> None:
    by_type = {type(error): error for error in EXAMPLES}
    assert vars(by_type[ConnectError]) == {"causes": ("a: refused", "b: timed out"), "errno": None}
    assert str(by_type[ConnectError]) == "no way; a: refused; b: timed out"
    assert vars(by_type[ConnectionLost]) == {"errno": errno.ECONNRESET}
    assert str(by_type[ConnectionLost]) == "connection lost: Connection reset by peer"
    assert vars(by_type[DatagramError]) == {"errno": errno.ECONNREFUSED, "address": ("127.0.0.1", 9)}
    assert str(by_type[DatagramError]) == "a datagram is lost: Connection refused"
    assert vars(by_type[DeadlineError]) == {"limit": "idle_timeout"}
    assert vars(by_type[LimitError]) == {"limit": "maximum_output"}
    assert ConnectError("no way").causes == ()


def test_lost_connection_without_a_system_message_says_what_there_is() -> None:
    error = ConnectionLost.by(OSError("just words"))
    assert str(error) == "connection lost: just words"
    assert error.errno is None


@steady
@given(st.binary(max_size=300))
def test_excerpt_is_bounded_and_on_one_line(data: bytes) -> None:
    for form in (data, bytearray(data), memoryview(data)):
        text = excerpt(form)  # type: ignore[arg-type]
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= 4 * errors.EXCERPT + 3 + len("... (300 bytes)")
        if len(data) <= errors.EXCERPT:
            assert text == repr(data)
        else:
            assert text.endswith(f"... ({len(data)} bytes)")


def test_excerpt_shows_all_of_what_just_fits() -> None:
    assert excerpt(b"x" * errors.EXCERPT) == repr(b"x" * errors.EXCERPT)
    assert excerpt(b"x" * (errors.EXCERPT + 1)) == repr(b"x" * errors.EXCERPT) + "... (49 bytes)"


@steady
@given(st.text(st.characters(), max_size=400))
def test_printable_text_is_bounded_and_on_one_line(text: str) -> None:
    safe = printable(text)
    assert safe.isprintable()
    assert len(safe) <= 203
    if text.isprintable() and len(text) <= 200:
        assert safe == text


@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31mred", "\u2028", "\u202eright to left", "\ud800", "\0", "\r"])
def test_what_could_forge_a_log_line_is_escaped(text: str) -> None:
    safe = printable(text)
    assert safe.isascii()
    assert "\\" in safe
