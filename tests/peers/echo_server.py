"""A server for tests that look at a process from outside: prints its port, then a line for each line it is sent.

Usage: echo_server.py raw|frames|authenticated [KEY=VALUE ...]  (the values are fields of Limits)
The commands on standard input: "turns" prints how many turns the loop has made; "connections" how many are open.
"""

from __future__ import annotations

import ast
import logging
import os
import sys
from typing import Any

import reactor


class Raw(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Frames(reactor.Connection):
    codec = "bytes"

    def handle_frame(self, data: bytes) -> None:
        self.send_bytes(data)


class Commands(reactor.Stream):
    """Standard input is a socket here: the parent process gave us one end of a pair."""

    def handle_data(self, data: bytes) -> None:
        for command in data.split():
            print({b"turns": loop.turns, b"connections": listener.connections}[command], flush=True)

    def handle_close(self, reason: Any) -> None:
        loop.stop()


logging.getLogger("reactor").setLevel(logging.CRITICAL)  # thousands of refused peers are the point here
kind, *pairs = sys.argv[1:]
limits = reactor.Limits(**{key: ast.literal_eval(value) for key, value in (pair.split("=") for pair in pairs)})
options: dict[str, Any] = {"authkey": b"a long secret key"} if kind == "authenticated" else {}
loop = reactor.get_reactor()
listener = reactor.Listener(("127.0.0.1", 0), Raw if kind == "raw" else Frames, limits=limits, backlog=4096, **options)
os.set_blocking(0, False)
commands = reactor.Listener(None, Commands)
print(listener.address[1], commands.address, flush=True)
loop.loop()
loop.close()
