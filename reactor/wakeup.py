"""Waking the loop from another thread or from a signal handler."""

from __future__ import annotations

import socket
from typing import Protocol


class Waker(Protocol):
    """What wakes the loop from another thread: registered with the selector like a channel."""

    def fileno(self) -> int: ...

    def wake(self) -> None: ...

    def drain(self) -> None: ...

    def close(self) -> None: ...


class SocketPairWaker:
    """A byte through a socket pair: works with every selector class of every platform."""

    def __init__(self) -> None:
        self._receiver, self._sender = socket.socketpair()
        self._receiver.setblocking(False)
        self._sender.setblocking(False)

    def fileno(self) -> int:
        return self._receiver.fileno()

    def sender_fileno(self) -> int:
        """Return the descriptor for `signal.set_wakeup_fd`."""
        return self._sender.fileno()

    def wake(self) -> None:
        try:
            self._sender.send(b"\0")
        except BlockingIOError:
            pass  # it is full of wakeups

    def drain(self) -> None:
        try:
            while len(self._receiver.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._receiver.close()
        self._sender.close()
