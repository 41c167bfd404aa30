"""TLS on the standard library's `ssl`: what is wanted of it, and the socket that encrypts.

OpenSSL sees no socket here, only bytes in memory. So what it wants to read or write at odd moments is bytes like any
other, one receive takes many records, and one send carries many. Its two buffers are empty again when it returns, so
all connections of a reactor share one pair: that saves 3 KiB for each idle connection, and 40 KiB for each busy one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import ssl
import weakref
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .errors import LocalError, TlsError, TruncatedError, excerpt, guess_protocol
from .limits import KIB, RECEIVE_SIZE

if TYPE_CHECKING:
    from .channel import Channel, Origin

Path = str | os.PathLike[str]

RECORD = 16 * KIB
"""Bytes in one record at the most (RFC 8446, section 5.1)."""

RECORDS_TAKE = KIB
"""Bytes beside those that they carry, in the records of one receive: 64 KiB sent at once are received at once."""

ENCRYPTED_AT_ONCE = 128 * KIB
"""Bytes encrypted in front of one send: what the socket does not take waits in memory once more, encrypted."""

UNASKED_ANSWERS = 64 * KIB
"""Bytes that OpenSSL may have to say of its own accord to a peer that does not read."""

_HTTP_BODY = b"This port speaks TLS: ask with https://...\r\n"
HTTP_ANSWER = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(_HTTP_BODY), _HTTP_BODY)
)

HEAD = 24
"""Bytes of what the peer says first that are kept until the handshake is done, to tell what else it was."""

CONTENT_TYPES = range(20, 25)
"""What a record of TLS can begin with (RFC 8446, section 5.1)."""

WRONG_NAME = {62, 63, 64}
"""What OpenSSL says of a certificate for another host, mailbox or IP address (X509_V_ERR_HOSTNAME_MISMATCH, ...)."""

UNKNOWN_AUTHORITY = " was signed by nobody who is known here; {where} says whom to believe"
BAD_CERTIFICATES = {
    2: UNKNOWN_AUTHORITY,
    9: " is not valid yet; the clock of one side may be wrong",
    10: " has expired",
    18: " was signed by itself, and by nobody who is known here; {where} says whom to believe",
    19: UNKNOWN_AUTHORITY,
    20: UNKNOWN_AUTHORITY,
    21: UNKNOWN_AUTHORITY,
    23: " was revoked",
}
"""By the number of OpenSSL's X509_V_ERR_..., what is wrong."""

NO_VERSION = "the two sides speak no version of TLS in common; here it is 1.2 and newer"
NO_CIPHER = "the two sides have no cipher in common, or no kind of certificate"
MEANINGS = {
    "UNSUPPORTED_PROTOCOL": NO_VERSION,
    "TLSV1_ALERT_PROTOCOL_VERSION": NO_VERSION,
    "NO_SHARED_CIPHER": NO_CIPHER,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": NO_CIPHER + "; or the peer wants a certificate of this side",
    "TLSV1_ALERT_NO_APPLICATION_PROTOCOL": "the two sides speak no protocol in common on top of TLS (ALPN)",
    "TLSV1_UNRECOGNIZED_NAME": "the server is not the one of this name, it says",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the client has no certificate, and here it needs one",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the peer wants a certificate; ClientTls(certificate=...) has one",
    "TLSV1_ALERT_UNKNOWN_CA": "the peer does not know who has signed the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the certificate of this side has expired, says the peer",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the peer does not believe the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the peer does not believe the certificate of this side",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the certificate of this side was revoked, says the peer",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "what came was changed on its way, or is not from this connection",
}
"""By OpenSSL's reason, what it means. An alert is what the peer says."""

FILE_TROUBLES = {
    "KEY_VALUES_MISMATCH": "the key is not the one of the certificate",
    "NO_START_LINE": "this is no PEM",
    "PEM_LIB": "this is no PEM, or the key is missing, or its password is wrong",
    "NO_CERTIFICATE_OR_CRL_FOUND": "there is none",
}
"""By OpenSSL's reason, what is wrong with a file."""

