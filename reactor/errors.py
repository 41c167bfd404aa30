"""The error tree: what this program did wrong, apart from what its peer did.

::

    ReactorError
    ├── LocalError              this program: a mistake in its calls or its configuration
    │   ├── AddressError        an address that cannot be used here
    │   ├── AddressInUseError   somebody alive already listens there
    │   ├── AlreadyRunningError the program runs already, as its pid file says
    │   ├── ClosedReactorError  the reactor was closed, or belongs to the parent of a fork
    │   ├── HookError           a hook of a channel raised
    │   ├── UnsafePickleError   unpickling was about to be allowed to anybody
    │   ├── ProducerError       a producer failed, or gave something that cannot be sent
    │   └── StateError          a transition that stands in no table
    ├── RemoteError             the peer, or the network between us
    │   ├── AuthenticationError the handshake failed
    │   ├── ConnectError        no connection could be made
    │   ├── ConnectionLost      the connection broke
    │   │   ├── TlsError        the TLS handshake failed, or what came is not what was encrypted
    │   │   └── TruncatedError  the connection ended without the word that TLS ends with
    │   ├── DatagramError       a datagram is lost; the channel goes on
    │   ├── DeadlineError       the peer took longer than the state it is in allows
    │   ├── FrameError          bytes that are no frame, a frame too large, a frame cut short
    │   ├── DecodingError       a whole frame whose content the codec refuses
    │   ├── LimitError          the peer made something grow past its limit
    │   ├── ProxyError          what came from a proxy is no header that says who the peer is
    │   └── PeerClosed          the peer closed the connection, cleanly
    └── ClosedHere              this program closed the channel, on purpose

Errors about a channel carry ``peer`` and ``state`` once the channel has seen them, and say both
when printed, on one line.
"""

from __future__ import annotations

EXCERPT = 48

_PROTOCOLS = {
    b"GET ": "an HTTP request",
    b"POST": "an HTTP request",
    b"HEAD": "an HTTP request",
    b"PUT ": "an HTTP request",
    b"OPTI": "an HTTP request",
    b"CONN": "an HTTP request",
    b"PRI ": "an HTTP/2 request",
    b"HTTP": "an HTTP response",
    b"SSH-": "an SSH peer",
    b"\x16\x03\x01": "a TLS handshake",
    b"\x16\x03\x03": "a TLS handshake",
    b"EHLO": "an SMTP client",
}


def excerpt(data: bytes) -> str:
    """Return `data`, which a peer sent, as a bounded representation on one line.

    Control bytes are escaped, so a log line stays one line whatever came in.
    """
    if len(data) <= EXCERPT:
        return repr(bytes(data))
    return f"{bytes(data[:EXCERPT])!r}... ({len(data)} bytes)"


def guess_protocol(data: bytes) -> str | None:
    """Return what the first bytes of a peer that speaks something else look like, in words; None for no idea."""
    for start, protocol in _PROTOCOLS.items():
        if data.startswith(start):
            return protocol
    return None


def printable(text: str) -> str:
    """Return `text`, part of which a peer may have chosen, bounded and on one line."""
    if not text.isprintable():
        text = text.encode("unicode_escape").decode("ascii")
    return text if len(text) <= 200 else text[:200] + "..."


class ReactorError(Exception):
    """The root of every error of this package.

    Attributes:
        peer: the printable name of the peer, or None while it is not known.
        state: the name of the channel's state when it happened, or None.
    """

    peer: str | None = None
    state: str | None = None

    def __str__(self) -> str:
        message = self._message()
        if self.peer is None:
            return message
        return f"{self.peer} ({self.state}): {message}"

    def _message(self) -> str:
        return super().__str__()


class LocalError(ReactorError):
    """This program made a mistake; nothing that a peer sends can cause it."""


class AddressError(LocalError, ValueError):
    """An address, a family or a URL that cannot be used, with the reason and the way out."""


class AddressInUseError(LocalError, OSError):
    """Somebody alive already listens on the address."""


class AlreadyRunningError(LocalError):
    """The program runs already: another process has locked its pid file.

    Attributes:
        pid: the number of that process; 0 if it is not known.
    """

    def __init__(self, message: str, pid: int = 0) -> None:
        super().__init__(message, pid)
        self.pid = pid

    def _message(self) -> str:
        return str(self.args[0])


