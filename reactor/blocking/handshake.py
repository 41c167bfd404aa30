"""The two halves of the handshake, over a blocking connection: `deliver_challenge` and `answer_challenge`."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable
from typing import Any, NoReturn

from .. import errors
from ..authentication import DIGEST_SIZES, LONGEST_FRAME, Handshake, check_authkey
from ..framing import SHORT


class AuthenticationError(errors.AuthenticationError, multiprocessing.AuthenticationError):
    """The handshake failed; also for who catches the error of the standard library."""


def deliver_challenge(
    connection: Any, authkey: bytes, digest_name: str = "sha256", *, timeout: float | None = None
) -> None:
    """Have the other side prove that it has the key.

    Arguments:
        connection: anything with `send_bytes` and `recv_bytes`, which take a timeout if one is given here.
        authkey: the key, in bytes.
        digest_name: what the challenge asks for: ``"sha256"``, ``"md5"`` and others.
        timeout: seconds for all of it; None waits for as long as it takes.
    Raises:
        AuthenticationError: it has another key, or none.
        ValueError: the key is no bytes object, or the digest is unknown.
        LocalError: the key is empty.
        EOFError, OSError, TimeoutError: as from the connection.
    """
    if digest_name not in DIGEST_SIZES:
        raise ValueError(f"unsupported digest {digest_name!r}; there are {', '.join(DIGEST_SIZES)}")
    half = Handshake("either", checked(authkey), os.urandom, digest=digest_name)._deliver(b"")
    talk = Talk(connection, timeout)
    talk.send(next(half))
    try:
        half.send(talk.receive())
    except StopIteration as end:
        talk.send(end.value)
    except errors.AuthenticationError as error:
        talk.refuse(error)


def answer_challenge(connection: Any, authkey: bytes, *, timeout: float | None = None) -> None:
    """Prove to the other side that this one has the key.

    Arguments:
        connection: anything with `send_bytes` and `recv_bytes`, which take a timeout if one is given here.
        authkey: the key, in bytes.
        timeout: seconds for all of it; None waits for as long as it takes.
    Raises:
        AuthenticationError: the other side has another key, or does not ask for one.
        ValueError: the key is no bytes object.
        LocalError: the key is empty.
        EOFError, OSError, TimeoutError: as from the connection.
    """
    handshake = Handshake("either", checked(authkey), os.urandom)
    half = handshake._answer(b"")
    talk = Talk(connection, timeout)
    next(half)
    try:
        talk.send(half.send(talk.receive()))
    except errors.AuthenticationError as error:
        talk.refuse(error)
    try:
        handshake._expect_welcome(talk.receive())
    except errors.AuthenticationError as error:
        raise AuthenticationError(str(error)) from None


class Talk:
    """The frames of a handshake over a connection, all of them within `timeout` seconds."""

    def __init__(self, connection: Any, timeout: float | None) -> None:
        self._connection = connection
        self._left: Callable[[], dict[str, float]] = dict
        if timeout is not None:
            deadline = time.monotonic() + timeout
            self._left = lambda: {"timeout": deadline - time.monotonic()}

    def send(self, frame: bytes) -> None:
        """Send a frame. The connection puts the header in front itself."""
        self._connection.send_bytes(frame[SHORT.size :], **self._left())

    def refuse(self, error: errors.AuthenticationError) -> NoReturn:
        """Raise `error`, after telling the other side, if it still listens."""
        with contextlib.suppress(OSError):
            self.send(error.reply)
        raise AuthenticationError(str(error)) from None

    def receive(self) -> bytes:
        """Return what is in the next frame, which must be short."""
        data: bytes = self._connection.recv_bytes(LONGEST_FRAME, **self._left())
        return data


def checked(authkey: bytes) -> bytes:
    """Return `authkey` if it is one; the errors are those of `deliver_challenge`."""
    if not isinstance(authkey, bytes):
        raise ValueError(f"an authkey is bytes, not {type(authkey).__name__}")  # noqa: TRY004 - as the original
    return check_authkey(authkey)
