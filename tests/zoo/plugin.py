"""A plugin for pytest: runs tests with a defect of the zoo planted, and writes down how the first of them failed.

``-p tests.zoo.plugin --zoo-defect=NAME --zoo-report=FILE``. The report is JSON: what was raised in the test
itself, or null. The process ends there and then: nobody waits for what a broken engine leaves behind.

``python -m tests.zoo.plugin NAME FUNCTION`` runs a function of `tests.children` with the defect planted.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from tests import children
from tests.conftest import ROOT
from tests.zoo.defects import DEFECTS
from tests.zoo.planting import planted

_planted = contextlib.ExitStack()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--zoo-defect", default="", help="the defect of the zoo to plant")
    parser.addoption("--zoo-report", help="where to write down what it led to")


def pytest_runtest_setup(item: pytest.Item) -> None:
    name = item.config.getoption("zoo_defect")
    if name:
        _planted.enter_context(planted(DEFECTS[name].changes))
        module = item.getparent(pytest.Module)
        assert module is not None
        if hasattr(module.obj, "in_child"):
            module.obj.in_child = functools.partial(in_child, name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if call.when == "call":
        error = call.excinfo
        seen = None if error is None else f"{error.typename}: {error.value}"
        Path(item.config.getoption("zoo_report")).write_text(json.dumps(seen), "utf-8")
        if report.failed:
            os._exit(1)
    return report


def in_child(defect: str, name: str, timeout: float = 30.0) -> Any:
    """Do what `tests.faults.in_child` does, with `defect` planted there too."""
    process = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.zoo.plugin", defect, name],
        cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.returncode == 0, f"it ended with {process.returncode}: {process.stderr[-4000:]}"
    return json.loads(process.stdout.splitlines()[-1])


if __name__ == "__main__":
    with planted(DEFECTS[sys.argv[1]].changes):
        print(json.dumps(getattr(children, sys.argv[2])()))
