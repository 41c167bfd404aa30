"""CPython's own tests of asyncore and asynchat pass on ours, and so do those of its tests that serve with them."""

from __future__ import annotations

import functools
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from reactor.compat import asyncore
from tests.conftest import ROOT
from tests.interpreters import find_interpreters

SCRIPT = Path(__file__).with_name("suites.py")
LAST_WITH_ASYNCORE = "3.11"


@functools.cache
def can_load(python: str, names: tuple[str, ...]) -> bool:
    """Return whether `python` comes with these test modules. Debian, for one, leaves them out."""
    modules = [".".join(name.split(".")[:2]) for name in names]
    if python == sys.executable:
        return importlib.util.find_spec("test") is not None and all(map(importlib.util.find_spec, modules))
    source = "import importlib.util, sys; sys.exit(not all(map(importlib.util.find_spec, sys.argv[1:])))"
    return not subprocess.run([python, "-c", source, *modules], capture_output=True, check=False).returncode


class Suite(NamedTuple):
    """Test modules, or parts of one, that run together.

    Attributes:
        parts: the number of processes among which its tests are divided: most of them just wait.
        is_compared: whether they are run on the originals too, to compare the counts.
    """

    names: tuple[str, ...]
    parts: int = 1
    is_compared: bool = True

    def __str__(self) -> str:
        return self.names[0].split(".")[1]


SUITES = [
    Suite(("test.test_asyncore", "test.test_asynchat"), parts=2),
    Suite(("test.test_smtpd",)),
    Suite(
        ("test.test_smtplib", "test.test_logging.SMTPHandlerTest", "test.test_ssl.ThreadedTests.test_asyncore_server"),
        is_compared=False,
    ),
    Suite(("test.test_ftplib",), parts=3, is_compared=False),
    Suite(("test.test_poplib",), parts=2, is_compared=False),
]


def interpreter_for(names: tuple[str, ...]) -> str | None:
    """Return a Python that comes with these test modules; this one if it does."""
    if can_load(sys.executable, names):
        return sys.executable
    other = find_interpreters().get(LAST_WITH_ASYNCORE)
    return other if other is not None and can_load(other, names) else None


def start(python: str, which: str, part: str, names: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start test modules of CPython in a process of their own, with the modules of `which`: "ours" or "theirs"."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    return subprocess.Popen(
        [python, "-W", "ignore::DeprecationWarning", str(SCRIPT), which, part, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**clean, "PYTHONPATH": str(ROOT)},
        text=True,
    )


Processes = dict[str, list[subprocess.Popen[str]]]


@pytest.fixture(scope="module")
def running() -> Iterator[dict[Suite, Processes]]:
    """All suites at once, in processes by whose modules they have: "ours" or "theirs"."""
    processes: dict[Suite, Processes] = {}
    for suite in SUITES:
        python = interpreter_for(suite.names)
        if python is not None:
            processes[suite] = {
                which: [
                    start(python, which, f"{part}/{suite.parts}", suite.names) for part in range(1, suite.parts + 1)
                ]
                for which in (("ours", "theirs") if suite.is_compared else ("ours",))
            }
    yield processes
    for pair in processes.values():
        for process in itertools.chain(*pair.values()):
            process.kill()
            process.communicate()


def counts_of(processes: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """Wait for the counts of all parts of a suite, and add them up."""
    total: dict[str, Any] = {}
    for process in processes:
        out, complaints = process.communicate(timeout=170)
        assert process.returncode == 0, complaints
        for name, count in json.loads(out.splitlines()[-1]).items():
            total[name] = total[name] + count if name in total else count
    return total


@pytest.mark.timeout(180)
@pytest.mark.parametrize("suite", SUITES, ids=str)
def test_suite_has_the_counts_that_it_has_on_the_originals(running: dict[Suite, Processes], suite: Suite) -> None:
    if suite not in running:
        pytest.skip(f"no Python here comes with {' and '.join(suite.names)}")
    counts = {which: counts_of(processes) for which, processes in running[suite].items()}
    ours = counts["ours"]
    assert ours["run"] > 0
    assert ours["failed"] == 0, ours["report"]
    assert set(ours["asyncore"]) == {asyncore.__file__}
    for theirs in counts.values():
        assert {name: ours[name] for name in ("run", "skipped")} == {name: theirs[name] for name in ("run", "skipped")}
    if suite.is_compared:
        assert asyncore.__file__ not in counts["theirs"]["asyncore"]
