"""The module `asyncore` of Python 3.11, on the reactor: for programs that lost it in Python 3.12.

All its names are here, with the same arguments, defaults and behaviour, and they are looked up in this module, so that
a program may replace them. What is better than it was:

- `poll` and `poll2` are both epoll underneath (where there is none: poll). No descriptor is too large, no timeout too
  long or too short, and who is idle costs no system call.
- The reactor of the thread, `reactor.get_reactor()`, runs in the same loop: its channels, timers and calls from
  other threads get their turn at the end of each pass.
- A listener stays when the descriptors run out; it rests for a moment and tries again. `log_info` is told once, and
  `handle_error`, which closes, is not.
- An event is not given to an object that took over the descriptor's number, or its place in the map, in the same pass.
- A descriptor that was closed behind its object's back ends that object, with `handle_close`, and not the loop.
- For `poll2` too, a key of the map may be any object with a ``fileno()``.

What may be noticed: a pass may end early with nothing to tell; no pass lasts longer than half a minute; and what was
replaced in `select` is only used where it is not what it was when this module was imported.

`loop` returns when its map is empty, as it always did, whatever the reactor has left to do; ``reactor.loop()`` does
the rest. The reactor's own `loop` knows nothing of the map.
"""

from __future__ import annotations

import os
import select
import socket
import sys
import time
import warnings
from errno import (
    EAGAIN,
    EALREADY,
    EBADF,
    ECONNABORTED,
    ECONNRESET,
    EINPROGRESS,
    EINVAL,
    EISCONN,
    EMFILE,
    ENFILE,
    ENOBUFS,
    ENOMEM,
    ENOTCONN,
    EPIPE,
    ESHUTDOWN,
    EWOULDBLOCK,
    errorcode,
)
from types import TracebackType
from typing import Any

from . import watching
from .passes import Pass, SocketMap
from .watching import ERROR, HANGUP, INVALID, READ, URGENT, WRITE

__all__ = [  # what ``from asyncore import *`` has always given
    "EAGAIN", "EALREADY", "EBADF", "ECONNABORTED", "ECONNRESET", "EINPROGRESS", "EINVAL", "EISCONN", "ENOTCONN",
    "EPIPE", "ESHUTDOWN", "EWOULDBLOCK", "ExitNow", "close_all", "compact_traceback", "dispatcher",
    "dispatcher_with_send", "errorcode", "file_dispatcher", "file_wrapper", "loop", "os", "poll", "poll2", "poll3",
    "read", "readwrite", "select", "socket", "socket_map", "sys", "time", "warnings", "write",
]  # fmt: skip

_DISCONNECTED = frozenset({ECONNRESET, ENOTCONN, ESHUTDOWN, ECONNABORTED, EPIPE, EBADF})
_EXHAUSTED = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})

_original_select = select.select
_original_poll = getattr(select, "poll", None)

socket_map: SocketMap = globals().get("socket_map", {})
"""The map that is used where none is given. It outlives a reload of the module."""


def _strerror(err: int) -> str:
    try:
        return os.strerror(err)
    except (ValueError, OverflowError):
        return errorcode.get(err, f"Unknown error {err}")


class ExitNow(Exception):
    """Raise it in a handler to get out of the loop."""


_reraised_exceptions: tuple[type[BaseException], ...] = (ExitNow, KeyboardInterrupt, SystemExit)


# What happened, told to an object of the map


def read(obj: Any) -> None:
    """Tell `obj` that it can read."""
    try:
        obj.handle_read_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def write(obj: Any) -> None:
    """Tell `obj` that it can write."""
    try:
        obj.handle_write_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def _exception(obj: Any) -> None:
    try:
        obj.handle_expt_event()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


def readwrite(obj: Any, flags: int) -> None:
    """Tell `obj` all that happened, by the flags of `select.poll`."""
    try:
        if flags & READ:
            obj.handle_read_event()
        if flags & WRITE:
            obj.handle_write_event()
        if flags & URGENT:
            obj.handle_expt_event()
        if flags & (HANGUP | ERROR | INVALID):
            obj.handle_close()
    except OSError as error:
        if error.errno in _DISCONNECTED:
            obj.handle_close()
        else:
            obj.handle_error()
    except _reraised_exceptions:
        raise
    except BaseException:
        obj.handle_error()


