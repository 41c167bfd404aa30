"""How a client authenticates: the SASL mechanisms PLAIN (RFC 4616) and LOGIN, as machines. No I/O.

Both hand the password over in the clear, so they are for channels that nobody can listen to.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
from collections.abc import Callable, Generator, Iterable

from .grammar import Malformed


@dataclasses.dataclass(frozen=True, slots=True)
class Credentials:
    """A name and a password.

    A session asks with it whether they go together.
    """

    name: str
    password: str = dataclasses.field(repr=False)


Exchange = Generator[bytes, bytes, Credentials]
"""Yields challenges, is sent responses, and returns what the client claims, or raises Malformed."""


def plain() -> Exchange:
    """The server's side of PLAIN."""
    response = yield b""
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise Malformed("PLAIN takes an identity, a name and a password, with a NUL between them")
    identity, name, password = map(_text, parts)
    if identity not in ("", name):
        raise Malformed("nobody acts for somebody else here: leave the identity empty")
    return _credentials(name, password)


def login() -> Exchange:
    """The server's side of LOGIN, which stands in no RFC (draft-murchison-sasl-login)."""
    name = yield b"Username:"
    password = yield b"Password:"
    return _credentials(_text(name), _text(password))


MECHANISMS: dict[str, Callable[[], Exchange]] = {"PLAIN": plain, "LOGIN": login}


def responses_for(mechanism: str, credentials: Credentials) -> list[bytes]:
    """Return what a client says in `mechanism`, one for each challenge."""
    name, password = credentials.name.encode(), credentials.password.encode()
    return [b"\0" + name + b"\0" + password] if mechanism == "PLAIN" else [name, password]


def choose_mechanism(offered: Iterable[str]) -> str | None:
    """Return the best mechanism of those that a server offers and that are known here."""
    names = {name.upper() for name in offered}
    return next((name for name in MECHANISMS if name in names), None)


def decode_response(response: bytes) -> bytes:
    """Return what `response` means, which is in base64.

    Raises:
        Malformed: it is none.
    """
    try:
        return base64.b64decode(response, validate=True)
    except binascii.Error:
        raise Malformed("this is no base64") from None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed("names and passwords are UTF-8") from None


def _credentials(name: str, password: str) -> Credentials:
    if not name or not password or not name.isprintable():
        raise Malformed("a name and a password are needed, and neither may be empty")
    return Credentials(name, password)
