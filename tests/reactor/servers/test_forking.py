"""Handlers in forked children: how many there are, who waits, and that none stays behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import certificates, tls_peers
from tests.conftest import ROOT, raw_client
from tests.reactor.servers.serving import receive_line, refuses, talk, wait_until

KEY = b"a long secret key"


class Program:
    """One of the programs, which serves.

    Attributes:
        address: where it listens.
        words: what else stands on its first line.
    """

    def __init__(self, errors: Path, name: str, **options: Any) -> None:
        self._errors = errors
        with errors.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-X",
                    "dev",
                    "-W",
                    "error",
                    "-m",
                    "tests.reactor.servers.programs",
                    name,
                    json.dumps(options),
                ],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
            )
        try:
            port, *self.words = self.read_line().split()
        except ValueError:
            self.process.communicate(timeout=20)
            pytest.fail(self.errors)
        self.address = ("127.0.0.1", int(port))

    def read_line(self) -> str:
        """Return the next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def end(self) -> str:
        """Interrupt it, and return what else it has printed."""
        self.process.send_signal(signal.SIGINT)
        # Python sees a signal that comes in the instant before a system call blocks when that returns: 4 of 20,000.
        with contextlib.suppress(OSError), socket.create_connection(self.address, 5):
            pass
        out, _ = self.process.communicate(timeout=20)
        assert self.process.returncode == 0, self.errors
        return out

    @property
    def errors(self) -> str:
        """What it has written to the standard error."""
        return self._errors.read_text()

    @property
    def children(self) -> dict[int, str]:
        """Its child processes, and the state of each: Z for a zombie."""
        found = {}
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found[int(pid)] = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return found

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))


@pytest.fixture
def programs(tmp_path: Path) -> Iterator[Any]:
    """Starts programs; whatever still runs at the end is killed, with its children."""
    started: list[Program] = []

    def start(name: str, **options: Any) -> Program:
        started.append(Program(tmp_path / f"errors-{len(started)}", name, **options))
        return started[-1]

    yield start
    for program in started:
        if program.process.poll() is None:
            for pid in program.children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            program.process.kill()
        program.process.communicate()


def test_each_request_has_a_process_of_its_own_and_none_stays_behind(programs: Any) -> None:
    server = programs("forking")
    pids = set()
    for number in range(10):
        with raw_client(server.address) as client:
            pids.add(int(talk(client, b"pid\n")))
            assert talk(client, b"echo %d\n" % number) == b"%d\n" % number
            assert server.threads == 1
    assert len(pids) == 10
    assert server.process.pid not in pids
    wait_until(lambda: server.children == {})
    assert server.end().splitlines()[-1] == '{"children": 0}'
    assert server.errors == ""


def test_no_more_children_run_than_the_bound_and_who_waits_is_served_in_order(programs: Any) -> None:
    server = programs("forking", max_children=2)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw_client(server.address)) for _ in range(12)]
        for client in clients[:2]:
            assert talk(client, b"echo first\n") == b"first\n"
        for number, client in enumerate(clients):
            client.sendall(b"echo %d\n" % number)
        wait_until(lambda: "all 2 children are busy" in server.errors)
        for number, client in enumerate(clients):
            assert receive_line(client) == b"%d\n" % number
            assert len(server.children) <= 2
            client.close()
    wait_until(lambda: server.children == {})
    assert server.end().splitlines()[-1] == '{"children": 0}'
    assert "ForkingServer: all 2 children are busy (max_children); the next requests wait" in server.errors


def test_close_waits_for_the_children_and_for_the_requests_that_wait(programs: Any) -> None:
    server = programs("forking", max_children=1)
    with raw_client(server.address) as first, raw_client(server.address) as second:
        assert talk(first, b"echo begun\n") == b"begun\n"
        wait_until(lambda: "all 1 children are busy" in server.errors)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: refuses(server.address))
        assert talk(first, b"echo first\n") == b"first\n"
        first.close()
        assert talk(second, b"echo second\n") == b"second\n"
        second.close()
    assert server.read_line() == "printed before the fork closed\n"
    assert server.process.wait(20) == 0