# One pass


def _ask_select(interest: dict[int, int], timeout: float | None) -> dict[int, int]:
    happened: dict[int, int] = {}
    flags = (READ, WRITE, URGENT)
    read, write, urgent = ([fd for fd, wanted in interest.items() if wanted & flag] for flag in flags)
    for flag, ready in zip(flags, select.select(read, write, urgent, timeout), strict=True):
        for fd in ready:
            happened[fd] = happened.get(fd, 0) | flag
    return happened


def _ask_poll(interest: dict[int, int], timeout: float | None) -> dict[int, int]:
    pollster = select.poll()
    for fd, flags in interest.items():
        pollster.register(fd, flags)
    return dict(pollster.poll(None if timeout is None else int(timeout * 1000)))


def poll(timeout: float | None = 0.0, map: SocketMap | None = None) -> None:
    """Run one pass over the map: wait for something to happen, and tell whom it happened to.

    Arguments:
        timeout: seconds to wait at most; None for as long as it takes, up to half a minute.
        map: the objects to ask, by descriptor; by default `socket_map`.
    """
    if map is None:
        map = socket_map
    this = Pass(map)
    interest = {}
    for key, obj in this.items:
        is_readable = obj.readable()
        is_writable = obj.writable()
        if is_readable or is_writable:
            flags = URGENT | READ if is_readable else URGENT
            if is_writable and not obj.accepting:
                flags |= WRITE
            interest[key if type(key) is int else this.descriptor(key)] = flags
    if map and not interest and this.reactor is None:
        time.sleep(timeout)  # type: ignore[arg-type]
        return
    if map and timeout is not None and timeout < 0:
        raise ValueError("timeout must be non-negative")
    this.wait(interest, timeout, None if select.select is _original_select else _ask_select)
    for fd, obj, _ in this.ready(INVALID):
        this.rest(fd)
        readwrite(obj, INVALID)
    # The order of select: all that can read, then all that can write, then the exceptions.
    for fd, obj, happened in this.ready(READ | HANGUP | ERROR):
        if (happened | this.interest.get(fd, 0)) & READ:
            read(obj)
    for fd, obj, happened in this.ready(WRITE | HANGUP | ERROR):
        wanted = this.interest.get(fd, 0)
        if happened & WRITE or (wanted & WRITE and happened & ERROR):
            write(obj)
        elif not wanted & READ:
            this.rest(fd)  # by itself, a hangup is nothing to select; an epoll ends every wait for it
    for _, obj, _ in this.ready(URGENT):
        _exception(obj)
    this.end()


def poll2(timeout: float | None = 0.0, map: SocketMap | None = None) -> None:
    """Run one pass over the map as `poll` does, but tell each object at once all that happened to it.

    With this one an object also hears of a hangup and of an error, as `handle_close`.
    """
    if map is None:
        map = socket_map
    this = Pass(map)
    interest = {}
    for key, obj in this.items:
        flags = READ | URGENT if obj.readable() else 0
        if obj.writable() and not obj.accepting:
            flags |= WRITE
        if flags:
            interest[key if type(key) is int else this.descriptor(key)] = flags
    if timeout is not None and timeout < 0:
        timeout = None
    this.wait(interest, timeout, None if getattr(select, "poll", None) is _original_poll else _ask_poll)
    for fd, obj, happened in this.ready(-1):
        if happened & INVALID:
            this.rest(fd)
        readwrite(obj, happened)
    this.end()


poll3 = poll2


def loop(
    timeout: float | None = 30.0, use_poll: bool = False, map: SocketMap | None = None, count: int | None = None
) -> None:
    """Run passes until the map is empty.

    Arguments:
        timeout: seconds that one pass waits at most; it does not end the loop.
        use_poll: run `poll2`, not `poll`.
        map: the objects to ask, by descriptor; by default `socket_map`.
        count: return after so many passes; None for no limit.
    """
    if map is None:
        map = socket_map
    one_pass = poll2 if use_poll and hasattr(select, "poll") else poll
    if count is None:
        while map:
            one_pass(timeout, map)
    else:
        while map and count > 0:
            one_pass(timeout, map)
            count -= 1


