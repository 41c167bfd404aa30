"""The other side of TLS, for tests: in memory, over a socket, and one that writes its records itself; and our side."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
import warnings
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

import reactor
from reactor import ClientTls
from tests import certificates
from tests.conftest import RecordingConnection, RecordingStream, run_until
from tests.faults import AcceptingSocket, Server, turns

TLS_1_1 = ssl.TLSVersion.TLSv1_1
TLS_1_2 = ssl.TLSVersion.TLSv1_2
TLS_1_3 = ssl.TLSVersion.TLSv1_3


FILES = certificates.certificate_and_key
ANY_PORT = ("127.0.0.1", 0)
LARGE = os.urandom(3_000_000)


@functools.cache
def swaks_speaks_tls() -> bool:
    """Whether swaks is here, and the module of Perl that it needs for TLS."""
    if shutil.which("swaks") is None:
        return False
    done = subprocess.run(["swaks", "--support"], capture_output=True, text=True, check=False)
    return "TLS supported" in done.stdout + done.stderr


def client_context(
    version: ssl.TLSVersion | None = None, certificate: str | None = None, protocols: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """What a client of the standard library has; with `version`, it speaks no other one."""
    context = ssl.create_default_context(cafile=certificates.authorities())
    return _completed(context, version, certificate, protocols)


def trusting_context(version: ssl.TLSVersion | None = None, certificate: str | None = None) -> ssl.SSLContext:
    """What a client has that believes everybody."""
    context = client_context(version, certificate)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def server_context(
    version: ssl.TLSVersion | None = None, certificate: str | None = None, protocols: tuple[str, ...] = ()
) -> ssl.SSLContext:
    """What a server of the standard library has; with `version`, it speaks no other one."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    return _completed(context, version, certificate or certificates.certificate(), protocols)


def _completed(
    context: ssl.SSLContext, version: ssl.TLSVersion | None, certificate: str | None, protocols: tuple[str, ...]
) -> ssl.SSLContext:
    if certificate is not None:
        context.load_cert_chain(certificate)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if version is not None:
        if version == TLS_1_1:
            context.set_ciphers("ALL:@SECLEVEL=0")  # OpenSSL 3 has no other cipher for it
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
    return context


class MemoryPeer:
    """The other side of a connection, in memory: it takes bytes, and gives bytes.

    Arguments:
        context: a context of the standard library.
        is_server: whether it accepts.
        name: whom a client asks for.

    Attributes:
        received: what came, decrypted.
        has_ended: whether the close_notify of the other side has come.
        is_secure: whether the handshake is done.
    """

    def __init__(self, context: ssl.SSLContext, is_server: bool = False, name: str | None = "localhost") -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self.incoming, self.outgoing, is_server, None if is_server else name)
        self.received = bytearray()
        self.has_ended = self.is_secure = False

    def feed(self, data: bytes = b"") -> bytes:
        """Take `data`, and return what this side answers.

        Raises:
            ssl.SSLError: the handshake has failed, or the other side says that something did.
        """
        self.incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            if not self.is_secure:
                self.session.do_handshake()
                self.is_secure = True
            while True:
                try:
                    part = self.session.read(1 << 14)
                except ssl.SSLZeroReturnError:  # this side has ended already
                    part = b""
                if not part:
                    self.has_ended = True
                    break
                self.received += part
        return self.outgoing.read()

    def write(self, data: bytes) -> bytes:
        """Return `data` encrypted, in records of full size."""
        sent = 0
        while sent < len(data):
            sent += self.session.write(memoryview(data)[sent:])
        return self.outgoing.read()

    def goodbye(self) -> bytes:
        """Return the close_notify of this side."""
        with contextlib.suppress(ssl.SSLWantReadError):
            self.session.unwrap()
        return self.outgoing.read()


class SocketPeer(MemoryPeer):
    """The other side of a connection, over a socket that does not block: `turn` it between the turns of the loop.

    Attributes:
        is_closed: whether the connection has ended, with a close_notify or without.
    """

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, is_server: bool = False, name: str | None = "localhost"
    ) -> None:
        super().__init__(context, is_server, name)
        self.sock = sock
        self.unsent = b""
        self.is_closed = False

    def turn(self) -> SocketPeer:
        """Take what is there, and send what answers it."""
        data = b""
        try:
            data = self.sock.recv(1 << 20)
            self.is_closed = not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.is_closed = True
        self.send(self.feed(data))
        return self

    def send(self, data: bytes) -> None:
        """Send bytes as they are, or as much of them as the socket takes now: the others with the next turns."""
        self.unsent += data
        with contextlib.suppress(BlockingIOError, ConnectionError):
            while self.unsent:
                self.unsent = self.unsent[self.sock.send(self.unsent) :]

    def push(self, data: bytes) -> None:
        """Send `data` encrypted."""
        self.send(self.write(data))


