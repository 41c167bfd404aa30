"""Examples that run in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.connection import Client, Connection
from pathlib import Path

from tests.conftest import KEY, ROOT


class Program:
    """An example that runs in a process of its own, where every warning is an error.

    Attributes:
        first_line: what a server prints first.
        address: where it listens, from that line.
    """

    def __init__(self, directory: Path, name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> None:
        self._error_file = directory / f"stderr-{len(list(directory.iterdir()))}"
        # In its developer mode asyncio complains about callbacks that a busy machine made slow.
        developer = [] if name == "inside_asyncio" else ["-X", "dev"]
        with self._error_file.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, *developer, "-W", "error", "-m", f"examples.{name}", *arguments],
                cwd=ROOT,
                env={**os.environ, "HOME": str(directory)},
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        self.first_line = ""
        self.address: tuple[str, int] = ("", 0)

    def read_line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().rstrip("\n")

    def read_address(self) -> tuple[str, int]:
        """Return the address at the end of the next line."""
        self.first_line = self.read_line()
        host, _, port = self.first_line.rpartition(" ")[2].rpartition(":")
        return host, int(port)

    def connect(self, key: bytes = KEY) -> Connection:
        return Client(self.address, authkey=key)

    def send_signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        return self.process.wait(20)

    @property
    def errors(self) -> str:
        """What it has written to the standard error."""
        return self._error_file.read_text()

    def ends_cleanly(self, signum: int = signal.SIGTERM) -> bool:
        """Send a signal, and return whether it ended with exit code 0 and without a word."""
        self.send_signal(signum)
        return (self.wait(), self.errors) == (0, "")

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


Start = Callable[..., Program]
"""Starts an example with some arguments."""


def listening(program: Program) -> Program:
    """Return a server that listens on a port, which the system chose."""
    host, port = program.read_address()
    program.address = host.strip("[]"), port
    return program


def output_of(program: Program) -> tuple[int, str, str]:
    """Wait for the end of a client; return its exit code, its output and its errors."""
    output, _ = program.process.communicate(timeout=20)
    return program.wait(), output.decode(), program.errors