class dispatcher:
    """An object around a socket: the loop asks it what it waits for, and calls its handlers.

    Arguments:
        sock: a socket, connected or not; without one, `create_socket` makes it.
        map: the map to stand in; by default `socket_map`.
    """

    debug = False
    connected = False
    accepting = False
    connecting = False
    closing = False
    addr: Any = None
    ignore_log_types: Any = frozenset({"warning"})

    __out_of_descriptors = False

    def __init__(self, sock: Any = None, map: SocketMap | None = None) -> None:
        self._map: SocketMap = socket_map if map is None else map
        self._fileno: int | None = None
        if not sock:
            self.socket: Any = None
            return
        sock.setblocking(False)
        self.set_socket(sock, map)
        self.connected = True
        try:
            self.addr = sock.getpeername()
        except OSError as error:
            if error.errno not in (ENOTCONN, EINVAL):
                self.del_channel(map)
                raise
            self.connected = False

    def __repr__(self) -> str:
        # Logs, and whoever reads them, know the module by its old name.
        status = [f"{type(self).__module__.removeprefix('reactor.compat.')}.{type(self).__qualname__}"]
        if self.accepting and self.addr:
            status.append("listening")
        elif self.connected:
            status.append("connected")
        if self.addr is not None:
            try:
                status.append("%s:%d" % self.addr)  # noqa: UP031 - an address of another form is a TypeError
            except TypeError:
                status.append(repr(self.addr))
        return f"<{' '.join(status)} at {id(self):#x}>"

    def add_channel(self, map: SocketMap | None = None) -> None:
        """Put this into the map."""
        if map is None:
            map = self._map
        watching.announce(self._fileno)
        map[self._fileno] = self

    def del_channel(self, map: SocketMap | None = None) -> None:
        """Take this out of the map."""
        fd = self._fileno
        if map is None:
            map = self._map
        watching.retire(fd)
        if fd in map:
            del map[fd]
        self._fileno = None

    def create_socket(self, family: int = socket.AF_INET, type: int = socket.SOCK_STREAM) -> None:
        """Make the socket, nonblocking."""
        self.family_and_type = family, type
        sock = socket.socket(family, type)
        sock.setblocking(False)
        self.set_socket(sock)

    def set_socket(self, sock: Any, map: SocketMap | None = None) -> None:
        """Make `sock` the socket, and put this into the map."""
        self.socket = sock
        self._fileno = sock.fileno()
        watching.announce(self._fileno)  # programs write `add_channel` anew
        self.add_channel(map)

    def set_reuse_addr(self) -> None:
        """Have the address bound though its last user has gone only just now."""
        try:
            flags = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, flags | 1)
        except OSError:
            pass

    # What the loop asks at every pass

    def readable(self) -> Any:
        """Whether to wait for input."""
        return True

    def writable(self) -> Any:
        """Whether to wait for room for output."""
        return True

    # What the socket can do

    def listen(self, num: int) -> Any:
        """Accept connections from now on."""
        self.accepting = True
        return self.socket.listen(num)

    def bind(self, addr: Any) -> Any:
        """Bind the socket to an address."""
        self.addr = addr
        return self.socket.bind(addr)

    def connect(self, address: Any) -> None:
        """Begin to connect; `handle_connect` tells when it is done."""
        self.connected = False
        self.connecting = True
        error = self.socket.connect_ex(address)
        if error in (EINPROGRESS, EALREADY, EWOULDBLOCK):
            self.addr = address
        elif error in (0, EISCONN):
            self.addr = address
            self.handle_connect_event()
        else:
            raise OSError(error, errorcode[error])

    def accept(self) -> tuple[Any, Any] | None:
        """Return a connection and its address; None if there is none, after all."""
        try:
            connection, address = self.socket.accept()
        except TypeError:
            return None
        except OSError as error:
            if error.errno in (EWOULDBLOCK, ECONNABORTED, EAGAIN):
                return None
            if error.errno in _EXHAUSTED:
                _rest(self)
            raise
        return connection, address

    def send(self, data: Any) -> Any:
        """Send what can be sent at once, and return how many bytes that was."""
        try:
            return self.socket.send(data)
        except OSError as error:
            if error.errno == EWOULDBLOCK:
                return 0
            if error.errno in _DISCONNECTED:
                self.handle_close()
                return 0
            raise

    def recv(self, buffer_size: int) -> Any:
        """Return what came in; nothing, after `handle_close`, at the end of the stream."""
        try:
            data = self.socket.recv(buffer_size)
        except OSError as error:
            if error.errno not in _DISCONNECTED:
                raise
            self.handle_close()
            return b""
        if data:
            return data
        self.handle_close()
        return b""

    def close(self) -> None:
        """Leave the map and close the socket."""
        self.connected = False
        self.accepting = False
        self.connecting = False
        self.del_channel()
        if self.socket is not None:
            try:
                self.socket.close()
            except OSError as error:
                if error.errno not in (ENOTCONN, EBADF):
                    raise

    # What there is to say; programs override these

    def log(self, message: object) -> None:
        """Say something on standard error."""
        sys.stderr.write(f"log: {message!s}\n")

    def log_info(self, message: object, type: str = "info") -> None:
        """Say something on standard output, unless its `type` is among `ignore_log_types`."""
        if type not in self.ignore_log_types:
            print(f"{type}: {message}")

    # What the loop tells

    def handle_read_event(self) -> None:
        """There is input, or a connection."""
        if self.accepting:
            try:
                self.handle_accept()
            except OSError as error:
                if error.errno not in _EXHAUSTED:
                    raise
                _rest(self)
                if not self.__out_of_descriptors:
                    self.__out_of_descriptors = True
                    reason = _strerror(error.errno)
                    self.log_info(f"{_name_of(self)} cannot accept: {reason}; it goes on when it can", "error")
            else:
                self.__out_of_descriptors = False
            return
        if not self.connected and self.connecting:
            self.handle_connect_event()
        self.handle_read()

    def handle_connect_event(self) -> None:
        """The connect has come to an end."""
        error = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            raise OSError(error, _strerror(error))
        self.handle_connect()
        self.connected = True
        self.connecting = False

    def handle_write_event(self) -> None:
        """There is room for output."""
        if self.accepting:
            return
        if not self.connected and self.connecting:
            self.handle_connect_event()
        self.handle_write()

    def handle_expt_event(self) -> None:
        """There is an error, or urgent data."""
        if self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.handle_close()
        else:
            self.handle_expt()

    # What a program overrides

    def handle_error(self) -> None:
        """An exception was raised and not caught; `sys.exc_info` tells which."""
        _, kind, value, info = compact_traceback()
        self.log_info(f"uncaptured python exception, closing channel {_name_of(self)} ({kind}:{value} {info})", "error")
        self.handle_close()

    def handle_expt(self) -> None:
        """There is urgent data."""
        self.log_info("unhandled incoming priority event", "warning")

    def handle_read(self) -> None:
        """There is input, or the end of it; `recv` gets it."""
        self.log_info("unhandled read event", "warning")

    def handle_write(self) -> None:
        """There is room for output."""
        self.log_info("unhandled write event", "warning")

    def handle_connect(self) -> None:
        """The connection is made."""
        self.log_info("unhandled connect event", "warning")

    def handle_accept(self) -> None:
        """A connection waits; `accept` gets it."""
        pair = self.accept()
        if pair is not None:
            self.handle_accepted(*pair)

    def handle_accepted(self, sock: Any, addr: Any) -> None:
        """A connection was accepted."""
        sock.close()
        self.log_info("unhandled accepted event", "warning")

    def handle_close(self) -> None:
        """The connection has ended."""
        self.log_info("unhandled close event", "warning")
        self.close()


