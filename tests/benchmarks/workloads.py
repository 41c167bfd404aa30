"""What the contestants have to do, as data; and how each kind of work becomes a command and its answer figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from .contestants import FRAMES, MESSAGES, PIPELINED_FRAMES, RAW, TLS, Contestant


class Tools(NamedTuple):
    """What the loads are made of.

    Attributes:
        python: the interpreter that is measured; clients in Python run on it too.
        load: `load.c`, compiled; None where nothing needs it.
        processors: where the servers may run, by number; None for everywhere.
        certificate: a file with a certificate and its key; None where nothing needs it.
    """

    python: str
    load: Path | None
    processors: frozenset[int] | None = None
    certificate: str | None = None


class Column(NamedTuple):
    """A figure in the table.

    Attributes:
        key: of the figure.
        heading: above the column.
        decimals: that are worth showing.
        spread: whether the smallest and the largest value stand beside the median.
    """

    key: str
    heading: str
    decimals: int = 0
    spread: bool = False


@dataclasses.dataclass(frozen=True)
class Workload:
    """A work.

    Attributes:
        name: for ``--work``.
        title: above the table, with ``{connections}`` in it.
        contestants: who does it, ours first.
        connections: how many there are at the same time.
    """

    name: str
    title: str
    contestants: tuple[Contestant, ...]
    connections: int

    columns: ClassVar[tuple[Column, ...]]
    """The first one is the cost, of which the ratios are taken."""

    needs_compiler: ClassVar[bool] = False

    @property
    def needs_certificate(self) -> bool:
        """Whether it is done over TLS."""
        return self.contestants == TLS

    def command(self, tools: Tools, seconds: float) -> list[str]:
        """Return the load's program and arguments, except for ``--port`` and ``--pid`` of the server.

        Arguments:
            seconds: how long it should measure, where it has a choice.
        """
        raise NotImplementedError

    def figures(self, result: dict[str, Any]) -> dict[str, float | None]:
        """Return the figures of the table from what the load printed; None for one that is not known."""
        raise NotImplementedError


class Timed(Workload):
    """Work that is measured in the server's processor time."""

    columns = (
        Column("cost", "processor µs", 2, spread=True),
        Column("user", "user", 2),
        Column("system", "system", 2),
        Column("busy", "busy %"),
        Column("rate", "a second"),
        Column("median", "median µs"),
        Column("p99", "99 % µs"),
    )

    def figures(self, result: dict[str, Any]) -> dict[str, float | None]:
        def each(key: str) -> float | None:
            return None if result[key] is None else result[key] / result["messages"] * 1e6

        return {
            "cost": each("total"),
            "user": each("user"),
            "system": each("system"),
            "busy": result["total"] / result["seconds"] * 100,
            "rate": result["messages"] / result["seconds"],
            "median": result["median"],
            "p99": result["p99"],
        }


@dataclasses.dataclass(frozen=True)
class Echo(Timed):
    """Messages that come back, from `load.c`.

    Attributes:
        size: of a message, in bytes.
        depth: messages in flight on each connection.
        header: whether 4 bytes of length stand in front of each message.
    """

    size: int
    depth: int = 1
    header: bool = False

    needs_compiler = True

    def command(self, tools: Tools, seconds: float) -> list[str]:
        options = {"connections": self.connections, "depth": self.depth, "size": self.size, "seconds": seconds}
        command = [str(tools.load), *(f"--{name}={value}" for name, value in options.items())]
        return [*command, "--header"] if self.header else command


@dataclasses.dataclass(frozen=True)
class EncryptedEcho(Timed):
    """Messages that come back over TLS, from a client in Python: C would need the headers of OpenSSL.

    Attributes:
        size: of a message, in bytes.
        depth: messages in flight on each connection, each in a record of its own, or in several.
    """

    size: int
    depth: int = 1

    def command(self, tools: Tools, seconds: float) -> list[str]:
        options = {"connections": self.connections, "depth": self.depth, "size": self.size, "seconds": seconds}
        return [*client(tools, "tls_echo"), *(f"--{name}={value}" for name, value in options.items())]


@dataclasses.dataclass(frozen=True)
class Handshake(Timed):
    """Connections that shake hands, exchange one message and close, one after another on each of so many threads.

    There are several at a time because a client of the standard library leaves TCP_NODELAY off and writes
    twice in a row, its welcome and then its message: the message waits 40 ms for a delayed acknowledgement.
    """

    def command(self, tools: Tools, seconds: float) -> list[str]:
        command = [*client(tools, "handshake"), f"--clients={self.connections}", f"--seconds={seconds}"]
        return [*command, "--tls"] if self.needs_certificate else command


@dataclasses.dataclass(frozen=True)
class Idle(Workload):
    """Connections that do nothing."""

    columns = (Column("cost", "KiB a connection", 3, spread=True),)

    def command(self, tools: Tools, seconds: float) -> list[str]:
        command = [*client(tools, "idle"), f"--connections={self.connections}"]
        return [*command, "--tls"] if self.needs_certificate else command

    def figures(self, result: dict[str, Any]) -> dict[str, float | None]:
        return {"cost": result["bytes"] / 1024}


def client(tools: Tools, name: str) -> list[str]:
    """Return how to run a program of the package `clients`."""
    return [tools.python, "-E", "-m", f"{__package__}.clients.{name}"]


WORKLOADS: tuple[Workload, ...] = (
    Echo(
        name="raw-1k",
        title="raw echo of 1 KiB, {connections} connections, one in flight on each",
        contestants=RAW,
        connections=50,
        size=1024,
    ),
    Echo(
        name="frames-1",
        title="frames of 100 bytes, {connections} connections, one in flight on each",
        contestants=FRAMES,
        connections=50,
        size=100,
        header=True,
    ),
    Echo(
        name="frames-16",
        title="frames of 100 bytes, {connections} connections, sixteen in flight on each",
        contestants=PIPELINED_FRAMES,
        connections=50,
        size=100,
        depth=16,
        header=True,
    ),
    Handshake(
        name="handshake",
        title="connect, authenticate, one message and its answer, close; {connections} at a time",
        contestants=MESSAGES,
        connections=32,
    ),
    EncryptedEcho(
        name="tls-100",
        title="TLS echo of 100 bytes, {connections} connections, one in flight on each",
        contestants=TLS,
        connections=50,
        size=100,
    ),
    EncryptedEcho(
        name="tls-100-16",
        title="TLS echo of 100 bytes, {connections} connections, sixteen in flight on each",
        contestants=TLS,
        connections=50,
        size=100,
        depth=16,
    ),
    EncryptedEcho(
        name="tls-1k",
        title="TLS echo of 1 KiB, {connections} connections, one in flight on each",
        contestants=TLS,
        connections=50,
        size=1024,
    ),
    EncryptedEcho(
        name="tls-64k",
        title="TLS echo of 64 KiB, {connections} connections, one in flight on each",
        contestants=TLS,
        connections=10,
        size=64 * 1024,
    ),
    Handshake(
        name="tls-handshake",
        title="connect, full handshake of TLS 1.3, five bytes and their echo, close; {connections} at a time",
        contestants=TLS,
        connections=8,
    ),
    Idle(
        name="idle-raw",
        title="memory of {connections} idle connections for raw bytes",
        contestants=RAW,
        connections=10_000,
    ),
    Idle(
        name="idle-tls",
        title="memory of {connections} idle connections over TLS",
        contestants=TLS,
        connections=1_000,
    ),
    Idle(
        name="idle-frames",
        title="memory of {connections} idle connections for frames",
        contestants=FRAMES,
        connections=10_000,
    ),
)
