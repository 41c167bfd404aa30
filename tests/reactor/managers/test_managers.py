"""Managers in processes of their own, with clients in others: what programs see of them."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor.managers import SyncManager
from tests.conftest import KEY, ROOT
from tests.interpreters import ALONE, find_interpreters
from tests.reactor.managers.serving import end, serving, wait_until

COMPARED = ["everyday", "start_methods", "shared_memory"]
ALONE_HERE = ["many", "end_while_busy", "other_names", "strangers", "each_other"]

FORKING = "ignore:This process:DeprecationWarning"
"""A pool forks in its server, which has threads; from 3.12 on Python says so, also in the original."""

Program = subprocess.Popen[str]


def start(which: str, name: str, directory: Path) -> Program:
    """Start one of the programs in `programs.py`, with our managers or theirs; its files go to `directory`."""
    directory.mkdir()
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    return subprocess.Popen(
        [sys.executable, "-W", "default", "-W", FORKING, "-m", "tests.reactor.managers.programs", which, name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(directory)},
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], tuple[Program, Path]]]:
    """All programs, at once."""
    wanted = [(which, name) for which in ("ours", "theirs") for name in COMPARED]
    wanted += [("ours", name) for name in ALONE_HERE]
    running = {}
    for number, (which, name) in enumerate(wanted):
        directory = tmp_path_factory.mktemp("p", numbered=True) / str(number)  # short: sockets are in it
        running[which, name] = start(which, name, directory), directory
    yield running
    for process, _ in running.values():
        end(process)


Programs = dict[tuple[str, str], tuple[Program, Path]]


def report_of(programs: Programs, which: str, name: str) -> tuple[Any, str]:
    """Return what a program has found, and what it complained of; it has left no file, and no process."""
    process, directory = programs[which, name]
    out, complaints = process.communicate(timeout=50)
    assert process.returncode == 0, complaints
    assert list(directory.iterdir()) == []
    wait_until(lambda: not is_alive(process.pid))
    return json.loads(out), complaints


def is_alive(group: int) -> bool:
    """Return whether a process of this group is left: multiprocessing has helpers, which end after their program."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("name", COMPARED)
def test_programs_see_no_difference(programs: Programs, name: str) -> None:
    ours, theirs = report_of(programs, "ours", name), report_of(programs, "theirs", name)
    assert ours == theirs
    assert ours[1] == ""


def test_two_hundred_clients_at_once_need_few_threads_and_none_is_dropped(programs: Programs) -> None:
    report, complaints = report_of(programs, "ours", "many")
    assert complaints == ""
    for moment in ("at the meeting", "at the parting"):
        assert report[moment]["connections"] > 200
        assert report[moment]["threads"] < 20
    assert (report["served"], report["done"]) == (True, True)
    assert (report["exit codes"], report["exit code"]) == ([0] * 4, 0)


def test_server_ends_at_once_in_good_order_whoever_waits_in_it(programs: Programs) -> None:
    report, complaints = report_of(programs, "ours", "end_while_busy")
    assert report == {"exit code": 0, "ended": ["EOFError"], "afterwards": "FileNotFoundError"}
    assert complaints == ""


def test_server_that_clients_know_by_another_name_holds_its_own_proxies(programs: Programs) -> None:
    report, _ = report_of(programs, "ours", "other_names")
    assert report == {"inner": [1, 2], "as one": [1, 2], "outer": [1, 2]}


def test_server_whose_key_its_proxies_do_not_know_refuses_them_and_goes_on(programs: Programs) -> None:
    report, complaints = report_of(programs, "ours", "strangers")
    assert report == ["RemoteError", []]
    assert "wrong authkey" in complaints


def test_servers_that_hold_proxies_of_each_other_do_not_hold_each_other_up(programs: Programs) -> None:
    report, complaints = report_of(programs, "ours", "each_other")
    assert report == [False, False, 0, 0, 0]
    assert complaints == ""


# Clients of other Pythons

EXPECTED = {
    "words": [["a", "b"], {"a": 1, "b": 2}, ["a", "b"]],
    "numbers": [[2, 3], 3, "[1, 2, 3]"],
    "item": {"any": ["thing"]},
    "lock": [True, True, None, None],
    "barrier": 0,
    "value": 5,
    "array": [1, 2],
    "space": "Namespace(x=1)",
    "condition": [True, False],
    "errors": ["Empty", "Empty", "RuntimeError", "IndexError", "RemoteError", "Full"],
    "objects": 4,
    "left": 0,
}


@functools.cache
def others() -> dict[str, str]:
    """Return the interpreters whose clients understand the pickles of this Python: from 3.7 on."""
    return {
        version: path for version, path in find_interpreters().items() if tuple(map(int, version.split("."))) > (3, 6)
    }


def test_clients_of_other_pythons_are_served() -> None:
    script = str(Path(__file__).with_name("peer.py"))
    assert others()
    with serving(SyncManager) as server:
        peers = {
            version: subprocess.Popen(
                [python, *ALONE, script, server.address, KEY.decode("ascii")],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for version, python in others().items()
        }
        for version, peer in peers.items():
            out, complaints = peer.communicate(timeout=30)
            assert complaints == "", version
            report = json.loads(out)
            assert {**report, "objects": 4, "left": 0} == EXPECTED, version
    assert server.id_to_refcount == {}