# Not methods, because a program may have any name for its own


def _rest(listener: dispatcher) -> None:
    """Leave the next wait out: the connection that cannot be accepted would end it at once, and again."""
    watching.get_watcher().rest(listener._fileno)


def _name_of(obj: dispatcher) -> str:
    """Say who it is, though a program's `__repr__` fails."""
    try:
        return repr(obj)
    except BaseException:
        return f"<__repr__(self) failed for object at {id(obj):0x}>"


class dispatcher_with_send(dispatcher):
    """A dispatcher that keeps what cannot be sent at once, in `out_buffer`."""

    def __init__(self, sock: Any = None, map: SocketMap | None = None) -> None:
        dispatcher.__init__(self, sock, map)
        self.out_buffer = b""

    def initiate_send(self) -> None:
        """Send some of what waits."""
        sent = dispatcher.send(self, self.out_buffer[:65536])
        self.out_buffer = self.out_buffer[sent:]

    def handle_write(self) -> None:
        self.initiate_send()

    def writable(self) -> Any:
        return (not self.connected) or len(self.out_buffer)

    def send(self, data: Any) -> None:
        """Send `data`: what can be at once, the rest later."""
        if self.debug:
            self.log_info(f"sending {data!r}")
        self.out_buffer = self.out_buffer + data
        self.initiate_send()


