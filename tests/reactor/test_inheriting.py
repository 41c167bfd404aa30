"""Sockets that were handed over: found by address or by name, and given out once."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import reactor
from reactor import inheriting
from reactor.addresses import parse_address
from reactor.inheriting import Inheritance, inherited_socket, is_bound_to, sockets_from_systemd
from tests.conftest import port_of_nobody
from tests.service.running import Client
from tests.service.storms import Start, starting

ACTIVATE = shutil.which("systemd-socket-activate")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services; whatever still runs at the end is killed."""
    with starting() as start:
        yield start


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


Pass = Callable[..., dict[str, str]]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Pass]:
    """Puts files where systemd would put what it passes, and returns the variables that tell of them."""
    copies: list[int] = []

    def run(*files: object, **variables: str) -> dict[str, str]:
        # Somewhere else than at 3, where the test runner has something of its own.
        first = max(map(int, os.listdir("/proc/self/fd"))) + 10
        for number, file in enumerate(files, first):
            os.dup2(file.fileno(), number)  # type: ignore[attr-defined]
            copies.append(number)
        monkeypatch.setattr(inheriting, "FIRST_DESCRIPTOR", first)
        return {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(files)), "OTHER": "kept"} | variables

    yield run
    for number in copies:
        try:
            os.close(number)
        except OSError:
            pass  # the test has closed it, as a socket


# What systemd passes


def test_sockets_of_systemd_come_with_their_names_and_the_variables_go(passed: Pass, server: socket.socket) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        environ = passed(server, datagrams, LISTEN_FDNAMES="web:time")
        found = sockets_from_systemd(environ)
        assert [(name, sock.getsockname(), sock.type) for name, sock in found] == [
            ("web", server.getsockname(), socket.SOCK_STREAM),
            ("time", datagrams.getsockname(), socket.SOCK_DGRAM),
        ]
    assert environ == {"OTHER": "kept"}  # or a child would take them for its own
    assert not any(os.get_inheritable(sock.fileno()) for _, sock in found)
    assert {sock.gettimeout() for _, sock in found} == {0.0}
    for _, sock in found:
        sock.close()


def test_sockets_for_another_process_are_left_alone(passed: Pass, server: socket.socket) -> None:
    environ = passed(server, LISTEN_PID=str(os.getppid()))
    assert sockets_from_systemd(environ) == []
    assert "LISTEN_FDS" in environ
    assert sockets_from_systemd({}) == []


def test_what_is_no_socket_is_left_open_and_said(
    passed: Pass, server: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (tmp_path / "file").open("w") as file:
        ((name, sock),) = sockets_from_systemd(passed(file, server))
    assert (name, sock.getsockname()) == ("unknown", server.getsockname())
    assert "systemd passes unknown: the descriptor" in caplog.text
    assert "is no socket" in caplog.text
    os.fstat(inheriting.FIRST_DESCRIPTOR)
    sock.close()


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({"LISTEN_FDS": "two"}, "LISTEN_FDS is 'two'; systemd gives a whole number"),
        ({"LISTEN_FDS": "-1"}, "LISTEN_FDS is '-1'"),
        ({"LISTEN_FDNAMES": "a:b"}, "LISTEN_FDS is 1, and LISTEN_FDNAMES has 2 names"),
    ],
)
def test_variables_that_make_no_sense_are_refused(
    passed: Pass, server: socket.socket, variables: dict[str, str], complaint: str
) -> None:
    with pytest.raises(reactor.LocalError, match=re.escape(complaint)):
        sockets_from_systemd(passed(server, **variables))


# Which socket an address means


