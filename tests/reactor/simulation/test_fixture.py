"""The pytest fixture, as a user's test run has it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

WRONG = """
import reactor


class Adder(reactor.Stream):
    total = 0

    def handle_data(self, data):
        self.total += sum(map(int, data.splitlines()))
        self.push(b"%d\\n" % self.total)


class Asker(reactor.Stream):
    received = b""

    def handle_open(self):
        self.push(b"123\\n456\\n")

    def handle_data(self, data):
        self.received += data


def addition(world):
    world.listen(("server", 6000), Adder)
    asker = world.connect(("server", 6000), Asker)
    world.run(until=lambda: b"579\\n" in asker.received)


def test_addition(simulation):
    simulation(addition, seeds=SEEDS)
"""


def run_pytest(directory: Path, seeds: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wrong program's test in `directory`, with no settings but its own."""
    (directory / "conftest.py").write_text('pytest_plugins = ["reactor.simulation.fixture"]')
    (directory / "pytest.ini").write_text("[pytest]")
    (directory / "test_adder.py").write_text(WRONG.replace("SEEDS", str(seeds)))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments],
        cwd=directory, capture_output=True, text=True, timeout=50, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_failure_prints_a_command_that_replays_it(tmp_path: Path) -> None:
    first = run_pytest(tmp_path, 100)
    assert first.returncode == 1, first.stderr
    assert "! server.2" in first.stdout
    (command,) = {line[2:].strip() for line in first.stdout.splitlines() if "--simulation-replay" in line}
    again = run_pytest(tmp_path, 100, *shlex.split(command)[3:])
    assert again.returncode == 1, again.stderr
    assert "Of 1 draws" in again.stdout
    assert "! server.2" in again.stdout


def test_number_of_seeds_can_be_given_for_all_tests(tmp_path: Path) -> None:
    assert run_pytest(tmp_path, 1).returncode == 0
    assert run_pytest(tmp_path, 1, "--simulation-seeds", "100").returncode == 1
