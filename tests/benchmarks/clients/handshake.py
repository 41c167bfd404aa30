"""Clients of the standard library, one after another on each thread: connect, shake hands, one message, close.

The handshake is that with the key of `multiprocessing.connection`; or, with ``--tls``, that of TLS.
"""

from __future__ import annotations

import argparse
import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Client
from typing import NamedTuple

from ..servers import KEY
from .accounting import ProcessorTime
from .tls import client_context

MOST = 20_000
"""Connections at the most: each one keeps its port on this side for a minute, and there are some 28,000."""

MESSAGE = {"operator": "add", "numbers": [2, 3]}
BYTES = b"2 + 3"

PATIENCE = 30.0
"""Seconds."""

clock = time.perf_counter


class Conversation(NamedTuple):
    """One connection, from before it was opened until after it was closed."""

    began: float
    ended: float


def messages(port: int) -> Callable[[], None]:
    """Return what holds one conversation with a server of `multiprocessing.connection`."""

    def converse() -> None:
        with Client(("127.0.0.1", port), authkey=KEY) as connection:
            connection.send(MESSAGE)
            answer = connection.recv()
        if answer != MESSAGE:
            raise ValueError(f"the server answered {answer!r}")

    return converse


def encrypted(port: int) -> Callable[[], None]:
    """Return what holds one conversation with a server that echoes over TLS."""
    context = client_context()

    def converse() -> None:
        with context.wrap_socket(socket.create_connection(("127.0.0.1", port), PATIENCE)) as connection:
            connection.sendall(BYTES)
            answer = connection.recv(len(BYTES))
            connection.unwrap().close()
        if answer != BYTES:
            raise ValueError(f"the server answered {answer!r}")

    return converse


def converse_until(stop: threading.Event, converse: Callable[[], None], most: int, done: list[Conversation]) -> None:
    """Hold conversations one after another, and add them to `done`."""
    for _ in range(most):
        if stop.is_set():
            return
        began = clock()
        converse()
        done.append(Conversation(began, clock()))


def wait_for_conversations(futures: list[Future[None]], seconds: float, done: list[Conversation], count: int) -> None:
    """Return after `seconds`, but not before `count` more are done; at once where a client fails, or all have ended."""
    target = len(done) + count
    finished, left = wait(futures, seconds, FIRST_EXCEPTION)
    while left and len(done) < target and not any(future.exception() for future in finished):
        finished, left = wait(futures, 0.01, FIRST_EXCEPTION)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--clients", type=int, required=True, help="threads")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--tls", action="store_true")
    arguments = parser.parse_args()

    stop = threading.Event()
    done: list[Conversation] = []
    clients = arguments.clients
    converse = (encrypted if arguments.tls else messages)(arguments.port)
    with ThreadPoolExecutor(clients) as pool:
        try:
            futures = [pool.submit(converse_until, stop, converse, MOST // clients, done) for _ in range(clients)]
            wait_for_conversations(futures, arguments.seconds / 5, done, clients)
            # In full flight both times, as in load.c: what is half done cancels out.
            before, began = ProcessorTime.of(arguments.pid), clock()
            wait_for_conversations(futures, arguments.seconds, done, 1)
            after, ended = ProcessorTime.of(arguments.pid), clock()
        finally:
            stop.set()
        for future in futures:
            future.result()

    latencies = sorted(each.ended - each.began for each in done if began <= each.ended < ended)
    result = {
        "messages": len(latencies),
        "seconds": ended - began,
        **after.since(before).shares(),
        "median": latencies[len(latencies) // 2] * 1e6,
        "p99": latencies[int((len(latencies) - 1) * 0.99)] * 1e6,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