_buffers: weakref.WeakKeyDictionary[Any, tuple[ssl.MemoryBIO, ssl.MemoryBIO]] = weakref.WeakKeyDictionary()


class Tls:
    """What a listener, a connect or a `start_tls` wants of TLS: the root of `ServerTls` and `ClientTls`."""

    context: ssl.SSLContext

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, channel: Channel) -> ssl.SSLObject:
        """Return the TLS of one more connection."""
        raise NotImplementedError

    def wrap(self, channel: Channel, sock: Any, is_upgrade: bool = False) -> TlsSocket:
        """Return the socket that encrypts what `channel` sends over `sock`."""
        buffers = ssl.MemoryBIO(), ssl.MemoryBIO()
        if channel._shares_tls_buffers:
            buffers = _buffers.setdefault(channel.reactor, buffers)
        return TlsSocket(channel, sock, self.session(*buffers, channel), *buffers, is_upgrade)


class ServerTls(Tls):
    """TLS for the side that accepts: 1.2 or newer, without renegotiation, compression and tickets for a next session.

    Arguments:
        certificate: a file with the certificate and those that lead to its authority, as PEM; or an `ssl.SSLContext`
            that has all that is wanted, and then nothing else is given; renegotiation is forbidden in it.
        key: a file with the private key, as PEM; None where it stands in the same file.
        password: of the key.
        names: other certificates, by the name that the client asks for (SNI):
            ``{"b.example.org": ("b.pem", "b.key")}``, also ``"*.example.org"``.
        protocols: what is spoken on top, the best first, for clients that ask (ALPN): ``["http/1.1"]``.
        client_authorities: a file with the authorities of the clients' certificates, as PEM. With it, who has none of
            those is refused; without, clients need none.

    Raises:
        LocalError: a file cannot be read, or makes no sense.
    """

    def __init__(
        self,
        certificate: Path | ssl.SSLContext,
        key: Path | None = None,
        *,
        password: str | bytes | None = None,
        names: Mapping[str, Path | tuple[Path, Path | None]] | None = None,
        protocols: Sequence[str] = (),
        client_authorities: Path | None = None,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._password = password
        self._names = dict(names or {})
        self._protocols = protocols
        self._client_authorities = client_authorities
        self._others: dict[str, ssl.SSLContext] = {}
        self.reload()

    def reload(self) -> None:
        """Read all files again. Who is connected stays so; who connects from now on meets the new certificate.

        Raises:
            LocalError: a file cannot be read, or makes no sense. Then the old ones stay.
        """
        if isinstance(self._certificate, ssl.SSLContext):
            if any((self._key, self._password, self._names, self._protocols, self._client_authorities)):
                raise LocalError("beside an SSLContext, nothing else is given: it has all that is wanted")
            if self._certificate.protocol == ssl.PROTOCOL_TLS_CLIENT:
                raise LocalError("this SSLContext is for clients; a server's is one of ssl.PROTOCOL_TLS_SERVER")
            self.context = _without_renegotiation(self._certificate)
            return
        context = self._context_with(self._certificate, self._key)
        others = {}
        for name, files in self._names.items():
            certificate, key = (files, None) if isinstance(files, str | os.PathLike) else files
            others[name.lower()] = self._context_with(certificate, key)
        context.sni_callback = self._named
        self.context, self._others = context, others

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, channel: Channel) -> ssl.SSLObject:
        return self.context.wrap_bio(incoming, outgoing, server_side=True)

    def _context_with(self, certificate: Path, key: Path | None) -> ssl.SSLContext:
        context = _make_context(ssl.Purpose.CLIENT_AUTH, self._client_authorities, self._protocols)
        # A client that sends and closes without reading would leave the tickets unread in its kernel, which resets the
        # connection then: what was sent last is lost here.
        context.num_tickets = 0
        _load_certificate(context, certificate, key, self._password)
        if self._client_authorities is not None:
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _named(self, session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """A client has said whom it wants to speak to."""
        if name is None:
            return
        name = name.lower()
        other = self._others.get(name) or self._others.get("*." + name.partition(".")[2])
        if other is not None:
            session.context = other


class ClientTls(Tls):
    """TLS for the side that connects, 1.2 or newer: the server has to prove that it has the name that was asked for.

    Arguments:
        authorities: a file or a directory with the authorities whose certificates are believed, as PEM; None for those
            of the system. Or an `ssl.SSLContext` that has all that is wanted; renegotiation is forbidden in it.
        certificate: a file with a certificate for this client, and those that lead to its authority, as PEM.
        key: a file with its private key, as PEM; None where it stands in the same file.
        password: of the key.
        protocols: what is spoken on top, the best first (ALPN).
        server_name: whose certificate the server must have; None for the host that was connected to.
        allow_unverified_server: believe whoever answers. Then nobody can listen, but anybody can be the server.

    Raises:
        LocalError: a file cannot be read, or makes no sense.
    """

    def __init__(
        self,
        authorities: Path | ssl.SSLContext | None = None,
        *,
        certificate: Path | None = None,
        key: Path | None = None,
        password: str | bytes | None = None,
        protocols: Sequence[str] = (),
        server_name: str | None = None,
        allow_unverified_server: bool = False,
    ) -> None:
        self._server_name = server_name
        if isinstance(authorities, ssl.SSLContext):
            if any((certificate, key, password, protocols, allow_unverified_server)):
                raise LocalError(
                    "beside an SSLContext, nothing else is given but server_name: it has all that is wanted"
                )
            if authorities.protocol == ssl.PROTOCOL_TLS_SERVER:
                raise LocalError("this SSLContext is for servers; a client's is one of ssl.PROTOCOL_TLS_CLIENT")
            self.context = _without_renegotiation(authorities)
            return
        self.context = _make_context(ssl.Purpose.SERVER_AUTH, authorities, protocols)
        if certificate is not None:
            _load_certificate(self.context, certificate, key, password)
        elif key is not None:
            raise LocalError("a key is of no use without its certificate; give certificate= as well")
        if allow_unverified_server:
            self.context.check_hostname = False
            self.context.verify_mode = ssl.CERT_NONE

    def check_name(self, host: str | None) -> None:
        """See that a server at `host` can be asked for a certificate; None stands for a Unix socket.

        Raises:
            LocalError: there is no name for which the certificate could be.
        """
        name = self._name_for(host)
        if name is None and self.context.check_hostname:
            raise LocalError(
                "a Unix socket has no name for which a certificate could be; give tls=ClientTls(server_name=...)"
            )
        try:
            self.context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)
        except (ValueError, TypeError) as error:  # UnicodeError is a ValueError; TypeError is for a null character
            raise LocalError(f"{name!r} is no name for which a certificate could be: {error}") from None

    def _name_for(self, host: str | None) -> str | None:
        return self._server_name or host or None

    def session(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, channel: Channel) -> ssl.SSLObject:
        assert channel._origin is not None
        name = self._name_for(channel._origin._host)
        return self.context.wrap_bio(incoming, outgoing, server_hostname=name)


