"""CPython's own tests of ``multiprocessing.connection`` pass with our names in place of the originals'."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

SCRIPT = Path(__file__).with_name("suites.py")
PARTS = 4
"""Processes among which the tests are divided: most of them just wait."""


def start(which: str, part: int) -> subprocess.Popen[str]:
    """Start a part of the tests in a process of its own, with the names of `which`: "ours" or "theirs"."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), which, f"{part}/{PARTS}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**clean, "PYTHONPATH": str(ROOT)},
        text=True,
    )


def counts_of(processes: list[subprocess.Popen[str]]) -> dict[str, Any]:
    """Wait for the counts of all parts, and add them up."""
    total: dict[str, Any] = {}
    for process in processes:
        out, complaints = process.communicate(timeout=110)
        assert process.returncode == 0, complaints
        for name, count in json.loads(out.splitlines()[-1]).items():
            total[name] = total[name] + count if name in total else count
    return total


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec("test._test_multiprocessing") is None,
    reason="this Python comes without its tests",
)
def test_suite_has_the_counts_that_it_has_on_the_original() -> None:
    processes = {which: [start(which, part) for part in range(1, PARTS + 1)] for which in ("ours", "theirs")}
    try:
        counts = {which: counts_of(parts) for which, parts in processes.items()}
    finally:
        for process in (*processes["ours"], *processes["theirs"]):
            process.kill()
            process.communicate()
    ours, theirs = counts["ours"], counts["theirs"]
    assert ours["failed"] == 0, ours["report"]
    assert (ours["run"], ours["skipped"]) == (theirs["run"], theirs["skipped"])
    assert ours["run"] > 25
    assert (ours["ours"], theirs["ours"]) == (2 * PARTS, 0)
