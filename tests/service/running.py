"""Starting the service and following what it says."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.conftest import ROOT

TIMEOUT = 20.0

DEFAULTS: dict[str, Any] = {"workers": 2, "listen": [["127.0.0.1", 0]], "grace": 5.0}


class Service:
    """The program `tests.service.program`, in processes of its own.

    Arguments:
        environ: variables besides those of this process.
        command: what runs it; by default this Python, where every warning is an error.
        options: those of `reactor.serve`.

    Attributes:
        lines: what it has said so far: log lines, and what it prints.
    """

    def __init__(
        self,
        *,
        environ: dict[str, str] | None = None,
        command: list[str] | None = None,
        pass_fds: tuple[int, ...] = (),
        **options: Any,
    ) -> None:
        python = command or [sys.executable, "-X", "dev", "-W", "error"]
        self.process = subprocess.Popen(
            [*python, "-m", "tests.service.program", json.dumps(DEFAULTS | options)],
            cwd=ROOT,
            env=os.environ | (environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )
        assert self.process.stdout is not None
        self._pipe = self.process.stdout
        os.set_blocking(self._pipe.fileno(), False)
        self._rest = b""
        self.lines: list[str] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def listen(self) -> bool:
        """Take in what it has said meanwhile; return whether it may say more."""
        while True:
            data = self._pipe.read(65536)
            if not data:
                return data is None
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.lines += [line.decode() for line in lines]

    def find(self, pattern: str, first: int = 0) -> re.Match[str] | None:
        """Return the first match of `pattern` in the lines from number `first` on, if there is one by now."""
        self.listen()
        for line in self.lines[first:]:
            found = re.search(pattern, line)
            if found is not None:
                return found
        return None

    def wait_for(self, pattern: str, first: int = 0) -> re.Match[str]:
        """Wait for a line with `pattern`, from number `first` on."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            goes_on = self.listen()
            found = self.find(pattern, first)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            assert goes_on, f"it has ended without {pattern!r}:\n{self}"
            assert left > 0, f"no {pattern!r}:\n{self}"
            select.select([self._pipe], [], [], left)

    def __str__(self) -> str:
        return "\n".join(self.lines)

    @property
    def now(self) -> int:
        """The number of the next line."""
        self.listen()
        return len(self.lines)

    @property
    def addresses(self) -> list[Any]:
        """Where it listens, once all workers are ready."""
        told: list[Any] = json.loads(self.wait_for(r"^ready (.*)")[1])
        return [tuple(address) if isinstance(address, list) else address for address in told]

    def serving(self) -> dict[int, int]:
        """Return the processes of the workers that are ready, by number, as the log tells of them."""
        self.listen()
        found = {}
        for line in self.lines:
            ready = re.search(r"worker (\d+) \(process (\d+)\) is ready", line)
            if ready is not None:
                found[int(ready[1])] = int(ready[2])
        return found

    def send_signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        deadline = time.monotonic() + TIMEOUT
        while self.listen():
            left = deadline - time.monotonic()
            assert left > 0, f"it does not end:\n{self}"
            select.select([self._pipe], [], [], left)
        code = self.process.wait(TIMEOUT)
        wait_until(lambda: not self.has_processes, f"something is left of it:\n{self}")
        return code

    @property
    def has_processes(self) -> bool:
        """Whether any of its processes is there, or a zombie of it."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Have it end, and return its exit code."""
        self.send_signal(signum)
        return self.wait()

    def close(self) -> None:
        """End it, whatever it does, and all its workers."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self._pipe.close()


class Client:
    """Somebody who talks to the service, and waits for each answer.

    Attributes:
        pid: the process that serves him.
    """

    def __init__(self, address: Any) -> None:
        self.socket = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(address)
        self._file = self.socket.makefile("rb")

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()
        self.socket.close()

    def read(self) -> str:
        """Return the next line; nothing at the end."""
        return self._file.readline().decode().strip()

    @property
    def pid(self) -> int:
        if not hasattr(self, "_pid"):
            self._pid = int(self.read())
        return self._pid

    def send(self, line: str) -> None:
        assert self.pid
        self.socket.sendall(f"{line}\n".encode())

    def ask(self, line: str) -> str:
        """Return the answer to `line`, which is the same where all is well."""
        self.send(line)
        return self.read()


def is_alive(pid: int) -> bool:
    """Return whether there is such a process; a zombie counts."""
    return os.path.exists(f"/proc/{pid}")


def wait_until(condition: Callable[[], Any], complaint: str = "") -> None:
    """Wait for something that nobody tells: what becomes of processes that are not our own."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.002)


def wait_for_death(*pids: int) -> None:
    """Wait until none of these processes is there any more."""
    wait_until(lambda: not any(map(is_alive, pids)))


def children_of(pid: int) -> list[int]:
    """Return the processes that `pid` has started, zombies too."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(number) for number in file.read().split()]


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Hold a process for a while."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")
    yield
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def state_of(pid: int) -> str:
    """Return the letter for what a process does; Z once it has ended, also where nothing is left of it."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def accepted_by(pid: int) -> set[int]:
    """Return the ports of the TCP clients whose connections the process has accepted."""
    inodes = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            inodes.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    ports = set()
    with open("/proc/net/tcp") as file:
        for line in list(file)[1:]:
            fields = line.split()
            if f"socket:[{fields[9]}]" in inodes:
                ports.add(int(fields[2].partition(":")[2], 16))
    return ports - {0}
