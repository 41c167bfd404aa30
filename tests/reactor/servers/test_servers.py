"""The servers, and every place where `socketserver` lets them be customised."""

from __future__ import annotations

import errno
import io
import os
import socket
import socketserver
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import reactor
from reactor import servers
from tests.conftest import Accepting, RecordingStream, open_descriptors, raw_client, run_until
from tests.reactor.servers.serving import Echo, Upper, ask, receive_line, refuses, serving, talk, wait_until

LOCAL = ("127.0.0.1", 0)

# What is called, and when: as by the original

METHODS = [
    "server_bind", "server_activate", "server_close", "get_request", "verify_request", "process_request",
    "finish_request", "shutdown_request", "close_request", "handle_error", "handle_timeout", "handle_request",
    "serve_forever", "shutdown",
]  # fmt: skip


class Picky(socketserver.BaseRequestHandler):
    """Fails, or sends back what it gets."""

    def handle(self) -> None:
        is_datagram = isinstance(self.request, tuple)
        data = self.request[0] if is_datagram else self.request.recv(100)
        if data == b"fail":
            raise ValueError("as it was told to")
        if is_datagram:
            self.request[1].sendto(data, self.client_address)
        else:
            self.request.sendall(data)


def recording(base: type[socketserver.BaseServer]) -> Any:
    """Return a subclass that writes down in `calls` which of its methods are called."""
    calls: list[str] = []

    def recorded(name: str) -> Callable[..., Any]:
        def method(self: Any, *args: Any, **options: Any) -> Any:
            calls.append(name)
            return getattr(super(cls, self), name)(*args, **options)  # type: ignore[arg-type]

        return method

    def verify_request(self: Any, request: Any, address: Any) -> bool:
        calls.append("verify_request")
        return next(self.verdicts)

    def handle_error(self: Any, request: Any, address: Any) -> None:
        calls.append(f"handle_error: {sys.exc_info()[1]!r}")

    members: dict[str, Any] = {name: recorded(name) for name in METHODS if hasattr(base, name)}
    members |= {"verify_request": verify_request, "handle_error": handle_error, "calls": calls}
    cls = type("Recording", (base,), members)
    return cls


def run_everything(module: ModuleType, name: str, path: str) -> list[Any]:
    """Run a server of `module` through everything; return what was called."""
    base = getattr(module, name)
    is_unix = base.address_family == socket.AF_UNIX
    is_datagram = base.socket_type == socket.SOCK_DGRAM
    cls = recording(base)
    cls.timeout = 0.01
    server = cls(path if is_unix else LOCAL, Picky)
    server.verdicts = iter([True, False, True] * 2)
    calls: list[Any] = server.calls

    def client() -> socket.socket:
        sock = socket.socket(server.address_family, server.socket_type)
        sock.settimeout(10)
        if is_unix and is_datagram:
            sock.bind("")
        sock.connect(server.server_address)
        return sock

    for data in (b"echo", b"refused", b"fail"):
        with client() as asker:
            asker.send(data)
            server.handle_request()
            calls.append(asker.recv(100) if data == b"echo" else "nothing")
    server.handle_request()
    calls.append("served")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    with client() as asker:
        asker.send(b"echo")
        assert asker.recv(100) == b"echo"
        wait_until(lambda: calls[-1] == "close_request")
    server.shutdown()
    thread.join()
    server.server_close()
    assert server.socket.fileno() == -1
    return calls


@pytest.mark.parametrize("name", ["TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"])
def test_methods_are_called_as_by_the_original(name: str, socket_path: str) -> None:
    theirs = run_everything(socketserver, name, socket_path)
    Path(socket_path).unlink(missing_ok=True)
    ours = run_everything(servers, name, socket_path)
    assert ours == theirs
    assert len(ours) > 30
    assert "handle_error: ValueError('as it was told to')" in ours
    assert "handle_timeout" in ours


