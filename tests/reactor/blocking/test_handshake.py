"""`deliver_challenge` and `answer_challenge`, each against the original's other half."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError as StandardAuthenticationError
from multiprocessing import connection as standard
from typing import Any

import pytest

import reactor
from reactor import blocking
from reactor.authentication import CHALLENGE, FAILURE, WELCOME
from tests.conftest import KEY

InThread = Callable[..., threading.Thread]
OTHER_KEY = b"another long secret key"
DIGESTS = ["md5", "sha256", "sha384", "sha3_256", "sha3_384"]


@pytest.fixture
def ends() -> Iterator[tuple[Any, Any]]:
    first, second = blocking.Pipe()
    with first, second:
        yield first, second


@pytest.mark.parametrize(("here", "there"), [(blocking, standard), (standard, blocking), (blocking, blocking)])
def test_halves_fit_those_of_the_original(here: Any, there: Any, ends: tuple[Any, Any], in_thread: InThread) -> None:
    first, second = ends

    def other_side() -> None:
        there.answer_challenge(second, KEY)
        there.deliver_challenge(second, KEY)

    thread = in_thread(other_side)
    here.deliver_challenge(first, KEY)
    here.answer_challenge(first, KEY)
    thread.join()
    assert not first.poll()
    assert not second.poll()


@pytest.mark.parametrize(("here", "there"), [(blocking, standard), (standard, blocking), (blocking, blocking)])
def test_both_halves_of_another_key_are_refused(
    here: Any, there: Any, ends: tuple[Any, Any], in_thread: InThread
) -> None:
    first, second = ends
    refused: list[type[Exception]] = []

    def other_side() -> None:
        with pytest.raises(StandardAuthenticationError) as caught:
            there.answer_challenge(second, OTHER_KEY)
        refused.append(caught.type)

    thread = in_thread(other_side)
    with pytest.raises(StandardAuthenticationError) as caught:
        here.deliver_challenge(first, KEY)
    thread.join()
    assert len(refused) == 1
    if here is blocking:
        assert caught.type is blocking.AuthenticationError
        assert issubclass(caught.type, reactor.AuthenticationError)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="the original challenges with MD5 alone")
@pytest.mark.parametrize("digest", DIGESTS)
def test_challenge_asks_for_the_digest_that_was_named(digest: str, ends: tuple[Any, Any], in_thread: InThread) -> None:
    first, second = ends
    thread = in_thread(standard.answer_challenge, second, KEY)
    blocking.deliver_challenge(first, KEY, digest)
    thread.join()
    thread = in_thread(standard.deliver_challenge, second, KEY, digest)
    blocking.answer_challenge(first, KEY)
    thread.join()


class Scripted:
    """A connection as programs write them, without timeouts: what it receives is given, what it sends is kept."""

    def __init__(self, *frames: bytes) -> None:
        self.frames = list(frames)
        self.sent: list[bytes] = []

    def recv_bytes(self, maxlength: int) -> bytes:
        assert maxlength == 256
        return self.frames.pop(0)

    def send_bytes(self, data: bytes) -> None:
        self.sent.append(data)


def test_nonsense_in_answer_to_a_challenge_is_refused_with_a_word() -> None:
    connection = Scripted(b"something bogus")
    with pytest.raises(blocking.AuthenticationError, match="no answer to our challenge"):
        blocking.deliver_challenge(connection, KEY)
    challenge, failure = connection.sent
    assert challenge.startswith(CHALLENGE + b"{sha256}")
    assert failure == FAILURE


@pytest.mark.parametrize("digest", DIGESTS)
def test_challenge_names_the_digest_that_it_asks_for(digest: str) -> None:
    connection = Scripted(b"something bogus")
    with pytest.raises(blocking.AuthenticationError):
        blocking.deliver_challenge(connection, KEY, digest)
    assert connection.sent[0].startswith(CHALLENGE + b"{%s}" % digest.encode())


def test_challenges_are_all_different_and_of_no_role() -> None:
    found = set()
    for _ in range(50):
        connection = Scripted(b"something bogus")
        with pytest.raises(blocking.AuthenticationError):
            blocking.deliver_challenge(connection, KEY)
        found.add(connection.sent[0][len(CHALLENGE) + len("{sha256}") :][:8])
    assert len(found) == 50


def test_what_is_no_challenge_is_refused_with_a_word() -> None:
    for message in (b"something bogus", b"", CHALLENGE, CHALLENGE + b"too short"):
        connection = Scripted(message)
        with pytest.raises(blocking.AuthenticationError, match="challenge"):
            blocking.answer_challenge(connection, KEY)
        assert connection.sent == [FAILURE]


@pytest.mark.parametrize(("verdict", "message"), [(FAILURE, "authkeys differ"), (b"bogus", "a welcome was expected")])
def test_verdict_that_is_no_welcome_is_an_error(verdict: bytes, message: str) -> None:
    connection = Scripted(CHALLENGE + b"{sha256}" + bytes(40), verdict)
    with pytest.raises(blocking.AuthenticationError, match=message) as caught:
        blocking.answer_challenge(connection, KEY)
    assert caught.value.__cause__ is None
    assert len(connection.sent) == 1


def test_answer_with_the_key_is_welcome() -> None:
    connection = Scripted(CHALLENGE + b"{sha256}" + bytes(40), WELCOME)
    blocking.answer_challenge(connection, KEY)


@pytest.mark.parametrize("half", [blocking.deliver_challenge, blocking.answer_challenge])
def test_key_that_is_none_is_refused(half: Callable[..., None]) -> None:
    connection = Scripted()
    with pytest.raises(ValueError, match="an authkey is bytes, not str"):
        half(connection, "a long secret text")
    with pytest.raises(reactor.LocalError, match="an empty authkey protects nothing"):
        half(connection, b"")
    assert connection.sent == []


def test_unknown_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="unsupported digest 'sha1'"):
        blocking.deliver_challenge(Scripted(), KEY, "sha1")


def test_time_is_for_the_whole_half(ends: tuple[Any, Any]) -> None:
    first, second = ends
    for half in (blocking.deliver_challenge, blocking.answer_challenge):
        with pytest.raises(TimeoutError):
            half(first, KEY, timeout=0.01)
    second.send_bytes(CHALLENGE + b"{sha256}" + bytes(40))
    with pytest.raises(TimeoutError):
        blocking.answer_challenge(first, KEY, timeout=0.01)
    assert second.recv_bytes().startswith(CHALLENGE)
    assert second.recv_bytes().startswith(b"{sha256}")


def test_end_of_the_stream_is_told_as_such(ends: tuple[Any, Any]) -> None:
    first, second = ends
    second.close()
    with pytest.raises(EOFError):
        blocking.answer_challenge(first, KEY, timeout=5)


def test_message_that_is_too_long_is_refused_before_it_is_read(ends: tuple[Any, Any]) -> None:
    first, second = ends
    second.send_bytes(bytes(257))
    with pytest.raises(OSError, match="bad message length"):
        blocking.answer_challenge(first, KEY)


@pytest.mark.parametrize("half", ["answer_challenge", "deliver_challenge"])
def test_what_is_wrong_is_told_even_if_the_other_side_has_gone_meanwhile(half: str) -> None:
    class Silent(Scripted):
        def send_bytes(self, data: bytes) -> None:
            if data == FAILURE:
                raise BrokenPipeError

    with pytest.raises(blocking.AuthenticationError, match="nonsense"):
        getattr(blocking, half)(Silent(b"some nonsense of some length"), KEY)