@pytest.mark.parametrize(
    ("bound", "address", "expected"),
    [
        ("127.0.0.1", "tcp://127.0.0.1:{}", True),
        ("127.0.0.1", "tcp://localhost:{}", True),
        ("127.0.0.1", "tcp://127.0.0.2:{}", False),
        ("127.0.0.1", "tcp://127.0.0.1:1", False),
        ("127.0.0.1", "tcp://127.0.0.1:0", False),
        ("127.0.0.1", "tcp://:{}", False),
        ("127.0.0.1", "tcp://no-such-host.invalid:{}", False),
        ("127.0.0.1", "/a/path", False),
        ("0.0.0.0", "tcp://:{}", True),
        ("0.0.0.0", "tcp://0.0.0.0:{}", True),
        ("0.0.0.0", "tcp://localhost:{}", False),
        ("::", "tcp://:{}", True),
        ("::", "tcp://0.0.0.0:{}", False),
        ("::1", "tcp://[::1]:{}", True),
        ("::1", "tcp://127.0.0.1:{}", False),
    ],
)
def test_address_means_the_socket_that_is_bound_to_it(bound: str, address: str, expected: bool) -> None:
    with socket.socket(socket.AF_INET6 if ":" in bound else socket.AF_INET) as sock:
        sock.bind((bound, 0))
        endpoint = parse_address(address.format(sock.getsockname()[1]))
        assert is_bound_to(sock, endpoint) is expected


