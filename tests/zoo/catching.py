"""A planted defect, and what catches it: a scenario in simulated worlds, or the test that is named after its row."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any, Protocol

from reactor.simulation import ALL, HARMLESS, SimulationFailure, torture
from reactor.simulation.running import Scenario, run_once
from tests.conftest import ROOT
from tests.zoo.planting import Change

TIMEOUT = 20
"""Seconds after which a test under a defect is taken to hang, which is a way to be caught."""


class Catcher(Protocol):
    """Looks at the engine as it is at the moment."""

    def look(self, defect: str) -> str | None:
        """Return what is wrong with the engine, in a line, or None.

        Arguments:
            defect: the name of what is planted, or nothing; for what runs in a process of its own.
        """


@dataclasses.dataclass(frozen=True)
class Simulated:
    """A scenario, run until it fails: first with no fault at all, then with one seed after the other.

    Arguments:
        scenario: see `reactor.simulation.simulate`.
        seeds: how many at the most.
        faults: those that may be drawn.
    """

    scenario: Scenario
    seeds: int = 40
    faults: Set[str] = HARMLESS

    def __str__(self) -> str:
        return getattr(self.scenario, "__name__", "scenario")

    def look(self, defect: str) -> str | None:
        failure = run_once(self.scenario, draws={}).failure
        if failure is not None:
            return f"no fault: {type(failure).__name__}: {failure}"
        for seed in range(self.seeds):
            failure = run_once(self.scenario, seed, faults=self.faults).failure
            if failure is not None:
                return f"seed {seed}: {type(failure).__name__}: {failure}"
        return None


@dataclasses.dataclass(frozen=True)
class Tortured:
    """A scenario in which each call fails once, in each way that it can fail.

    Arguments:
        scenario: see `reactor.simulation.torture`.
        only: the calls that are to fail; nothing for all of them.
        faults: those that are tried.
    """

    scenario: Scenario
    only: frozenset[str] = frozenset()
    faults: Set[str] = ALL

    def __str__(self) -> str:
        return f"{getattr(self.scenario, '__name__', 'scenario')}, tortured"

    def look(self, defect: str) -> str | None:
        only: Callable[[str], bool] | None = self.only.__contains__ if self.only else None
        try:
            torture(self.scenario, faults=self.faults, only=only)
        except SimulationFailure as failure:
            return f"{failure.tape}: {type(failure.cause).__name__}: {failure.cause}"
        return None


@dataclasses.dataclass(frozen=True)
class RowTest:
    """A test, run in a process of its own, so that the wreck of an engine is nobody else's trouble.

    Arguments:
        test: its name, in `path`.
        path: its file.
    """

    test: str
    path: str = "tests/reactor/test_failures.py"

    def __str__(self) -> str:
        return self.test

    def look(self, defect: str) -> str | None:
        with tempfile.TemporaryDirectory(prefix="zoo-") as directory:
            report = Path(directory, "report")
            environment: dict[str, Any] = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "TMPDIR": directory}
            # Where CI or BUILD_NUMBER is set, pytest shows two lists of a thousand channels line by line: for minutes.
            for name in ("PYTEST_ADDOPTS", "CI", "BUILD_NUMBER"):
                environment.pop(name, None)
            process = subprocess.run(
                [
                    sys.executable, "-m", "pytest", f"{self.path}::{self.test}", "-x", "-p", "pytest_timeout",
                    "-p", "no:cacheprovider", "-p", "tests.zoo.plugin", f"--timeout={TIMEOUT}",
                    f"--zoo-defect={defect}", f"--zoo-report={report}",
                ],
                cwd=ROOT, env=environment, capture_output=True, text=True, timeout=2 * TIMEOUT, check=False,
            )  # fmt: skip
            assert report.exists(), f"the test did not run:\n{process.stdout}{process.stderr}"
            seen = json.loads(report.read_text("utf-8"))
            return None if seen is None else str(seen)


class Defect:
    """A defect that somebody had, and that we could have.

    Arguments:
        name: what the tests call it.
        story: what it does.
        changes: how it is planted; each changes another function.
        by: what has to catch it.
        seen: a regular expression for what that says.
    """

    def __init__(self, name: str, story: str, *changes: Change, by: Catcher, seen: str) -> None:
        self.name = name
        self.story = story
        self.changes = changes
        self.catcher = by
        self.seen = seen
