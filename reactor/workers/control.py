"""The line between a worker and its parent: words both ways, the stack of a worker that dies, and an end."""

from __future__ import annotations

import contextlib
import logging
import socket
from typing import Any

from ..dispatcher import Dispatcher
from ..eventloop import Reactor

log = logging.getLogger("reactor")

MARK = b"\x01"
"""Stands in front of words. What has none is text that `faulthandler` has written: its lines are printable."""

LONGEST_TEXT = 64 * 1024
"""Bytes kept of such text, the last ones."""


class Control(Dispatcher):
    """One end of the line.

    Attributes:
        text: what came without a mark, if anything.
    """

    def __init__(self, sock: socket.socket, reactor: Reactor) -> None:
        sock.setblocking(False)
        super().__init__(sock, reactor=reactor)
        self.text = ""
        self._rest = b""

    def handle_word(self, word: str, value: str) -> None:
        """The other side has said `word`, with what stands behind it."""

    def handle_end(self) -> None:
        """The other side is gone, or says no more."""

    def say(self, word: str, value: Any = "") -> None:
        """Say a `word` to the other side; nobody hears it there if that is gone."""
        if self.socket is None:
            return
        try:
            self.socket.send(MARK + f"{word} {value}\n".encode())
        except BlockingIOError:
            log.warning("%s: the other side does not listen; it is not told to %s", self, word)
        except OSError:
            pass  # it is gone, and handle_end tells so

    def handle_readable(self) -> None:
        self.read()

    def read(self) -> bool:
        """Take in what is there; return whether there may be more."""
        try:
            data = self.socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(MARK):
                word, _, value = line[1:].decode().partition(" ")
                self.handle_word(word, value)
            else:
                self.text = (self.text + line.decode(errors="replace") + "\n")[-LONGEST_TEXT:]
        if not data:
            self.close()
            self.handle_end()
        return bool(data)

    def read_all(self) -> None:
        """Take in everything that the other side, which is dead, has still said."""
        with contextlib.suppress(AttributeError):
            while self.read():
                pass
