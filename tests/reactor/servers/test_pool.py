"""Handlers on threads: how many there are, who waits, and how they end."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import reactor
from reactor import servers
from reactor.servers import pool
from tests.conftest import ROOT, raw_client
from tests.reactor.servers.serving import (
    Echo,
    Held,
    Holding,
    Upper,
    ask,
    entrance_of,
    number_waiting,
    receive_line,
    serving,
    talk,
    wait_until,
)

LOCAL = ("127.0.0.1", 0)


class HoldingServer(Holding, servers.ThreadingTCPServer):
    max_threads = 2


def test_no_more_threads_run_than_the_bound_and_who_waits_is_served_in_order(caplog: pytest.LogCaptureFixture) -> None:
    server = HoldingServer(LOCAL, Held)
    with serving(server), contextlib.ExitStack() as stack:
        clients = []
        for number in range(4):
            clients.append(stack.enter_context(raw_client(server.server_address)))
            clients[-1].sendall(b"%d\n" % number)
            if number < 2:
                wait_until(lambda: len(server.begun) == len(clients))
            else:
                wait_until(lambda: number_waiting(server) == len(clients) - 2)
        assert len(server._threads) == 2
        assert sorted(server.begun) == [b"0\n", b"1\n"]
        server.release.set()
        assert [receive_line(client) for client in clients] == [b"0\n", b"1\n", b"2\n", b"3\n"]
        assert sorted(server.begun[2:]) == [b"2\n", b"3\n"]
    assert caplog.text.count("all 2 threads are busy (max_threads); the next requests wait") == 1


def test_more_wait_in_the_kernel_and_are_served_when_there_is_room() -> None:
    server = HoldingServer(LOCAL, Held)
    with serving(server), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw_client(server.server_address)) for _ in range(20)]
        for client in clients:
            client.sendall(b"a line\n")
        wait_until(lambda: len(server.begun) == 2 and number_waiting(server) == 2)
        wait_until(lambda: entrance_of(server).state.name == "Resting")
        assert entrance_of(server).connections == 4
        server.release.set()
        assert {receive_line(client) for client in clients} == {b"a line\n"}
        assert len(server.ended) == 20
        wait_until(lambda: entrance_of(server).connections == 0)


def test_datagrams_wait_in_the_kernel_too() -> None:
    class Server(Holding, servers.ThreadingUDPServer):
        max_threads = 1

    class HeldDatagram(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.server.begun.append(b"")
            assert self.server.release.wait(20)
            self.wfile.write(self.rfile.read())

    server = Server(LOCAL, HeldDatagram)
    with serving(server), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        for number in range(10):
            client.sendto(b"%d" % number, server.server_address)
        wait_until(lambda: server.begun)
        wait_until(lambda: number_waiting(server) == 1 and entrance_of(server).state.name == "Resting")
        server.release.set()
        assert [client.recv(10) for _ in range(10)] == [b"%d" % number for number in range(10)]


def test_thread_is_used_again_and_ends_when_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    names = set()

    class Naming(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            names.add(threading.current_thread().name)
            self.wfile.write(b"done\n")

    server = servers.ThreadingTCPServer(LOCAL, Naming)
    with serving(server):
        for _ in range(5):
            with raw_client(server.server_address) as client:
                assert receive_line(client) == b"done\n"
            wait_until(lambda: server._threads._idle == 1)
        assert names == {"ThreadingTCPServer-1"}
        monkeypatch.setattr(pool, "IDLE", 0.001)
        with raw_client(server.server_address) as client:
            assert receive_line(client) == b"done\n"
        wait_until(lambda: len(server._threads) == 0)
        assert names == {"ThreadingTCPServer-1"}


def test_idle_thread_is_not_given_two_requests() -> None:
    barrier = threading.Barrier(2)

    class Meeting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if self.rfile.readline() == b"meet\n":
                barrier.wait(20)
            self.wfile.write(b"done\n")

    with serving(servers.ThreadingTCPServer(LOCAL, Meeting)) as server:
        assert ask(server.server_address) == b"done\n"
        wait_until(lambda: server._threads._idle == 1)
        pairs = [socket.socketpair() for _ in range(2)]
        with server._threads._news:  # so that it does not wake up in between
            for theirs, ours in pairs:
                theirs.sendall(b"meet\n")
                server.process_request(ours, "somebody")
        for theirs, _ in pairs:
            with theirs:
                assert receive_line(theirs) == b"done\n"


def test_idle_threads_end_at_once_when_the_server_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "IDLE", 1000)
    server = servers.ThreadingTCPServer(LOCAL, Echo)
    server.block_on_close = False
    with serving(server):
        assert ask(server.server_address) == b"a line\n"
        wait_until(lambda: server._threads._idle == 1)
    wait_until(lambda: len(server._threads) == 0)


def test_close_waits_for_handlers_and_for_the_requests_that_wait() -> None:
    server = HoldingServer(LOCAL, Held)
    with contextlib.ExitStack() as stack:
        with serving(server):
            clients = [stack.enter_context(raw_client(server.server_address)) for _ in range(4)]
            for client in clients:
                client.sendall(b"a line\n")
            wait_until(lambda: len(server.begun) == 2 and number_waiting(server) == 2)
            server.shutdown()
            threading.Timer(0.05, server.release.set).start()
            server.server_close()
            assert len(server.ended) == 4
        assert len(server._threads) == 0


@pytest.mark.parametrize("attribute", ["daemon_threads", "block_on_close"])
def test_close_does_not_wait_if_the_server_says_so(attribute: str) -> None:
    server = HoldingServer(LOCAL, Held)
    setattr(server, attribute, attribute == "daemon_threads")
    with raw_client(server.server_address) as client:
        with serving(server):
            client.sendall(b"a line\n")
            wait_until(lambda: server.begun)
            server.shutdown()
            server.server_close()
            assert server.ended == []
            assert all(thread.daemon == server.daemon_threads for thread in server._threads._threads)
        assert receive_line(client) == b"a line\n"
        wait_until(lambda: len(server._threads) == 0)


def test_handler_may_close_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closing(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.server.shutdown()
            self.server.server_close()
            self.wfile.write(b"closed\n")

    with servers.ThreadingTCPServer(LOCAL, Closing) as server, raw_client(server.server_address) as client:
        server.serve_forever()
        assert receive_line(client) == b"closed\n"


def test_what_ends_a_thread_is_told_to_the_hook_of_threads_and_the_pool_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: told.append(arguments.exc_type))

    class Ending(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            if self.rfile.readline() == b"end\n":
                sys.exit()
            self.wfile.write(b"a line\n")

    class One(servers.ThreadingTCPServer):
        max_threads = 1

    with serving(One(LOCAL, Ending)) as server:
        assert ask(server.server_address, b"end\n") == b""
        assert ask(server.server_address) == b"a line\n"
    assert told == [SystemExit]


def test_error_of_a_handler_is_told_to_handle_error() -> None:
    told = []

    class Failing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise ValueError("as it was told to")

    class Server(servers.ThreadingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            told.append(sys.exc_info()[1])

    with serving(Server(LOCAL, Failing)) as server, raw_client(server.server_address) as client:
        assert client.recv(1) == b""
    assert [str(error) for error in told] == ["as it was told to"]


def test_thread_that_the_system_does_not_give_is_an_error_of_the_request(monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    class Server(servers.ThreadingTCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            told.append(sys.exc_info()[1])

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with serving(Server(LOCAL, Echo)) as server:
        wait_until(lambda: server._service._is_serving)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with raw_client(server.server_address) as client:
                assert client.recv(1) == b""
        assert ask(server.server_address) == b"a line\n"
    assert [str(error) for error in told] == ["can't start new thread"]


def test_request_waits_for_another_thread_where_the_system_gives_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def no_thread(self: threading.Thread) -> None:
        refused.append(self.name)
        raise RuntimeError("can't start new thread")

    server = HoldingServer(LOCAL, Held)
    with serving(server), raw_client(server.server_address) as first:
        first.sendall(b"first\n")
        wait_until(lambda: server.begun)
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", no_thread)
            with raw_client(server.server_address) as second:
                second.sendall(b"second\n")
                wait_until(lambda: refused)
                server.release.set()
                assert receive_line(second) == b"second\n"
        assert receive_line(first) == b"first\n"


def test_nobody_waits_while_a_thread_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start
    waiting = []

    def start_slowly(self: threading.Thread) -> None:
        if self.name == "ThreadingTCPServer-1":
            closer = threading.Thread(target=server._threads.join)  # what server_close does, in another thread
            start(closer)
            closer.join(5)
            waiting.append(closer.is_alive())
        start(self)

    server = servers.ThreadingTCPServer(LOCAL, Echo)
    with serving(server), monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start_slowly)
        assert ask(server.server_address) == b"a line\n"
    assert waiting == [False]


def test_process_request_may_use_threads_of_its_own() -> None:
    with ThreadPoolExecutor(2) as executor:

        class Own(servers.ThreadingTCPServer):
            def process_request(self, request: Any, client_address: Any) -> None:
                executor.submit(self.process_request_thread, request, client_address)

        limits = reactor.Limits(maximum_connections=2)
        with serving(Own(LOCAL, Echo, limits=limits)) as server:
            for _ in range(5):
                assert ask(server.server_address) == b"a line\n"
            wait_until(lambda: entrance_of(server).connections == 0)


def test_program_that_does_not_close_its_server_ends_all_the_same() -> None:
    program = """
import socket, threading
from reactor import servers
class Handler(servers.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline())
server = servers.ThreadingTCPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = socket.create_connection(server.server_address)
client.sendall(b"a line\\n")
print(client.recv(100).decode(), end="")
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, timeout=30, check=True)
    assert (result.stdout, result.stderr) == (b"a line\n", b"")


def test_many_clients_at_once_all_get_their_answers() -> None:
    server = servers.ThreadingTCPServer(LOCAL, Echo)
    server.max_threads = 5
    wrong = []

    def client(name: int) -> None:
        for number in range(10):
            line = b"%d of %d\n" % (number, name)
            if ask(server.server_address, line) != line:
                wrong.append(line)

    with serving(server):
        threads = [threading.Thread(target=client, args=(name,)) for name in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(server._threads) <= 5
        wait_until(lambda: entrance_of(server).connections == 0)
    assert wrong == []


def test_mixin_works_on_every_server_of_the_package() -> None:
    class Own(servers.ThreadingMixIn, servers.UDPServer):
        pass

    with serving(Own(LOCAL, Upper)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.connect(server.server_address)
        assert talk(client) == b"A LINE\n"
