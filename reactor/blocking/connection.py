"""Blocking connections: the `Connection` of ``multiprocessing.connection``, with a timeout on everything.

What `select` says of such a connection is true: as long as a complete message waits, here or in the kernel, the
descriptor is readable. So from a socket many messages are taken at once, but the last of them is only looked at
(MSG_PEEK), and taken when it is its turn. Nobody can look into a pipe: from there they come one by one.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import stat
import sys
import time
from collections import deque
from collections.abc import Iterable
from multiprocessing import BufferTooShort, reduction
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Self, SupportsIndex

from ..connection import JOINED, part_of
from ..framing import SHORT, FrameDecoder, complete_frames, encode_frames, frame_header
from ..limits import KIB, MIB, RECEIVE_SIZE

if TYPE_CHECKING:
    import ssl

UNLIMITED = sys.maxsize

PEEK, DONTWAIT = int(socket.MSG_PEEK), int(getattr(socket, "MSG_DONTWAIT", 0))  # not on Windows
"""As plain numbers: to combine those of the module, which are an IntFlag, is slow."""

PEEK_SIZE = 16 * KIB
"""Bytes looked at before they are taken. For larger messages looking costs more than it saves."""

LARGEST_READ = 128 * KIB
"""Bytes read at once: memory grows with what came, and not because a header announced it."""

OVERTIME = 8 * MIB
"""Bytes of a message that are still taken when the time is over, if they are there: what a kernel may hold of it."""

LONGEST_WAIT = 1_000_000.0
"""Seconds. Who would wait longer waits for ever: poll(2) counts milliseconds, in 31 bits."""

dumps = reduction.ForkingPickler.dumps
loads = reduction.ForkingPickler.loads

_pack = SHORT.pack


class Connection:
    """One end of a connection, for programs that want to wait: as ``multiprocessing.connection.Connection``.

    One thread may send while another one receives, but no two may do the same. Of the processes that share a
    socket only one may receive: messages that came together are taken together.

    Arguments:
        handle: the descriptor of a connected stream socket, or of a pipe. It belongs to the connection.
        readable: whether messages come from it.
        writable: whether messages can be sent.

    Raises:
        ValueError: the descriptor is negative, or the connection is good for nothing.
    """

    _handle: int | None = None

    def __init__(self, handle: SupportsIndex, readable: bool = True, writable: bool = True) -> None:
        number = handle.__index__()
        if number < 0:
            raise ValueError("invalid handle")
        if not readable and not writable:
            raise ValueError("at least one of `readable` and `writable` must be True")
        self._readable = readable
        self._writable = writable
        self._decoder = FrameDecoder(UNLIMITED)
        self._ready: deque[bytes] = deque()
        """Messages that were taken out of the kernel."""
        self._seen = b""
        """The frame of the next message but those, where it has only been looked at."""
        self._kept: list[bytes] = []
        """What was taken out of the kernel when the handler of a signal raised."""
        self._socket = _socket_of(number)
        self._handle = number

    @classmethod
    def _over(cls, sock: socket.socket) -> Self:
        """Return a connection over `sock`, which belongs to it from now on."""
        sock.setblocking(True)
        return cls(sock.detach())

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        """Whether the connection is closed."""
        return self._handle is None

    @property
    def readable(self) -> bool:
        """Whether messages come from it."""
        return self._readable

    @property
    def writable(self) -> bool:
        """Whether messages can be sent."""
        return self._writable

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS of the connection, to be asked for its `version`, `cipher`, `getpeercert` and so on; None without."""
        return None

    def fileno(self) -> int:
        """Return the descriptor, for `select` and the like: it is readable while a message waits, and at the end.

        Raises:
            OSError: the connection is closed.
        """
        if self._handle is None:
            raise OSError("handle is closed")
        return self._handle

    def close(self) -> None:
        """Close the connection; once more does nothing. Another thread that waits in it is not woken."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        self._ready = deque()  # not cleared: another thread may be about to take something out of it
        self._kept = []
        if self._socket is None:
            os.close(handle)
        else:
            self._socket.close()

    # Sending

    def send(self, obj: Any, timeout: float | None = None) -> None:
        """Send an object.

        Arguments:
            obj: anything that can be pickled.
            timeout: seconds; None waits for as long as it takes.
        Raises:
            OSError: the connection is closed, cannot send, or broke.
            TimeoutError: it took longer than `timeout`. If part of the message has left already, nothing more
                can be sent, and `writable` says so; otherwise the connection is as it was.
        """
        self._check_sending()
        self._send_frame(dumps(obj), timeout)

    def send_bytes(self, buf: Any, offset: int = 0, size: int | None = None, timeout: float | None = None) -> None:
        """Send bytes as one message.

        Arguments:
            buf: a bytes-like object.
            offset: where to begin in it, in bytes.
            size: how many bytes; None for all from `offset` on.
            timeout: seconds; None waits for as long as it takes.
        Raises:
            ValueError: `offset` or `size` is negative, or reaches past the end.
            OSError, TimeoutError: as `send`.
        """
        self._check_sending()
        if type(buf) is not bytes or offset or size is not None:
            buf = part_of(buf, offset, size)
        self._send_frame(buf, timeout)

    def send_many(self, objects: Iterable[Any], timeout: float | None = None) -> None:
        """Send objects, each as a message of its own, all in one piece; the rest is as in `send`."""
        self.send_bytes_many(map(dumps, objects), timeout)

    def send_bytes_many(self, buffers: Iterable[Any], timeout: float | None = None) -> None:
        """Send bytes-like objects, each as a message of its own, all in one piece; the rest is as in `send`."""
        self._check_sending()
        self._send_joined(encode_frames(buffers), timeout)

    # Receiving

    def recv(self, timeout: float | None = None) -> Any:
        """Return the next object.

        Arguments:
            timeout: seconds; None waits for as long as it takes.
        Raises:
            EOFError: the peer has closed the connection, and nothing is left.
            OSError: the connection is closed, cannot receive, or broke.
            TimeoutError: it took longer than `timeout`. The connection is as it was: what has come of a message
                is kept.
        """
        return loads(self.recv_bytes(None, timeout))

    def recv_bytes(self, maxlength: int | None = None, timeout: float | None = None) -> bytes:
        """Return the next message as bytes.

        Arguments:
            maxlength: the largest message that is accepted, in bytes; None for any.
            timeout: seconds; None waits for as long as it takes.
        Raises:
            OSError: as `recv`; or the message is larger than `maxlength`, and nothing can be received any more.
            EOFError, TimeoutError: as `recv`.
        """
        ready = self._ready
        if maxlength is None:
            if ready:
                return ready.popleft()
            maxlength = UNLIMITED
        self._check_receiving()
        if maxlength < 0:
            raise ValueError("negative maxlength")
        data = ready.popleft() if ready else self._fetch(maxlength, timeout)
        if len(data) > maxlength:
            self._refuse()
        return data

    def recv_bytes_many(self, timeout: float | None = None) -> list[bytes]:
        """Return all messages that are there, or else wait for the next one: at least one, for who takes many.

        Arguments:
            timeout: seconds; None waits for as long as it takes.
        Raises:
            EOFError, OSError, TimeoutError: as `recv`.
        """
        self._check_receiving()
        if self._ready:
            ready, self._ready = self._ready, deque()
            return list(ready)
        if self._socket is None or self._seen or self._kept or not self._decoder.is_between:
            return [self._fetch(UNLIMITED, timeout)]
        deadline = None if timeout is None else time.monotonic() + timeout
        return self._decoder.feed(self._read(RECEIVE_SIZE, deadline)) or [self._assemble(b"", UNLIMITED, deadline)]

    def recv_bytes_into(self, buf: Any, offset: int = 0, timeout: float | None = None) -> int:
        """Put the next message into a buffer, and return how many bytes it has.

        Arguments:
            buf: a bytes-like object that can be written to.
            offset: where to put the message, in bytes.
            timeout: seconds; None waits for as long as it takes.
        Raises:
            BufferTooShort: the message does not fit; it is ``args[0]`` of the error.
            TypeError: nothing can be written to `buf`.
            ValueError: `offset` is negative, or larger than the buffer.
            EOFError, OSError, TimeoutError: as `recv`.
        """
        self._check_receiving()
        with memoryview(buf) as view, view.cast("B") as target:
            if target.readonly:
                raise TypeError(f"a {type(buf).__name__} cannot be written to")
            if offset < 0:
                raise ValueError("negative offset")
            if offset > len(target):
                raise ValueError("offset too large")
            data = self.recv_bytes(None, timeout)
            if len(target) < offset + len(data):
                raise BufferTooShort(data)
            target[offset : offset + len(data)] = data
        return len(data)

    def poll(self, timeout: float | None = 0.0) -> bool:
        """Return whether there is something to receive, or the end.

        Arguments:
            timeout: seconds to wait for it; None waits for as long as it takes.
        Raises:
            OSError: the connection is closed, or cannot receive.
        """
        self._check_receiving()
        return bool(self._ready or self._kept) or self._wait(select.POLLIN, timeout)

    # For the above

    def _check_receiving(self) -> None:
        if self._handle is None or not self._readable:
            raise OSError("handle is closed" if self._handle is None else "connection is write-only")

    def _check_sending(self) -> None:
        if self._handle is None or not self._writable:
            raise OSError("handle is closed" if self._handle is None else "connection is read-only")

    def _wait(self, event: int, timeout: float | None) -> bool:
        """Return whether `event` comes within `timeout` seconds."""
        return wait_for(self.fileno(), event, timeout)

    def _fetch(self, maximum: int, timeout: float | None) -> bytes:
        """Return the next message, none being ready; from a large one that has over `maximum` bytes take nothing."""
        deadline = None if timeout is None else time.monotonic() + timeout
        data = b""
        if self._kept:
            data, self._kept = self._kept[0], []
        elif self._seen:
            seen, self._seen = self._seen, b""
            data = self._read(len(seen), deadline)
            if data == seen:
                return data[SHORT.size :]
        elif self._decoder.is_between:
            if self._socket is not None:
                data = self._read(PEEK_SIZE, deadline, PEEK)
                frames, end = complete_frames(data)
                if len(frames) == 1:
                    self._socket.recv(end)
                    return frames[0]
                if frames:
                    start = end - SHORT.size - len(frames.pop())
                    self._receive(start)
                    self._seen = data[start:end]
                    self._ready.extend(frames)
                    return self._ready.popleft()
            data = self._read(SHORT.size, deadline)
            size = int.from_bytes(data)
            if len(data) == SHORT.size and 0 < size <= min(maximum, LARGEST_READ):
                try:
                    body = self._read(size, deadline)
                except BaseException:
                    self._decoder.feed(data)
                    raise
                if len(body) == size:
                    return body
                data += body
        return self._assemble(data, maximum, deadline)

    def _assemble(self, data: bytes, maximum: int, deadline: float | None) -> bytes:
        """Return the next message, of which `data` comes next: piece by piece, and nothing of the one behind it."""
        decoder = self._decoder
        decoder.maximum = maximum
        overtime = OVERTIME
        try:
            while True:
                frames = decoder.feed(data)
                if frames:
                    self._ready.extend(frames)
                    return self._ready.popleft()
                if decoder.failure is not None:
                    self._refuse()
                if deadline is not None and time.monotonic() > deadline:
                    overtime -= len(data)
                    if overtime < 0:
                        raise TimeoutError("a message has not come to its end in time")
                data = self._read(min(decoder.needed, LARGEST_READ), deadline)
                if not data:
                    self._raise_end()
        finally:
            decoder.maximum = UNLIMITED  # the next call may have another limit, or none

    def _raise_end(self) -> NoReturn:
        """The stream has ended; what had come of a message goes with it."""
        decoder, self._decoder = self._decoder, FrameDecoder(UNLIMITED)
        if decoder.is_between_parts:  # for the original each of these is an end in good order
            raise EOFError
        raise OSError(f"got end of file during message: {decoder.finish()}")

    def _read(self, size: int, deadline: float | None, flags: int = 0) -> bytes:
        if deadline is None:
            return self._socket.recv(size, flags) if flags and self._socket is not None else self._receive(size)
        while True:
            if not self._wait(select.POLLIN, deadline - time.monotonic()):
                raise TimeoutError("no message has come in time")
            with contextlib.suppress(BlockingIOError):
                if flags and self._socket is not None:
                    return self._socket.recv(size, flags | DONTWAIT)
                return self._receive(size, DONTWAIT)

    def _receive(self, size: int, flags: int = 0) -> bytes:
        """Take up to `size` bytes out of the kernel. Where the handler of a signal raises, they are in `_kept`."""
        # Handlers run between two instructions of Python: there must be none between the system call and `_kept`.
        kept = self._kept
        if self._socket is None:
            kept.extend(map(os.read, (self.fileno(),), (size,)))
        else:
            kept.extend(map(self._socket.recv, (size,), (flags,)))
        self._kept = []
        return kept[0]

    def _refuse(self) -> NoReturn:
        """A message is too long: what follows makes no sense any more."""
        self._ready.clear()
        if self._writable:
            self._readable = False
        else:
            self.close()
        raise OSError("bad message length")

    def _send_frame(self, data: bytes | memoryview, timeout: float | None) -> None:
        size = len(data)
        if size <= JOINED:
            self._send_joined(_pack(size) + data, timeout)
        else:
            self._send_pieces([frame_header(size), data], timeout)

    def _send_joined(self, data: bytes, timeout: float | None) -> None:
        if timeout is None:
            try:
                sent = os.write(self.fileno(), data) if self._socket is None else self._socket.send(data)
                if sent < len(data):
                    self._send_pieces([memoryview(data)[sent:]], None, has_begun=True)
            except BaseException as error:
                self._note_interrupted_send(error)
                raise
        elif data:
            self._send_pieces([data], timeout)

    def _send_pieces(self, pieces: list[bytes | memoryview], timeout: float | None, has_begun: bool = False) -> None:
        deadline = None if timeout is None else time.monotonic() + timeout
        queue: deque[memoryview] = deque(memoryview(piece) for piece in pieces)
        try:
            while queue:
                if deadline is not None and not self._wait(select.POLLOUT, deadline - time.monotonic()):
                    raise TimeoutError("the peer takes nothing, or not all of it in time")
                try:
                    sent = self._write(queue, may_block=deadline is None)
                except BlockingIOError:
                    if deadline is None:
                        if not has_begun:
                            raise
                        self._wait(select.POLLOUT, None)
                    continue
                has_begun = True
                drop_front(queue, sent)
        except BaseException as error:
            if has_begun and not isinstance(error, ConnectionError):
                self._writable = False  # what followed would be taken for the rest of the message
            raise

    def _write(self, queue: deque[memoryview], may_block: bool) -> int:
        try:
            if self._socket is not None:
                return self._socket.sendmsg(queue, [], 0 if may_block else DONTWAIT)
            if may_block:
                return os.writev(self.fileno(), queue)
            return os.write(self.fileno(), queue[0][: select.PIPE_BUF])  # so much a pipe takes if it takes anything
        except BaseException as error:
            self._note_interrupted_send(error)
            raise

    def _note_interrupted_send(self, error: BaseException) -> None:
        """Send no more if `error` is no system call's, but of a signal's handler: how much has left is lost with it."""
        if getattr(error, "errno", None) is None:
            self._writable = False


def drop_front(queue: deque[memoryview], size: int) -> None:
    """Drop the first `size` bytes of what is in `queue`, and what is empty behind them."""
    while queue and size >= len(queue[0]):
        size -= len(queue.popleft())
    if queue:
        queue[0] = queue[0][size:]


def wait_for(number: int, event: int, timeout: float | None) -> bool:
    """Return whether `event`, as of poll(2), comes at the descriptor within `timeout` seconds."""
    if timeout is not None:
        timeout = None if timeout >= LONGEST_WAIT else max(timeout, 0) * 1000
    poll = select.poll()
    poll.register(number, event)
    return bool(poll.poll(timeout))


def _socket_of(number: int) -> socket.socket | None:
    """Return the socket that the descriptor is; None if it is a pipe, or not open: the first use will tell."""
    try:
        is_socket = stat.S_ISSOCK(os.fstat(number).st_mode)
    except OSError:
        return None
    if not is_socket:
        return None
    is_blocking = os.get_blocking(number)
    sock = socket.socket(fileno=number)
    if socket.getdefaulttimeout() is not None:
        sock.settimeout(None)
        os.set_blocking(number, is_blocking)
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # there are others than TCP
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _reduce(connection: Connection) -> tuple[Any, ...]:
    duplicate = reduction.DupFd(connection.fileno())
    received = (connection._decoder, list(connection._ready), connection._kept)
    state = (connection._readable, connection._writable, *received)
    return _rebuild, (duplicate, *state)


def _rebuild(
    duplicate: Any, readable: bool, writable: bool, decoder: FrameDecoder, ready: list[bytes], kept: list[bytes]
) -> Connection:
    connection = Connection(duplicate.detach(), readable, writable)
    connection._decoder = decoder
    connection._ready.extend(ready)
    connection._kept = kept
    return connection


reduction.register(Connection, _reduce)
