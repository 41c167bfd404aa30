"""The command ``python -m tests.benchmarks.blocking``: blocking connections beside those of the standard library.

Processor time of both ends, each a process of its own, in rounds that take turns; and how long `accept` takes when a
crowd of peers is connected that says nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import multiprocessing.connection as standard
import os
import resource
import socket
import statistics
import threading
import time
from typing import Any

from reactor import Limits, blocking

IN_FLIGHT = (1, 16, 64)
MESSAGE = b"x" * 100
KEY = b"a long secret key"
ADDRESSES: dict[str, Any] = {"TCP": ("127.0.0.1", 0), "Unix": None}


def exchange(connection: Any, count: int, in_flight: int) -> float:
    """Send `count` messages and take the answers, with `in_flight` under way; return the processor time, in seconds."""
    connection.send_bytes(b"begin")
    begun = time.process_time()
    if in_flight > 1 and isinstance(connection, blocking.Connection):
        connection.send_bytes_many([MESSAGE] * in_flight)
        sent, received = in_flight, 0
        while received < count:
            answers = len(connection.recv_bytes_many())
            received += answers
            following = min(answers, count - sent)
            if following:
                connection.send_bytes_many([MESSAGE] * following)
                sent += following
    else:
        for _ in range(in_flight):
            connection.send_bytes(MESSAGE)
        for _ in range(count - in_flight):
            connection.recv_bytes()
            connection.send_bytes(MESSAGE)
        for _ in range(in_flight):
            connection.recv_bytes()
    return time.process_time() - begun


def answer(connection: Any, count: int, in_flight: int) -> float:
    """Be the other side of `exchange`."""
    connection.recv_bytes()
    begun = time.process_time()
    if in_flight > 1 and isinstance(connection, blocking.Connection):
        while count:
            messages = connection.recv_bytes_many()
            connection.send_bytes_many(messages)
            count -= len(messages)
    else:
        for _ in range(count):
            connection.send_bytes(connection.recv_bytes())
    return time.process_time() - begun


def cost(module: Any, address: Any, count: int, in_flight: int) -> float:
    """Return the processor time of a request and its reply, both ends together, in microseconds."""

    def serve() -> None:
        with listener.accept() as connection:
            spent = answer(connection, count, in_flight)
            connection.recv_bytes()  # so that the client does not take this for another answer
            connection.send(spent)

    with module.Listener(address) as listener:
        child = multiprocessing.get_context("fork").Process(target=serve)
        child.start()
        with module.Client(listener.address) as connection:
            mine = exchange(connection, count, in_flight)
            connection.send_bytes(b"end")
            theirs: float = connection.recv()
        child.join()
    return (mine + theirs) / count * 1e6


def time_to_accept(silent: int) -> float:
    """Return the milliseconds from the connect of a good peer until `accept` returns it, among `silent` others."""
    limits = Limits(maximum_unauthenticated=silent + 1)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(blocking.Listener(authkey=KEY, limits=limits))
        for _ in range(silent):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(listener.address)
            with contextlib.suppress(TimeoutError):
                listener.accept(timeout=0)
        good = threading.Thread(target=lambda: blocking.Client(listener.address, authkey=KEY).close())
        begun = time.perf_counter()
        good.start()
        listener.accept().close()
        taken = time.perf_counter() - begun
        good.join()
    return taken * 1e3


def allow_descriptors(count: int) -> int:
    """Have room for `count` descriptors where that is allowed, and return for how many there is."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        soft = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.blocking", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="(default: %(default)s)")
    parser.add_argument("--messages", type=int, default=20_000, help="a round (default: %(default)s)")
    parser.add_argument("--silent", type=int, default=1000, help="peers that say nothing (default: %(default)s)")
    options = parser.parse_args(arguments)
    print(f"{len(MESSAGE)} bytes, {options.rounds} rounds of {options.messages} messages, {os.cpu_count()} cores")
    for name, address in ADDRESSES.items():
        for in_flight in IN_FLIGHT:
            pairs = [
                tuple(cost(module, address, options.messages, in_flight) for module in (blocking, standard))
                for _ in range(options.rounds)
            ]
            ratios = sorted(ours / theirs for ours, theirs in pairs)
            ours, theirs = (statistics.median(costs) for costs in zip(*pairs, strict=True))
            print(
                f"{name:5}{in_flight:3} in flight: {ours:5.1f} µs beside {theirs:5.1f}, "
                f"ratio {statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}]",
                flush=True,
            )
    silent = min(options.silent, (allow_descriptors(2 * options.silent + 100) - 100) // 2)
    times = sorted(time_to_accept(silent) for _ in range(options.rounds))
    print(
        f"accept among {silent} silent peers: {statistics.median(times):.1f} ms [{times[0]:.1f}..{times[-1]:.1f}]",
        flush=True,
    )


if __name__ == "__main__":
    main()