def test_path_means_the_same_socket_however_it_is_written(socket_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(os.path.dirname(socket_path))
    with socket.socket(socket.AF_UNIX) as sock, socket.socket(socket.AF_UNIX) as abstract:
        sock.bind(socket_path)
        abstract.bind(f"\0reactor-{os.getpid()}")
        for same in (socket_path, os.fsencode(socket_path), f"unix://{socket_path}", "socket", "./socket"):
            assert is_bound_to(sock, parse_address(same))
            assert not is_bound_to(abstract, parse_address(same))
        assert is_bound_to(abstract, parse_address(f"\0reactor-{os.getpid()}"))
        assert not is_bound_to(sock, parse_address("other"))
        assert not is_bound_to(sock, parse_address(("localhost", 0)))
    os.unlink(socket_path)


def test_socket_is_given_out_once_by_name_or_by_address(server: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(other.getsockname())
        inheritance = Inheritance([("web", server), ("pair", other), ("pair", datagrams)])
        assert inheritance.names == ["web", "pair"]
        assert inheritance.take(("localhost", 1)) == []
        assert inheritance.take("web") == [server]
        assert inheritance.take(server.getsockname()) == []
        assert inheritance.take(other.getsockname()) == [other]
        assert inheritance.take(f"udp://127.0.0.1:{other.getsockname()[1]}", socket.SOCK_DGRAM) == [datagrams]
        assert len(inheritance) == 0


def test_what_nobody_takes_is_closed_and_said(server: socket.socket, caplog: pytest.LogCaptureFixture) -> None:
    Inheritance([("web", server)]).close()
    assert server.fileno() == -1
    assert re.search(r"the socket on 127.0.0.1:\d+ was handed over \(web\), and nobody listens there", caplog.text)


def test_listener_gets_the_socket_for_its_address(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, loop: reactor.Reactor
) -> None:
    address = server.getsockname()
    rest = Inheritance([("web", server.dup()), ("more", server.dup())])
    monkeypatch.setattr(inheriting, "inheritance", lambda: rest)
    with pytest.raises(reactor.AddressError, match="2 sockets were handed over for"):
        inherited_socket(address)
    listener = reactor.Listener(sock=inherited_socket("web"), factory=reactor.Stream, reactor=loop)
    assert listener.address == address
    assert inherited_socket("tcp://localhost:1") is None
    by_number = inherited_socket(f"fd://{os.dup(server.fileno())}")
    assert by_number is not None
    assert by_number.getsockname() == address
    by_number.close()
    for name, complaint in (("fd://9999", "9999 was not inherited: Bad file"), ("fd://", "give its number: fd://3")):
        with pytest.raises(reactor.LocalError, match=complaint):
            inherited_socket(name)
    for sock in rest.take(address):
        sock.close()


def test_listener_and_datagrams_find_the_socket_for_their_address_themselves(
    server: socket.socket, monkeypatch: pytest.MonkeyPatch, loop: reactor.Reactor
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        rest = Inheritance([("web", server.dup()), ("time", datagrams.dup())])
        monkeypatch.setattr(inheriting, "inheritance", lambda: rest)
        with reactor.Listener(("localhost", 0), reactor.Stream, reactor=loop) as listener:
            assert listener.address != server.getsockname()
        with pytest.raises(reactor.LocalError, match="is a socket, and not for connections"):
            reactor.Listener(f"fd://{datagrams.fileno()}", reactor.Stream, reactor=loop)
        for address, kind, sock in (
            (server.getsockname(), reactor.Listener, server),
            ("time", reactor.Datagram.bind, datagrams),
            (f"fd://{os.dup(server.fileno())}", reactor.Listener, server),
        ):
            options = {"factory": reactor.Stream} if kind is reactor.Listener else {}
            channel = kind(address, reactor=loop, **options)
            assert channel.address == sock.getsockname()
            channel.close()
        with pytest.raises(reactor.AddressInUseError):
            reactor.Listener(server.getsockname(), reactor.Stream, reactor=loop)
    assert len(rest) == 0


# Whole programs


def test_service_takes_an_inherited_descriptor(start: Start, server: socket.socket) -> None:
    service = start(listen=[f"fd://{server.fileno()}"], pass_fds=(server.fileno(),))
    assert service.addresses == [server.getsockname()]
    with Client(service.addresses[0]) as client:
        assert client.ask("hello") == "hello"
    assert service.stop() == 0


def test_descriptors_that_are_not_there_are_told_and_nothing_else_is_taken_for_them(start: Start) -> None:
    command = ["sh", "-c", 'LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@"', sys.executable]
    service = start(command=command)
    assert len(service.addresses) == 1
    for number in (3, 4):
        assert service.find(f"systemd passes unknown: the descriptor {number} was not inherited: Bad file descriptor")
    assert service.stop() == 0


@pytest.mark.skipif(ACTIVATE is None, reason="there is no systemd-socket-activate")
def test_why_an_address_is_taken_is_told_where_the_socket_of_systemd_is_for_another_one(start: Start) -> None:
    assert ACTIVATE is not None
    port = port_of_nobody()
    command = [ACTIVATE, "--listen", f"0.0.0.0:{port}", "--setenv=PATH", sys.executable]
    service = start(command=command, listen=[["localhost", port]])
    service.wait_for("Listening on")
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))):
        service.wait_for(rf"WARNING the socket on 0.0.0.0:{port} was handed over \(unknown\), and nobody listens there")
        service.wait_for(f"AddressInUseError: .* somebody listens on 127.0.0.1:{port} already")
    assert service.wait() == 1


@pytest.mark.skipif(ACTIVATE is None, reason="there is no systemd-socket-activate")
def test_service_is_activated_by_systemd(start: Start, socket_path: str) -> None:
    assert ACTIVATE is not None
    address = ("127.0.0.1", port_of_nobody())
    command = [
        ACTIVATE, "--listen", f"{address[0]}:{address[1]}", "--listen", socket_path, "--fdname", "web:local",
        "--setenv=PATH", sys.executable, "-X", "dev", "-W", "error",
    ]  # fmt: skip
    service = start(command=command, listen=[list(address), "local"])
    service.wait_for("Listening on")
    with Client(address) as client:  # it is this that starts the program
        assert client.ask("hello") == "hello"
    assert service.addresses == [address, socket_path]
    with Client(socket_path) as client:
        assert client.ask("hello") == "hello"
    assert service.stop() == 0
    assert os.path.exists(socket_path)  # it belongs to systemd
    os.unlink(socket_path)
    assert not service.find("systemd passes")
