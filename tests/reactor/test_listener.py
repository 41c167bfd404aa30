"""Listeners: addresses, files, caps, pauses, and whatever accept says."""

from __future__ import annotations

import errno
import os
import socket
import stat
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

import reactor
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, RecordingStream, raw_client, run_until
from tests.faults import turns


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


class Bytes(RecordingConnection):
    codec = "bytes"


# Addresses


def test_port_zero_lets_the_system_choose(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop)
    host, port = listener.address
    assert (host, listener.family) == ("127.0.0.1", "AF_INET")
    assert port > 0


def test_localhost_is_the_address_that_the_standard_library_tries(loop: reactor.Reactor) -> None:
    assert reactor.Listener(("localhost", 0), Echo, reactor=loop).address[0] == "127.0.0.1"


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_empty_host_serves_both_families(loop: reactor.Reactor) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(("", 0), accepted, reactor=loop)
    assert listener.family == "AF_INET6"
    port = listener.address[1]
    for host in ("127.0.0.1", "::1"):
        with socket.create_connection((host, port), timeout=10):
            run_until(loop, lambda: listener.connections == 1)
            assert f"with {reactor.format_address(accepted.channels[-1].peer)} (" in str(accepted.channels[-1])
        run_until(loop, lambda: listener.connections == 0)


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_family_keeps_the_other_family_out(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("", 0), Echo, family="AF_INET6", reactor=loop)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", listener.address[1]), timeout=10)
    listener = reactor.Listener(("", 0), Echo, family="AF_INET", reactor=loop)
    assert listener.address[0] == "0.0.0.0"
    listener = reactor.Listener(("::1", 0), Echo, reactor=loop)
    assert listener.address[0] == "::1"


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", "tcp://localhost:0"])
def test_urls_are_addresses(loop: reactor.Reactor, url: str) -> None:
    assert reactor.Listener(url, Echo, reactor=loop).address[0] == "127.0.0.1"


def test_unknown_name_is_an_address_error(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.AddressError, match="cannot listen on"):
        reactor.Listener(("no such host.invalid", 0), Echo, reactor=loop)


def test_taken_port_is_a_clear_error(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop)
    with pytest.raises(reactor.AddressInUseError, match="somebody listens on 127.0.0.1:"):
        reactor.Listener(listener.address, Echo, reactor=loop)


def test_reuse_port_lets_two_listen(loop: reactor.Reactor) -> None:
    first = reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop, reuse_port=True)
    second = reactor.Listener(first.address, Echo, reactor=loop, reuse_port=True)
    assert first.address == second.address
    assert second.reuse_port


def test_socket_that_is_bound_already_is_taken(loop: reactor.Reactor) -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    listener = reactor.Listener(None, Echo, sock=sock, backlog=5, reactor=loop)
    assert listener.address == sock.getsockname()
    assert listener.backlog == 5
    with raw_client(listener.address):
        run_until(loop, lambda: listener.connections == 1)


def test_address_and_socket_together_are_refused(loop: reactor.Reactor) -> None:
    with socket.socket() as sock, pytest.raises(reactor.LocalError, match="not both"):
        reactor.Listener(("127.0.0.1", 0), Echo, sock=sock, reactor=loop)


def test_pipe_address_of_windows_is_refused_elsewhere(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.AddressError, match="Windows"):
        reactor.Listener(r"\\.\pipe\name", Echo, reactor=loop)
    with pytest.raises(reactor.AddressError, match="Windows"):
        reactor.Listener(None, Echo, family="AF_PIPE", reactor=loop)


def test_listener_needs_to_know_what_to_make(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="what to make of a connection"):
        reactor.Listener(("127.0.0.1", 0), reactor=loop)


# Unix sockets


