"""The CPythons of this machine, and the peers that run on them."""

from __future__ import annotations

import functools
import glob
import json
import os
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

SCRIPT = Path(__file__).with_name("peers") / "stdlib_peer.py"

OURS = "{}.{}".format(*sys.version_info)
VERSIONS = sorted({"2.7", *(f"3.{minor}" for minor in range(6, 15)), OURS}, key=lambda version: version.zfill(5))
"""One interpreter of each is wanted; the one that runs the tests stands for its own version."""

VARIABLE = "REACTOR_PYTHONS"
"""The environment variable that names further interpreters, separated as in PATH. They come first."""

PATIENCE = 15
"""Seconds after which a peer for which nothing happens gives up, so that the next test finds it ready."""

PROBE = "import platform, sys; print(platform.python_implementation() + ' %d.%d' % sys.version_info[:2])"
ALONE = ["-E", "-s", "-S", "-B"]
"""Without the environment's variables and without site-packages: nothing but the standard library."""


@functools.cache
def find_interpreters() -> dict[str, str]:
    """Return the path of one CPython for each version that was found."""
    named = [path for path in os.environ.get(VARIABLE, "").split(os.pathsep) if path]
    of_pyenv = sorted(glob.glob(os.path.expanduser("~/.pyenv/versions/*/bin/python")))
    found = {OURS: sys.executable}
    for path in [*named, *of_pyenv]:
        version = probe(path)
        if version is not None:
            found.setdefault(version, path)
        elif path in named:
            pytest.fail(f"{VARIABLE} names {path!r}, which is no CPython that runs")
    for version in VERSIONS:
        on_path = shutil.which(f"python{version}")
        if version not in found and on_path is not None and probe(on_path) == version:
            found[version] = on_path
    return found


def probe(path: str) -> str | None:
    """Return the version of the CPython at `path`; None if it is another Python, or does not run."""
    try:
        output = subprocess.run([path, *ALONE, "-c", PROBE], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None  # a shim for a version that is not chosen, or a broken installation
    implementation, _, version = output.stdout.strip().partition(" ")
    return version if implementation == "CPython" else None


class Peer:
    """`stdlib_peer.py` in a process of its own, on some interpreter.

    Attributes:
        version: of the interpreter, as "3.11".
        answer: what it said last.
    """

    def __init__(self, version: str, executable: str) -> None:
        self.version = version
        self.answer: dict[str, Any] = {}
        self._due = 0
        self._received = b""
        self._process = subprocess.Popen(
            [executable, *ALONE, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )

    @property
    def is_python_2(self) -> bool:
        return self.version.startswith("2.")

    @property
    def knows_sha256(self) -> bool:
        return tuple(map(int, self.version.split("."))) >= (3, 12)

    def ask(
        self, role: str, address: Any, key: bytes | None, act: str, answers: int = 1, patience: int = PATIENCE
    ) -> None:
        """Tell it what to do; so many `answers` will come."""
        assert self._process.stdin is not None
        key_text = None if key is None else key.decode("ascii")
        command = {"role": role, "address": address, "key": key_text, "act": act, "patience": patience}
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._due += answers

    def connect(self, address: Any, key: bytes | None, act: str, **options: Any) -> None:
        """Have its `Client` connect to `address`, then do `act`."""
        self.ask("client", address, key, act, **options)

    def listen(self, address: Any, key: bytes | None, act: str, **options: Any) -> Any:
        """Have its `Listener` accept one connection, then do `act`; return the address that it got."""
        self.ask("listener", address, key, act, answers=2, **options)
        deadline = time.monotonic() + PATIENCE
        while not self.has_answered(timeout=1):
            assert time.monotonic() < deadline, f"Python {self.version} does not listen"
        got = self.answer["address"]
        return tuple(got) if isinstance(got, list) else got

    def has_answered(self, timeout: float = 0) -> bool:
        """Return whether an answer has come, and stands in `answer` now."""
        assert self._process.stdout is not None
        while b"\n" not in self._received:
            if not select.select([self._process.stdout], [], [], timeout)[0]:
                return False
            data = self._process.stdout.read(65536)
            assert data, f"the peer on Python {self.version} has died"
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        self.answer = json.loads(line)
        self._due -= 1
        return True

    def settle(self) -> None:
        """Wait for what a failed test has left unanswered, so that the next one begins afresh."""
        deadline = time.monotonic() + PATIENCE + 5
        while self._due and time.monotonic() < deadline:
            if self.has_answered(timeout=1) and "error" in self.answer:
                self._due = 0  # a listener that fails at once answers only once

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
