"""What turns messages into the bytes of a frame and back, and the rule about unpickling.

Unpickling runs code that the sender chose. It is allowed when the peer is authenticated, when the
peer is this very user on this very machine, or when it was asked for by its long name.
"""

from __future__ import annotations

import copyreg
import dataclasses
import io
import json
import pickle
from collections.abc import Callable, Iterable
from typing import Any, Protocol, runtime_checkable

from .authentication import check_authkey, check_minimum_digest
from .errors import LocalError, UnsafePickleError


@runtime_checkable
class Codec(Protocol):
    """Anything with `dumps` and `loads`, as the modules `json`, `marshal` and many others have them."""

    def dumps(self, message: Any, /) -> Any:
        """Return the bytes-like object that stands for `message`."""

    def loads(self, data: bytes, /) -> Any:
        """Return the message for which `data` stands."""


class PickleCodec:
    """Pickles as ``multiprocessing.connection`` does: with the reducers that are registered there."""

    loads = staticmethod(pickle.loads)

    def __init__(self) -> None:
        # Imported here: it takes longer than all of this package, and the other codecs never need it.
        from multiprocessing.reduction import ForkingPickler

        self.dumps = ForkingPickler.dumps


class BytesCodec:
    """Messages are the bytes of the frames, untouched."""

    loads = bytes

    @staticmethod
    def dumps(message: Any) -> bytes:
        if type(message) is bytes:
            return message
        try:
            return bytes(memoryview(message))
        except TypeError:
            raise LocalError(
                f"the codec 'bytes' sends bytes-like objects, not {type(message).__name__}; "
                "encode it first, or choose the codec 'json' or 'pickle'"
            ) from None


class JsonCodec:
    """Messages are JSON in UTF-8 (RFC 8259), without needless white space."""

    loads = staticmethod(json.loads)
    _encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

    @classmethod
    def dumps(cls, message: Any) -> bytes:
        return cls._encode(message).encode()


class RestrictedPickle:
    """Pickle that loads nothing but plain values and the globals that are named here.

    Arguments:
        allowed: classes and functions, or their names as ``"module.name"``. Allow nothing that runs what
            it is given: each of them may be called with arguments that the peer chose. A pickle can
            also set attributes of what is allowed, of the class itself too: allow nothing of which that matters.

    A pickle of a few bytes can use up the memory, and one of a megabyte the stack of the interpreter, whatever is
    allowed: for peers without a key choose ``"json"``.

    Raises:
        LocalError: a name has no module in front.
    """

    dumps = staticmethod(pickle.dumps)

    def __init__(self, allowed: Iterable[Callable[..., object] | str] = ()) -> None:
        self.allowed = frozenset(
            name if isinstance(name, str) else f"{name.__module__}.{name.__qualname__}" for name in allowed
        )
        for name in self.allowed:
            if "." not in name:
                raise LocalError(f"{name!r} names no module; allow it as 'module.{name}'")

    def loads(self, data: bytes) -> Any:
        """Return the message for which `data` stands; `pickle.UnpicklingError` for what is not allowed."""
        # What an extension code stands for (PEP 307) is looked up here without a question, once it was used.
        copyreg.clear_extension_cache()
        return _AllowListUnpickler(io.BytesIO(data), self.allowed).load()


class _AllowListUnpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, allowed: frozenset[str]) -> None:
        super().__init__(file, fix_imports=False)  # which translates names of Python 2 after they were checked
        self._allowed = allowed

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in self._allowed:
            raise pickle.UnpicklingError(f"{module}.{name} is not on the allow-list of this RestrictedPickle")
        return super().find_class(module, name)


_NAMED: dict[str, Callable[[], Codec]] = {"pickle": PickleCodec, "bytes": BytesCodec, "json": JsonCodec}


def find_codec(codec: str | Codec) -> Codec:
    """Return the codec that a name means, or the object itself if it has `dumps` and `loads`.

    Raises:
        LocalError: the name is unknown, or the object is no codec.
    """
    if isinstance(codec, str):
        if codec not in _NAMED:
            raise LocalError(f"there is no codec {codec!r}; there are {', '.join(map(repr, _NAMED))}")
        return _NAMED[codec]()
    if not isinstance(codec, Codec):
        raise LocalError(f"{codec!r} is no codec: it needs the methods dumps and loads")
    return codec


@dataclasses.dataclass(frozen=True, slots=True)
class Trust:
    """What a message connection believes, and whom: shared by all connections of one listener.

    Attributes:
        codec: makes messages of frames.
        authkey: the shared key, or None.
        minimum_digest: see `authentication.Handshake`.
        allow_unauthenticated_pickle: lets anybody who can connect run code in this process.
    """

    codec: Codec
    authkey: bytes | None = dataclasses.field(default=None, repr=False)
    minimum_digest: str = "md5"
    allow_unauthenticated_pickle: bool = False

    @classmethod
    def of(
        cls, codec: str | Codec, authkey: bytes | None, minimum_digest: str, allow_unauthenticated_pickle: bool
    ) -> Trust:
        """Check the arguments of a listener or a connect, and return what they mean."""
        check_minimum_digest(minimum_digest)
        if authkey is not None:
            authkey = check_authkey(authkey)
        return cls(find_codec(codec), authkey, minimum_digest, allow_unauthenticated_pickle)

    @property
    def needs_known_peer(self) -> bool:
        """Whether frames are unpickled although no key says who sent them."""
        return self.codec.loads is pickle.loads and self.authkey is None and not self.allow_unauthenticated_pickle

    def check(self, peer_is_this_user: bool) -> None:
        """Raise UnsafePickleError where unpickling would be open to somebody unknown.

        Arguments:
            peer_is_this_user: whether the operating system says that the peer is this very user.
        """
        if self.needs_known_peer and not peer_is_this_user:
            raise UnsafePickleError(
                "unpickling lets the peer run code in this process, and nothing says who the peer is. "
                "Set an authkey; or choose codec='bytes', codec='json' or codec=RestrictedPickle([...]); "
                "or use a Unix socket; or, if you must, say allow_unauthenticated_pickle=True"
            )