class Forger:
    """Writes records of TLS 1.3 (RFC 8446, section 5) as no OpenSSL would.

    Arguments:
        log: what the context of the peer has written into its `keylog_filename`.
        label: whose secret: ``"CLIENT_TRAFFIC_SECRET_0"`` or that of the server.
    """

    def __init__(self, log: Path, label: str = "CLIENT_TRAFFIC_SECRET_0") -> None:
        lines = [line.split() for line in log.read_text().splitlines()]
        (secret,) = (words[2] for words in lines if words[0] == label)
        self._use(bytes.fromhex(secret))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(self._expand(b"key", 32))
        self._start = int.from_bytes(self._expand(b"iv", 12), "big")
        self._number = 0

    def _expand(self, label: bytes, size: int) -> bytes:
        info = size.to_bytes(2, "big") + bytes([6 + len(label)]) + b"tls13 " + label + b"\0"
        return HKDFExpand(hashes.SHA384(), size, info).derive(self._secret)

    def record(self, content: bytes, kind: int = 23) -> bytes:
        """Return `content` as one record; 23 is data, 22 a part of a handshake, 21 an alert."""
        head = bytes([23, 3, 3]) + (len(content) + 17).to_bytes(2, "big")
        nonce = (self._start ^ self._number).to_bytes(12, "big")
        self._number += 1
        return head + self._key.encrypt(nonce, content + bytes([kind]), head)

    def new_keys(self, wants_answer: bool = True) -> bytes:
        """Return a record that announces new keys, and use those from then on (section 4.6.3)."""
        data = self.record(bytes([24, 0, 0, 1, wants_answer]), 22)
        self._use(self._expand(b"traffic upd", 48))
        return data


class RawSocket:
    """Stands for a nonblocking socket that gives what a test says, and takes as many bytes as it says.

    Attributes:
        input: what the next receives give: bytes, at most one entry each, or an exception.
        taken: what was sent.
        room: how many bytes the next sends take, one entry each; without an entry, all.
        is_full: whether it takes nothing, whatever `room` says.
        ended: what `shutdown` was told.
    """

    family = int(socket.AF_UNIX)

    def __init__(self) -> None:
        self.input: list[bytes | Exception] = []
        self.taken = bytearray()
        self.room: list[int] = []
        self.is_full = self.is_closed = False
        self.ended: list[int] = []
        self.options: list[Any] = []

    def recv(self, size: int) -> bytes:
        if not self.input:
            raise BlockingIOError
        data = self.input.pop(0)
        if isinstance(data, Exception):
            raise data
        if len(data) > size:
            self.input.insert(0, data[size:])
        return data[:size]

    def send(self, data: bytes | memoryview) -> int:
        taken = min(self.room.pop(0) if self.room else len(data), len(data))
        if self.is_full or not taken:
            raise BlockingIOError
        self.taken += data[:taken]
        return taken

    def take(self) -> bytes:
        """Return what was sent since the last time."""
        taken, self.taken = bytes(self.taken), bytearray()
        return taken

    def shutdown(self, how: int) -> None:
        self.ended.append(how)

    def close(self) -> None:
        self.is_closed = True

    def fileno(self) -> int:
        return 7

    def getpeername(self) -> str:
        return "the peer"

    def getsockname(self) -> str:
        return "this side"

    def getsockopt(self, *arguments: int) -> tuple[int, ...]:
        return arguments

    def setsockopt(self, *arguments: Any) -> None:
        self.options.append(arguments)


def believing(**options: Any) -> ClientTls:
    """Return what a client of the tests wants."""
    return ClientTls(certificates.authorities(), **options)


class Ended(RecordingStream):
    """Writes down the end of the input, too, and what else it is told."""

    def handle_eof(self) -> None:
        self.events.append(("eof",))

    def handle_secured(self) -> None:
        self.events.append(("secured",))


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


class EchoMessages(RecordingConnection):
    codec = "bytes"

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        self.send(message)


def connected(server: Server, context: ssl.SSLContext | None = None, **options: Any) -> tuple[SocketPeer, Any]:
    """Return a client, of the standard library's TLS, and its channel, which is open."""
    sock, channel = server.pair()
    peer = SocketPeer(sock, context or client_context(), **options)
    run_until(server.loop, lambda: peer.turn().is_secure and channel.of("open"))
    turns(server.loop, 2)
    peer.turn()
    return peer, channel


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return the lines of the log, without the channel at their beginning."""
    assert all("\n" not in record.getMessage() for record in caplog.records)
    return [record.getMessage().partition("): ")[2] for record in caplog.records if record.name == "reactor"]


class RecordingLines(reactor.LineChannel):
    """A channel for lines that writes down what happens to it."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    handle_open = RecordingStream.handle_open
    handle_close = RecordingStream.handle_close
    of = RecordingStream.of

    def handle_error(self, error: Exception) -> None:
        self.events.append(("error", error))
        super().handle_error(error)

    def handle_line(self, line: str) -> None:
        self.events.append(("line", line))

    def handle_secured(self) -> None:
        self.events.append(("secured",))


class OneByOne(AcceptingSocket):
    """A socket that takes one byte at a time, and gives one at a time."""

    def send(self, data: Any, flags: int = 0) -> int:
        return super().send(data[:1])

    def recv(self, size: int, flags: int = 0) -> bytes:
        return super().recv(1)
