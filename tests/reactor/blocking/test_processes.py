"""Connections and listeners in several processes: inherited, handed over, and left behind at the exit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

EXPECTED: dict[str, Any] = {
    "fork_between_two_messages": [0, ["one"], "done"],
    "listener_in_a_child": [[0, 0, 0], ["from the child", "from the parent"], [True, False]],
    "fork_in_the_middle_of_accept": [0, "from the parent"],
    "forgotten_in_a_child": [0, True, False],
    "spawned": [0, ["one", "two", "three"]],
    "sent_over_a_connection": [0, "MESSAGE"],
}


def run(name: str) -> Any:
    """Return what a function of `children` returns; nothing may be said on standard error."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.reactor.blocking.children", name]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", EXPECTED)
def test_connections_and_listeners_keep_their_promises_in_children(name: str) -> None:
    assert run(name) == EXPECTED[name]


def test_exit_with_everything_open_is_silent_and_removes_the_file_of_the_socket() -> None:
    path = run("exit_without_a_word")
    assert not os.path.exists(os.path.dirname(path))
