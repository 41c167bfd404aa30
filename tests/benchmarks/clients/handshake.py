"""Clients of the standard library, one after another on each thread: connect, authenticate, one message, close."""

from __future__ import annotations

import argparse
import json
import threading
import time
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Client
from typing import NamedTuple

from ..servers import KEY
from .accounting import ProcessorTime

MOST = 20_000
"""Connections at the most: each one keeps its port on this side for a minute, and there are some 28,000."""

MESSAGE = {"operator": "add", "numbers": [2, 3]}

clock = time.perf_counter


class Conversation(NamedTuple):
    """One connection, from before it was opened until after it was closed."""

    began: float
    ended: float


def converse_until(stop: threading.Event, port: int, most: int, done: list[Conversation]) -> None:
    """Hold conversations one after another, and add them to `done`."""
    for _ in range(most):
        if stop.is_set():
            return
        began = clock()
        with Client(("127.0.0.1", port), authkey=KEY) as connection:
            connection.send(MESSAGE)
            answer = connection.recv()
        if answer != MESSAGE:
            raise ValueError(f"the server answered {answer!r}")
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
    arguments = parser.parse_args()

    stop = threading.Event()
    done: list[Conversation] = []
    clients = arguments.clients
    with ThreadPoolExecutor(clients) as pool:
        try:
            futures = [pool.submit(converse_until, stop, arguments.port, MOST // clients, done) for _ in range(clients)]
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
        **after.since(before),
        "median": latencies[len(latencies) // 2] * 1e6,
        "p99": latencies[int((len(latencies) - 1) * 0.99)] * 1e6,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
