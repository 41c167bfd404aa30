"""The floor: a loop around epoll with nothing in it that could be left out, and so no server for real life.

It takes for granted that the kernel accepts whatever is sent. A frame waits for its rest, and all frames
that came in together are sent together.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from collections.abc import Callable

from . import BACKLOG

HEADER = struct.Struct("!i")


def serve(receive: Callable[[socket.socket], bool]) -> None:
    """Accept connections, and call `receive` with each that is readable, for as long as it returns true."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=BACKLOG)
    listener.setblocking(False)
    print(listener.getsockname()[1], flush=True)
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    connections: dict[int, socket.socket] = {}
    while True:
        for descriptor, _ in epoll.poll():
            if descriptor == listener.fileno():
                accept_all(listener, epoll, connections)
            elif not receive(connections[descriptor]):
                epoll.unregister(descriptor)
                connections.pop(descriptor).close()


def accept_all(listener: socket.socket, epoll: select.epoll, connections: dict[int, socket.socket]) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connections[connection.fileno()] = connection
            epoll.register(connection.fileno(), select.EPOLLIN)
    except BlockingIOError:
        pass


def receive_raw(connection: socket.socket) -> bool:
    data = connection.recv(65536)
    if not data:
        return False
    connection.send(data)
    return True


rests: dict[socket.socket, bytes] = {}


def receive_frames(connection: socket.socket) -> bool:
    data = connection.recv(65536)
    if not data:
        rests.pop(connection, None)
        return False
    if connection in rests:
        data = rests.pop(connection) + data
    position, end = 0, len(data)
    answers = []
    while position + 4 <= end:
        (size,) = HEADER.unpack_from(data, position)
        stop = position + 4 + size
        if stop > end:
            break
        message = data[position + 4 : stop]
        answers.append(HEADER.pack(size) + message)
        position = stop
    if position < end:
        rests[connection] = data[position:]
    if answers:
        connection.send(b"".join(answers))
    return True


if __name__ == "__main__":
    serve({"raw": receive_raw, "frames": receive_frames}[sys.argv[1]])
