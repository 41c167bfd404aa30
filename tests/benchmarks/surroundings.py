"""Where the figures come from: the machine, its kernel, the interpreter and the libraries."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .running import ROOT, Mistake

OLDEST = (3, 11)

PROBE = """
import importlib.metadata, json, platform, sys
versions = {}
for name in sys.argv[1:]:
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        versions[name] = None
name = platform.python_implementation() + " " + platform.python_version()
print(json.dumps([sys.version_info[:2], name, versions]))
"""


class Interpreter(NamedTuple):
    """A Python that is measured.

    Attributes:
        path: to it.
        version: with its kind, as "CPython 3.11.7".
        libraries: the version of each distribution that a contestant needs; None for one that is not installed.
    """

    path: str
    version: str
    libraries: dict[str, str | None]

    def describe(self) -> str:
        """Name the versions on one line."""
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        found = [f"{name} {version}" for name, version in self.libraries.items() if version is not None]
        return ", ".join([self.version, f"{project['name']} {project['version']}", *found])


def examine(python: str, distributions: Iterable[str]) -> Interpreter:
    """Ask the interpreter at the path `python` what it is, and which of `distributions` it has.

    Raises:
        Mistake: it does not run, or is too old.
    """
    command = [python, "-E", "-c", PROBE, *distributions]
    try:
        answer = subprocess.run(command, capture_output=True, timeout=60, check=True, cwd=ROOT).stdout
        version, name, libraries = json.loads(answer)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise Mistake(f"{python} does not run as a Python: {error}") from None
    if tuple(version) < OLDEST:
        raise Mistake("{} is {}; Python {}.{} is the oldest that can be measured".format(python, name, *OLDEST))
    return Interpreter(python, name, libraries)


def describe_machine() -> str:
    """Name the machine, its kernel, the time, and what else it has to do, in two lines."""
    load, _, _ = os.getloadavg()
    now = datetime.datetime.now().astimezone()
    return (
        f"{processor()}, {os.cpu_count()} processors; {platform.system()} {platform.release()} {platform.machine()}\n"
        f"{now:%Y-%m-%d %H:%M %z}; load average at the beginning {load:.2f}"
    )


def processor() -> str:
    """Return the name of the processor, as the kernel has it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return "a processor without a name"