def tls_for(origin: Origin, tls: Any) -> Tls:
    """Return what `tls`, as a user may write it, means for the channels of `origin`.

    Raises:
        LocalError: it means nothing there.
    """
    if origin._role == "client":
        client = as_client_tls(tls)
        client.check_name(origin._host)
        return client
    if isinstance(tls, ServerTls):
        return tls
    if isinstance(tls, ssl.SSLContext | str | os.PathLike):
        return ServerTls(tls)
    if isinstance(tls, tuple) and len(tls) == 2:
        return ServerTls(*tls)
    raise LocalError(
        f"tls={tls!r} is of no use for a listener; give (certificate, key), two files, or a ServerTls, "
        "or an ssl.SSLContext"
    )


def as_client_tls(tls: Any) -> ClientTls:
    """Return what `tls` means on the side that connects.

    Raises:
        LocalError: it means nothing there.
    """
    if isinstance(tls, ClientTls):
        return tls
    if isinstance(tls, ssl.SSLContext):
        return ClientTls(tls)
    if tls is True:
        return trusting_the_system()
    raise LocalError(f"tls={tls!r} is of no use for a connect; give True, a ClientTls, or an ssl.SSLContext")


@functools.cache
def trusting_the_system() -> ClientTls:
    """Return what believes whom the system believes; made once, because to load all those takes 10 ms and more."""
    return ClientTls()


