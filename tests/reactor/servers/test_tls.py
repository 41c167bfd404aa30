"""Servers over TLS, asked by clients of the standard library, by curl and by openssl."""

from __future__ import annotations

import contextlib
import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from typing import Any

import pytest

import reactor
from reactor import servers
from reactor.authentication import Handshake
from reactor.blocking import Client
from tests import certificates, tls_peers
from tests.conftest import raw_client, run_until
from tests.reactor.servers.serving import Echo, entrance_of, serving, talk, wait_until

LOCAL = ("127.0.0.1", 0)
KEY = b"a long secret key"


class Recording(servers.ThreadingTCPServer):
    """Counts the requests that it is given."""

    processed = 0

    def process_request(self, request: Any, client_address: Any) -> None:
        self.processed += 1
        super().process_request(request, client_address)


def secure_client(address: Any, **options: Any) -> ssl.SSLSocket:
    """Return a client with TLS that is connected to `address`."""
    return tls_peers.client_context(**options).wrap_socket(raw_client(address), server_hostname="localhost")


@pytest.mark.parametrize("cls", [servers.TCPServer, servers.ThreadingTCPServer])
@pytest.mark.parametrize("version", [tls_peers.TLS_1_2, tls_peers.TLS_1_3])
def test_stream_handler_runs_over_tls_unchanged(cls: Any, version: ssl.TLSVersion) -> None:
    with serving(cls(LOCAL, Echo, tls=certificates.certificate_and_key())) as server:
        for _ in range(3):
            with secure_client(server.server_address, version=version) as client:
                assert talk(client) == b"a line\n"
                client.sendall(b"first\nsecond\n")
                assert client.recv(100) + client.recv(100) == b"first\nsecond\n"
        wait_until(lambda: entrance_of(server).connections == 0)


def test_handler_may_begin_and_the_end_is_a_good_one() -> None:
    class Greeting(socketserver.StreamRequestHandler):
        wbufsize = -1

        def handle(self) -> None:
            self.wfile.write(b"hello\n" * 100_000)

    with (
        serving(servers.ThreadingTCPServer(LOCAL, Greeting, tls=certificates.certificate())) as server,
        secure_client(server.server_address) as client,
    ):
        client.suppress_ragged_eofs = False
        received = b""
        while part := client.recv(65536):
            received += part
    assert received == b"hello\n" * 100_000


def test_silent_peers_take_no_thread_and_hold_nobody_up() -> None:
    server = Recording(LOCAL, Echo, tls=certificates.certificate())
    server.max_threads = 1
    with serving(server), contextlib.ExitStack() as stack:
        for _ in range(50):
            stack.enter_context(raw_client(server.server_address))
        wait_until(lambda: entrance_of(server).connections == 50)
        with secure_client(server.server_address) as client:
            assert talk(client) == b"a line\n"
        assert server.processed == 1


def test_peer_that_speaks_no_tls_is_told_so_and_no_handler_called(caplog: pytest.LogCaptureFixture) -> None:
    server = Recording(LOCAL, Echo, tls=certificates.certificate())
    with serving(server):
        with raw_client(server.server_address) as client:
            client.sendall(b"GET / HTTP/1.1\r\n\r\n")
            answer = b""
            while part := client.recv(1000):
                answer += part
        assert answer.startswith(b"HTTP/1.1 400 Bad Request")
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(raw_client(server.server_address), server_hostname="localhost")
        with secure_client(server.server_address) as client:
            assert talk(client) == b"a line\n"
    assert server.processed == 1
    assert "the peer speaks an HTTP request, not TLS" in caplog.text


def test_silent_peer_is_refused_when_its_time_is_over(caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(tls_timeout=0.05)
    with (
        serving(servers.TCPServer(LOCAL, Echo, tls=certificates.certificate(), limits=limits)) as server,
        raw_client(server.server_address) as client,
    ):
        assert client.recv(1) == b""
    assert "no TLS within 0.05 s (tls_timeout)" in caplog.text


def test_key_is_asked_for_behind_tls() -> None:
    tls = reactor.ClientTls(certificates.authorities(), server_name="localhost")

    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.read(14))

    server = servers.ThreadingTCPServer(LOCAL, Once, tls=certificates.certificate(), authkey=KEY)
    with serving(server):
        for _ in range(3):
            with Client(server.server_address, authkey=KEY, tls=tls, timeout=10) as client:
                client.send_bytes(b"in a frame")
                assert client.recv_bytes(timeout=10) == b"in a frame"


