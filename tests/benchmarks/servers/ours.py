"""This reactor."""

from __future__ import annotations

import sys
from typing import Any

import reactor

from . import BACKLOG, KEY


class Raw(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Frames(reactor.Connection):
    codec = "bytes"

    def handle_frame(self, data: bytes) -> None:
        self.send_bytes(data)


class Messages(reactor.Connection):
    def handle_message(self, message: Any) -> None:
        self.send(message)


if __name__ == "__main__":
    mode, *certificate = sys.argv[1:]
    factory = {"raw": Raw, "tls": Raw, "frames": Frames, "messages": Messages}[mode]
    listener = reactor.Listener(
        ("127.0.0.1", 0),
        factory,
        authkey=KEY if mode == "messages" else None,
        backlog=BACKLOG,
        tls=certificate[0] if mode == "tls" else None,
    )
    print(listener.address[1], flush=True)
    reactor.loop()
