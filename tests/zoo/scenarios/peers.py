"""The channels that several scenarios have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import reactor
from reactor.connection import JOINED
from reactor.errors import ReactorError

SERVER = ("server", 6000)
MESSAGES = [b"", b"a", b"bc" * 150, bytes(range(256)) * 80, b"e" * (JOINED + 1), b"", b"f" * 100_000]
FIRST = 3
REPLY = bytes(range(256)) * 400


class Ended:
    """Mixed into a channel: keeps the reason for which it was closed."""

    reason: ReactorError | None = None

    def handle_close(self, reason: ReactorError) -> None:
        assert self.reason is None, "closed twice"
        self.reason = reason


class Sink(Ended, reactor.Stream):
    """Drops what it hears."""

    def handle_data(self, data: bytes) -> None:
        pass


class Deaf(Sink):
    """Is open, and never reads."""

    def handle_open(self) -> None:
        self.pause_reading()


class Echo(Ended, reactor.Stream):
    """Sends back what it hears."""

    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Messages(Ended, reactor.Connection):
    """Keeps the messages that came."""

    codec = "bytes"

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def handle_message(self, message: bytes) -> None:
        self.messages.append(message)


class EchoMessages(Ended, reactor.Connection):
    """Sends every message back."""

    codec = "bytes"

    def handle_message(self, message: bytes) -> None:
        self.send(message)


class Talker(Messages):
    """Sends the first messages, and all others when those have come back."""

    def handle_open(self) -> None:
        self.talk(MESSAGES[:FIRST])

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        if len(self.messages) == FIRST:
            self.talk(MESSAGES[FIRST:])

    def talk(self, messages: list[bytes]) -> None:
        for message in messages:
            self.send(message)

    def is_content(self) -> bool:
        return len(self.messages) == len(MESSAGES)


class Accepting:
    """A factory that keeps what it made."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.channels: list[Any] = []
        self._make = make

    def __call__(self) -> Any:
        self.channels.append(self._make())
        return self.channels[-1]