class ClosedReactorError(LocalError):
    """The reactor was closed, or was made before a fork and belongs to the parent process."""


class HookError(LocalError):
    """A hook of the channel raised, and the channel was closed for it."""


class UnsafePickleError(LocalError):
    """Unpickling would be open to peers whom nothing has authenticated."""


class ProducerError(LocalError):
    """A producer failed, or produced something that cannot be sent."""


class StateError(LocalError):
    """A transition, or a call, that the state of the channel does not allow."""


class RemoteError(ReactorError):
    """The peer, or the network between us, did something that ends the connection."""


class AuthenticationError(RemoteError):
    """The handshake failed.

    Attributes:
        reply: bytes that are still to be sent to the peer before closing; may be empty.
    """

    reply: bytes = b""


class ConnectError(RemoteError):
    """No connection could be made.

    Attributes:
        causes: one line for each address that was tried.
        errno: the number of the operating system's latest error; None where it had none to tell.
    """

    def __init__(self, message: str, causes: tuple[str, ...] = (), errno: int | None = None) -> None:
        super().__init__(message, causes, errno)
        self.causes = causes
        self.errno = errno

    def _message(self) -> str:
        return "; ".join((self.args[0], *self.causes))


class ConnectionLost(RemoteError):
    """The connection broke: a reset, a broken pipe, an unreachable network.

    Attributes:
        errno: the number of the operating system's error.
    """

    def __init__(self, message: str, errno: int | None) -> None:
        super().__init__(message, errno)
        self.errno = errno

    @classmethod
    def by(cls, cause: OSError) -> ConnectionLost:
        """Return the error that `cause`, from the operating system or from TLS, means."""
        return (
            cause
            if isinstance(cause, ConnectionLost)
            else cls(f"connection lost: {cause.strerror or cause}", cause.errno)
        )

    def _message(self) -> str:
        return str(self.args[0])


class TlsError(ConnectionLost, OSError):
    """The TLS handshake failed, or what came is not what the peer encrypted.

    Attributes:
        reason: OpenSSL's word for it, such as ``"CERTIFICATE_VERIFY_FAILED"``; None where it has none.
    """

    def __init__(self, message: str, reason: str | None = None) -> None:
        super().__init__(message, None)
        self.args = (message, reason)
        self.reason = reason


class TruncatedError(ConnectionLost, OSError):
    """The connection ended without the word that TLS ends with: something may have been cut off."""

    def __init__(self, message: str) -> None:
        super().__init__(message, None)
        self.args = (message,)


class DatagramError(RemoteError):
    """One datagram is lost, as the network or the system tells; the channel goes on.

    Attributes:
        errno: the number of the operating system's error.
        address: where it was to go, as the socket module writes it; None where that is not known.
    """

    def __init__(self, message: str, errno: int | None, address: object) -> None:
        super().__init__(message, errno, address)
        self.errno = errno
        self.address = address

    def _message(self) -> str:
        return str(self.args[0])


class DeadlineError(RemoteError):
    """The peer took longer than the state that the channel is in allows.

    Attributes:
        limit: the name of the field of `Limits` that bit.
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message, limit)
        self.limit = limit

    def _message(self) -> str:
        return str(self.args[0])


class FrameError(RemoteError):
    """Bytes that are no frame, a frame over its limit, or a frame that was cut short."""


class DecodingError(RemoteError):
    """A whole frame arrived, but the codec cannot make an object of it."""


class LimitError(RemoteError):
    """The peer made something grow past its limit.

    Attributes:
        limit: the name of the field of `Limits` that bit.
    """

    def __init__(self, message: str, limit: str) -> None:
        super().__init__(message, limit)
        self.limit = limit

    def _message(self) -> str:
        return str(self.args[0])


class ProxyError(RemoteError):
    """What came from a proxy does not begin with a header of the PROXY protocol, or with one that makes no sense."""


class PeerClosed(RemoteError):
    """The peer closed the connection, cleanly and between two frames."""


class ClosedHere(ReactorError):
    """This program closed the channel, on purpose."""
