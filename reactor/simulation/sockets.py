"""The program's side of simulated sockets: what `socket.socket` offers, with a fault wherever the tape has one."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..errors import LocalError
from .faults import (
    ACCEPT,
    BIND,
    CLOSE,
    GETPEERNAME,
    GETSOCKNAME,
    GETSOCKOPT,
    LISTEN,
    RECEIVE,
    SEND,
    SETSOCKOPT,
    SHUTDOWN,
    Call,
    failure,
)
from .network import TcpSocket, UdpSocket

if TYPE_CHECKING:
    from .hosts import Host

LONGEST_CALL = 0.02
"""Seconds that a slow call takes at the most."""


class SimulatedSocket:
    """A socket of a simulated host. It never blocks.

    Made by the socket factory of a host's reactor, not by hand.
    """

    def __init__(self, host: Host, file: TcpSocket | UdpSocket) -> None:
        self._host = host
        self._file = file
        self._number = host.open(file)
        self.family = file.family
        self.type = socket.SOCK_STREAM if isinstance(file, TcpSocket) else socket.SOCK_DGRAM
        self.proto = 0

    def __repr__(self) -> str:
        return f"<SimulatedSocket {self._file.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._number

    @property
    def endpoint(self) -> TcpSocket | UdpSocket:
        """What the network knows of this socket."""
        return self._file

    def setblocking(self, blocking: bool) -> None:
        if blocking:
            raise LocalError("a simulated socket does not block: there is no other thread that could go on")

    def settimeout(self, timeout: float | None) -> None:
        self.setblocking(timeout != 0)

    def gettimeout(self) -> float | None:
        return 0.0

    # Calls on data

    def recv(self, size: int, flags: int = 0) -> bytes:
        host = self._enter("recv")
        file = self._file
        value = file.stream.draw(RECEIVE)
        if value:
            size = self._faulty(RECEIVE, value, size)
        data = file.receive(size)
        if isinstance(data, tuple):
            data = data[0]
        host.activity += 1
        if host.world.tracing:
            host.note(f"{file.name} recv: {len(data)} bytes" if data else f"{file.name} recv: end of stream")
        return data

    def recv_into(self, buffer: Any, size: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer).cast("B")
        data = self.recv(size or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def send(self, data: Any, flags: int = 0) -> int:
        host = self._enter("send")
        file = self._file
        value = file.stream.draw(SEND)
        if value:
            data = data[: self._faulty(SEND, value, len(data))]
        sent = file.send(data)
        host.activity += 1
        if host.world.tracing:
            host.note(f"{file.name} send: {sent} of {len(data)} bytes")
        return sent

    def sendmsg(self, buffers: Iterable[Any], *_: Any) -> int:
        return self.send(b"".join(buffers))

    def recvfrom(self, size: int, flags: int = 0) -> tuple[bytes, Any]:
        data, _, _, address = self.recvmsg(size)
        return data, address

    def recvmsg(self, size: int, ancillary_size: int = 0, flags: int = 0) -> tuple[bytes, list[Any], int, Any]:
        host = self._enter("recvmsg")
        file = self._file
        value = file.stream.draw(RECEIVE)
        if value and RECEIVE.decode(value)[1] is not None and isinstance(file, TcpSocket):
            size = self._faulty(RECEIVE, value, size)
        elif value:
            self._faulty(RECEIVE, value, size)  # no datagram is received in part
        host.activity += 1
        if isinstance(file, TcpSocket):
            return file.receive(size), [], 0, None
        data, address, full = file.receive(size)
        return data, [], socket.MSG_TRUNC if full > size else 0, address

    def sendto(self, data: Any, *flags_and_address: Any) -> int:
        file = self._file
        if not isinstance(file, UdpSocket):
            return self.send(data)  # Linux has no use for the address
        host = self._enter("sendto")
        value = file.stream.draw(SEND)
        if value:
            self._faulty(SEND, value, len(data))
        host.activity += 1
        return file.send(data, flags_and_address[-1])

    # Calls on connections

    def bind(self, address: Any) -> None:
        host = self._enter("bind")
        self._draw(BIND)
        self._file.bind(address)
        if host.world.tracing:
            host.note(f"{self._file.name} bind: {self._file.local}")

    def listen(self, backlog: int = 128) -> None:
        self._enter("listen")
        self._draw(LISTEN)
        self._stream().listen(backlog)

    def accept(self) -> tuple[SimulatedSocket, Any]:
        host = self._enter("accept")
        file = self._stream()
        fault, _ = ACCEPT.decode(file.stream.draw(ACCEPT))
        if fault is not None and fault.breaks and file.queue:
            host.injected(file.name, ACCEPT, fault)
            if fault.number:
                file.take().close()
                raise failure(fault.number)
        elif fault is not None and not fault.breaks:
            host.injected(file.name, ACCEPT, fault)
            raise failure(fault.number)
        host.check_room()  # the kernel looks for a descriptor before it looks who is there
        server = file.take()
        host.activity += 1
        sock = SimulatedSocket(host, server)
        if fault is not None and fault.breaks:
            server.abort()  # the peer is gone already
        if host.world.tracing:
            host.note(f"{file.name} accept: {server.name} from {server.remote[0]}:{server.remote[1]}")
        return sock, server.remote

    def connect_ex(self, address: Any) -> int:
        host = self._enter("connect")
        number = self._file.connect(address)
        host.activity += 1
        if host.world.tracing:
            outcome = errno.errorcode.get(number, "connected")
            host.note(f"{self._file.name} connect to {address[0]}:{address[1]}: {outcome}")
        return number

    def connect(self, address: Any) -> None:
        number = self.connect_ex(address)
        if number:
            raise failure(number)

    def shutdown(self, how: int) -> None:
        host = self._enter("shutdown")
        self._draw(SHUTDOWN)
        self._stream().shutdown(how)
        host.activity += 1
        if host.world.tracing:
            host.note(f"{self._file.name} shutdown")

    def close(self) -> None:
        number, self._number = self._number, -1
        if number < 0:
            return
        host, file = self._host, self._file
        host.calls += 1
        host.activity += 1
        if host.world.tracing:
            host.note(f"{file.name} close")
        host.release(number, file)
        fault, _ = CLOSE.decode(file.stream.draw(CLOSE))
        if fault is not None:
            host.injected(file.name, CLOSE, fault)
            raise failure(fault.number)  # the descriptor is gone all the same

    def detach(self) -> int:
        raise LocalError("a simulated socket cannot be detached: its number means nothing outside of its host")

    # What it is, and how it is set

    def getsockname(self) -> Any:
        self._enter("getsockname")
        self._draw(GETSOCKNAME)
        file = self._file
        if file.local is None:
            return ("0.0.0.0", 0) if self.family == socket.AF_INET else ("::", 0, 0, 0)
        return file.local

    def getpeername(self) -> Any:
        self._enter("getpeername")
        self._draw(GETPEERNAME)
        file = self._file
        if file.remote is None or (isinstance(file, TcpSocket) and not file.is_connected):
            raise failure(errno.ENOTCONN)
        return file.remote

    def setsockopt(self, level: int, option: int, value: Any) -> None:
        self._enter("setsockopt")
        self._draw(SETSOCKOPT)
        if (level, option) == (socket.SOL_SOCKET, socket.SO_KEEPALIVE) and isinstance(self._file, TcpSocket):
            self._file.keepalive = bool(value)

    def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
        self._enter("getsockopt")
        self._draw(GETSOCKOPT)
        if (level, option) == (socket.SOL_SOCKET, socket.SO_ERROR):
            number, self._file.error = self._file.error, 0
            return number
        return 0

    # The faults

    def _enter(self, call: str) -> Host:
        host = self._host
        host.calls += 1
        if self._number < 0:
            host.world.violate("a closed descriptor is used", f"{call} on {self._file.name}, which is closed")
            raise failure(errno.EBADF)
        return host

    def _stream(self) -> TcpSocket:
        if not isinstance(self._file, TcpSocket):
            raise failure(errno.EOPNOTSUPP)
        return self._file

    def _draw(self, call: Call) -> None:
        value = self._file.stream.draw(call)
        if value:
            self._faulty(call, value, 0)

    def _faulty(self, call: Call, value: int, size: int) -> int:
        """Do what the draw `value` says; return how many of `size` bytes the call may move."""
        fault, parameter = call.decode(value)
        if fault is None:
            return size
        host = self._host
        host.injected(self._file.name, call, fault)
        if fault.name == "short":
            if not isinstance(self._file, TcpSocket):
                return size  # no datagram is sent or received in part
            return min(size, 1 + ((parameter >> 3) >> (parameter & 7)))
        if fault.name == "slow call":
            host.world.pass_time(parameter / 1024 * LONGEST_CALL)
            return size
        if fault.breaks and isinstance(self._file, TcpSocket):
            self._file.abort()
            if call is not RECEIVE and call is not SEND:
                self._file.error = errno.ECONNRESET  # which only those two, and SO_ERROR, report and clear
        raise failure(fault.number)
