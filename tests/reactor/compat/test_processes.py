"""What must be tried in a process of its own: thousands of connections, no descriptors left, the old names."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

from .children import CONNECTIONS


def environment() -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    return {**clean, "PYTHONPATH": str(ROOT)}


def run(*arguments: str) -> str:
    """Run a Python to its end; return what it prints. Each warning is an error."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", *arguments],
        capture_output=True, env=environment(), text=True, timeout=55, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def child(name: str) -> tuple[Any, list[str]]:
    """Run a function of `children`; return its answer and what else it printed."""
    *lines, answer = run("-m", "tests.reactor.compat.children", name).splitlines()
    return json.loads(answer), lines


@pytest.mark.skipif(
    resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 2 * CONNECTIONS + 100,
    reason="this system allows too few descriptors",
)
def test_two_thousand_connections_are_served_beyond_the_numbers_of_select() -> None:
    told, lines = child("many_connections")
    assert len(told) == 2
    for of_loop in told:
        assert of_loop["answered"] == CONNECTIONS
        assert of_loop["largest"] > 1023
        assert of_loop["left"] == 0
    assert lines == []


def test_listener_outlives_a_full_table_of_descriptors() -> None:
    told, lines = child("out_of_descriptors")
    assert len(told) == 8
    for style, of_listener in told.items():
        assert of_listener["attempts"] == 2, style  # in four passes: in every other one it rests
        assert of_listener["answers"] == ["STILL HERE\n", "AT LAST\n"], style
    assert len(lines) == 6  # said once by each that has not caught it
    for line in lines:
        assert line.startswith("error: <__main__.Server listening 127.0.0.1:0 at ")
        assert line.endswith("cannot accept: Too many open files; it goes on when it can")


OLD_NAMES = """
import sys
import reactor.compat
reactor.compat.install()
reactor.compat.install()
import asynchat, asyncore
from asyncore import dispatcher
assert asyncore is reactor.compat.asyncore is sys.modules["asyncore"]
assert asynchat is reactor.compat.asynchat
assert asynchat.asyncore is asyncore
assert issubclass(asynchat.async_chat, dispatcher)
import importlib.util
assert importlib.util.find_spec("asyncore") is not None
print(repr(dispatcher()).partition(" at ")[0])
"""


def test_install_puts_both_under_their_old_names() -> None:
    assert run("-c", OLD_NAMES) == "<asyncore.dispatcher\n"


def test_import_alone_puts_nothing_under_the_old_names_and_warns_of_nothing() -> None:
    assert run("-c", "import sys, reactor.compat; print('asyncore' in sys.modules, 'asynchat' in sys.modules)") == (
        "False False\n"
    )


def old_program() -> str:
    """Return the program on asyncore that README.md begins the migration with."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## Moving from asyncore")[2].partition("```python\n")[2].partition("```")[0]
    assert section.startswith("import asyncore\n")
    return section


# Runs a program, with port 0, and then a client against it; the program does not know.
WITH_CLIENT = """
import runpy, socket, sys, threading

def talk(address):
    with socket.create_connection(address) as client:
        client.sendall(b"hello")
        print(client.recv(5, socket.MSG_WAITALL).decode(), flush=True)
    done.set()

done = threading.Event()

class Announcing(socket.socket):
    def listen(self, *backlog):
        super().listen(*backlog)
        thread = threading.Thread(target=talk, args=(self.getsockname(),))
        thread.start()

import reactor.compat
reactor.compat.asyncore.socket.socket = Announcing

loop = reactor.compat.asyncore.loop
def bounded(*args, **kwargs):
    while not done.is_set() or len(reactor.compat.asyncore.socket_map) > 1:
        loop(0.1, count=1)
    reactor.compat.asyncore.close_all()
reactor.compat.asyncore.loop = bounded
if sys.argv[2] == "install":
    reactor.compat.install()
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("way", ["install", "import"])
def test_old_program_of_the_readme_runs_with_another_import_or_with_none(way: str, tmp_path: Path) -> None:
    source = old_program().replace('"localhost", 6000', '"localhost", 0')
    if way == "import":
        source = source.replace("import asyncore\n", "from reactor.compat import asyncore\n")
    script = tmp_path / "old_program.py"
    script.write_text(source, "utf-8")
    assert run("-c", WITH_CLIENT, str(script), way) == "hello\n"
