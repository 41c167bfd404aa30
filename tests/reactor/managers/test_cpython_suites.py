"""CPython's own tests of managers pass on ours, with the counts that they have on the original ones.

They run on the Python that runs this test, so on each one of which CI runs the tests.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.reactor.managers.serving import end

SCRIPT = Path(__file__).with_name("suites.py")

LONG = ["WithManagerTestBarrier", "WithManagerTestCondition", "WithManagerTestPool"]
"""They wait for a while, so each one runs beside the others."""

SKIPPED = {
    "WithManagerTestBarrier.test_thousand": "test not appropriate for manager",
    "WithManagerTestPool.test_enter": "test not applicable to manager",
    "WithManagerTestPool.test_imap_handle_iterable_exception": "test not appropriate for manager",
    "WithManagerTestPool.test_imap_unordered_handle_iterable_exception": "test not appropriate for manager",
    "WithManagerTestPool.test_map_handle_iterable_exception": "test not appropriate for manager",
    "WithManagerTestPool.test_resource_warning": "test not applicable to manager",
    "WithManagerTestQueue.test_queue_feeder_donot_stop_onexc": "test not appropriate for manager",
    "WithManagerTestQueue.test_queue_feeder_on_queue_feeder_error": "test not appropriate for manager",
    "WithManagerTestSemaphore.test_timeout": "test not appropriate for manager",
}
"""What CPython itself skips where the server is a manager's, whoever's that is, and the reason that it gives.

Besides `WithProcessesTestSharedMemory.test_shared_memory_SharedMemoryManager_reuses_resource_tracker` is not run: it
starts a program that imports the original manager.
"""


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    return {**clean, "PYTHONPATH": str(ROOT)}


@functools.cache
def classes() -> list[str]:
    """Return the names of the classes of tests that use managers; none where this Python comes without its tests."""
    if importlib.util.find_spec("test") is None or importlib.util.find_spec("test._test_multiprocessing") is None:
        return []
    command = [sys.executable, "-W", "ignore", str(SCRIPT), "list"]
    done = subprocess.run(command, capture_output=True, env=environment(), check=True)
    found: list[str] = json.loads(done.stdout)
    return found


def start(which: str, names: list[str]) -> subprocess.Popen[str]:
    """Start tests in a process of their own, with the managers of `which`: "ours" or "theirs"."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", str(SCRIPT), which, *names],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def counts() -> Iterator[dict[str, list[dict[str, Any]]]]:
    """The counts of all tests with our managers and with the original ones, of each process."""
    if not classes():
        pytest.skip("this Python comes without its tests")
    parts = [[name] for name in LONG] + [[name for name in classes() if name not in LONG]]
    running = {which: [start(which, names) for names in parts] for which in ("ours", "theirs")}
    try:
        yield {which: [counts_of(process) for process in processes] for which, processes in running.items()}
    finally:
        for process in [process for processes in running.values() for process in processes]:
            end(process)


def counts_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, complaints = process.communicate(timeout=110)
    assert process.returncode == 0, complaints
    counts: dict[str, Any] = json.loads(out.splitlines()[-1])
    return counts


@pytest.mark.timeout(120)
def test_tests_of_managers_pass_as_they_pass_on_the_originals(counts: dict[str, list[dict[str, Any]]]) -> None:
    for ours, theirs in zip(counts["ours"], counts["theirs"], strict=True):
        assert ours["failed"] == 0, ours["report"]
        assert (ours["altered"], ours["left"]) == (False, 0), ours["report"]
        assert ours["run"] > 0
        assert {name: ours[name] for name in ("run", "skipped")} == {name: theirs[name] for name in ("run", "skipped")}


@pytest.mark.timeout(120)
def test_no_test_of_managers_is_skipped_but_for_those_that_are_named(counts: dict[str, list[dict[str, Any]]]) -> None:
    skipped = [line.removeprefix("manager_tests.") for part in counts["ours"] for line in part["skipped"]]
    assert set(skipped) <= {f"{name}: {reason}" for name, reason in SKIPPED.items()}
    assert sum(part["run"] for part in counts["ours"]) - len(skipped) > 80


@pytest.mark.timeout(120)
def test_tests_of_managers_ran_on_the_servers_that_were_meant(counts: dict[str, list[dict[str, Any]]]) -> None:
    servers = {which: {name for part in parts for name in part["servers"]} for which, parts in counts.items()}
    assert servers == {
        "ours": {"reactor.managers.server", "reactor.managers.segments"},
        "theirs": {"multiprocessing.managers"},
    }
