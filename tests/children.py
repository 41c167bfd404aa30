"""What must happen in a process of its own, because it changes the whole process.

``python -m tests.children NAME`` runs one of the functions and prints what it returns, as JSON.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Client
from typing import Any

import reactor

KEY = b"a long secret key"


class Echo(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


def until(loop: reactor.Reactor, condition: Callable[[], Any], timeout: float = 10.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        loop.poll(0.01)


def answer(loop: reactor.Reactor, client: socket.socket, size: int) -> bytes:
    """Run the loop until `client` has so many bytes, and return them."""
    client.setblocking(False)
    received = bytearray()

    def complete() -> bool:
        try:
            received.extend(client.recv(65536))
        except BlockingIOError:
            pass
        return len(received) >= size

    until(loop, complete)
    return bytes(received)


def out_of_descriptors() -> dict[str, Any]:
    """Fill the table of 64 descriptors while somebody waits to be accepted."""
    logging.disable()
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    calls = []

    class Counting(socket.socket):
        def accept(self) -> Any:
            calls.append(time.monotonic())
            return super().accept()

    accepted: list[Echo] = []

    def make() -> Echo:
        accepted.append(Echo())
        return accepted[-1]

    with reactor.Reactor(socket_factory=Counting) as loop:
        listener = reactor.Listener(("127.0.0.1", 0), make, reactor=loop)
        existing = socket.create_connection(listener.address)
        until(loop, lambda: accepted)
        waiting = socket.socket()
        hoard = []
        while len(os.listdir("/proc/self/fd")) < 64:
            hoard.append(os.open(os.devnull, os.O_RDONLY))
        hoard.append(os.open(os.devnull, os.O_RDONLY))
        waiting.connect(listener.address)
        calls.clear()
        turns = loop.turns
        loop.loop(timeout=1.0)
        accepts, turns = len(calls), loop.turns - turns
        turns_before_echo = loop.turns
        existing.sendall(b"ping")
        echoed = answer(loop, existing, 4) == b"ping"
        turns_for_echo = loop.turns - turns_before_echo
        states = [listener.state.name]
        for number in hoard:
            os.close(number)
        began = time.monotonic()
        until(loop, lambda: len(accepted) == 2)
        recovery = time.monotonic() - began
        waiting.sendall(b"pong")
        recovered = answer(loop, waiting, 4) == b"pong"
        states.append(listener.state.name)
        existing.close()
        waiting.close()
    return {
        "accepts": accepts,
        "turns": turns,
        "echoed": echoed,
        "turns_for_echo": turns_for_echo,
        "recovery": recovery,
        "recovered": recovered,
        "states": states,
    }


def interval_timer() -> dict[str, Any]:
    """Serve a client of the standard library while a signal comes a thousand times a second."""
    ticks = []

    class Reverser(reactor.Connection):
        codec = "bytes"

        def handle_message(self, message: bytes) -> None:
            self.send(message[::-1])

    wrong: list[str] = []

    def client(address: Any) -> None:
        # The signals go to the main thread alone, which is the one that is tested.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        with Client(address, authkey=KEY) as connection:
            for size in (0, 1, 100, 16384, 16385, 1_000_000, 5_000_000) * 5:
                message = os.urandom(size)
                connection.send_bytes(message)
                if connection.recv_bytes() != message[::-1]:
                    wrong.append(f"a message of {size} bytes")

    with reactor.Reactor() as loop:
        loop.on_signal(signal.SIGALRM, lambda: ticks.append(loop.turns))
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
        listener = reactor.Listener(("127.0.0.1", 0), Reverser, authkey=KEY, reactor=loop)
        thread = threading.Thread(target=client, args=(listener.address,))
        thread.start()
        until(loop, lambda: not thread.is_alive() and listener.connections == 0 and len(ticks) > 50)
        signal.setitimer(signal.ITIMER_REAL, 0)
        thread.join()
    return {"ticks": len(ticks), "wrong": wrong}


def broken_pipe() -> dict[str, Any]:
    """Send to peers that have gone."""
    logging.disable()
    reasons: list[str] = []

    class Talker(reactor.Stream):
        def handle_open(self) -> None:
            self.talk()

        def talk(self) -> None:
            self.push(b"x" * 1000)
            if not reasons:
                self.reactor.call_soon(self.talk)

        def handle_close(self, reason: reactor.ReactorError) -> None:
            reasons.append(type(reason).__name__)

    with reactor.Reactor() as loop:
        listener = reactor.Listener(("127.0.0.1", 0), Talker, reactor=loop)
        with socket.create_connection(listener.address):
            until(loop, lambda: listener.connections)
        until(loop, lambda: reasons)
    return {"reasons": reasons}


def fork_in_handler() -> dict[str, Any]:
    """Fork in a handler, with an answer queued; the child walks back into the loop."""
    pids: list[int] = []

    class Forking(reactor.Stream):
        def handle_data(self, data: bytes) -> None:
            self.push(data.upper())
            if not pids:
                pids.append(os.fork())

    loop = reactor.Reactor()
    listener = reactor.Listener(None, Forking, reactor=loop)
    client = socket.socket(socket.AF_UNIX)
    client.connect(listener.address)
    until(loop, lambda: listener.connections)
    client.sendall(b"first ")
    try:
        until(loop, lambda: pids)
        # The child would fail here at the latest: the loop is not its own.
        loop.poll(0)
    except reactor.ClosedReactorError:
        os._exit(in_the_child_of_a_fork(loop))
    if pids == [0]:
        os._exit(9)
    _, status = os.waitpid(pids[0], 0)
    client.sendall(b"second")
    received = answer(loop, client, 12)
    client.close()
    loop.close()
    return {"status": os.waitstatus_to_exitcode(status), "received": received.decode()}


def in_the_child_of_a_fork(loop: reactor.Reactor) -> int:
    """Use the parent's reactor in the child; return 0 if each use was refused, and a new one works."""
    uses: list[Callable[[], Any]] = [
        lambda: loop.poll(0),
        lambda: loop.loop(timeout=0),
        lambda: loop.call_threadsafe(print),
        lambda: loop.call_threadsafe(print),
        lambda: reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop),
    ]
    for number, use in enumerate(uses, start=1):
        try:
            use()
        except reactor.ClosedReactorError:
            continue
        return number
    loop.close()
    called: list[int] = []
    with reactor.Reactor() as own:
        own.call_soon(called.append, 1)
        own.loop(timeout=5)
    return 0 if called else 8


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
