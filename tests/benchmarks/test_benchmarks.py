"""The benchmark runs, and would notice a contestant that cheats. What it measures is nobody's business here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks.contestants import TLS, Contestant
from tests.benchmarks.report import Figures, Runs, ratios, table
from tests.benchmarks.running import FailedError, compile_load, run_once
from tests.benchmarks.servers import server_context
from tests.benchmarks.surroundings import examine
from tests.benchmarks.workloads import WORKLOADS, Echo, EncryptedEcho, Idle, Tools, Workload
from tests.certificates import certificate
from tests.conftest import ROOT

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")

OURS = Contestant("ours", "ours", "frames")
THEIRS = Contestant("theirs", "asyncio_protocol", "frames")
FRAMES = Echo("frames", "some frames on {connections} connections", (OURS, THEIRS), 2, size=100, depth=3, header=True)
BATCH = 3 * 104


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.benchmarks", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=50, check=False
    )


@needs_compiler
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_command_prints_a_row_for_every_contestant_and_none_has_failed(workload: Workload) -> None:
    done = run_command("--work", workload.name, "--rounds", "1", "--seconds", "0.01", "--connections", "20")
    assert (done.returncode, done.stderr) == (0, "")
    assert "failed" not in done.stdout
    missing = {name for name, version in examine(sys.executable, ["uvloop"]).libraries.items() if version is None}
    wanted = set()
    for contestant in workload.contestants:
        if contestant.distribution in missing:
            assert f"{contestant.distribution} is left out: it is not installed" in done.stdout
        else:
            wanted.add((workload.name, contestant.name))
    assert rows_of(done.stdout) == wanted


def rows_of(output: str) -> set[tuple[str, str]]:
    """Return (work, contestant) for each row that has its figure.

    A ratio is not asked for: so few idle connections may cost no memory at all.
    """
    found = set()
    work = ""
    for line in output.splitlines():
        if match := re.match(r"([\w-]+): ", line):
            work = match[1]
        elif match := re.match(r"  (\S+(?: \S+)*) +\d+\.\d+ \[\d+\.\d+\.\.\d+\.\d+\]", line):
            found.add((work, match[1]))
    return found


def test_command_says_in_one_line_that_there_is_no_compiler() -> None:
    done = run_command("--work", "raw-1k", PATH="")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: there is no C compiler \(cc\).*\n", done.stderr)


def test_command_names_the_works_that_there_are() -> None:
    done = run_command("--work", "no-such-work")
    assert (done.returncode, done.stdout) == (2, "")
    assert all(workload.name in done.stderr for workload in WORKLOADS)


def test_command_says_in_one_line_that_an_interpreter_does_not_run() -> None:
    done = run_command("--work", "handshake", "--python", "no-such-python")
    assert (done.returncode, done.stdout) == (2, "")
    assert re.fullmatch(r"error: no-such-python does not run as a Python: .*\n", done.stderr)


# The load notices what a server does wrong


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_load(tmp_path_factory.mktemp("load"))


def complaint(load: Path, in_thread: Callable[..., Any], answer: Callable[[bytes], bytes]) -> str:
    """Return what the load says of a server that makes `answer` of the first batch, and then closes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(answer(connection.recv(BATCH, socket.MSG_WAITALL)))
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):
                    pass  # closed with input unread, the socket would send a reset

        in_thread(serve)
        command = [*FRAMES.command(Tools(sys.executable, load), 0.01), "--connections=1"]
        command += [f"--port={server.getsockname()[1]}", f"--pid={os.getpid()}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    return done.stderr.strip()


@needs_compiler
def test_load_notices_a_byte_that_was_changed(load: Path, in_thread: Callable[..., Any]) -> None:
    said = complaint(load, in_thread, lambda batch: batch[:-1] + b"?")
    assert said == "the server sent something else than it was sent"


@needs_compiler
def test_load_notices_messages_out_of_order(load: Path, in_thread: Callable[..., Any]) -> None:
    said = complaint(load, in_thread, lambda batch: batch[104:208] + batch[:104] + batch[208:])
    assert said == "the server sent something else than it was sent"


@needs_compiler
def test_load_notices_a_message_that_comes_twice(load: Path, in_thread: Callable[..., Any]) -> None:
    said = complaint(load, in_thread, lambda batch: batch + batch[-104:])
    assert said in ("the server sent more than it was sent", "the server sent something else than it was sent")


@needs_compiler
def test_load_notices_that_the_server_closes(load: Path, in_thread: Callable[..., Any]) -> None:
    said = complaint(load, in_thread, lambda batch: batch[:104])
    assert said == "the server closed a connection"


# The load that speaks TLS notices the same


SECRETS = EncryptedEcho("secrets", "some secrets on {connections} connections", TLS, 1, size=100, depth=3)


def serve_over_tls(server: socket.socket, answer: Callable[[bytes], bytes]) -> None:
    """Echo the first batch, as everything that comes behind the second one; say `answer` to that one, or close."""
    plain, _ = server.accept()
    with server_context(certificate()).wrap_socket(plain, server_side=True) as connection:

        def receive() -> bytes:
            batch = connection.recv()
            while batch and len(batch) < 3 * SECRETS.size:
                batch += connection.recv()
            return batch

        connection.sendall(receive())
        answered = answer(receive())
        connection.sendall(answered)
        with contextlib.suppress(OSError):  # the load ends as soon as it has noticed
            while answered and (batch := receive()):
                connection.sendall(batch)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda batch: batch[:-1] + b"?", "the server sent something else than it was sent"),
        (lambda batch: batch[100:200] + batch[:100] + batch[200:], "the server sent something else than it was sent"),
        (lambda batch: batch + batch[-100:], "the server sent more than it was sent"),
        (lambda batch: b"", "the server closed a connection"),
    ],
    ids=["a byte changed", "messages out of order", "a message twice", "an end"],
)
def test_load_over_tls_notices(in_thread: Callable[..., Any], answer: Callable[[bytes], bytes], said: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        in_thread(serve_over_tls, server, answer)
        command = [*SECRETS.command(Tools(sys.executable, None), 0.01), f"--port={server.getsockname()[1]}"]
        command.append(f"--pid={os.getpid()}")
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", said)


# What becomes of failures, and of figures


def test_server_that_does_not_start_has_failed_with_its_own_words() -> None:
    broken = Contestant("broken", "threads", "no-such-mode")
    with pytest.raises(FailedError, match="does not start: there is no mode 'no-such-mode' here"):
        run_once(FRAMES, broken, Tools(sys.executable, None), 0.01)


class Complaining(Idle):
    def command(self, tools: Tools, seconds: float) -> list[str]:
        return [tools.python, "-c", "import sys; sys.exit('that was no echo')"]


def test_contestant_has_failed_with_the_words_of_the_load_if_that_complains() -> None:
    workload = Complaining("complaint", "", (OURS,), 1)
    with pytest.raises(FailedError, match="^that was no echo$"):
        run_once(workload, OURS, Tools(sys.executable, None), 0.01)


def runs(contestant: Contestant, *costs: float | str) -> Runs:
    def figures(cost: float) -> Figures:
        return {column.key: cost if column.key == "cost" else None for column in Echo.columns}

    return Runs(contestant, [cost if isinstance(cost, str) else figures(cost) for cost in costs])


def test_ratios_are_taken_round_by_round_and_not_between_medians() -> None:
    # The machine was ten times slower in the second round, for both.
    assert ratios(runs(OURS, 1.0, 20.0, 3.0), runs(THEIRS, 2.0, 40.0, 1.0), "cost") == [0.5, 0.5, 3.0]


def test_ratios_leave_out_the_rounds_in_which_one_has_failed() -> None:
    assert ratios(runs(OURS, 1.0, "oh", 3.0, 4.0), runs(THEIRS, 2.0, 2.0, "no", 2.0), "cost") == [0.5, 2.0]


def test_table_shows_medians_with_the_smallest_and_the_largest_and_a_dash_for_what_is_not_known() -> None:
    text = table(FRAMES, [runs(OURS, 1.0, 3.0, 2.0), runs(THEIRS, 2.0, 4.0, 4.0)])
    title, head, ours, theirs = text.splitlines()
    assert title == "frames: some frames on 2 connections"
    assert re.split("  +", head.strip())[0] == "processor µs"
    assert re.split("  +", ours.strip()) == ["ours", "2.00 [1.00..3.00]", "-", "-", "-", "-", "-", "-"]
    assert re.split("  +", theirs.strip())[1] == "4.00 [2.00..4.00]"
    assert re.split("  +", theirs.strip())[-1] == "0.500 [0.500..0.750]"
    assert len(head) == len(theirs)


def test_table_says_why_a_contestant_has_failed() -> None:
    text = table(FRAMES, [runs(OURS, 1.0, 1.0), runs(THEIRS, 2.0, "it fell over")])
    assert re.search("^  theirs +failed: it fell over$", text, re.MULTILINE)
