"""Blocking connections over TLS."""

from __future__ import annotations

import copy
import os
import select
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, NoReturn

from ..errors import ConnectionLost
from ..framing import FrameDecoder
from ..limits import RECEIVE_SIZE
from .connection import OVERTIME, UNLIMITED, Connection, drop_front, wait_for

if TYPE_CHECKING:
    import ssl

    from ..tls import TlsSocket


class Bell:
    """A descriptor that is readable while a socket is, or while it rings: what was decrypted is in no kernel.

    Arguments:
        number: the descriptor of the socket.
    """

    def __init__(self, number: int) -> None:
        self._rings = False
        self._epoll = select.epoll()
        self._epoll.register(number, select.EPOLLIN)
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._epoll.register(self._event, select.EPOLLIN)
        except BaseException:
            self.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._epoll.fileno()

    def ring(self, rings: bool) -> None:
        """Ring from now on, or be silent."""
        if rings != self._rings:
            self._rings = rings
            if rings:
                os.eventfd_write(self._event, 1)
            else:
                os.eventfd_read(self._event)

    def close(self) -> None:
        """Give both descriptors back."""
        self._epoll.close()
        os.close(self._event)


class EncryptedConnection(Connection):
    """A `Connection` over TLS, as `Listener` and `Client` make it with ``tls=``.

    It belongs to the process that made it, for its keys are there. The child of a fork can only close it, and the
    peer hears nothing of that.

    Arguments:
        sock: over which the handshakes are done. It belongs to the connection.
        data: what came behind them.
    """

    def __init__(self, sock: TlsSocket, data: bytes) -> None:
        self._readable = self._writable = True
        self._decoder = FrameDecoder(UNLIMITED)
        self._frames = deque(self._decoder.feed(data))
        self._ready, self._kept, self._socket = deque(), [], None
        self._tls = sock
        self._process = os.getpid()
        # One thread may send while another one receives; OpenSSL allows no such thing. The handler of a signal may
        # close the connection in the middle of a call.
        self._lock = threading.RLock()
        self._failure: OSError | None = None
        self._has_ended = False
        self._bell: Bell | None = None
        self._handle = sock.fileno()
        if sock.has_more:
            self._receive_some()  # from here on only the end and a failure can be left there

    def __reduce__(self) -> NoReturn:
        raise TypeError("a connection over TLS cannot be given to another process: its keys stay here")

    @property
    def tls(self) -> ssl.SSLObject:
        return self._tls.session

    def fileno(self) -> int:
        self._check_process()
        with self._lock:
            handle = super().fileno()
            if not hasattr(select, "epoll"):
                return handle
            if self._bell is None:
                self._bell = Bell(handle)
                self._announce()
            return self._bell.fileno()

    def close(self) -> None:
        if self._handle is None:
            return
        self._handle = None
        if os.getpid() != self._process:
            self._give_back()
            return
        with self._lock:
            self._receive_some()  # for what was not received the kernel would reset the connection, and lose our last
            if self._writable:
                self._tls.say_goodbye()
            self._give_back()

    def recv_bytes_many(self, timeout: float | None = None) -> list[bytes]:
        self._check_receiving()
        first = self._fetch(UNLIMITED, timeout)
        rest, self._frames = self._frames, deque()
        self._announce()
        return [first, *rest]

    def poll(self, timeout: float | None = 0.0) -> bool:
        self._check_receiving()
        return self._has_come(UNLIMITED, timeout)

    # For the methods of `Connection`

    def _check_receiving(self) -> None:
        self._check_process()
        super()._check_receiving()

    def _check_sending(self) -> None:
        self._check_process()
        super()._check_sending()

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise OSError("a connection over TLS belongs to the process that made it: a child can only close it")

    def _give_back(self) -> None:
        self._tls.close()
        bell, self._bell = self._bell, None
        if bell is not None:
            bell.close()

    @property
    def _has_news(self) -> bool:
        return bool(self._frames or self._decoder.failure or self._failure or self._has_ended)

    def _has_come(self, maximum: int, timeout: float | None) -> bool:
        """Return whether there is news within `timeout` seconds, or a message of over `maximum` bytes has begun."""
        deadline = None if timeout is None else time.monotonic() + timeout
        left = None
        overtime = OVERTIME
        while not self._has_news and self._decoder.announced <= maximum:
            if overtime < 0:
                return False
            has_progress = self._receive_some()
            if deadline is not None:
                left = deadline - time.monotonic()
                overtime -= RECEIVE_SIZE if left < 0 else 0
            if not has_progress and not self._wait(select.POLLIN, left):
                return False
        return True

    def _fetch(self, maximum: int, timeout: float | None) -> bytes:
        if not self._has_come(maximum, timeout):
            raise TimeoutError("no message has come in time")
        if not self._frames:
            if self._decoder.failure is not None or self._decoder.announced > maximum:
                self._refuse()
            if self._failure is not None:
                raise copy.copy(self._failure)  # the traceback of the original would keep the connection alive
            self._raise_end()
        data = self._frames.popleft()
        if self._bell is not None:
            self._announce()
        return data

    def _receive_some(self) -> bool:
        """Decrypt what has come; return whether that was anything. A failure is noted, and told when it is its turn."""
        try:
            with self._lock:
                data = self._tls.recv(RECEIVE_SIZE)
                self._has_ended = not data
                self._frames.extend(self._decoder.feed(data))
        except (BlockingIOError, InterruptedError):
            return False
        except BaseException as error:
            if isinstance(error, OSError) and (error.errno is not None or isinstance(error, ConnectionLost)):
                self._failure = error.with_traceback(None)
            else:
                self._failure = OSError("a signal came in the middle of receiving: part of what had come is lost")
                raise
        finally:
            self._announce()
        return True

    def _announce(self) -> None:
        """Let whoever waits for the descriptor know what is here already."""
        with self._lock:
            if self._bell is not None:
                self._bell.ring(self._has_news or self._tls.has_more)

    def _wait(self, event: int, timeout: float | None) -> bool:
        return wait_for(super().fileno(), event, timeout)

    def _send_joined(self, data: bytes, timeout: float | None) -> None:
        if data:
            self._send_pieces([data], timeout)

    def _send_pieces(self, pieces: list[bytes | memoryview], timeout: float | None, has_begun: bool = False) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        left = None
        must_wait = deadline is not None  # before anything is encrypted: where there is no room, nothing has happened
        queue: deque[memoryview] = deque(memoryview(piece) for piece in pieces)
        try:
            while queue:
                if deadline is not None:
                    left = deadline - time.monotonic()
                if must_wait and not self._wait(select.POLLOUT, left):
                    raise TimeoutError("the peer takes nothing, or not all of it in time")
                try:
                    with self._lock:
                        sent = self._tls.sendmsg(queue)
                except BlockingIOError:
                    must_wait = True
                except BaseException as error:
                    self._note_interrupted_send(error)
                    raise
                else:
                    has_begun = True
                    drop_front(queue, sent)
        except BaseException as error:
            # What is encrypted cannot be taken back, even if nothing of it has left.
            if (has_begun or self._tls.begun) and not isinstance(error, ConnectionError):
                self._writable = False
            raise
