"""Programs on the old modules that run in a process of their own, because they change the whole process.

``python -m tests.reactor.compat.children NAME`` runs one of the functions and prints what it returns, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import socket
import sys
from collections.abc import Callable
from typing import Any

from reactor.compat import asynchat, asyncore, passes

CONNECTIONS = 2000


class Line(asynchat.async_chat):
    """Answers each line with the same line, in capitals."""

    def __init__(self, sock: Any) -> None:
        super().__init__(sock)
        self.set_terminator(b"\n")

    collect_incoming_data = asynchat.async_chat._collect_incoming_data

    def found_terminator(self) -> None:
        self.push(self._get_data().upper() + b"\n")


class Server(asyncore.dispatcher):
    """A listener of the old kind.

    Arguments:
        accept: how it accepts: "handle_accepted", as documented last; "accept", as before; "socket", past the module;
            "caught", with an eye on errors.
    """

    def __init__(self, accept: str = "handle_accepted") -> None:
        super().__init__()
        self.attempts = 0
        self.style = accept
        self.create_socket()
        self.set_reuse_addr()
        self.bind(("127.0.0.1", 0))
        self.listen(128)

    def handle_accept(self) -> None:
        self.attempts += 1
        if self.style == "handle_accepted":
            super().handle_accept()
            return
        try:
            sock, _ = self.socket.accept() if self.style == "socket" else self.accept()  # type: ignore[misc]
        except OSError:
            if self.style != "caught":
                raise
        else:
            Line(sock)

    def handle_accepted(self, sock: Any, addr: Any) -> None:
        Line(sock)


def until(condition: Callable[[], Any], use_poll: bool) -> None:
    for _ in range(10_000):
        if condition():
            return
        asyncore.loop(timeout=0.1, count=1, use_poll=use_poll)
    raise AssertionError("it took too long")


def line_from(client: socket.socket, use_poll: bool) -> str:
    """Run the loop until a line has come for `client`, and return it."""
    client.setblocking(False)
    received = bytearray()

    def is_complete() -> bool:
        try:
            received.extend(client.recv(100))
        except BlockingIOError:
            pass
        return received.endswith(b"\n")

    until(is_complete, use_poll)
    return received.decode()


def many_connections() -> list[dict[str, Any]]:
    """Serve so many clients at once that select would have no numbers for them; with each of the loops."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return [serve_many(use_poll) for use_poll in (False, True)]


def serve_many(use_poll: bool) -> dict[str, Any]:
    server = Server()
    address = server.socket.getsockname()
    clients = []
    for _ in range(CONNECTIONS):
        clients.append(socket.create_connection(address))
        asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    until(lambda: len(asyncore.socket_map) == CONNECTIONS + 1, use_poll)
    largest = max(asyncore.socket_map)
    for number, client in enumerate(clients):
        client.sendall(b"hello %d\n" % number)
    answered = sum(line_from(client, use_poll) == f"HELLO {number}\n" for number, client in enumerate(clients))
    for client in clients:
        client.close()
    until(lambda: len(asyncore.socket_map) == 1, use_poll)
    server.close()
    return {"answered": answered, "largest": largest, "left": len(asyncore.socket_map)}


def out_of_descriptors() -> dict[str, Any]:
    """Fill the table of descriptors while somebody waits to be accepted, in each way; with each of the loops."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    passes.PAUSE_AFTER_ERROR = 0.02  # type: ignore[attr-defined]
    return {
        f"{style}, {use_poll}": accepted_at_last(style, use_poll)
        for style in ("handle_accepted", "accept", "socket", "caught")
        for use_poll in (False, True)
    }


def accepted_at_last(style: str, use_poll: bool) -> dict[str, Any]:
    server = Server(style)
    address = server.socket.getsockname()
    existing = socket.create_connection(address)
    until(lambda: len(asyncore.socket_map) == 2, use_poll)
    waiting = socket.socket()
    hoard = []
    while len(os.listdir("/proc/self/fd")) < 64:
        hoard.append(os.open(os.devnull, os.O_RDONLY))
    hoard.append(os.open(os.devnull, os.O_RDONLY))
    waiting.connect(address)
    server.attempts = 0
    asyncore.loop(timeout=30, count=4, use_poll=use_poll)
    attempts = server.attempts
    existing.sendall(b"still here\n")
    answers = [line_from(existing, use_poll)]
    for number in hoard:
        os.close(number)
    until(lambda: len(asyncore.socket_map) == 3, use_poll)
    waiting.sendall(b"at last\n")
    answers.append(line_from(waiting, use_poll))
    waiting.close()
    existing.close()
    until(lambda: len(asyncore.socket_map) == 1, use_poll)
    server.close()
    return {"attempts": attempts, "answers": answers}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
