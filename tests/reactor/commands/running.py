"""Running ``python -m reactor`` as somebody at a shell does: to its end, as a server, and at a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from tests.conftest import ROOT

PROGRAM = '''
"""A program with handlers, for the tests of the command."""

import os

import reactor


class Echo(reactor.Stream):
    def handle_data(self, data):
        self.push(data)


class Adder(reactor.Connection):
    def handle_message(self, message):
        self.send(sum(message))


class Json(reactor.Connection):
    codec = "json"

    def handle_message(self, message):
        self.send({"got": message})


class Bytes(reactor.Connection):
    codec = "bytes"

    def handle_message(self, message):
        self.send(message.upper())


class Lines(reactor.LineChannel):
    def handle_line(self, line):
        if line == "who":
            self.send_line(f"{os.getpid()} {os.geteuid()} {reactor.format_address(self.peer)}")
        elif line == "bye":
            self.send_line("bye")
            self.close_when_done()
        elif line == "later":
            self.reactor.call_later(0.5, self.send_line, "now")
        elif line == "later bye":
            self.reactor.call_later(0.5, self.handle_line, "now bye")
        elif line == "now bye":
            self.send_line("now")
            self.close_when_done()
        elif line == "fail":
            raise ValueError("as asked for")
        else:
            self.send_line(line.upper())


def make_lines():
    return Lines()


class Datagrams(reactor.Datagram):
    pass


number = 7
'''


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a program in it and a key, in which the command is run."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "key").write_bytes(bytes(range(32)))
    (tmp_path / "key").chmod(0o600)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def environment(**more: str) -> dict[str, str]:
    foreign = ("PYTHON", "PYTEST", "COVERAGE", "LISTEN_", "NOTIFY_", "NO_COLOR")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "HOME": os.getcwd(), **more}


def argv(*arguments: Any) -> list[str]:
    return [sys.executable, "-X", "dev", "-W", "error", "-m", "reactor", *map(str, arguments)]


def command(*arguments: Any, input: str | bytes = b"", **more: str) -> tuple[int, str, str]:
    """Run the command to its end; return its exit code, output and errors."""
    data = input.encode() if isinstance(input, str) else input
    done = subprocess.run(
        argv(*arguments), input=data, capture_output=True, timeout=30, check=False, env=environment(**more)
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


class Server:
    """A server in the foreground.

    Attributes:
        url: where it listens.
        log: the file to which it writes its standard error.
    """

    def __init__(self, *arguments: Any, listen: str = "tcp://127.0.0.1:0", **options: Any) -> None:
        self.log = Path(f"log-{len(list(Path.cwd().iterdir()))}").absolute()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                argv("serve", *arguments, "--listen", listen),
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True,
                env=environment(**options.pop("environment", {})), **options,
            )  # fmt: skip
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("listening on "), self.errors
        where = line.removeprefix("listening on ").strip()
        self.url = f"unix://{where.removeprefix('unix:')}" if where.startswith("unix:") else f"tcp://{where}"

    @property
    def errors(self) -> str:
        """What it has complained of so far."""
        return self.log.read_text()

    @property
    def address(self) -> Any:
        """Where it listens, as the socket module writes it."""
        endpoint = reactor.parse_address(self.url)
        return endpoint.location

    def end(self, signum: int = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(20)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def serving(*arguments: Any, **options: Any) -> Iterator[Server]:
    """Run a server until the block is left."""
    server = Server(*arguments, **options)
    try:
        yield server
    finally:
        server.close()


def until(condition: Any, timeout: float = 15.0) -> None:
    """Wait until `condition` holds for what other processes do."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout} s"
        time.sleep(0.01)


def gone(pid: int) -> None:
    """Wait until a process that is no child of this one has ended."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            assert select.select([descriptor], [], [], 20)[0], f"process {pid} goes on"
        finally:
            os.close(descriptor)


ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal:
    """The command, run at a terminal of its own.

    Attributes:
        raw: all that was shown so far, with what steers the terminal.
    """

    def __init__(self, *arguments: Any, **more: str) -> None:
        self.raw = ""
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv(*arguments), stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
            env=environment(TERM="xterm", **more),
        )  # fmt: skip
        os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def shown(self) -> str:
        """What was shown, without colours and the like."""
        return ESCAPES.sub("", self.raw).replace("\r", "")

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def wait_for(self, text: str) -> None:
        """Wait until `text` is shown."""
        deadline = time.monotonic() + 15
        while text not in self.shown:
            assert time.monotonic() < deadline, self.raw
            self._take(0.1)

    def end(self, key: str = "", is_repeated: bool = False) -> int:
        """Press `key`, take what is still shown, and return the exit code.

        Arguments:
            is_repeated: press it again and again: readline misses a signal that comes just before it begins to wait.
        """
        deadline = time.monotonic() + 15
        self.type(key)
        while self._take(0.5):
            assert time.monotonic() < deadline, self.raw
            if is_repeated:
                self.type(key)
        return self.process.wait(15)

    def _take(self, timeout: float) -> bool:
        if select.select([self._master], [], [], timeout)[0]:
            try:
                data = os.read(self._master, 65536)
            except OSError:  # the last one who had the terminal open is gone
                return False
            self.raw += data.decode("utf-8", "backslashreplace")
            return bool(data)
        return True
