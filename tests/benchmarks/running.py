"""Runs a contestant against a load, each in a process of its own, and gives back what was measured."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .contestants import Contestant
from .workloads import Tools, Workload

ROOT = Path(__file__).resolve().parent.parent.parent
LOAD_SOURCE = Path(__file__).with_name("load.c")

PATIENCE = 60.0
"""Seconds, beyond those for measuring, after which a server or a load is taken to hang."""


class Mistake(Exception):
    """Something that whoever typed the command can put right, or has to know."""


class FailedError(Exception):
    """A contestant, or the load that was put on it, did not do what it should."""


class Server:
    """A contestant's program, running; for a with statement, which ends it.

    Attributes:
        port: where it listens on 127.0.0.1.
        pid: its process.

    Raises:
        FailedError: it does not listen.
    """

    def __init__(self, tools: Tools, contestant: Contestant) -> None:
        self._errors = tempfile.TemporaryFile()
        command = [tools.python, "-E", "-m", f"{__package__}.servers.{contestant.module}", contestant.mode]
        # Without the variables of the environment: the developer mode, for example, would be measured too.
        self._process = subprocess.Popen(
            [*command, *filter(None, [tools.certificate])],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._errors,
        )
        self.pid = self._process.pid
        try:
            if tools.processors is not None:
                os.sched_setaffinity(self.pid, tools.processors)
            self.port = self._read_port()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def complaint(self) -> str:
        """Return the last line that it wrote to standard error."""
        self._errors.seek(0)
        return last_line(self._errors.read())

    def _read_port(self) -> int:
        assert self._process.stdout is not None
        if not select.select([self._process.stdout], [], [], PATIENCE)[0]:
            raise FailedError(f"the server does not listen after {PATIENCE:g} s")
        line = self._process.stdout.readline().strip()
        if not line.isdigit():
            self._process.wait(PATIENCE)
            raise FailedError(f"the server does not start: {self.complaint() or line.decode(errors='replace')}")
        return int(line)


def run_once(workload: Workload, contestant: Contestant, tools: Tools, seconds: float) -> dict[str, float | None]:
    """Return the figures of one run.

    Raises:
        FailedError: there are none.
    """
    with Server(tools, contestant) as server:
        command = [*workload.command(tools, seconds), f"--port={server.port}", f"--pid={server.pid}"]
        try:
            load = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=PATIENCE + 2 * seconds, check=False)
        except subprocess.TimeoutExpired:
            raise FailedError("the load does not come to an end") from None
        if load.returncode:
            complaints = [last_line(load.stderr) or f"the load ended with {load.returncode}", server.complaint()]
            raise FailedError("; ".join(filter(None, complaints)))
        result: dict[str, Any] = json.loads(load.stdout)
        return workload.figures(result)


def last_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def compile_load(directory: Path) -> Path:
    """Compile `load.c` into `directory`, and return the program.

    Raises:
        Mistake: there is no compiler, or it cannot do it.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        raise Mistake("there is no C compiler (cc), and the load is written in C; on Debian: apt-get install gcc")
    program = directory / "load"
    command = [compiler, "-O2", "-std=gnu11", "-o", str(program), str(LOAD_SOURCE)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise Mistake(f"{shlex.join(command)} failed:\n{done.stderr.decode(errors='replace').strip()}")
    return program