def test_close_refuses_who_waits_and_leaves_the_children_alone_if_the_server_says_so(programs: Any) -> None:
    server = programs("forking", max_children=1, block_on_close=False, stays=True)
    with raw_client(server.address) as first, raw_client(server.address) as second:
        assert talk(first, b"echo begun\n") == b"begun\n"
        wait_until(lambda: "all 1 children are busy" in server.errors)
        server.process.send_signal(signal.SIGINT)
        assert second.recv(1) == b""
        assert server.read_line() == "printed before the fork closed\n"
        assert len(server.children) == 1
        assert talk(first, b"echo still there\n") == b"still there\n"
    wait_until(lambda: server.children == {})
    assert server.end() == '{"children": 0}\n'


def test_place_of_a_request_is_kept_until_its_child_has_ended(programs: Any) -> None:
    server = programs("forking", limits={"maximum_connections": 1})
    with raw_client(server.address) as first, raw_client(server.address) as second:
        assert talk(first, b"echo first\n") == b"first\n"
        second.sendall(b"echo second\n")
        wait_until(lambda: "1 connections (maximum_connections); the next ones wait" in server.errors)
        assert len(server.children) == 1
        first.close()
        assert receive_line(second) == b"second\n"
    server.end()


def test_child_that_is_killed_makes_room_and_a_line_in_the_log(programs: Any) -> None:
    server = programs("forking", max_children=1, limits={"maximum_connections": 2})
    for _ in range(3):
        with raw_client(server.address) as client:
            os.kill(int(talk(client, b"pid\n")), signal.SIGKILL)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b""
    with raw_client(server.address) as client:
        assert talk(client, b"echo alive\n") == b"alive\n"
    assert server.errors.count("it was killed by SIGKILL") == 3
    server.end()


def test_child_has_no_copies_of_what_is_the_parents(programs: Any) -> None:
    server = programs("forking", authkey=KEY.decode(), limits={"authentication_timeout": 0.3})
    with raw_client(server.address) as silent, authenticated(server.address) as good:
        assert json.loads(talk(good, b"descriptors\n")).count("socket") == 1
        while silent.recv(100):
            pass  # its time is over, and it hears so though the child lives
        assert talk(good, b"echo alive\n") == b"alive\n"
        server.process.kill()
        server.process.wait()
        assert refuses(server.address)
        assert talk(good, b"echo still\n") == b"still\n"


@contextlib.contextmanager
def authenticated(address: Any) -> Iterator[socket.socket]:
    """A client that has made the handshake with the key, by the standard library."""
    from multiprocessing.connection import Client

    with Client(address, authkey=KEY) as connection, socket.socket(fileno=os.dup(connection.fileno())) as client:
        client.settimeout(10)
        yield client


def test_what_handlers_print_is_printed_and_nothing_twice(programs: Any) -> None:
    server = programs("forking")
    for number in range(3):
        with raw_client(server.address) as client:
            talk(client, b"print line %d\n" % number)
        wait_until(lambda: server.children == {})
    lines = server.end().splitlines()
    assert lines == ["printed before the fork line 0", "line 1", "line 2", "closed", '{"children": 0}']


def test_error_of_a_handler_is_printed_and_so_is_no_exit(programs: Any) -> None:
    server = programs("forking")
    for word in (b"fail as told\n", b"exit\n"):
        with raw_client(server.address) as client:
            assert talk(client, word) == b""
    wait_until(lambda: server.children == {})
    assert server.end().endswith('{"children": 0}\n')
    assert server.errors.count("ValueError: as told") == 1
    assert "SystemExit" not in server.errors


def test_children_are_collected_where_the_system_has_no_descriptor_for_them(programs: Any) -> None:
    server = programs("forking", with_pidfd=False, max_children=1)
    for _ in range(2):
        with raw_client(server.address) as client:
            assert talk(client, b"echo x\n") == b"x\n"
    wait_until(lambda: server.children == {})
    with raw_client(server.address) as client:
        assert talk(client, b"echo x\n") == b"x\n"
        client.close()
        assert server.end().endswith('{"children": 0}\n')


