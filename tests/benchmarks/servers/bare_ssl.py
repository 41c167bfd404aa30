"""A loop around the selector and the sockets of `ssl`, and little else: no server for real life.

A peer that does not read holds up all others.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import sys
from typing import Any

from . import BACKLOG, server_context

RECORD = 16 * 1024
"""Bytes in one record at the most; `recv` returns one, and `send` makes one, however many there are."""


class Loop:
    """Serves with the TLS of `context`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context
        self.selector = selectors.DefaultSelector()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ)

    def run(self) -> None:
        while True:
            for key, _ in self.selector.select():
                sock: Any = key.fileobj
                if sock is self.listener:
                    self.accept_all()
                elif not key.data(sock):
                    self.selector.unregister(sock)
                    sock.close()

    def accept_all(self) -> None:
        try:
            while True:
                accepted, _ = self.listener.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection = self.context.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
                self.selector.register(connection, selectors.EVENT_READ, self.shake_hands)
        except BlockingIOError:
            pass

    def shake_hands(self, connection: ssl.SSLSocket) -> bool:
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            return True
        except OSError:
            return False
        self.selector.modify(connection, selectors.EVENT_READ, echo)
        return True


def echo(connection: ssl.SSLSocket) -> bool:
    """Send back what has come; return false when that was the end."""
    try:
        while data := connection.recv(65536):
            send(connection, data)
            if len(data) < RECORD and not connection.pending():
                return True
        connection.unwrap()
    except ssl.SSLWantReadError:
        return True
    except OSError:
        pass
    return False


def send(connection: ssl.SSLSocket, data: bytes) -> None:
    sent = 0
    while sent < len(data):
        try:
            sent += connection.send(data[sent:] if sent else data)
        except ssl.SSLWantWriteError:
            with selectors.DefaultSelector() as waiting:
                waiting.register(connection, selectors.EVENT_WRITE)
                waiting.select()


if __name__ == "__main__":
    loop = Loop(server_context(sys.argv[2]))
    print(loop.listener.getsockname()[1], flush=True)
    loop.run()
