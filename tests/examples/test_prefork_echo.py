"""The echo server with several processes, started as its docstring says, and its units for systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT, raw_client
from tests.examples.running import Start
from tests.service.running import children_of, wait_for_death, wait_until

ANALYZE = shutil.which("systemd-analyze")
UNITS = ["prefork_echo.service", "prefork_echo.socket"]


def echoes(address: object, data: bytes) -> bool:
    with raw_client(address) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        with client.makefile("rb") as file:
            return file.read() == data


def test_everything_comes_back_from_several_processes_also_when_they_are_replaced(start: Start) -> None:
    server = start("--port=0", "--host=127.0.0.1", "--workers=3")
    address = server.read_address()
    pids = children_of(server.process.pid)
    assert len(pids) == 3
    data = bytes(range(256)) * 4000
    assert echoes(address, data)
    os.kill(pids[0], signal.SIGKILL)
    wait_for_death(pids[0])
    wait_until(lambda: len(children_of(server.process.pid)) == 3)
    server.send_signal(signal.SIGHUP)
    wait_for_death(*pids)
    wait_until(lambda: len(children_of(server.process.pid)) == 3)
    assert all(echoes(address, b"hello %d" % number) for number in range(10))
    server.send_signal(signal.SIGINT)
    assert server.wait() == 0
    assert re.fullmatch(
        rf"[-0-9:, ]+ worker 1: process {pids[0]} was killed by SIGKILL, \d+\.\d s after it was ready; "
        r"the next one starts at once\n", server.errors,
    )  # fmt: skip


def test_next_version_takes_over(start: Start, tmp_path: Path) -> None:
    options = [f"--path={tmp_path}/socket", f"--handover={tmp_path}/handover", "--workers=1"]
    old = start(*options)
    assert old.read_line() == f"listening on unix:{tmp_path}/socket"
    with raw_client(f"{tmp_path}/socket") as client:
        client.sendall(b"to the old one")
        assert client.recv(100) == b"to the old one"
        new = start(*options)
        assert new.read_line() == f"listening on unix:{tmp_path}/socket"
        assert echoes(f"{tmp_path}/socket", b"to the new one")
        client.sendall(b"still to the old one")
        assert client.recv(100) == b"still to the old one"
    assert (old.wait(), old.errors) == (0, "")
    assert new.ends_cleanly()
    assert [path.name for path in tmp_path.iterdir()] == ["programs"]


def test_taken_port_and_senseless_number_are_told_on_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(f"--port={port}", "--workers=2")
        assert program.wait() == 2
    assert program.errors == f"error: somebody listens on 127.0.0.1:{port} already\n"
    program = start("--workers=0")
    assert program.wait() == 2
    assert "argument --workers: '0' is no number of at least 1" in program.errors


@pytest.mark.skipif(ANALYZE is None, reason="there is no systemd-analyze")
def test_units_are_valid(tmp_path: Path) -> None:
    assert ANALYZE is not None
    for name in UNITS:
        shutil.copy(ROOT / "examples" / name, tmp_path)
    done = subprocess.run(
        [ANALYZE, "verify", *UNITS], capture_output=True, text=True, cwd=tmp_path, timeout=50, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_units_start_the_example_with_options_that_it_has(start: Start) -> None:
    service = (ROOT / "examples" / UNITS[0]).read_text()
    (options,) = re.findall(r"^ExecStart=/usr/bin/python3 -m examples.prefork_echo (.*)", service, re.MULTILINE)
    program = start(*options.split(), "--help")
    output, _ = program.process.communicate(timeout=20)
    assert (program.wait(), program.errors) == (0, "")
    assert b"usage: python -m examples.prefork_echo " in output