def test_interrupt_in_the_middle_of_a_fork_is_not_lost(programs: Any) -> None:
    server = programs("forking", is_interrupted=True)
    with raw_client(server.address) as client:
        assert talk(client, b"echo x\n") == b"x\n"
    assert server.read_line() == "printed before the fork closed\n"
    assert server.read_line() == '{"children": 0}\n'
    assert server.process.wait(20) == 0
    assert server.errors == ""


def test_interrupt_of_a_child_that_has_just_been_forked_is_the_end_of_the_child_alone(programs: Any) -> None:
    server = programs("forking", is_interrupted="in the child")
    for _ in range(3):
        with raw_client(server.address) as client:
            assert client.recv(1) == b""
    assert server.end() == 'printed before the fork closed\n{"children": 0}\n'
    assert server.errors == ""


def test_child_that_is_not_done_when_the_grace_is_over_is_terminated(programs: Any) -> None:
    server = programs("forking_with_grace")
    with raw_client(server.address) as client:
        assert talk(client, b"echo begun\n") == b"begun\n"
        server.process.send_signal(signal.SIGTERM)
        assert client.recv(1) == b""
        assert server.process.wait(20) == 0
    assert "cut off at shutdown" in server.errors
    assert "it was killed by SIGTERM" in server.errors


def test_datagrams_are_answered_by_children(programs: Any) -> None:
    server = programs("forking_datagrams")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        answers = set()
        for _ in range(5):
            client.sendto(b"data", server.address)
            pid, data = client.recv(100).split()
            answers.add(pid)
            assert data == b"data"
    assert len(answers) == 5
    wait_until(lambda: server.children == {})
    server.end()


def test_children_are_collected_by_handle_request_alone(programs: Any) -> None:
    server = programs("requests_one_by_one")
    for _ in range(3):
        with raw_client(server.address) as client:
            assert talk(client, b"echo x\n") == b"x\n"
    assert server.read_line() == '{"children": 0}\n'
    assert server.process.wait(20) == 0


def test_server_is_shared_by_processes_that_were_forked_in_front_of_serve_forever(programs: Any) -> None:
    server = programs("prefork", count=3)
    pids = set()
    with contextlib.ExitStack() as stack:
        for _ in range(3):  # each of them serves one at a time
            client = stack.enter_context(raw_client(server.address))
            pids.add(talk(client, b"pid\n").decode().strip())
    assert pids == set(server.words)
    for pid in pids:
        os.kill(int(pid), signal.SIGINT)
    assert server.process.wait(20) == 0


@pytest.mark.parametrize("cls", ["ThreadingTCPServer", "ForkingTCPServer"])
def test_process_that_was_forked_by_one_that_has_served_has_handlers_of_its_own(programs: Any, cls: str) -> None:
    server = programs("inherited", cls=cls)
    with raw_client(server.address) as first:
        assert talk(first, b"echo parent\n") == b"parent\n"
        server.process.send_signal(signal.SIGUSR1)  # the handler of the parent is at work when it forks
        with raw_client(server.address) as second:
            assert talk(second, b"echo child\n") == b"child\n"
    assert (server.process.wait(20), server.errors) == (0, "")


def test_child_speaks_tls_and_the_parent_is_silent(programs: Any) -> None:
    server = programs("forking", tls=certificates.certificate_and_key(), max_children=2)
    context = tls_peers.client_context()
    for _ in range(3):
        with context.wrap_socket(raw_client(server.address), server_hostname="localhost") as client:
            assert talk(client, b"echo x\n") == b"x\n"
            client.sendall(b"send 1000000\n")
            received = b""
            while not received.endswith(b"sent\n"):
                received += client.recv(65536)
            assert received == b"x" * 1_000_000 + b"sent\n"
            with contextlib.suppress(ssl.SSLEOFError):
                plain = client.unwrap()
                assert plain.recv(1) == b""
    wait_until(lambda: server.children == {})
    server.end()
    assert server.errors == ""
