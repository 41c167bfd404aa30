"""Clients that talk to a service all the time, and count what becomes of them."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import reactor


@dataclasses.dataclass
class Loss:
    """A session that did not come to its end.

    Attributes:
        port: the client's.
        pid: the process that served it; 0 where it never said a word.
        reason: why it closed.
    """

    port: int
    pid: int
    reason: str


class Session(reactor.LineChannel):
    """One connection: so many questions, one after the other."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.pid = self.port = self.answers = 0
        self.question = ""

    def handle_open(self) -> None:
        name = self.socket.getsockname()
        self.port = name[1] if isinstance(name, tuple) else 0

    def handle_line(self, line: str) -> None:
        if not self.pid:
            self.pid = int(line)
        elif line != self.question:
            self.load.wrong.append(f"{line!r} for {self.question!r}")
        else:
            self.answers += 1
            self.load.answers += 1
        if self.answers < self.load.length:
            self.question = f"question {next(self.load.numbers)}"
            self.send_line(self.question)
        else:
            self.close()

    def handle_error(self, error: Exception) -> None:
        """It is counted in handle_close."""

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.load.ended(self, reason)


class Load:
    """So many sessions at once; whenever one ends the next one begins.

    Arguments:
        length: questions in a session.

    Attributes:
        finished: sessions that came to their end.
        lost: those that did not.
        refused: how many could not even connect.
        wrong: answers that fit no question.
        served: the processes that have finished sessions, and how many.
    """

    def __init__(self, address: Any, loop: reactor.Reactor, clients: int = 20, length: int = 5) -> None:
        self.address = address
        self.loop = loop
        self.length = length
        self.numbers = itertools.count()
        self.sessions: set[Session] = set()
        self.finished = self.answers = self.refused = 0
        self.lost: list[Loss] = []
        self.wrong: list[str] = []
        self.served: dict[int, int] = {}
        self.goes_on = True
        for _ in range(clients):
            self.begin()

    def begin(self) -> None:
        self.sessions.add(reactor.connect(self.address, lambda: Session(self), reactor=self.loop))

    def ended(self, session: Session, reason: reactor.ReactorError) -> None:
        self.sessions.discard(session)
        if isinstance(reason, reactor.ConnectError):
            self.refused += 1
        elif session.answers == self.length:
            self.finished += 1
            self.served[session.pid] = self.served.get(session.pid, 0) + 1
        else:
            self.lost.append(Loss(session.port, session.pid, str(reason)))
        if self.goes_on:
            self.begin()

    def clients_of(self, pid: int) -> int:
        """Return how many sessions this process serves."""
        return sum(session.pid == pid for session in self.sessions)

    @property
    def verdict(self) -> tuple[list[Loss], int, list[str]]:
        """What went wrong."""
        return self.lost, self.refused, self.wrong