class TlsSocket:
    """Has the face of a nonblocking socket, and encrypts what goes through.

    What OpenSSL has encrypted cannot be taken back. So where the socket takes only a part of it, `send` tells of fewer
    bytes than were encrypted, at least one less, until all have left; whoever sends has to begin with the
    same bytes next time.

    Arguments:
        channel: to whom it belongs.
        raw: the socket itself.
        session: the TLS of this connection, between the two buffers.
        incoming: bytes for `session`; shared, and empty between two calls.
        outgoing: bytes from `session`; shared, and empty between two calls.
        is_upgrade: whether the channel was open before.

    Attributes:
        session: the TLS of this connection.
        begun: how many bytes of the next ones to be sent are encrypted already.
        has_more: whether `recv` has something to tell though the socket is silent.
        is_upgrade: whether the channel was open before.
    """

    __slots__ = (
        "_channel", "_failure", "_has_ended", "_head", "_incoming", "_is_broken", "_outgoing", "_raw", "_rest",
        "_unsent", "begun", "has_more", "is_secure", "is_upgrade", "session",
    )  # fmt: skip

    def __init__(
        self,
        channel: Channel,
        raw: Any,
        session: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        is_upgrade: bool,
    ) -> None:
        self.session = session
        self.is_upgrade = is_upgrade
        self.is_secure = False
        self.has_more = False
        self.begun = 0
        self._channel = channel
        self._raw = raw
        self._incoming = incoming
        self._outgoing = outgoing
        self._head = b""
        self._unsent: bytes | memoryview = b""
        self._rest = b""
        self._failure: TlsError | None = None
        self._is_broken = False
        self._has_ended = False

    # The handshake

    @property
    def has_unsent(self) -> bool:
        """Whether something waits for the socket that was encrypted already."""
        return bool(self._unsent)

    @property
    def progress(self) -> str:
        """How far the handshake has come, in words."""
        return "it was not brought to its end" if self._head else "nothing came; does the peer speak TLS on this port?"

    def greet(self) -> None:
        """Say what stands at the beginning of the handshake, if it is for this side to begin.

        Raises:
            TlsError: nothing can be said: there is no version that this side may speak, for example.
            OSError: as from the socket.
        """
        if not self.is_secure:  # else the last flight still waits for room, and `_rest` for whoever receives
            self._shake_hands()
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._send_unsent()

    def handshake(self) -> bool:
        """Take what has come and send what answers it; return whether the handshake is done.

        Raises:
            BlockingIOError: nothing has come, and nothing could be sent.
            TlsError: the handshake has failed. What tells the peer so may still have to be sent.
            OSError: as from the socket.
        """
        if self.is_secure:
            self._send_unsent()
            return not self._unsent
        try:
            data = self._raw.recv(RECEIVE_SIZE)
        except (BlockingIOError, InterruptedError):
            if not self._unsent:
                raise
            self._send_unsent()
            return False
        if not data:
            raise TlsError(f"the peer closed the connection in the handshake of TLS: {self.progress}")
        self._head += data[: HEAD - len(self._head)]
        self._shake_hands(data)
        with contextlib.suppress(BlockingIOError, InterruptedError):
            self._send_unsent()
        return self.is_secure and not self._unsent

    def _shake_hands(self, data: bytes = b"") -> None:
        try:
            self._incoming.write(data)
            with contextlib.suppress(ssl.SSLWantReadError):
                self.session.do_handshake()
                self.is_secure = True
                self._rest = self._incoming.read()
                self.has_more = bool(self._rest)
            self._keep(self._outgoing.read())
        except ssl.SSLError as error:
            raise self._broken(error) from None
        except BaseException:
            self._empty_buffers()
            raise

    # As a socket

    @property
    def family(self) -> int:
        """The family of the socket."""
        return int(self._raw.family)

    def fileno(self) -> int:
        """Return the descriptor."""
        return int(self._raw.fileno())

    def getpeername(self) -> Any:
        """Return the address of the peer."""
        return self._raw.getpeername()

    def getsockname(self) -> Any:
        """Return the address of this side."""
        return self._raw.getsockname()

    def getsockopt(self, *arguments: int) -> Any:
        """Return an option of the socket."""
        return self._raw.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """Set an option of the socket."""
        self._raw.setsockopt(*arguments)

    def recv(self, size: int) -> bytes:
        """Return what has come, decrypted; b"" once the peer has said that this was the end.

        Arguments:
            size: how many bytes to take from the socket at once, beside those that records add to what they carry.
        Raises:
            BlockingIOError: no record is complete.
            TlsError: what came is no record of this connection.
            TruncatedError: the connection has ended, and the peer has not said so.
            OSError: as from the socket.
        """
        if self.has_more:
            return self._take_more()
        data: bytes = self._raw.recv(size + RECORDS_TAKE)
        if self._is_broken:  # what comes is not encrypted, and only its end counts
            if data:
                self._channel.reactor.note_progress(self._channel)
                raise BlockingIOError
            return b""
        if not data:
            raise TruncatedError("the connection ended without the last word of TLS: something may be missing")
        return self._decrypt(data)

    def send(self, data: bytes | memoryview) -> int:
        """Encrypt `data` and send it; return how many of its bytes count as sent.

        Raises:
            BlockingIOError: the socket takes nothing, or too little to tell.
            OSError: as from the socket.
        """
        if self._unsent:
            told = self._send_unsent()
            if told:
                return told
            if self._unsent:
                raise BlockingIOError
        if not data:
            return 0
        if len(data) > ENCRYPTED_AT_ONCE:
            data = memoryview(data)[:ENCRYPTED_AT_ONCE]
        try:
            self.begun = self.session.write(data)
            self._unsent = self._outgoing.read()
        except ssl.SSLError as error:
            raise TlsError(*self._broken(error).args) from None
        except BaseException:
            self._empty_buffers()
            raise
        told = self._send_unsent()
        if not told:
            raise BlockingIOError
        return told

    def sendmsg(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Encrypt `buffers` together, and send them; see `send`."""
        if self._unsent or len(buffers) == 1:
            return self.send(buffers[0])
        together: list[bytes | memoryview] = []
        room = ENCRYPTED_AT_ONCE
        for buffer in buffers:
            together.append(buffer if len(buffer) <= room else memoryview(buffer)[:room])
            room -= len(together[-1])
            if not room:
                break
        return self.send(b"".join(together))

    def shutdown(self, how: int) -> None:
        """Say that this was the last byte, and close this direction of the socket.

        Raises:
            BlockingIOError: the socket does not take that at the moment.
            OSError: as from the socket.
        """
        self._end()
        with contextlib.suppress(InterruptedError):
            self._send_unsent()
        if self._unsent:
            raise BlockingIOError
        self._raw.shutdown(how)

    def say_goodbye(self) -> None:
        """Tell the peer that this was the last byte, if the socket takes that at once."""
        with contextlib.suppress(OSError):
            self._end()
            self._send_unsent()
            # To close with input unread sends a reset, and the tickets that a server sends in TLS 1.3 often are unread.
            self._raw.recv(RECEIVE_SIZE)

    def close(self) -> None:
        """Close the socket. OpenSSL says nothing more."""
        self._raw.close()

    def leave_channel(self) -> None:
        """Whoever uses the socket from now on is no channel, and looks at `has_more` by itself."""
        self._channel = NO_CHANNEL

    # For the above

    def _take_more(self) -> bytes:
        if self._rest:
            data, self._rest = self._rest, b""
            self.has_more = False
            return self._decrypt(data)
        if self._failure is not None:
            raise TlsError(*self._failure.args)  # one with a traceback, if kept, would keep its frames and this socket
        return b""

    def _decrypt(self, data: bytes) -> bytes:
        """Return what `data`, whatever records and parts of records it is, says."""
        incoming, read = self._incoming, self.session.read
        parts: list[bytes] = []
        try:
            incoming.write(data)
            try:
                while part := read(RECORD):
                    parts.append(part)
                    if not incoming.pending:
                        break
                else:
                    self.has_more = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:  # this side has said its last word, too
                self.has_more = True
            except ssl.SSLError as error:
                self._broken(error)
            if self.has_more:
                incoming.read()  # nothing counts behind the last word, and the next connection finds the buffer empty
            if self._outgoing.pending:
                self._answer()
        except BaseException:
            self._empty_buffers()
            raise
        channel = self._channel
        if not parts:
            if self.has_more:
                return self._take_more()
            channel.reactor.note_progress(channel)
            raise BlockingIOError
        if self.has_more:
            channel.reactor.resume_soon(channel)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _answer(self) -> None:
        """See that the peer gets what OpenSSL says of its own accord: an answer to new keys, or an alert."""
        self._keep(self._outgoing.read())
        if len(self._unsent) > UNASKED_ANSWERS + ENCRYPTED_AT_ONCE:
            self.has_more = self._is_broken = True
            self._failure = TlsError("the peer asks for new keys over and over, and takes no answer")
        elif not self.begun:
            # What does not leave now leaves in front of what is sent next; before, nobody needs it (RFC 8446, 4.6.3).
            with contextlib.suppress(OSError):
                self._send_unsent()

    def _keep(self, data: bytes) -> None:
        self._unsent = bytes(self._unsent) + data if self._unsent else data

    def _send_unsent(self) -> int:
        """Send what is encrypted already; return how many of the bytes that it was made of count as sent with that."""
        if not self._unsent:
            return 0
        sent = self._raw.send(self._unsent)
        if sent == len(self._unsent):
            told, self.begun, self._unsent = self.begun, 0, b""
        else:
            told = max(min(sent, self.begun - 1), 0)
            self.begun -= told
            self._unsent = memoryview(self._unsent)[sent:]
        return told

    def _end(self) -> None:
        if self.is_secure and not self._is_broken and not self._has_ended:
            self._has_ended = True
            try:
                with contextlib.suppress(ssl.SSLError):  # it would like to read the last word of the peer, too
                    self.session.unwrap()
                self._keep(self._outgoing.read())
            except BaseException:
                self._empty_buffers()
                raise

    def _empty_buffers(self) -> None:
        """Ctrl-C, or the handler of another signal, has interrupted OpenSSL: no other connection may find what is left.

        What is lost with that, a side notices: the records of TLS are counted.
        """
        self._incoming.read()
        self._outgoing.read()

    def _broken(self, error: ssl.SSLError) -> TlsError:
        """Use TLS no more; return what `error` means to a person, and what `recv` tells from now on."""
        self._is_broken = True
        error.__traceback__ = None  # its frames would keep the channel alive
        self._incoming.read()
        self._keep(self._outgoing.read())
        if not self.is_secure and self._head and self._head[0] not in CONTENT_TYPES:
            asks_in_http = self.session.server_side and not self.is_upgrade and is_http(self._head)
            self._unsent = HTTP_ANSWER if asks_in_http else b""
            protocol = guess_protocol(self._head)
            what = f"{protocol}, not TLS" if protocol else "no TLS"
            return TlsError(f"the peer speaks {what}: {excerpt(self._head)}", error.reason)
        failure = TlsError(f"no TLS: {meaning_of(error, self.session)}", error.reason)
        if self.is_secure:
            self.has_more, self._failure = True, failure
        return failure


class NoReactor:
    """Stands for the reactor of a socket that no channel has."""

    def note_progress(self, channel: Any) -> None:
        """Nobody looks for channels that spin."""

    def resume_soon(self, channel: Any) -> None:
        """Who uses the socket looks at `has_more`."""


class NoChannel:
    """Stands for the channel of a socket that no channel has."""

    reactor = NoReactor()


NO_CHANNEL: Any = NoChannel()


def meaning_of(error: ssl.SSLError, session: ssl.SSLObject) -> str:
    """Return in words what `error` means, and what can be done about it."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in WRONG_NAME:
            return f"the certificate of the server is not for {session.server_hostname!r}"
        whose = "client" if session.server_side else "server"
        where = "ServerTls(client_authorities=...)" if session.server_side else "ClientTls(authorities=...)"
        meaning = BAD_CERTIFICATES.get(error.verify_code, f": {error.verify_message}")
        return f"the certificate of the {whose}{meaning.format(where=where)}"
    reason = reason_of(error)
    return MEANINGS.get(reason, f"OpenSSL says {reason.replace('_', ' ').lower()}")


def reason_of(error: ssl.SSLError) -> str:
    """Return OpenSSL's word for `error`; where Python does not know the word, its text, made to look like one."""
    if getattr(error, "reason", None):  # one that Python raises by itself has none
        return str(error.reason)
    text = re.sub(r"^\[\w+\] | \(_ssl\.c:\d+\)$", "", str(error.args[-1]))
    return text.upper().replace(" ", "_")


def is_http(head: bytes) -> bool:
    """Return whether `head` is the beginning of a request of HTTP/1."""
    return guess_protocol(head) == "an HTTP request"


def _without_renegotiation(context: ssl.SSLContext) -> ssl.SSLContext:
    """In the middle of another handshake, who wants to send has to receive first: there is one in each connection."""
    context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _make_context(purpose: ssl.Purpose, authorities: Path | None, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return a context that believes `authorities`; where that is None, for SERVER_AUTH those of the system."""
    found = {} if authorities is None else {"capath" if os.path.isdir(authorities) else "cafile": authorities}
    try:
        context = ssl.create_default_context(purpose, **found)  # type: ignore[arg-type]
    except (OSError, TypeError) as error:
        raise LocalError(f"no authorities in {authorities!r}: {cause_of(error)}") from None
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if isinstance(protocols, str):
        raise LocalError(f"protocols is a list of names: [{protocols!r}]")
    try:
        if protocols:
            context.set_alpn_protocols(list(protocols))
    except (OSError, TypeError) as error:
        raise LocalError(f"protocols={protocols!r} are no names for ALPN: {cause_of(error)}") from None
    return context


def _load_certificate(
    context: ssl.SSLContext, certificate: Path, key: Path | None, password: str | bytes | None
) -> None:
    def no_password() -> str:
        raise LocalError(f"the key {os.fspath(key or certificate)!r} needs a password, and none was given")

    try:
        context.load_cert_chain(certificate, key, no_password if password is None else password)
    except (OSError, TypeError, ValueError) as error:  # SSLError is one
        names = " and ".join(repr(str(file)) for file in (certificate, key) if file is not None)
        raise LocalError(f"no certificate with its key in {names}: {cause_of(error)}") from None


def cause_of(error: OSError | TypeError | ValueError) -> str:
    """Return why a file, or another argument, could not be used, in words."""
    if isinstance(error, ssl.SSLError):
        reason = reason_of(error)
        return FILE_TROUBLES.get(reason, reason.replace("_", " ").lower())
    return getattr(error, "strerror", None) or str(error)