def test_no_address_picks_a_private_socket_and_removes_it(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(None, Echo, reactor=loop)
    path = Path(listener.address)
    assert listener.family == "AF_UNIX"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()
    assert not path.parent.exists()


def test_no_address_but_a_family_of_the_internet_picks_localhost(loop: reactor.Reactor) -> None:
    assert reactor.Listener(None, Echo, family="AF_INET", reactor=loop).address[0] == "127.0.0.1"


def test_unix_socket_serves_and_its_file_goes_with_it(loop: reactor.Reactor, socket_path: str) -> None:
    accepted = Accepting(Echo)
    listener = reactor.Listener(f"unix://{socket_path}", accepted, reactor=loop)
    assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    with raw_client(socket_path) as sock:
        sock.sendall(b"hello")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].received)
        assert sock.recv(10) == b"hello"
        assert str(accepted.channels[0]) == f"Echo with unix:{socket_path} (Open)"
    listener.close()
    assert not os.path.exists(socket_path)


@pytest.mark.skipif(sys.platform != "linux", reason="abstract addresses are Linux's")
def test_abstract_address_has_no_file(loop: reactor.Reactor) -> None:
    name = f"\0reactor-test-{os.getpid()}"
    listener = reactor.Listener(name, Echo, reactor=loop)
    with raw_client(name):
        run_until(loop, lambda: listener.connections == 1)
    with pytest.raises(reactor.AddressInUseError):
        reactor.Listener(name, Echo, reactor=loop)


def test_path_that_is_too_long_is_an_address_error(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.AddressError, match="about 100 bytes"):
        reactor.Listener("/tmp/" + "x" * 200, Echo, reactor=loop)


