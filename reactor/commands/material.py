"""What a server needs besides its settings: the handler, the key, the certificate."""

from __future__ import annotations

import os
import shlex
import socketserver
import stat
import sys
import traceback
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..channel import Channel
from ..codecs import Trust
from ..connecting import Connectable
from ..errors import LocalError, UnsafePickleError
from ..settings import Settings, meant

if TYPE_CHECKING:
    from ..tls import ServerTls

SHORTEST_KEY = 16
"""Bytes; what is shorter can be guessed."""

PICKLES = (
    "it takes pickles, which can run code, and nothing says who may send them; give --authkey-file, or have "
    "codec = 'json' or 'bytes' in the class"
)

MAKE_KEY = "(umask 077; head -c 32 /dev/urandom > {file})"


class MaterialError(LocalError):
    """Something that a setting names cannot be used."""


def load_key(settings: Settings) -> bytes | None:
    """Return the key that peers must have; None where there is to be none.

    Raises:
        MaterialError: the file is not there, or protects nothing.
    """
    return None if settings.authkey_file is None else read_key(settings.authkey_file)


def read_key(file: str) -> bytes:
    """Return the key in `file`, byte for byte.

    Raises:
        MaterialError: the file is not there, or protects nothing.
    """
    try:
        with open(file, "rb") as opened:
            if stat.S_IMODE(os.fstat(opened.fileno()).st_mode) & 0o077:
                raise MaterialError(f"others can read {file}; say: chmod 600 {shlex.quote(file)}")
            key = opened.read()
    except FileNotFoundError:
        raise MaterialError(f"there is no {file}; make one: {MAKE_KEY.format(file=shlex.quote(file))}") from None
    except OSError as error:
        raise MaterialError(f"{file}: {error.strerror}") from None
    if len(key) < SHORTEST_KEY:
        raise MaterialError(f"the key in {file} has {len(key)} bytes; at least {SHORTEST_KEY} are needed")
    return key


def load_tls(settings: Settings) -> ServerTls | None:
    """Return what encrypts the connections; None where nothing is to.

    Raises:
        LocalError: a file cannot be used, with the reason.
    """
    if settings.tls_cert is None:
        return None
    from ..tls import ServerTls

    return ServerTls(settings.tls_cert, settings.tls_key)


def find_handler(name: str) -> Any:
    """Import what `name` says, ``"package.module:Class"``, and return it.

    Raises:
        MaterialError: it cannot be imported, or makes no channels.
    """
    place, _, attribute = name.partition(":")
    try:
        module = import_module(place)
    except Exception as error:
        raise MaterialError(import_failed(place, error)) from None
    found: Any = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [other for other, value in vars(module).items() if is_handler(value)]
            has = f"; it has {', '.join(known)}" if known and not meant(part, known) else meant(part, known)
            raise MaterialError(f"{place} has no {attribute}{has}") from None
    if isinstance(found, type) and issubclass(found, socketserver.BaseRequestHandler):
        raise MaterialError(f"{attribute} is a handler of socketserver; reactor.servers runs it, in a program of yours")
    if not callable(found) or (isinstance(found, type) and not issubclass(found, Connectable)):
        raise MaterialError(f"{attribute} makes no channels for connections: it is {found!r}")
    return found


def is_handler(value: Any) -> bool:
    """Return whether `value` is the class of a channel that a program has written."""
    return isinstance(value, type) and issubclass(value, Channel) and not value.__module__.startswith("reactor.")


def check_trust(settings: Settings, handler: Any, authkey: bytes | None) -> None:
    """See that nobody unknown may send pickles to `handler`, as a listener does.

    Raises:
        LocalError: somebody might, or the handler has no use for a key.
    """
    codec = getattr(handler, "codec", None)
    if codec is not None:
        are_on_unix = all(url.startswith("unix://") for url in settings.listen or [""])
        are_known = are_on_unix and "unix" not in (settings.proxies or ())
        try:
            Trust.of(codec, authkey, "md5", False).check(peer_is_this_user=are_known)
        except UnsafePickleError:
            raise MaterialError(PICKLES) from None
    elif authkey is not None and isinstance(handler, type):
        raise MaterialError(f"{handler.__name__} is no Connection: it has no use for --authkey-file")


def import_failed(place: str, error: Exception) -> str:
    """Return in words why the module `place` could not be imported."""
    if isinstance(error, ModuleNotFoundError) and error.name and f"{place}.".startswith(f"{error.name}."):
        if place.endswith(".py"):
            return f"a module is named without its .py: {place.removesuffix('.py')}"
        return f"there is no module {error.name}; it was looked for in {sys.path[0]} and where packages are installed"
    frames = traceback.extract_tb(error.__traceback__)
    where = "" if isinstance(error, SyntaxError) else f" ({frames[-1].filename}, line {frames[-1].lineno})"
    return f"{place} cannot be imported: {type(error).__name__}: {error}{where}"