def test_what_comes_in_one_record_with_the_end_of_the_handshake_is_for_the_handler() -> None:
    server = servers.ThreadingTCPServer(LOCAL, Echo, tls=certificates.certificate(), authkey=KEY)
    with serving(server), secure_client(server.server_address) as client:
        binding = client.get_channel_binding("tls-unique")
        handshake = Handshake("client", KEY, os.urandom, binding=binding)
        answer = handshake.start()
        while not handshake.done:
            client.sendall(answer)
            answer = handshake.receive(client.recv(1000))
        client.sendall(answer + b"a line\n")
        assert client.recv(100) == b"a line\n"


def test_get_request_may_make_a_tls_of_its_own() -> None:
    context = tls_peers.server_context()

    class Own(servers.ThreadingTCPServer):
        def get_request(self) -> Any:
            sock, address = super().get_request()
            return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    class Whole(servers.ThreadingTCPServer):
        """Has the whole socket wrapped, as it is often done with `http.server`."""

    for cls in (Own, Whole):
        server = cls(LOCAL, Echo)
        if cls is Whole:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        with serving(server), secure_client(server.server_address) as client:
            assert talk(client) == b"a line\n"


def test_client_may_speak_first_behind_its_tls() -> None:
    class Patient(Recording):
        client_speaks_first = True

    server = Patient(LOCAL, Echo, tls=certificates.certificate())
    with (
        serving(server),
        secure_client(server.server_address) as silent,
        secure_client(server.server_address) as client,
    ):
        assert talk(client) == b"a line\n"
        assert server.processed == 1
        assert talk(silent) == b"a line\n"


def test_request_is_encrypted_for_every_method_of_the_server() -> None:
    seen = []

    class Looking(servers.TCPServer):
        def verify_request(self, request: Any, client_address: Any) -> bool:
            seen.append((type(request), request.getpeername() == client_address))
            return False

    with (
        serving(Looking(LOCAL, Echo, tls=certificates.certificate())) as server,
        secure_client(server.server_address) as client,
    ):
        client.suppress_ragged_eofs = False
        assert client.recv(1) == b""
    assert seen == [(servers.EncryptedSocket, True)]


def test_tls_begins_behind_what_the_proxy_has_told() -> None:
    class Telling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(f"{self.client_address}\n".encode())

    server = servers.TCPServer(LOCAL, Telling, tls=certificates.certificate(), proxies=["127.0.0.1"])
    with serving(server), raw_client(server.server_address) as raw:
        raw.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1234 80\r\n")
        with tls_peers.client_context().wrap_socket(raw, server_hostname="localhost") as client:
            assert client.recv(100) == b"('192.0.2.7', 1234)\n"


def test_request_that_is_under_way_is_cut_off_when_the_grace_of_a_shutdown_is_over(loop: reactor.Reactor) -> None:
    ended = []
    begun = threading.Event()

    class Waiting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            begun.set()
            ended.append(self.rfile.read())

    clients: list[ssl.SSLSocket] = []
    server = servers.ThreadingTCPServer(LOCAL, Waiting, tls=certificates.certificate(), reactor=loop)
    thread = threading.Thread(target=lambda: clients.append(secure_client(server.server_address)))
    thread.start()
    run_until(loop, begun.is_set)
    thread.join()
    shutdown = loop.shutdown(0.01)
    loop.loop(timeout=20)
    assert len(shutdown.cut) == 1
    server.server_close()
    assert ended == [b""]
    clients[0].close()


def test_openssl_is_answered() -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    with serving(servers.ThreadingTCPServer(LOCAL, Echo, tls=certificates.certificate())) as server:
        for option in ("-tls1_2", "-tls1_3"):
            address = f"127.0.0.1:{server.server_address[1]}"
            argv = [openssl, "s_client", "-connect", address, "-CAfile", certificates.authorities(), option, "-quiet"]
            process = subprocess.Popen(
                [*argv, "-verify_return_error"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            with process:
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(b"a line\n")
                process.stdin.flush()
                assert process.stdout.readline() == b"a line\n"
                process.kill()


def test_descriptors_are_all_given_back_when_peers_leave_in_the_handshake() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with serving(servers.ThreadingTCPServer(LOCAL, Echo, tls=certificates.certificate())) as server:
        entrance_of(server)
        serving_takes = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            with raw_client(server.server_address) as client:
                client.sendall(b"\x16\x03\x01\x02\x00")
        wait_until(lambda: entrance_of(server).connections == 0)
        wait_until(lambda: len(os.listdir("/proc/self/fd")) == serving_takes)
    assert len(os.listdir("/proc/self/fd")) == before
