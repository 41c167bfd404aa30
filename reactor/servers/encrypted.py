"""What a handler gets for its request over TLS: a blocking socket, as the handler knows it from `ssl`."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from ..blocking.connection import wait_for
from ..errors import TruncatedError
from ..limits import RECEIVE_SIZE

if TYPE_CHECKING:
    import ssl

    from ..tls import TlsSocket


class EncryptedSocket:
    """A blocking socket over TLS: one thread may send while another one receives.

    As with an `ssl.SSLSocket`, the end of the connection reads as the end of the data even where the peer has not said
    that it was the end: many clients never do. `is_truncated` tells.

    Arguments:
        sock: over which the handshakes are done. It belongs to this one.
        data: what came behind them.
        timeout: as in `settimeout`.
        patience: seconds for the last word of TLS to leave, in `shutdown`; None for no limit.

    Attributes:
        session: the TLS of the connection, to be asked for its `version`, `cipher`, `getpeercert` and so on.
        is_truncated: whether the input has ended without the last word of TLS: something may be missing.
    """

    def __init__(
        self, sock: TlsSocket, data: bytes = b"", timeout: float | None = None, patience: float | None = None
    ) -> None:
        self.session: ssl.SSLObject = sock.session
        self.is_truncated = False
        self._tls = sock
        self._received = memoryview(data)
        self._timeout = timeout
        self._patience = patience
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._has_ended = False
        self._is_cut = False
        self._io_refs = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.fileno()}>"

    # Receiving

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Return what has come, `bufsize` bytes at the most, and b"" at the end; wait if nothing has come.

        Raises:
            TimeoutError: nothing has come within the timeout.
            TlsError: what came is not what the peer has encrypted.
            OSError: the connection broke, or is closed here.
            ValueError: there are flags, or the size is negative.
        """
        check_flags(flags)
        if bufsize < 0:
            raise ValueError("negative buffersize in recv")
        if not self._received and bufsize:
            self._received = memoryview(self._receive())
        data, self._received = self._received[:bufsize], self._received[bufsize:]
        return data.tobytes()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Put what has come into `buffer`, `nbytes` at the most, and return how many bytes that is; see `recv`."""
        with memoryview(buffer) as view, view.cast("B") as target:
            data = self.recv(min(nbytes, len(target)) if nbytes else len(target), flags)
            target[: len(data)] = data
        return len(data)

    def pending(self) -> int:
        """Return how many bytes at least are here already, where `select` does not see them."""
        return len(self._received) or int(self._tls.has_more)

    # Sending

    def send(self, data: Any, flags: int = 0) -> int:
        """Send `data`, all of it unless the timeout is 0, and return how many bytes that is; see `sendall`."""
        if self._timeout != 0:
            self.sendall(data, flags)
            return memoryview(data).nbytes
        check_flags(flags)
        with self._sending, memoryview(data) as given, given.cast("B") as view:
            sent: int = self._retry(select.POLLOUT, None, self._send, view) if view else 0
        return sent

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send `data`.

        Raises:
            TimeoutError: the peer has not taken all of it within the timeout. Nothing more can be sent then.
            OSError: the connection broke, or is closed here.
            ValueError: there are flags.
        """
        check_flags(flags)
        deadline = self._deadline(self._timeout)
        with self._sending, memoryview(data) as given, given.cast("B") as view:
            sent = 0
            try:
                while sent < len(view):
                    with view[sent:] as rest:
                        sent += self._retry(select.POLLOUT, deadline, self._send, rest)
            except BaseException:
                self._is_cut = bool(self._tls.begun)
                raise

    def sendfile(self, file: BinaryIO, offset: int = 0, count: int | None = None) -> int:
        """Send `file` from `offset` on, `count` bytes at the most, and return how many bytes that was."""
        file.seek(offset)
        sent = 0
        while count is None or sent < count:
            data = file.read(RECEIVE_SIZE if count is None else min(RECEIVE_SIZE, count - sent))
            if not data:
                break
            self.sendall(data)
            sent += len(data)
        return sent

    # The end

    def shutdown(self, how: int) -> None:
        """Say that this was the last byte, unless `how` is SHUT_RD, and close these directions of the connection.

        Raises:
            OSError: the peer is gone, or takes nothing; or something was sent that did not leave as a whole.
        """
        if how != socket.SHUT_WR:
            self._has_ended = True
        if how == socket.SHUT_RD:
            return
        if self._is_cut:
            raise OSError(errno.EPIPE, "something was cut short, so this is no good end")
        self._retry(select.POLLOUT, self._deadline(self._patience), self._tls.shutdown, how)

    def close(self) -> None:
        """Close the socket, as soon as all files are closed that `makefile` made; once more does nothing."""
        self._closed = True
        if self._io_refs <= 0:
            self._real_close()

    def forget(self) -> None:
        """Say nothing to the peer at the close: another process has the connection."""
        self._is_cut = True

    # What it has from others

    makefile: Callable[..., Any] = socket.socket.makefile

    def getpeercert(self, binary_form: bool = False) -> Any:
        """Return the certificate of the peer; see `ssl.SSLSocket.getpeercert`."""
        return self.session.getpeercert(binary_form)

    def cipher(self) -> Any:
        """Return the cipher, its protocol and its number of secret bits."""
        return self.session.cipher()

    def version(self) -> str | None:
        """Return the version of TLS."""
        return self.session.version()

    def selected_alpn_protocol(self) -> str | None:
        """Return the protocol that both sides have agreed on (ALPN)."""
        return self.session.selected_alpn_protocol()

    @property
    def family(self) -> socket.AddressFamily:
        """The family of the socket."""
        return socket.AddressFamily(self._tls.family)

    def fileno(self) -> int:
        """Return the descriptor; -1 once it is closed."""
        return self._tls.fileno()

    def getpeername(self) -> Any:
        """Return the address of the peer."""
        return self._tls.getpeername()

    def getsockname(self) -> Any:
        """Return the address of this side."""
        return self._tls.getsockname()

    def getsockopt(self, *arguments: int) -> Any:
        """Return an option of the socket."""
        return self._tls.getsockopt(*arguments)

    def setsockopt(self, *arguments: Any) -> None:
        """Set an option of the socket."""
        self._tls.setsockopt(*arguments)

    def gettimeout(self) -> float | None:
        """Return the timeout, in seconds."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Set the timeout for everything, in seconds; None waits for as long as it takes, 0 does not wait."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = value

    def getblocking(self) -> bool:
        """Return whether it waits at all."""
        return self._timeout != 0

    def setblocking(self, flag: bool) -> None:
        """Wait for as long as it takes, or not at all."""
        self.settimeout(None if flag else 0.0)

    # For the above

    def _receive(self) -> bytes:
        if self._has_ended:
            return b""
        try:
            data: bytes = self._retry(select.POLLIN, self._deadline(self._timeout), self._tls.recv, RECEIVE_SIZE)
        except TruncatedError:
            self.is_truncated, data = True, b""
        self._has_ended = not data
        return data

    def _send(self, data: memoryview) -> int:
        if self._is_cut:
            raise OSError(errno.EPIPE, "what was sent before has not left as a whole, so nothing more can be sent")
        return self._tls.send(data)

    def _retry(self, event: int, deadline: float | None, method: Callable[..., Any], *arguments: Any) -> Any:
        """Return what `method` of the nonblocking socket returns; wait for `event` while it says that it blocks."""
        while True:
            number = self.fileno()
            if number < 0:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            try:
                with self._lock:  # OpenSSL allows no two threads at once
                    return method(*arguments)
            except BlockingIOError:
                if self._timeout == 0:
                    raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN)) from None
            left = None if deadline is None else deadline - time.monotonic()
            if (left is not None and left <= 0) or not wait_for(number, event, left):
                raise TimeoutError("timed out")

    @staticmethod
    def _deadline(timeout: float | None) -> float | None:
        return None if timeout is None else time.monotonic() + timeout

    def _real_close(self) -> None:
        with self._lock:
            if self.fileno() >= 0 and not self._is_cut:
                self._tls.say_goodbye()
            self._tls.close()

    def _decref_socketios(self) -> None:
        """For the files of `makefile`: one of them is closed."""
        if self._io_refs > 0:
            self._io_refs -= 1
        if self._closed:
            self.close()


def check_flags(flags: int) -> None:
    """Raise ValueError if there are any: for TLS they have no meaning."""
    if flags:
        raise ValueError(f"flags are of no use for a socket over TLS; these are {flags:#x}")