def test_module_has_every_public_name_of_the_original() -> None:
    assert set(socketserver.__all__) <= set(servers.__all__)
    for name in ("BaseServer", "TCPServer", "UDPServer", "UnixStreamServer", "UnixDatagramServer"):
        assert issubclass(getattr(servers, name), getattr(socketserver, name))
    for name in ("ThreadingMixIn", "ForkingMixIn"):
        assert issubclass(getattr(servers, name), getattr(socketserver, name))
    assert servers.StreamRequestHandler is socketserver.StreamRequestHandler
    assert servers.DatagramRequestHandler is socketserver.DatagramRequestHandler
    assert servers.BaseRequestHandler is socketserver.BaseRequestHandler


@pytest.mark.parametrize(
    "name",
    [name for name in servers.__all__ if name.endswith("Server") and "Forking" not in name and "Base" not in name],
)
def test_handler_classes_of_the_original_run_on_every_server(name: str, socket_path: str) -> None:
    cls: Any = getattr(servers, name)
    is_unix = cls.address_family == socket.AF_UNIX
    is_datagram = cls.socket_type == socket.SOCK_DGRAM
    server = cls(socket_path if is_unix else LOCAL, Upper if is_datagram else Echo)
    with serving(server):
        for _ in range(3):
            with socket.socket(cls.address_family, cls.socket_type) as client:
                client.settimeout(10)
                if is_unix and is_datagram:
                    client.bind("")
                client.connect(server.server_address)
                assert talk(client, b"a line\n") == (b"A LINE\n" if is_datagram else b"a line\n")


# Attributes


def test_socket_gets_the_options_of_the_class_attributes() -> None:
    class Customised(servers.TCPServer):
        address_family = socket.AF_INET6
        allow_reuse_address = True
        allow_reuse_port = True
        request_queue_size = 3

    with Customised(("::1", 0), Echo) as server:
        assert server.socket.family == socket.AF_INET6
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT)
        with Customised(server.server_address[:2], Echo) as second:
            assert second.server_address == server.server_address
        with serving(server), socket.create_connection(server.server_address[:2], 10) as client:
            assert talk(client) == b"a line\n"
    with servers.TCPServer(LOCAL, Echo) as plain:
        assert not plain.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