def test_missing_directory_is_what_the_system_says(loop: reactor.Reactor, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        reactor.Listener(str(tmp_path / "no" / "socket"), Echo, reactor=loop)


def test_file_that_somebody_else_put_there_is_left_alone_at_close(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = reactor.Listener(str(path), Echo, reactor=loop)
    path.unlink()
    path.write_text("precious")
    listener.close()
    assert path.read_text() == "precious"


def test_file_that_is_gone_already_does_not_matter(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = reactor.Listener(str(path), Echo, reactor=loop)
    path.unlink()
    listener.close()
    assert loop.is_idle()


def test_child_of_a_fork_does_not_remove_the_file(loop: reactor.Reactor, socket_path: str) -> None:
    listener = reactor.Listener(socket_path, Echo, reactor=loop)
    child = os.fork()
    if child == 0:
        try:
            listener._file.remove()  # type: ignore[union-attr]
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.path.exists(socket_path)


def test_full_backlog_means_that_somebody_listens(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(path)
        busy.listen(0)
        waiting.connect(path)
        with pytest.raises(reactor.AddressInUseError, match="already"):
            reactor.Listener(path, Echo, reactor=loop)


# Accepting


def test_handle_accepted_can_refuse(loop: reactor.Reactor) -> None:
    class Picky(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.close()

    accepted = Accepting(RecordingStream)
    listener = Picky(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address) as sock:
        run_until(loop, lambda: listener.last_accepted and listener.connections == 0)
        assert sock.recv(1) == b""
        assert listener.last_accepted == sock.getsockname()
    assert [kind for kind, *_ in accepted.channels[0].events] == ["close"]


def test_handle_accepted_that_fails_costs_one_connection(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            raise RuntimeError("no")

    listener = Failing(("127.0.0.1", 0), Echo, reactor=loop)
    with raw_client(listener.address) as sock:
        run_until(loop, lambda: listener.last_accepted and listener.connections == 0)
        assert sock.recv(1) == b""
    assert listener.state.name == "Listening"
    assert "RuntimeError: no" in caplog.text


def test_handle_accepted_can_close_the_listener(loop: reactor.Reactor) -> None:
    class Once(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            self.close()

    listener = Once(("127.0.0.1", 0), Echo, reactor=loop)
    with raw_client(listener.address) as first, raw_client(listener.address):
        run_until(loop, lambda: listener.state.name == "Closed")
        assert listener.connections == 1
        first.close()
        loop.loop(timeout=10)


@pytest.mark.parametrize("factory", [lambda: 1 / 0, lambda: "no channel"])
def test_factory_that_fails_costs_one_connection(
    loop: reactor.Reactor, factory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), factory, reactor=loop)
    with raw_client(listener.address) as sock:
        run_until(loop, lambda: caplog.records)
        assert sock.recv(1) == b""
    assert (listener.state.name, listener.connections) == ("Listening", 0)


def test_one_channel_serves_one_connection(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    only = Echo()
    listener = reactor.Listener(("127.0.0.1", 0), lambda: only, reactor=loop)
    with raw_client(listener.address), raw_client(listener.address) as second:
        run_until(loop, lambda: caplog.records)
        assert second.recv(1) == b""
    assert "one channel serves one connection" in caplog.text
    run_until(loop, lambda: listener.connections == 0)


def test_paused_listener_accepts_nobody_until_it_resumes(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop)
    listener.pause()
    listener.pause()
    with raw_client(listener.address):
        loop.poll(0.05)
        assert listener.connections == 0
        listener.resume()
        listener.resume()
        run_until(loop, lambda: listener.connections == 1)


def test_closed_listener_ignores_pause_and_close(loop: reactor.Reactor) -> None:
    with reactor.Listener(("127.0.0.1", 0), Echo, reactor=loop) as listener:
        assert repr(listener) == f"<Listener on 127.0.0.1:{listener.address[1]} (Listening)>"
    listener.close()
    listener.pause()
    listener.resume()
    assert listener.state.name == "Closed"


class FailingAccept:
    """A listening socket whose accept fails with the given errors first."""

    def __init__(self, sock: Any, errors: list[OSError]) -> None:
        self._sock = sock
        self.errors = errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def accept(self) -> Any:
        if self.errors:
            raise self.errors.pop()
        return self._sock.accept()


def test_pause_during_a_rest_after_an_error_stays_a_pause(clock: FakeClock, timed: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), Echo, reactor=timed)
    listener.socket = FailingAccept(listener.socket, [OSError(errno.EMFILE, "too many")])
    with raw_client(listener.address):
        run_until(timed, lambda: listener.state.name == "Resting")
        listener.pause()
        clock.advance(10)
        turns(timed, 2)
        assert listener.state.name == "Resting"
        listener.resume()
        run_until(timed, lambda: listener.connections == 1)


# Caps


def test_listener_at_its_cap_waits_for_a_place(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(maximum_connections=2)
    listener = reactor.Listener(("127.0.0.1", 0), Echo, limits=limits, reactor=loop)
    clients = [raw_client(listener.address) for _ in range(3)]
    run_until(loop, lambda: listener.state.name == "Full")
    assert listener.connections == 2
    assert "maximum_connections" in caplog.text
    clients[0].close()
    run_until(loop, lambda: listener.last_accepted == clients[2].getsockname())
    for client in clients[1:]:
        client.close()
    run_until(loop, lambda: listener.connections == 0)


def test_full_listener_can_be_paused(loop: reactor.Reactor) -> None:
    limits = reactor.Limits(maximum_connections=1)
    listener = reactor.Listener(("127.0.0.1", 0), Echo, limits=limits, reactor=loop)
    with raw_client(listener.address) as first, raw_client(listener.address):
        run_until(loop, lambda: listener.state.name == "Full")
        listener.pause()
        first.close()
        run_until(loop, lambda: listener.connections == 0)
        assert listener.state.name == "Resting"


def test_host_over_its_cap_is_refused(loop: reactor.Reactor, caplog: pytest.LogCaptureFixture) -> None:
    limits = reactor.Limits(maximum_connections_per_peer=1)
    listener = reactor.Listener(("127.0.0.1", 0), Echo, limits=limits, reactor=loop)
    with raw_client(listener.address) as first:
        with raw_client(listener.address) as second:
            run_until(loop, lambda: caplog.records)
            assert second.recv(1) == b""
        assert "maximum_connections_per_peer" in caplog.text
        first.close()
    run_until(loop, lambda: listener.connections == 0)
    with raw_client(listener.address):
        run_until(loop, lambda: listener.connections == 1)


def test_newcomer_takes_the_place_of_the_oldest_unauthenticated(loop: reactor.Reactor) -> None:
    accepted = Accepting(Bytes)
    limits = reactor.Limits(maximum_unauthenticated=2)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, limits=limits, reactor=loop)
    silent = []
    for number in range(3):
        silent.append(raw_client(listener.address))
        run_until(loop, lambda number=number: len(accepted.channels) == number + 1)
    run_until(loop, lambda: accepted.channels[0].of("close"))
    assert isinstance(accepted.channels[0].of("close")[0], reactor.LimitError)
    assert not accepted.channels[1].of("close")
    assert not accepted.channels[2].of("close")
    for sock in silent:
        sock.close()


def test_listener_full_of_silence_still_lets_a_good_client_in(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    limits = reactor.Limits(maximum_connections=3)
    listener = reactor.Listener(("127.0.0.1", 0), Bytes, authkey=KEY, limits=limits, reactor=loop)
    silent = [raw_client(listener.address) for _ in range(3)]
    run_until(loop, lambda: listener.connections == 3)
    welcome = []

    def good() -> None:
        with Client(listener.address, authkey=KEY) as connection:
            welcome.append(connection)

    in_thread(good)
    run_until(loop, lambda: welcome)
    for sock in silent:
        sock.close()


# What may be decoded


def test_pickles_of_strangers_are_refused_at_the_start(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.UnsafePickleError, match="Set an authkey"):
        reactor.Listener(("127.0.0.1", 0), RecordingConnection, reactor=loop)
    assert loop.is_idle()


def test_pickles_of_strangers_are_refused_later_where_the_factory_is_no_class(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    assert isinstance(accepted.channels[0].of("close")[0], reactor.UnsafePickleError)
    assert not accepted.channels[0].of("open")


def test_pickles_of_strangers_are_allowed_by_the_long_name(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingConnection, allow_unauthenticated_pickle=True, reactor=loop)
    assert listener.state.name == "Listening"


@pytest.mark.parametrize("codec", ["bytes", "json", reactor.RestrictedPickle()])
def test_codecs_that_run_no_code_need_no_key(loop: reactor.Reactor, codec: Any) -> None:
    listener = reactor.Listener(("127.0.0.1", 0), RecordingConnection, codec=codec, reactor=loop)
    assert listener.state.name == "Listening"


def test_pickles_of_this_very_user_are_allowed_on_a_unix_socket(
    loop: reactor.Reactor, socket_path: str, in_thread: Callable[..., Any]
) -> None:
    accepted = Accepting(RecordingConnection)
    reactor.Listener(socket_path, accepted, reactor=loop)

    def client() -> None:
        with Client(socket_path) as connection:
            connection.send({"from": "me"})

    in_thread(client)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("message"))
    assert accepted.channels[0].of("message") == [{"from": "me"}]


def test_pickles_of_another_user_are_refused_on_a_unix_socket(
    loop: reactor.Reactor, socket_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted = Accepting(RecordingConnection)
    reactor.Listener(socket_path, accepted, reactor=loop)
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with raw_client(socket_path):
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    assert isinstance(accepted.channels[0].of("close")[0], reactor.UnsafePickleError)


def test_streams_have_no_use_for_a_key(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="no use for an authkey"):
        reactor.Listener(("127.0.0.1", 0), Echo, authkey=KEY, reactor=loop)


def test_listener_on_a_socket_of_its_own_that_cannot_be_bound_leaves_no_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def no_descriptors(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with reactor.Reactor(socket_factory=no_descriptors) as loop, pytest.raises(OSError, match="Too many open files"):
        reactor.Listener(None, reactor.Stream, reactor=loop)
    assert list(tmp_path.iterdir()) == []
