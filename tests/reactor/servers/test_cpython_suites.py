"""CPython's own tests of ``socketserver``, and of what stands on it, pass with our module in place of the original."""

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

SUITES = {
    "socketserver": ["test_socketserver"],
    "http": ["test_httpservers", "test_httplib", "test_wsgiref"],
    "xmlrpc": [
        "test_docxmlrpc",
        # Its MultiPathServerTestCase sleeps.
        "test_xmlrpc:SimpleServerTestCase,SimpleServerEncodingTestCase,KeepaliveServerTestCase1,KeepaliveServerTestCase2,"
        "GzipServerTestCase,HeadersServerTestCase,FailingServerTestCase",
    ],
    "logging": [
        # The other test of the first two sleeps, with no server at all.
        "test_logging:SocketHandlerTest.test_output,UnixSocketHandlerTest.test_output,DatagramHandlerTest,"
        "UnixDatagramHandlerTest,SysLogHandlerTest,HTTPHandlerTest",
    ],
}


def start(which: str, suites: list[str], directory: Path) -> subprocess.Popen[str]:
    """Start the tests in a process of its own, with the module of `which`: "ours" or "theirs"."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    directory.mkdir()
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), which, *suites],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**clean, "PYTHONPATH": str(ROOT)},
        text=True,
        cwd=directory,
    )


@pytest.mark.timeout(120)
@pytest.mark.skipif(
    importlib.util.find_spec("test") is None or importlib.util.find_spec("test.test_socketserver") is None,
    reason="this Python comes without its tests",
)
@pytest.mark.parametrize("subject", SUITES)
def test_suite_has_the_counts_that_it_has_on_the_original(subject: str, tmp_path: Path) -> None:
    processes = {which: start(which, SUITES[subject], tmp_path / which) for which in ("ours", "theirs")}
    counts: dict[str, Any] = {}
    try:
        for which, process in processes.items():
            out, complaints = process.communicate(timeout=110)
            assert process.returncode == 0, complaints
            counts[which] = json.loads(out.splitlines()[-1])
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
    ours, theirs = counts["ours"], counts["theirs"]
    assert ours["failed"] == 0, ours["report"]
    assert (ours["run"], ours["skipped"]) == (theirs["run"], theirs["skipped"])
    assert ours["run"] >= 7
    assert (ours["ours"], theirs["ours"]) == ([True, True], [False, False])
    assert list((tmp_path / "ours").iterdir()) == []