def test_connections_have_keepalive_and_no_nagle() -> None:
    class Telling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            options = (socket.IPPROTO_TCP, socket.TCP_NODELAY), (socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            self.wfile.write(b"%d %d\n" % tuple(self.connection.getsockopt(*option) for option in options))

    with serving(servers.TCPServer(LOCAL, Telling)) as server, raw_client(server.server_address) as client:
        assert receive_line(client) == b"1 1\n"


def test_server_can_be_bound_and_activated_by_hand() -> None:
    server = servers.TCPServer(LOCAL, Echo, bind_and_activate=False)
    server.server_bind()
    server.server_activate()
    assert server.server_address[1]
    with serving(server):
        assert ask(server.server_address) == b"a line\n"


def test_descriptor_is_the_one_of_the_socket_and_nothing_is_open_before_it_serves() -> None:
    before = open_descriptors()
    with servers.TCPServer(LOCAL, Echo) as server:
        assert server.fileno() == server.socket.fileno()
        assert set(open_descriptors()) - set(before) == {server.fileno()}
    assert server.fileno() == -1


def test_socket_that_cannot_be_bound_is_closed() -> None:
    with servers.TCPServer(LOCAL, Echo) as server:
        with pytest.raises(OSError, match="Address already in use") as caught:
            servers.TCPServer(server.server_address, Echo)
        assert caught.value.errno == errno.EADDRINUSE


def test_server_that_is_closed_serves_no_more() -> None:
    server = servers.TCPServer(LOCAL, Echo)
    server.server_close()
    server.server_close()
    for serve in (server.serve_forever, server.handle_request):
        with pytest.raises((ValueError, OSError)):
            serve()


# handle_request


def test_handle_request_waits_for_one_request_and_leaves_the_next_one_to_the_kernel() -> None:
    accepted = []

    class Counting(servers.TCPServer):
        def get_request(self) -> Any:
            accepted.append(super().get_request())
            return accepted[-1]

    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with (
        Counting(LOCAL, Once) as server,
        raw_client(server.server_address) as first,
        raw_client(server.server_address) as second,
    ):
        first.sendall(b"first\n")
        second.sendall(b"second\n")
        server.handle_request()
        assert receive_line(first) == b"first\n"
        assert len(accepted) == 1
        server.handle_request()
        assert receive_line(second) == b"second\n"


@pytest.mark.parametrize(
    ("of_server", "of_socket"), [(0.01, None), (None, 0.01), (100.0, 0.01), (0.01, 100.0), (0, None)]
)
def test_handle_request_calls_handle_timeout_when_nobody_comes(
    of_server: float | None, of_socket: float | None
) -> None:
    calls = []

    class Impatient(servers.TCPServer):
        timeout = of_server

        def handle_timeout(self) -> None:
            calls.append(self)

    with Impatient(LOCAL, Echo) as server:
        server.socket.settimeout(of_socket)
        server.handle_request()
        server.handle_request()
        assert calls == [server, server]
        assert server.socket.gettimeout() == of_socket
        with raw_client(server.server_address) as client:
            client.sendall(b"a line\n")
            client.shutdown(socket.SHUT_WR)
            server.timeout = 10
            server.handle_request()
            assert receive_line(client) == b"a line\n"


def test_handle_request_without_patience_serves_who_is_there_already() -> None:
    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    class Impatient(servers.TCPServer):
        timeout = 0

        def handle_timeout(self) -> None:
            pytest.fail("somebody was there")

    with Impatient(LOCAL, Once) as server, raw_client(server.server_address) as client:
        client.sendall(b"a line\n")
        server.handle_request()
        assert receive_line(client) == b"a line\n"


def test_socket_is_as_blocking_behind_a_request_as_it_was_in_front() -> None:
    with servers.TCPServer(LOCAL, Echo) as server:
        server.timeout = 0
        server.handle_request()
        assert os.get_blocking(server.fileno())
        with raw_client(server.server_address), server.get_request()[0]:
            pass


# Requests


def test_get_request_may_be_written_with_an_accept_of_its_own() -> None:
    asked = []

    class Custom(servers.TCPServer):
        def get_request(self) -> Any:
            asked.append("asked")
            sock, address = self.socket.accept()
            sock.settimeout(7.5)
            return sock, ("somebody", *address)

    class Telling(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(f"{self.client_address[0]} {self.connection.gettimeout()}\n".encode())

    with serving(Custom(LOCAL, Telling)) as server:
        with raw_client(server.server_address) as client:
            assert receive_line(client) == b"somebody 7.5\n"
        assert asked == ["asked"]


def test_request_may_be_whatever_get_request_and_the_handler_agree_upon() -> None:
    class Wrapped:
        __slots__ = ("sock",)  # no weak reference to it is possible

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

    class Custom(servers.TCPServer):
        def get_request(self) -> Any:
            sock, _ = self.socket.accept()
            return Wrapped(sock), (7, 5)

        def shutdown_request(self, request: Any) -> None:
            request.sock.close()
            super().shutdown_request(request.sock)

    class Telling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sock.sendall(f"{self.client_address}\n".encode())

    limits = reactor.Limits(maximum_connections=1)
    with serving(Custom(LOCAL, Telling, limits=limits)) as server:
        for _ in range(3):
            with raw_client(server.server_address) as client:
                assert receive_line(client) == b"(7, 5)\n"


def test_error_of_get_request_about_one_peer_is_not_the_end(caplog: pytest.LogCaptureFixture) -> None:
    errors = [TimeoutError("the handshake took too long"), OSError(errno.EPROTO, "no"), ConnectionAbortedError()]

    class Unlucky(servers.TCPServer):
        def get_request(self) -> Any:
            sock, address = super().get_request()
            if errors:
                with sock:
                    raise errors.pop()
            return sock, address

    with serving(Unlucky(LOCAL, Echo)) as server:
        for _ in range(3):
            with raw_client(server.server_address) as client:
                assert client.recv(1) == b""
        assert errors == []
        assert ask(server.server_address) == b"a line\n"
    assert "accept failed" not in caplog.text


def test_bug_in_get_request_or_verify_request_does_not_end_the_server(
    caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    failing = ["get_request", "verify_request"]

    class Buggy(servers.TCPServer):
        def get_request(self) -> Any:
            request = super().get_request()
            if failing[:1] == ["get_request"]:
                request[0].close()
                del failing[0]
                raise ValueError("a bug")
            return request

        def verify_request(self, request: Any, client_address: Any) -> bool:
            if failing:
                del failing[0]
                raise ValueError("another bug")
            return True

    with serving(Buggy(LOCAL, Echo)) as server:
        for _ in range(2):
            with raw_client(server.server_address) as client:
                assert client.recv(1) == b""
        assert ask(server.server_address) == b"a line\n"
    assert "ValueError: a bug" in caplog.text
    assert "ValueError: another bug" in capsys.readouterr().err


def test_error_of_a_handler_is_told_to_handle_error_which_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    with serving(servers.TCPServer(LOCAL, Picky)) as server:
        with raw_client(server.server_address) as client:
            client.sendall(b"fail")
            assert client.recv(1) == b""
        assert ask(server.server_address) == b"a line\n"
    assert "ValueError: as it was told to" in capsys.readouterr().err


def test_what_handle_error_raises_comes_out_of_the_server() -> None:
    class Strict(servers.TCPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            self.close_request(request)
            raise  # noqa: PLE0704 - it is called inside one

    with Strict(LOCAL, Picky) as server:
        for serve in (server.serve_forever, server.handle_request):
            with raw_client(server.server_address) as client:
                client.sendall(b"fail")
                with pytest.raises(ValueError, match="as it was told to"):
                    serve()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_end_of_the_program_in_a_handler_is_the_end_of_the_server(error: type[BaseException]) -> None:
    class Ending(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            raise error

    with servers.TCPServer(LOCAL, Ending) as server:
        for serve in (server.serve_forever, server.handle_request):
            with raw_client(server.server_address) as client:
                with pytest.raises(error):
                    serve()
                assert client.recv(1) == b""


# serve_forever and shutdown


def test_service_actions_are_called_as_often_as_it_was_said_and_behind_each_request() -> None:
    class Active(servers.TCPServer):
        actions = 0

        def service_actions(self) -> None:
            self.actions += 1

    server = Active(LOCAL, Echo)
    with serving(server, poll_interval=0.005):
        wait_until(lambda: server.actions > 5)
    server = Active(LOCAL, Echo)
    with serving(server, poll_interval=1000):
        before = server.actions
        assert ask(server.server_address) == b"a line\n"
        wait_until(lambda: server.actions > before)


def test_server_that_nobody_calls_does_not_wake_up(loop: reactor.Reactor) -> None:
    server = servers.TCPServer(LOCAL, Echo, reactor=loop)
    with serving(server, poll_interval=0.001):
        assert ask(server.server_address) == b"a line\n"
        turns = loop.turns
        threading.Event().wait(0.1)
        assert loop.turns == turns


def test_server_serves_again_behind_a_shutdown() -> None:
    server = servers.TCPServer(LOCAL, Echo)
    for _ in range(3):
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        assert ask(server.server_address) == b"a line\n"
        server.shutdown()
        thread.join()
    server.server_close()


def test_shutdown_in_front_of_serve_forever_waits_for_it() -> None:
    with servers.TCPServer(LOCAL, Echo) as server:
        waiting = threading.Thread(target=server.shutdown)
        waiting.start()
        wait_until(lambda: server._service._is_stopping)
        server.serve_forever()
        waiting.join()


def test_handler_may_close_the_server_that_serves() -> None:
    class Closing(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.server.server_close()
            self.request.sendall(b"closed\n")

    server = servers.TCPServer(LOCAL, Closing)
    with raw_client(server.server_address) as client:
        server.serve_forever()
        assert receive_line(client) == b"closed\n"
    assert refuses(server.server_address)


@pytest.mark.parametrize("cls", [servers.TCPServer, servers.ThreadingTCPServer, servers.UDPServer])
def test_another_thread_may_close_the_server_that_serves(cls: Any) -> None:
    server = cls(LOCAL, Echo)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    wait_until(lambda: server._service._is_serving)
    server.server_close()
    thread.join(20)
    assert not thread.is_alive()
    assert server.fileno() == -1


# Datagrams


def test_datagram_that_is_too_large_is_cut_as_by_the_original() -> None:
    class Small(servers.UDPServer):
        max_packet_size = 5

    with serving(Small(LOCAL, Upper)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(b"abcdefgh", server.server_address)
        assert client.recv(100) == b"ABCDE"


def test_datagram_that_somebody_else_has_taken_is_not_waited_for() -> None:
    with servers.UDPServer(LOCAL, Upper) as server, pytest.raises(BlockingIOError):
        server.get_request()


def test_socket_for_datagrams_stays_blocking_for_the_handlers_that_send_with_it() -> None:
    class Telling(socketserver.DatagramRequestHandler):
        def handle(self) -> None:
            self.wfile.write(str(os.get_blocking(self.socket.fileno())).encode())

    with (
        serving(servers.ThreadingUDPServer(LOCAL, Telling)) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        client.settimeout(10)
        client.sendto(b"", server.server_address)
        assert client.recv(100) == b"True"


def test_authkey_and_tls_are_refused_for_datagrams() -> None:
    for option in ({"authkey": b"a long secret key"}, {"tls": ("a", "b")}, {"proxies": ["127.0.0.1"]}):
        with pytest.raises(reactor.LocalError, match="a server of datagrams has none"):
            servers.UDPServer(LOCAL, Upper, **option)  # type: ignore[arg-type]


def test_options_that_cannot_be_used_are_refused_when_the_server_is_made() -> None:
    for option in ({"authkey": b""}, {"tls": "nowhere.pem"}, {"tls": 7}):
        with pytest.raises(reactor.LocalError):
            servers.TCPServer(LOCAL, Echo, **option)  # type: ignore[arg-type]


# Unix sockets


@pytest.mark.parametrize("cls", [servers.UnixStreamServer, servers.UnixDatagramServer])
def test_file_of_a_unix_socket_is_taken_over_from_the_dead_and_removed(cls: Any, socket_path: str) -> None:
    with socket.socket(socket.AF_UNIX, cls.socket_type) as dead:
        dead.bind(socket_path)
    with cls(socket_path, Echo) as server:
        assert stat.S_ISSOCK(Path(socket_path).stat().st_mode)
        with pytest.raises(reactor.AddressInUseError):
            cls(socket_path, Echo)
        assert server.server_address == socket_path
    assert not Path(socket_path).exists()


def test_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("kept")
    with pytest.raises(OSError, match="is a file, and no socket"):
        servers.UnixStreamServer(str(path), Echo)
    assert path.read_text() == "kept"


def test_mode_of_a_unix_socket_is_the_one_that_the_user_has_set(socket_path: str) -> None:
    before = os.umask(0)
    try:
        with servers.UnixStreamServer(socket_path, Echo):
            assert Path(socket_path).stat().st_mode & 0o777 == 0o777
    finally:
        os.umask(before)


@pytest.mark.parametrize("address", ["", "\0servers-of-test"])
def test_unix_server_may_have_an_abstract_address(address: str) -> None:
    with serving(servers.UnixStreamServer(address, Echo)) as server, socket.socket(socket.AF_UNIX) as client:
        client.connect(server.server_address)
        assert talk(client) == b"a line\n"


# A reactor that the server shares


def test_server_runs_on_a_reactor_beside_other_channels(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(LOCAL, accepted, reactor=loop)
    with (
        servers.ThreadingTCPServer(LOCAL, Echo, reactor=loop) as server,
        raw_client(listener.address) as other,
        raw_client(server.server_address) as client,
    ):
        other.sendall(b"x")
        client.sendall(b"a line\n")
        client.setblocking(False)
        received = io.BytesIO()

        def has_answer() -> bool:
            try:
                received.write(client.recv(100))
            except BlockingIOError:
                pass
            return received.getvalue() == b"a line\n" and bool(accepted.channels)

        run_until(loop, has_answer)
        run_until(loop, lambda: accepted.channels[0].received == b"x")


def test_two_servers_share_a_reactor_and_handle_request_takes_one_of_its_own(loop: reactor.Reactor) -> None:
    class Once(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(self.rfile.readline())

    with (
        servers.TCPServer(LOCAL, Once, reactor=loop) as one,
        servers.TCPServer(LOCAL, Once, reactor=loop) as two,
        raw_client(one.server_address) as first,
        raw_client(one.server_address) as second,
        raw_client(two.server_address) as third,
    ):
        for client in (first, second, third):
            client.sendall(b"a line\n")
        one.handle_request()
        assert receive_line(first) == b"a line\n"
        loop.loop(timeout=0.05)
        assert receive_line(second) == b"a line\n"
        assert receive_line(third) == b"a line\n"


def test_shutdown_of_the_reactor_closes_the_socket_and_waits_for_handlers(loop: reactor.Reactor) -> None:
    begun, release = threading.Event(), threading.Event()

    class Slow(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            begun.set()
            release.wait(20)
            self.wfile.write(b"done\n")

    with (
        servers.ThreadingTCPServer(LOCAL, Slow, reactor=loop) as server,
        raw_client(server.server_address) as client,
    ):
        run_until(loop, begun.is_set)
        shutdown = loop.shutdown(20)
        loop.poll(0)
        assert refuses(server.server_address)
        assert not shutdown.is_complete
        release.set()
        loop.loop(timeout=20)
        assert shutdown.is_complete
        assert shutdown.cut == []
        assert receive_line(client) == b"done\n"


def test_handler_that_is_not_done_when_the_grace_is_over_loses_its_connection(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    begun = threading.Event()

    class Waiting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            begun.set()
            assert self.rfile.read() == b""
            ended.set()

    with servers.ThreadingTCPServer(LOCAL, Waiting, reactor=loop) as server, raw_client(server.server_address):
        run_until(loop, begun.is_set)
        shutdown = loop.shutdown(0.01)
        loop.loop(timeout=20)
        assert shutdown.is_complete
        assert len(shutdown.cut) == 1
        assert ended.wait(20)
    assert "cut off at shutdown" in caplog.text


def test_shutdown_of_a_shared_reactor_is_the_end_of_serving(loop: reactor.Reactor) -> None:
    class Active(servers.TCPServer):
        actions = 0

        def service_actions(self) -> None:
            self.actions += 1

    for cls in (servers.TCPServer, Active):
        with cls(LOCAL, Echo, reactor=loop) as server:
            loop.call_later(0.01, loop.shutdown)
            server.serve_forever()
            with pytest.raises((ValueError, OSError)):  # as behind server_close
                server.handle_request()


def test_handlers_have_the_grace_of_a_shutdown_also_where_the_server_serves(loop: reactor.Reactor) -> None:
    begun = threading.Event()

    class Waiting(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            begun.set()
            self.wfile.write(self.rfile.readline())

    class Active(servers.ThreadingTCPServer):
        def service_actions(self) -> None:
            if begun.is_set() and not shutdowns:
                shutdowns.append(loop.shutdown(20))
                loop.call_later(0.01, client.sendall, b"a line\n")

    shutdowns: list[Any] = []
    with Active(LOCAL, Waiting, reactor=loop) as server, raw_client(server.server_address) as client:
        server.serve_forever(0.01)
        assert receive_line(client) == b"a line\n"
    assert [shutdown.is_complete for shutdown in shutdowns] == [True]
    assert shutdowns[0].cut == []


def test_server_that_is_activated_by_hand_serves_on_a_reactor_beside_other_channels(loop: reactor.Reactor) -> None:
    accepted = []

    class Once(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            accepted.append(self.client_address)

    with servers.TCPServer(LOCAL, Once, bind_and_activate=False, reactor=loop) as server:
        server.server_bind()
        server.server_activate()
        with raw_client(server.server_address) as client:
            run_until(loop, lambda: accepted == [client.getsockname()])


def test_server_cannot_be_made_on_a_reactor_that_shuts_down(loop: reactor.Reactor) -> None:
    holder = reactor.Listener(LOCAL, RecordingStream, reactor=loop)
    waiting = raw_client(holder.address)
    run_until(loop, lambda: holder.connections)
    loop.shutdown()
    with pytest.raises(reactor.StateError, match="is shutting down"):
        servers.TCPServer(LOCAL, Echo, reactor=loop)
    waiting.close()
