"""Descriptors as objects: a bare number, and the ends of the pipes between this program and a child process."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from typing import Any


class Descriptor:
    """The number of a descriptor, as an object that can be closed."""

    def __init__(self, number: int) -> None:
        self._number = number

    def fileno(self) -> int:
        """Return the number; -1 once it is closed."""
        return self._number

    def close(self) -> None:
        """Close it; once more does nothing."""
        number, self._number = self._number, -1
        if number >= 0:
            os.close(number)


class PipeEnd(Descriptor):
    """Our end of a pipe, with as much of a socket's face as the states of a stream need."""

    def shutdown(self, how: int) -> None:
        """There is no other direction that could stay open: a channel that has sent everything can close."""
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


class ReadEnd(PipeEnd):
    """The end of a pipe into which a child writes."""

    def recv(self, size: int) -> bytes:
        return os.read(self._number, size)

    def send(self, data: Any) -> int:
        raise OSError(errno.EBADF, "the child writes into this pipe, and reads nothing from it")

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        return self.send(buffers)


class WriteEnd(PipeEnd):
    """The end of a pipe from which a child reads."""

    def recv(self, size: int) -> bytes:
        """The system calls it readable in one case alone: nobody is left who could read at the other end."""
        return b""

    def send(self, data: Any) -> int:
        return os.write(self._number, data)

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        return os.writev(self._number, buffers)
