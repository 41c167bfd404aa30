"""What the reactor does in front of the handlers: limits, the handshake with the key, and whoever says nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import socketserver
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import servers
from reactor.blocking import Connection
from tests.conftest import raw_client
from tests.reactor.servers.serving import Echo, ask, entrance_of, receive_line, serving, talk, wait_until
from tests.reactor.servers.test_forking import programs  # noqa: F401 - a fixture

LOCAL = ("127.0.0.1", 0)
KEY = b"a long secret key"


class Silent(socketserver.StreamRequestHandler):
    """Waits for the end of the input."""

    def handle(self) -> None:
        self.rfile.read()


# Limits


def test_server_accepts_no_more_than_the_limit_and_goes_on_when_somebody_leaves() -> None:
    limits = reactor.Limits(maximum_connections=2)
    with serving(servers.ThreadingTCPServer(LOCAL, Echo, limits=limits)) as server:
        with raw_client(server.server_address) as first, raw_client(server.server_address) as second:
            assert talk(first) == talk(second) == b"a line\n"
            with raw_client(server.server_address) as third:
                third.sendall(b"a line\n")
                wait_until(lambda: entrance_of(server).state.name == "Full")
                third.settimeout(0.05)
                with pytest.raises(TimeoutError):
                    third.recv(1)
                first.close()
                third.settimeout(10)
                assert receive_line(third) == b"a line\n"
        wait_until(lambda: entrance_of(server).connections == 0)


def test_one_host_cannot_take_all_connections(caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(maximum_connections_per_peer=2)
    with (
        serving(servers.ThreadingTCPServer(LOCAL, Echo, limits=limits)) as server,
        raw_client(server.server_address) as first,
        raw_client(server.server_address) as second,
    ):
        assert talk(first) == talk(second) == b"a line\n"
        with raw_client(server.server_address) as third:
            assert third.recv(1) == b""
        first.close()
        wait_until(lambda: entrance_of(server).connections == 1)
        assert ask(server.server_address) == b"a line\n"
    assert "ThreadingTCPServer on 127.0.0.1:" in caplog.text
    assert " has 2 connections (maximum_connections_per_peer); one more was refused" in caplog.text


@pytest.mark.parametrize("closes", [True, False])
def test_place_is_free_however_a_request_ends(closes: bool) -> None:
    class Careless(servers.TCPServer):
        def shutdown_request(self, request: Any) -> None:
            if closes:
                request.close()
            else:
                os.close(request.detach())

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return not self.refuses

        refuses = False

    class Brief(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"done\n")

    limits = reactor.Limits(maximum_connections=1)
    with serving(Careless(LOCAL, Brief, limits=limits)) as server:
        for server.refuses in (False, True, False):
            with raw_client(server.server_address) as client:
                assert receive_line(client) == (b"" if server.refuses else b"done\n")
        wait_until(lambda: entrance_of(server).connections == 0)


def test_place_is_free_when_the_request_is_closed_though_somebody_has_it_still() -> None:
    kept = []

    class Keeping(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            kept.append(self.request)
            self.wfile.write(b"done\n")

    with serving(servers.TCPServer(LOCAL, Keeping, limits=reactor.Limits(maximum_connections=1))) as server:
        for _ in range(3):
            with raw_client(server.server_address) as client:
                assert receive_line(client) == b"done\n"
    assert len(kept) == 3


def test_server_rests_when_the_descriptors_run_out_and_goes_on(programs: Any) -> None:  # noqa: F811
    server = programs("out_of_descriptors")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(raw_client(server.address)) for _ in range(60)]
        wait_until(lambda: "Too many open files" in server.errors)
        assert talk(clients[0], b"echo served\n") == b"served\n"
        for client in clients:
            client.sendall(b"echo x\n")
        for client in clients:
            assert receive_line(client) == b"x\n"
            client.close()
    with raw_client(server.address) as client:
        assert talk(client, b"echo again\n") == b"again\n"
    assert server.errors.count("Too many open files") < 20
    server.end()


# The handshake with the key


def test_handler_is_called_behind_the_handshake_of_multiprocessing() -> None:
    class Messages(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with Connection(os.dup(self.request.fileno())) as connection:
                connection.send({"sum": sum(connection.recv())})

    for cls in (servers.TCPServer, servers.ThreadingTCPServer):
        with serving(cls(LOCAL, Messages, authkey=KEY)) as server:
            for _ in range(3):
                with Client(server.server_address, authkey=KEY) as client:
                    client.send([1, 2, 3])
                    assert client.recv() == {"sum": 6}


def test_message_that_comes_with_the_handshake_is_for_the_handler() -> None:
    class Raw(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with (
        serving(servers.ThreadingTCPServer(LOCAL, Raw, authkey=KEY)) as server,
        Client(server.server_address, authkey=KEY) as client,
    ):
        os.write(client.fileno(), b"a line\n")  # the welcome of the server may not have been sent yet
        assert os.read(client.fileno(), 100) == b"a line\n"


def test_peer_with_another_key_is_refused_and_no_handler_called(caplog: pytest.LogCaptureFixture) -> None:
    server = Recording(LOCAL, Echo, authkey=KEY)
    with serving(server):
        with pytest.raises(AuthenticationError):
            Client(server.server_address, authkey=b"quite another key")
        with raw_client(server.server_address) as scan:
            scan.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while scan.recv(100):
                pass
        with Client(server.server_address, authkey=KEY):
            wait_until(lambda: server.processed == 1)
    assert "an HTTP request" in caplog.text


class Recording(servers.ThreadingTCPServer):
    """Counts the requests that it is given."""

    processed = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.processed += 1
        super().process_request(request, client_address)


def test_silent_peers_take_no_thread_and_hold_nobody_up() -> None:
    class One(Recording):
        max_threads = 1

    server = One(LOCAL, Echo, authkey=KEY)
    with serving(server), contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(raw_client(server.server_address))
        wait_until(lambda: entrance_of(server).connections == 100)
        with Client(server.server_address, authkey=KEY) as client:
            os.write(client.fileno(), b"a line\n")
            assert os.read(client.fileno(), 100) == b"a line\n"
        assert server.processed == 1


def test_silent_peer_is_refused_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(authentication_timeout=0.05)
    with (
        serving(servers.TCPServer(LOCAL, Echo, authkey=KEY, limits=limits)) as server,
        raw_client(server.server_address) as client,
    ):
        while client.recv(100):
            pass
    assert "no authentication within 0.05 s (authentication_timeout)" in caplog.text


def test_peer_that_is_in_the_handshake_for_longest_makes_room_for_the_next_one() -> None:
    limits = reactor.Limits(maximum_unauthenticated=2)
    with (
        serving(servers.TCPServer(LOCAL, Echo, authkey=KEY, limits=limits)) as server,
        contextlib.ExitStack() as stack,
    ):
        silent = [stack.enter_context(raw_client(server.server_address)) for _ in range(3)]
        while silent[0].recv(100):
            pass
        with Client(server.server_address, authkey=KEY):
            pass


def test_handle_request_waits_for_a_peer_with_the_key_and_serves_it_alone() -> None:
    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    answers = []

    def client(address: Any) -> None:
        with raw_client(address) as silent, contextlib.suppress(AuthenticationError):
            Client(address, authkey=b"quite another key")
            silent.close()
        with Client(address, authkey=KEY) as good:
            os.write(good.fileno(), b"a line\n")
            answers.append(os.read(good.fileno(), 100))

    with servers.TCPServer(LOCAL, Once, authkey=KEY) as server:
        for _ in range(2):
            thread = threading.Thread(target=client, args=(server.server_address,))
            thread.start()
            server.handle_request()
            thread.join()
        server.timeout = 0.01
        server.handle_request()
    assert answers == [b"a line\n"] * 2


def test_request_that_has_come_and_was_not_served_is_closed_with_the_server() -> None:
    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            wait_until(lambda: len(clients) == 2)

    clients: list[Any] = []

    def connect(address: Any) -> None:
        clients.append(Client(address, authkey=KEY))

    with servers.TCPServer(LOCAL, Once, authkey=KEY) as server:
        threads = [threading.Thread(target=connect, args=(server.server_address,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        server._service.start()
        wait_until(lambda: server._service.reactor.poll(0.01) or len(server._service._arrived) == 2)
        for thread in threads:
            thread.join()
        server.handle_request()
    for client in clients:
        with client:
            assert os.read(client.fileno(), 1) == b""


def test_server_on_a_unix_socket_has_a_handshake_too(socket_path: str) -> None:
    with (
        serving(servers.ThreadingUnixStreamServer(socket_path, Echo, authkey=KEY)),
        Client(socket_path, authkey=KEY) as client,
    ):
        os.write(client.fileno(), b"a line\n")
        assert os.read(client.fileno(), 100) == b"a line\n"


def test_timeout_of_a_socket_is_the_same_behind_the_handshake() -> None:
    class Custom(servers.TCPServer):
        def get_request(self) -> Any:
            sock, address = super().get_request()
            sock.settimeout(7.5)
            return sock, address

    class Telling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"%r\n" % self.connection.gettimeout())

    with serving(Custom(LOCAL, Telling, authkey=KEY)) as server, Client(server.server_address, authkey=KEY) as client:
        assert os.read(client.fileno(), 100) == b"7.5\n"


# A client that has to speak first


class Patient(Recording):
    client_speaks_first = True
    max_threads = 1


def test_handler_is_not_called_before_the_client_has_spoken() -> None:
    server = Patient(LOCAL, Echo)
    with serving(server), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_client(server.server_address)) for _ in range(20)]
        wait_until(lambda: entrance_of(server).connections == 20)
        assert ask(server.server_address) == b"a line\n"
        assert server.processed == 1
        assert talk(silent[7], b"at last\n") == b"at last\n"
        assert server.processed == 2


def test_client_that_has_to_speak_first_and_does_not_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    server = Patient(LOCAL, Echo, limits=reactor.Limits(idle_timeout=0.05))
    with serving(server), raw_client(server.server_address) as client:
        assert client.recv(1) == b""
    assert server.processed == 0
    assert "the peer was silent for 0.05 s (idle_timeout)" in caplog.text


@pytest.mark.parametrize("limit", ["maximum_unauthenticated", "maximum_connections"])
def test_client_that_has_said_nothing_for_longest_makes_room(limit: str, caplog: pytest.LogCaptureFixture) -> None:
    server = Patient(LOCAL, Echo, limits=reactor.Limits(**{limit: 2}))
    with serving(server), contextlib.ExitStack() as stack:
        silent = [stack.enter_context(raw_client(server.server_address)) for _ in range(3)]
        assert silent[0].recv(1) == b""
        assert talk(silent[1]) == b"a line\n"
    assert f"has said nothing, and the next one needs the place: 2 ({limit})" in caplog.text


def test_client_may_speak_first_behind_its_handshake() -> None:
    with serving(Patient(LOCAL, Echo, authkey=KEY)) as server, Client(server.server_address, authkey=KEY) as client:
        assert server.processed == 0
        os.write(client.fileno(), b"a line\n")
        assert os.read(client.fileno(), 100) == b"a line\n"


# Peers behind a proxy


def test_client_address_is_the_one_that_the_proxy_has_told() -> None:
    class Telling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(f"{self.client_address} {self.rfile.readline()!r}\n".encode())

    for cls in (servers.TCPServer, servers.ThreadingTCPServer):
        with (
            serving(cls(LOCAL, Telling, proxies=["127.0.0.1"])) as server,
            raw_client(server.server_address) as client,
        ):
            client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\na line\n")
            assert receive_line(client) == b"('192.0.2.7', 1234) b'a line\\n'\n"


def test_socket_file_is_gone_when_a_server_with_a_handshake_is_closed(socket_path: str) -> None:
    server = servers.UnixStreamServer(socket_path, Silent, authkey=KEY)
    with serving(server), socket.socket(socket.AF_UNIX) as client:
        client.connect(socket_path)
        wait_until(lambda: entrance_of(server).connections == 1)
    assert not Path(socket_path).exists()
