"""Thousands of connections to one process: what they cost, and whom they hold up."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from tests.conftest import KEY, ROOT

SERVER = Path(__file__).parent.parent / "peers" / "echo_server.py"

# A few thousand from each address: when most ports of one are taken, the kernel looks long for the next.
SILENT_CLIENT = """
import socket, sys
port, count = int(sys.argv[1]), int(sys.argv[2])
sockets = []
for number in range(count):
    sock = socket.socket()
    sock.bind((f"127.0.0.{2 + number // 5000}", 0))
    sock.connect(("127.0.0.1", port))
    sockets.append(sock)
print("connected", flush=True)
sys.stdin.read()
"""


class Server:
    """An echo server in a process of its own."""

    def __init__(self, kind: str, *limits: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), kind, *limits],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert self.process.stdout is not None
        port, path = self.process.stdout.readline().split()
        self.address = ("127.0.0.1", int(port))
        self.commands = socket.socket(socket.AF_UNIX)
        self.commands.connect(path)

    def ask(self, command: str) -> int:
        """Return the server's answer to a command."""
        assert self.process.stdout is not None
        self.commands.sendall(command.encode() + b"\n")
        return int(self.process.stdout.readline())

    def memory(self) -> int:
        """Return the bytes that the process has written to, and that are its own."""
        rollup = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        (line,) = (line for line in rollup.splitlines() if line.startswith("Pss_Anon:"))
        return int(line.split()[1]) * 1024

    def stop(self) -> None:
        self.commands.close()
        assert self.process.stdout is not None
        self.process.stdout.close()
        assert self.process.wait(30) == 0


@pytest.fixture
def descriptors() -> Iterator[int]:
    """The descriptors that this process may open, raised as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("kind", ["raw", "frames"])
def test_ten_thousand_idle_connections_cost_less_than_a_kibibyte_each_and_no_wakeup(
    kind: str, descriptors: int
) -> None:
    count = 10_000
    if descriptors < count + 100:
        pytest.skip(f"only {descriptors} descriptors are allowed here")
    server = Server(kind)
    sockets = [socket.create_connection(server.address) for _ in range(100)]
    while server.ask("connections") < 100:
        pass
    before = server.memory()
    sockets += [socket.create_connection(server.address) for _ in range(count)]
    while server.ask("connections") < count + 100:
        pass
    each = (server.memory() - before) / count
    turns = server.ask("turns")
    time.sleep(1)  # nothing can be waited for: that nothing happens is what is tested
    assert server.ask("turns") <= turns + 1  # the turn that answers
    assert each < 1024, f"{each} bytes each"
    for sock in sockets:
        sock.close()
    while server.ask("connections"):
        pass
    server.stop()


@pytest.mark.parametrize("held", [1_000, 19_000])
def test_nineteen_thousand_silent_peers_do_not_stop_a_good_one(held: int, descriptors: int) -> None:
    """With the default cap, and with one that keeps them all."""
    count = 19_000
    if descriptors < count + 500:
        pytest.skip(f"only {descriptors} descriptors are allowed here")
    server = Server("authenticated", f"maximum_unauthenticated={held}", "authentication_timeout=60")
    arguments = [sys.executable, "-c", SILENT_CLIENT, str(server.address[1]), str(count)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as silent:
        assert silent.stdout is not None
        assert silent.stdout.readline() == "connected\n"
        while server.ask("connections") < held:
            pass
        began = time.monotonic()
        with Client(server.address, authkey=KEY) as good:
            took = time.monotonic() - began
            good.send_bytes(b"hello")
            assert good.recv_bytes() == b"hello"
        assert server.ask("connections") >= held - 1
        print(f"a good client authenticated in {took * 1000:.1f} ms beside {held} silent peers")
        silent.communicate("")
    server.stop()
