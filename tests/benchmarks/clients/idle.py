"""Connections that do nothing: how much memory the server has for each."""

from __future__ import annotations

import argparse
import json
import socket
from collections.abc import Callable

from .accounting import memory_of
from .tls import client_context

WARM = 100
"""Connections before the count begins, so that what the server loads or makes once is not counted."""

BETWEEN = 500
"""Connections after which the server is asked whether it is there yet: its backlog must not overflow."""

MESSAGE = b"\0\0\0\1x"
"""One frame; a server in the mode raw echoes it as well as one that knows frames."""


def way_to(port: int, tls: bool) -> Callable[[], socket.socket]:
    """Return what opens one connection, and has the handshake of TLS behind it where that is wanted."""

    def connect() -> socket.socket:
        return socket.create_connection(("127.0.0.1", port))

    if not tls:
        return connect
    context = client_context()
    return lambda: context.wrap_socket(connect())


def open_connections(connect: Callable[[], socket.socket], count: int) -> list[socket.socket]:
    """Open so many; return when the server has accepted them all."""
    connections = []
    for number in range(1, count + 1):
        connection = connect()
        connections.append(connection)
        if number % BETWEEN == 0 or number == count:
            # Connections are accepted in their order: if this one is served, those before it are there.
            echo(connection)
    return connections


def echo(connection: socket.socket) -> None:
    connection.settimeout(30)
    connection.sendall(MESSAGE)
    answer = b""
    while len(answer) < len(MESSAGE):
        data = connection.recv(len(MESSAGE) - len(answer))
        assert data, "the server closed a connection"
        answer += data
    assert answer == MESSAGE, f"the server answered {answer!r}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()

    connect = way_to(arguments.port, arguments.tls)
    warm = open_connections(connect, WARM)
    before = memory_of(arguments.pid)
    idle = open_connections(connect, arguments.connections)
    after = memory_of(arguments.pid)
    print(json.dumps({"bytes": (after - before) / len(idle)}))
    for connection in warm + idle:
        connection.close()


if __name__ == "__main__":
    main()