def compact_traceback() -> tuple[tuple[str, str, str], type[BaseException] | None, BaseException | None, str]:
    """Describe the exception that is being handled.

    Returns: where it was raised, as file, function and line; its type; the exception; and the way that it came.
    """
    kind, value, traceback = sys.exc_info()
    if traceback is None:
        raise AssertionError("traceback does not exist")
    way = []
    step: TracebackType | None = traceback
    while step is not None:
        code = step.tb_frame.f_code
        way.append((code.co_filename, code.co_name, str(step.tb_lineno)))
        step = step.tb_next
    return way[-1], kind, value, " ".join(f"[{file}|{function}|{line}]" for file, function, line in way)


def close_all(map: SocketMap | None = None, ignore_all: bool = False) -> None:
    """Close every object of the map, and empty it.

    Arguments:
        map: by default `socket_map`.
        ignore_all: go on whatever one of them raises, but for `ExitNow`, KeyboardInterrupt and SystemExit.
    """
    if map is None:
        map = socket_map
    for obj in list(map.values()):
        try:
            obj.close()
        except OSError as error:
            if error.errno != EBADF and not ignore_all:
                raise
        except _reraised_exceptions:
            raise
        except BaseException:
            if not ignore_all:
                raise
    map.clear()
    watching.get_watcher().close()


class file_wrapper:
    """A descriptor, duplicated, with as much of a socket's face as a dispatcher needs."""

    def __init__(self, fd: int) -> None:
        self.fd = os.dup(fd)

    def __del__(self) -> None:
        if self.fd >= 0:
            warnings.warn(f"unclosed file {self!r}", ResourceWarning, stacklevel=1, source=self)
        self.close()

    def recv(self, *args: Any) -> bytes:
        return os.read(self.fd, *args)

    def send(self, *args: Any) -> int:
        return os.write(self.fd, *args)

    def getsockopt(self, level: int, optname: int, buflen: int | None = None) -> int:
        if level == socket.SOL_SOCKET and optname == socket.SO_ERROR and not buflen:
            return 0
        raise NotImplementedError("Only asyncore specific behaviour implemented.")

    read = recv
    write = send

    def close(self) -> None:
        if self.fd < 0:
            return
        fd, self.fd = self.fd, -1
        os.close(fd)

    def fileno(self) -> int:
        return self.fd


class file_dispatcher(dispatcher):
    """A dispatcher around a file: a pipe, a terminal, anything that has a descriptor.

    Arguments:
        fd: the descriptor, or an object with a ``fileno()``. It is duplicated, and both become nonblocking.
        map: the map to stand in; by default `socket_map`.
    """

    def __init__(self, fd: Any, map: SocketMap | None = None) -> None:
        dispatcher.__init__(self, None, map)
        self.connected = True
        try:
            fd = fd.fileno()
        except AttributeError:
            pass
        self.set_file(fd)
        os.set_blocking(fd, False)

    def set_file(self, fd: int) -> None:
        """Make a duplicate of `fd` the file, and put this into the map."""
        self.socket = file_wrapper(fd)
        self._fileno = self.socket.fileno()
        self.add_channel()
