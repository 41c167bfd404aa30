"""Datagrams: UDP of both families and Unix ones, bound and connected, and whatever becomes of them on their way."""

from __future__ import annotations

import errno
import os
import re
import selectors
import socket
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor.datagram import OVERHEAD, TARGETS
from reactor.errors import (
    AddressError,
    AddressInUseError,
    ClosedHere,
    ConnectError,
    ConnectionLost,
    DatagramError,
    DeadlineError,
    HookError,
    LimitError,
    LocalError,
    StateError,
)
from reactor.eventloop import READ, WRITE
from reactor.guards import TURNS_WITHOUT_PROGRESS
from reactor.limits import DATAGRAMS_PER_TURN
from tests.conftest import FakeClock, Recorder, run_until
from tests.faults import stack_depth, turns

LOOPBACK = ("127.0.0.1", 0)
SMALL = reactor.Limits(low_water=1, high_water=1, maximum_output=2000)
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has these")
dual = pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")


class Recording(Recorder, reactor.Datagram):
    """Writes down what happens to it."""

    def handle_datagram(self, data: bytes, address: Any) -> None:
        self.events.append(("datagram", (data, address)))

    def handle_drained(self) -> None:
        self.events.append(("drained", None))

    @property
    def received(self) -> list[bytes]:
        return [data for data, _ in self.of("datagram")]


class Echo(Recording):
    """Sends back what comes."""

    def handle_datagram(self, data: bytes, address: Any) -> None:
        super().handle_datagram(data, address)
        self.send_to(data, address)


class Lenient(Recording):
    """Does not close, whatever happens."""

    def handle_error(self, error: Exception) -> None:
        self.events.append(("error", error))


@pytest.fixture
def raw() -> Iterator[Callable[..., socket.socket]]:
    """Make sockets that are bound and do not block; they are closed at the end."""
    made: list[socket.socket] = []

    def make(address: Any = LOOPBACK, family: int | None = None) -> socket.socket:
        found = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        sock = socket.socket(found if family is None else family, socket.SOCK_DGRAM)
        made.append(sock)
        sock.setblocking(False)
        if address:
            sock.bind(address)
        return sock

    yield make
    for sock in made:
        name = sock.getsockname()
        sock.close()
        if isinstance(name, str) and name and not name.startswith("\0"):
            os.unlink(name)


def receive(loop: reactor.Reactor, sock: socket.socket, count: int = 1) -> list[bytes]:
    """Run the loop until so many datagrams have come to `sock`."""
    found: list[bytes] = []

    def is_complete() -> bool:
        while len(found) < count:
            try:
                found.append(sock.recv(1 << 20))
            except BlockingIOError:
                return False
        return True

    run_until(loop, is_complete)
    return found


def opened(loop: reactor.Reactor, channel: Any) -> Any:
    """Return `channel` when it is open."""
    run_until(loop, lambda: channel.of("open"))
    return channel


def assert_is_idle(loop: reactor.Reactor) -> None:
    """Let the loop run for a moment: it must sleep."""
    turns(loop, 2)
    before = loop.turns
    loop.loop(timeout=0.05)
    spent = loop.turns - before
    assert spent <= 3, f"{spent} turns of the loop for nothing"


def failing(**errors: list[int]) -> type[socket.socket]:
    """Return a class of sockets whose calls fail, each with one of its errors after the other, before they work."""
    left = {name: deque(numbers) for name, numbers in errors.items()}

    def method(name: str) -> Callable[..., Any]:
        def call(self: socket.socket, *args: Any) -> Any:
            if left[name]:
                number = left[name].popleft()
                raise OSError(number, os.strerror(number))
            return getattr(socket.socket, name)(self, *args)

        return call

    return type("Failing", (socket.socket,), {name: method(name) for name in errors})


class Jobs:
    """In place of threads: keeps what is to run there until it is told."""

    def __init__(self) -> None:
        self.jobs: deque[Callable[[], None]] = deque()

    def submit(self, job: Callable[[], None]) -> None:
        self.jobs.append(job)

    def close(self) -> None:
        self.jobs.clear()


@pytest.fixture
def jobs() -> Jobs:
    return Jobs()


Resolving = Callable[..., reactor.Reactor]


@pytest.fixture
def resolving(jobs: Jobs, clock: FakeClock) -> Iterator[Resolving]:
    """Make a loop that resolves names to what it is given, or fails to, once `jobs` runs; time is moved by hand."""
    made: list[reactor.Reactor] = []

    def make(found: list[tuple[int, Any]] | Exception, asked: list[Any] | None = None) -> reactor.Reactor:
        def resolve(*question: Any) -> list[Any]:
            if asked is not None:
                asked.append(question)
            if isinstance(found, Exception):
                raise found
            return [(family, socket.SOCK_DGRAM, 0, "", location) for family, location in found]

        made.append(reactor.Reactor(resolver=resolve, threads=jobs, clock=clock))
        return made[-1]

    yield make
    for loop in made:
        loop.close()


# Addresses


ADDRESSES = [
    LOOPBACK, "udp://127.0.0.1:0", ("localhost", 0), pytest.param(("::1", 0), marks=dual),
    pytest.param("udp://[::1]:0", marks=dual), "path", "unix://path",
    pytest.param("\0abstract socket of a test", marks=linux),
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_datagrams_of_any_size_go_to_and_fro(
    loop: reactor.Reactor, address: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    server = Echo.bind(address, reactor=loop)
    client = Recording.connect(server.address, reactor=loop)
    sizes = [5, 0, 1, 60_000]
    for size in sizes:
        assert client.send_to(b"x" * size)
    run_until(loop, lambda: len(client.received) == len(sizes))
    assert client.received == [b"x" * size for size in sizes]
    assert {sender for _, sender in client.of("datagram")} == {server.address}
    assert {sender for _, sender in server.of("datagram")} == {client.address}
    assert (server.peer, client.peer) == (None, server.address)
    assert [str(channel).partition(" ")[2] for channel in (server, client)] == [
        f"{word} {reactor.format_address(server.address)} (Open)" for word in ("on", "with")
    ]


@dual
def test_empty_host_serves_both_families_and_speaks_to_both(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    server = opened(loop, Echo.bind(("", 0), reactor=loop))
    for host, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        client = raw((host, 0), family)
        client.sendto(b"question", (host, server.address[1]))
        assert receive(loop, client) == [b"question"]
        assert server.send_to(b"news", (host, client.getsockname()[1]))
        assert receive(loop, client) == [b"news"]


@dual
def test_family_keeps_the_other_family_out(loop: reactor.Reactor) -> None:
    assert Echo.bind(("", 0), family="AF_INET", reactor=loop).address[0] == "0.0.0.0"
    server = Echo.bind(("", 0), family="AF_INET6", broadcast=True, reactor=loop)
    assert server.address[0] == "::"
    assert server.socket.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
    with pytest.raises(AddressError, match="cannot listen on"):
        Echo.bind(("::1", 0), family="AF_INET", reactor=loop)


def test_socket_for_both_families_is_not_had_for_one_alone_when_descriptors_run_out() -> None:
    made = []

    def make(*args: Any) -> socket.socket:
        made.append(args)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with reactor.Reactor(socket_factory=make) as loop, pytest.raises(OSError, match="Too many open files"):
        Echo.bind(("", 0), reactor=loop)
    assert len(made) == 1


@pytest.mark.parametrize(
    ("address", "error", "words"),
    [
        (("no such host.invalid", 0), AddressError, "cannot listen on"),
        (("a..b", 0), AddressError, r"cannot listen on a\.\.b:0: "),
        ("tcp://127.0.0.1:0", AddressError, "udp:// and unix:// are understood"),
        (("192.0.2.1", 0), OSError, "Cannot assign"),
        ("x" * 200, AddressError, "about 100 bytes"),
        ("no such directory/socket", FileNotFoundError, "No such file"),
    ],
)
def test_address_that_cannot_be_bound_is_a_clear_error(
    loop: reactor.Reactor, address: Any, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        Echo.bind(address, reactor=loop)
    assert loop.is_idle()


def test_port_that_is_taken_is_a_clear_error_unless_both_share_it(loop: reactor.Reactor) -> None:
    first = Echo.bind(LOOPBACK, reactor=loop)
    with pytest.raises(AddressInUseError, match="already"):
        Echo.bind(first.address, reactor=loop)
    second = Echo.bind(LOOPBACK, reuse_port=True, reactor=loop)
    third = Echo.bind(second.address, reuse_port=True, reactor=loop)
    assert second.address == third.address


def no_ipv6(family: int, kind: int) -> socket.socket:
    if family == socket.AF_INET6:
        raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
    return socket.socket(family, kind)


@pytest.mark.parametrize("has_ipv6", [False, True])
def test_empty_host_serves_ipv4_alone_on_a_system_that_cannot_do_both(has_ipv6: bool) -> None:
    factory: Any = failing(setsockopt=[errno.ENOPROTOOPT]) if has_ipv6 else no_ipv6
    with reactor.Reactor(socket_factory=factory) as loop:
        assert Echo.bind(("", 0), reactor=loop).address[0] == "0.0.0.0"


def test_socket_that_cannot_tell_its_address_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with reactor.Reactor(socket_factory=failing(getsockname=[errno.ENOBUFS] * 3)) as loop:
        for address in (str(path), LOOPBACK):
            with pytest.raises(OSError, match="No buffer space"):
                Recording.bind(address, reactor=loop)
        assert loop.is_idle()
        assert not path.exists()
        client = Lenient.connect(("127.0.0.1", 9), reactor=loop)
        run_until(loop, loop.is_idle)
        (reason,) = client.of("close")
        assert str(reason).endswith("(Connecting): cannot connect; 127.0.0.1:9: No buffer space available")


# Files of Unix sockets


def test_file_of_a_unix_socket_is_for_this_user_alone_and_goes_with_the_channel(
    loop: reactor.Reactor, socket_path: str
) -> None:
    with Echo.bind(socket_path, reactor=loop) as server:
        assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    assert not os.path.exists(socket_path)
    assert isinstance(server.of("close")[0], ClosedHere)


def test_file_that_a_dead_process_left_is_taken_over(loop: reactor.Reactor, socket_path: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
        dead.bind(socket_path)
    Echo.bind(socket_path, reactor=loop)
    client = Recording.connect(socket_path, reactor=loop)
    client.push(b"hello")
    run_until(loop, lambda: client.received)


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM])
def test_file_of_a_socket_that_is_alive_is_left_alone(loop: reactor.Reactor, tmp_path: Path, kind: int) -> None:
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX, kind) as alive:
        alive.bind(path)
        if kind == socket.SOCK_STREAM:
            alive.listen()
        with pytest.raises(AddressInUseError, match="already"):
            Echo.bind(path, reactor=loop)
        assert os.path.exists(path)
    assert loop.is_idle()


def test_file_that_is_no_socket_is_left_alone(loop: reactor.Reactor, tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("precious")
    with pytest.raises(AddressInUseError, match="no socket; it is left alone"):
        Echo.bind(str(path), reactor=loop)
    assert path.read_text() == "precious"


@linux
def test_abstract_address_that_is_taken_is_a_clear_error(loop: reactor.Reactor) -> None:
    Echo.bind("\0abstract socket of two", reactor=loop)
    with pytest.raises(AddressInUseError, match="already"):
        Echo.bind("\0abstract socket of two", reactor=loop)


# Peers of Unix sockets


def test_peer_without_a_name_cannot_be_answered_and_that_is_no_error_of_the_server(
    loop: reactor.Reactor, socket_path: str, raw: Callable[..., socket.socket]
) -> None:
    server = opened(loop, Echo.bind(socket_path, reactor=loop))
    raw("", socket.AF_UNIX).sendto(b"who am I?", socket_path)
    run_until(loop, lambda: server.of("error"))
    assert server.of("datagram") == [(b"who am I?", None)]
    (error,) = server.of("error")
    assert isinstance(error, DatagramError)
    assert "a datagram to unix:(unnamed) is lost: Invalid argument" in str(error)
    client = Recording.connect(socket_path, reactor=loop)
    client.send_to(b"hello")
    run_until(loop, lambda: client.received)


@pytest.mark.parametrize("name", ["tcp:", "unix:", "\\\\.\\pipe"])
def test_peer_whose_path_looks_like_something_else_is_answered(
    loop: reactor.Reactor,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    raw: Callable[..., socket.socket],
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).mkdir()
    server = opened(loop, Echo.bind("server", reactor=loop))
    client = raw(f"{name}//name" if name.endswith(":") else f"{name}/name")
    client.sendto(b"hello", "server")
    assert receive(loop, client) == [b"hello"]
    server.close()


# Connecting


def test_connected_channel_hears_nobody_else(loop: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    peer, stranger = raw(), raw()
    client = opened(loop, Recording.connect(peer.getsockname(), reactor=loop))
    stranger.sendto(b"from a stranger", client.address)
    peer.sendto(b"from the peer", client.address)
    run_until(loop, lambda: client.received)
    assert client.received == [b"from the peer"]
    assert client.send_to(b"to the stranger", stranger.getsockname())
    assert receive(loop, stranger) == [b"to the stranger"]


def test_name_is_resolved_on_a_thread_and_what_is_sent_meanwhile_waits(
    resolving: Resolving, jobs: Jobs, raw: Callable[..., socket.socket]
) -> None:
    peer = raw()
    asked: list[Any] = []
    # The first address is none for datagrams to this port: without SO_BROADCAST the system refuses it.
    loop = resolving([(socket.AF_INET, ("127.255.255.255", 9)), (socket.AF_INET, peer.getsockname())], asked)
    client = Recording.connect(("a name", 99), reactor=loop)
    assert client.send_to(b"first")
    assert client.send_to(b"second", None)
    with pytest.raises(StateError, match="has no socket yet"):
        client.send_to(b"x", ("127.0.0.1", 9))
    turns(loop, 3)
    assert str(client) == "Recording with a name:99 (Connecting)"
    jobs.jobs.popleft()()
    assert asked == [("a name", 99, socket.AF_UNSPEC, socket.SOCK_DGRAM)]
    turns(loop, 2)
    assert receive(loop, peer, 2) == [b"first", b"second"]
    assert client.peer == peer.getsockname()
    turns(loop, 1)
    assert client.events == [("open",), ("drained", None)]
    assert loop.next_timeout() is None


def test_empty_name_is_this_machine(resolving: Resolving, jobs: Jobs) -> None:
    asked: list[Any] = []
    loop = resolving([(socket.AF_INET, ("127.0.0.1", 9))], asked)
    Recording.connect("udp://:9", family="AF_INET", reactor=loop)
    turns(loop, 1)
    jobs.jobs.popleft()()
    assert asked == [("localhost", 9, socket.AF_INET, socket.SOCK_DGRAM)]


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "Name or service not known"),
        (UnicodeError("label too long"), "UnicodeError: label too long"),
    ],
)
def test_name_that_is_unknown_is_a_connect_error(
    resolving: Resolving, jobs: Jobs, error: Exception, cause: str
) -> None:
    loop = resolving(error)
    client = Recording.connect(("a name", 99), reactor=loop)
    client.send_to(b"in vain")
    turns(loop, 1)
    jobs.jobs.popleft()()
    turns(loop, 1)
    (reason,) = client.of("close")
    assert isinstance(reason, ConnectError)
    assert str(reason) == f"Recording with a name:99 (Connecting): cannot resolve the name: a name:99; {cause}"
    assert client.of("error") == [reason]
    assert loop.is_idle()


def test_name_that_is_not_resolved_in_time_is_given_up(resolving: Resolving, jobs: Jobs, clock: FakeClock) -> None:
    loop = resolving([(socket.AF_INET, ("127.0.0.1", 9))])
    client = Recording.connect(("a name", 99), limits=reactor.Limits(connect_timeout=5), reactor=loop)
    clock.advance(100)  # the program had other things to do first
    turns(loop, 1)
    clock.advance(4.9)
    turns(loop, 1)
    assert client.events == []
    clock.advance(0.2)
    turns(loop, 1)
    (reason,) = client.of("close")
    assert isinstance(reason, DeadlineError)
    assert reason.limit == "connect_timeout"
    assert "the name was not resolved within 5 s (connect_timeout)" in str(reason)
    jobs.jobs.popleft()()
    turns(loop, 2)
    assert [event[0] for event in client.events] == ["error", "close"]


@pytest.mark.parametrize("found", [[(socket.AF_INET, ("127.0.0.1", 9))], OSError("nothing")])
def test_answer_about_a_name_that_comes_behind_a_close_in_one_turn_is_dropped(
    resolving: Resolving, jobs: Jobs, found: Any
) -> None:
    loop = resolving(found)
    client = Recording.connect(("a name", 99), reactor=loop)
    turns(loop, 1)
    loop.call_soon(client.close)
    jobs.jobs.popleft()()
    turns(loop, 2)
    assert [event[0] for event in client.events] == ["close"]
    assert loop.is_idle()


def test_peer_that_the_system_finds_no_way_to_is_a_connect_error(loop: reactor.Reactor, socket_path: str) -> None:
    client = Recording.connect(socket_path, reactor=loop)
    run_until(loop, loop.is_idle)
    (reason,) = client.of("close")
    assert isinstance(reason, ConnectError)
    assert reason.causes == (f"unix:{socket_path}: No such file or directory",)


@pytest.mark.parametrize("is_connected", [False, True])
def test_channel_asked_to_close_before_it_is_open_sends_first_what_waits(
    loop: reactor.Reactor, raw: Callable[..., socket.socket], is_connected: bool
) -> None:
    peer = raw()
    address = peer.getsockname()
    if is_connected:
        channel = Recording.connect(address, reactor=loop)
        address = None
    else:
        channel = Recording.bind(LOOPBACK, reactor=loop)
    assert channel.send_to(b"last words", address)
    channel.close_when_done()
    assert not channel.send_to(b"too late", address)
    assert receive(loop, peer) == [b"last words"]
    run_until(loop, loop.is_idle)
    assert [event[0] for event in channel.events] == ["open", "close"]
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert not channel.send_to(b"far too late", address)
    assert not channel.send_to(b"far too late", ("127.0.0.1", 9))


def test_channel_closed_before_it_is_open_says_so_and_nothing_else(loop: reactor.Reactor, socket_path: str) -> None:
    server = Recording.bind(socket_path, reactor=loop)
    server.close()
    turns(loop, 2)
    assert [event[0] for event in server.events] == ["close"]


def test_bound_channel_with_nothing_to_send_closes_when_it_is_asked_to(loop: reactor.Reactor) -> None:
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    server.close_when_done()
    server.close_when_done()
    server.pause_reading()
    turns(loop, 2)
    assert [type(reason) for reason in server.of("close")] == [ClosedHere]


@pytest.mark.parametrize("moment", ["bound", "resolving", "open", "paused", "closing", "closed"])
def test_shutdown_finds_the_channel_in_any_state(
    resolving: Resolving, raw: Callable[..., socket.socket], moment: str
) -> None:
    peer, loop = raw(), resolving([])
    if moment == "resolving":
        channel: Any = Recording.connect(("a name", 9), reactor=loop)
    else:
        channel = Recording.bind(LOOPBACK, reactor=loop)
    if moment not in ("bound", "resolving"):
        turns(loop, 1)
        loop.call_soon({"paused": channel.pause_reading, "closing": channel.close_when_done}.get(moment, int))
        loop.call_soon(channel.close if moment == "closed" else int)
        loop.call_soon(lambda: channel.send_to(b"last words", peer.getsockname()))
    loop.call_soon(loop.shutdown)
    turns(loop, 3)
    assert [type(reason) for reason in channel.of("close")] == [ClosedHere]
    assert not loop.channels
    if moment in ("open", "paused"):
        assert peer.recv(100) == b"last words"


def test_reactor_that_shuts_down_takes_no_new_channel(loop: reactor.Reactor, socket_path: str) -> None:
    opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    loop.shutdown()
    for make in (Recording.bind, Recording.connect):
        with pytest.raises(StateError, match="shutting down"):
            make(socket_path, reactor=loop)


def test_channel_is_made_once(loop: reactor.Reactor, socket_path: str) -> None:
    first = Recording.bind(LOOPBACK, reactor=loop)
    before = first.address
    with pytest.raises(StateError, match="make a new object"):
        Recording.bind(socket_path, lambda: first, reactor=loop)
    assert first.address == before
    assert not os.path.exists(socket_path)


def test_channel_that_is_neither_bound_nor_connected_sends_nothing() -> None:
    with pytest.raises(StateError, match=r"^Recording with nobody \(New\): it has no socket yet"):
        Recording().send_to(b"x", ("127.0.0.1", 9))


def test_descriptor_that_is_too_large_for_the_selector_closes_the_channel() -> None:
    with reactor.Reactor(selectors.SelectSelector()) as loop:
        loop._largest = 0
        server = Lenient.bind(LOOPBACK, reactor=loop)
        turns(loop, 2)
        assert [event[0] for event in server.events] == ["error", "close"]
        assert "too large for select" in str(server.of("close")[0])


# What may be sent, and where to


def test_datagram_larger_than_any_is_refused_at_once(loop: reactor.Reactor) -> None:
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    for size in (65_508, 1_000_000):
        with pytest.raises(LocalError, match=f"^{size} bytes are more than a datagram can hold here"):
            server.send_to(bytearray(size), ("127.0.0.1", 9))
    server.pause_reading()  # from now on all is queued
    with pytest.raises(LocalError, match="^65508 bytes are more"):
        server.send_to(bytes(65_508), ("127.0.0.1", 9))
    assert server.send_to(bytes(65_507), ("127.0.0.1", 9))
    turns(loop, 2)
    assert server.of("error") == []


@dual
def test_datagram_of_ipv6_may_be_a_little_larger(loop: reactor.Reactor) -> None:
    server = opened(loop, Recording.bind(("::1", 0), reactor=loop))
    assert server.send_to(bytes(65_527), ("::1", 9))
    with pytest.raises(LocalError):
        server.send_to(bytes(65_528), ("::1", 9))


def test_unix_datagram_larger_than_the_buffer_is_refused_or_reported(loop: reactor.Reactor, socket_path: str) -> None:
    server = opened(loop, Recording.bind(socket_path, limits=reactor.Limits(maximum_datagram=10**6), reactor=loop))
    size = server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
    with pytest.raises(LocalError, match=f"^{size} bytes are more"):
        server.send_to(bytes(size), socket_path)
    server.pause_reading()
    assert server.send_to(bytes(size), socket_path)
    assert server.send_to(bytes(100_000), socket_path)
    turns(loop, 1)
    (error,) = server.of("error")
    assert (type(error), error.errno) == (DatagramError, errno.EMSGSIZE)
    server.resume_reading()
    run_until(loop, lambda: server.received)
    assert server.received == [bytes(100_000)]


def test_router_that_finds_a_datagram_too_large_is_no_mistake_of_the_program(
    raw: Callable[..., socket.socket],
) -> None:
    peer = raw()
    with reactor.Reactor(socket_factory=failing(send=[errno.EMSGSIZE])) as loop:
        client = opened(loop, Recording.connect(peer.getsockname(), reactor=loop))
        assert not client.send_to(b"small")
        assert client.send_to(b"second")
        turns(loop, 1)
        assert [error.errno for error in client.of("error")] == [errno.EMSGSIZE]
        assert receive(loop, peer) == [b"second"]


@pytest.mark.parametrize(
    ("address", "words"),
    [
        (("localhost", 9), "localhost:9 is a name; send_to takes numbers"),
        (("", 9), "is a name"),
        (None, "send_to needs an address"),
        (("127.0.0.1",), "is no address"),
        (["127.0.0.1", 9], "is no address"),
        (("127.0.0.1", 70_000), "is no port"),
        (("::1", 9), r"\[::1\]:9 is no address of AF_INET, as those of this socket are"),
        ("/run/socket", "unix:/run/socket is no address of AF_INET"),
    ],
)
def test_address_that_is_none_for_the_socket_is_refused(loop: reactor.Reactor, address: Any, words: str) -> None:
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    for _ in range(2):
        with pytest.raises(AddressError, match=words):
            server.send_to(b"x", address)
    assert server.output_size == 0


def test_address_of_the_internet_is_refused_by_a_unix_socket(loop: reactor.Reactor, socket_path: str) -> None:
    server = opened(loop, Recording.bind(socket_path, reactor=loop))
    with pytest.raises(AddressError, match="is no address of a Unix socket; give a path"):
        server.send_to(b"x", ("127.0.0.1", 9))


def test_addresses_that_were_checked_are_not_kept_for_ever(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    peer = raw()
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    client = opened(loop, Recording.connect(peer.getsockname(), reactor=loop))
    for channel in (server, client):
        for port in range(1, TARGETS + 10):
            channel.send_to(b"", ("127.0.0.1", port))
        assert 1 < len(channel._targets) < 100
    client.send_to(b"to the peer")
    assert receive(loop, peer) == [b"to the peer"]


def test_data_is_bytes_like_and_may_be_changed_afterwards(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    peer = raw()
    client = Recording.connect(peer.getsockname(), reactor=loop)
    data = bytearray(b"queued")
    client.push(data)
    client.push(memoryview(data)[::2])
    data[:] = b"-"
    for wrong in (5, "text", [1, 2]):
        with pytest.raises(TypeError):
            client.push(wrong)
    opened(loop, client)
    client.push(bytearray(b"at once"))
    for wrong in (5, "text", [1, 2]):
        with pytest.raises(TypeError):
            client.push(wrong)
    assert receive(loop, peer, 3) == [b"queued", b"qee", b"at once"]


# Losses


def test_peer_that_is_not_there_is_reported_and_no_end(
    loop: reactor.Reactor, raw: Callable[..., socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    peer = raw()
    peer.connect(("127.0.0.1", 9))  # it keeps its port, and hears nobody: what comes is refused
    client = opened(loop, Recording.connect(peer.getsockname(), reactor=loop))
    client.send_to(b"lost")
    run_until(loop, lambda: client.of("error"))
    (error,) = client.of("error")
    assert isinstance(error, DatagramError)
    assert (error.errno, error.address) == (errno.ECONNREFUSED, peer.getsockname())
    name = f"127.0.0.1:{peer.getsockname()[1]}"
    assert str(error) == f"Recording with {name} (Open): a datagram to {name} is lost: Connection refused"
    assert [record.getMessage() for record in caplog.records] == [str(error)]
    peer.connect(client.address)
    client.send_to(b"found")
    assert receive(loop, peer) == [b"found"]
    peer.send(b"answer")
    run_until(loop, lambda: client.received)
    assert client.of("close") == []


def test_unix_peer_that_is_gone_is_reported_and_no_end(
    loop: reactor.Reactor, socket_path: str, tmp_path: Path, raw: Callable[..., socket.socket]
) -> None:
    server = opened(loop, Recording.bind(socket_path, reactor=loop))
    gone, there = str(tmp_path / "gone"), str(tmp_path / "there")
    peer = raw(there)
    assert not server.send_to(b"lost", gone)
    assert server.send_to(b"found", there)
    turns(loop, 1)
    (error,) = server.of("error")
    assert (error.errno, error.address) == (errno.ENOENT, gone)
    assert receive(loop, peer) == [b"found"]


@linux
def test_unix_peer_that_comes_back_is_found_again(loop: reactor.Reactor, socket_path: str) -> None:
    client: Any = None
    for generation in range(3):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as peer:
            peer.bind(socket_path)
            peer.setblocking(False)
            client = client or opened(loop, Recording.connect(socket_path, reactor=loop))
            assert client.send_to(b"here")
            assert receive(loop, peer) == [b"here"]
        assert not client.send_to(b"just gone")
        assert not client.send_to(b"gone")
        os.unlink(socket_path)
        assert not client.send_to(b"gone with its file")
        turns(loop, 1)
        assert len(client.of("error")) == 3 * (generation + 1)
    assert {error.errno for error in client.of("error")} == {errno.ECONNREFUSED, errno.ENOENT}
    assert client.of("close") == []


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.EPERM, errno.ENETUNREACH, errno.EIO])
@pytest.mark.parametrize("is_queued", [False, True])
def test_datagram_that_the_system_does_not_take_is_lost_alone(
    raw: Callable[..., socket.socket], number: int, is_queued: bool
) -> None:
    peer = raw()
    with reactor.Reactor(socket_factory=failing(sendto=[number])) as loop:
        server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
        if is_queued:
            server.pause_reading()
        assert server.send_to(b"first", peer.getsockname()) is is_queued
        assert server.send_to(b"second", peer.getsockname())
        turns(loop, 1)
        (error,) = server.of("error")
        assert (type(error), error.errno, error.address) == (DatagramError, number, peer.getsockname())
        assert receive(loop, peer) == [b"second"]
        assert server.of("close") == []


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_send_that_finds_no_buffers_for_long_neither_spins_nor_closes(
    raw: Callable[..., socket.socket], number: int
) -> None:
    peer = raw()
    with reactor.Reactor(socket_factory=failing(sendto=[number] * 1000)) as loop:
        server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
        server.send_to(b"at once", peer.getsockname())
        server.pause_reading()
        server.send_to(b"queued", peer.getsockname())
        assert_is_idle(loop)
        assert [error.errno for error in server.of("error")] == [number] * 2
        assert server.of("close") == []


def test_loss_is_not_told_inside_of_the_hook_that_has_sent(
    loop: reactor.Reactor, socket_path: str, raw: Callable[..., socket.socket]
) -> None:
    inside: list[str] = []

    class Strict(Recording):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            inside.append("handle_datagram")
            assert not self.send_to(data, socket_path + " of nobody")
            inside.remove("handle_datagram")

        def handle_error(self, error: Exception) -> None:
            assert not inside
            self.events.append(("error", error))

    server = opened(loop, Strict.bind(socket_path, reactor=loop))
    raw("", socket.AF_UNIX).sendto(b"x", socket_path)
    run_until(loop, lambda: server.of("error"))
    assert isinstance(server.of("error")[0], DatagramError)


@pytest.mark.parametrize("does", ["pause_reading", "close", "close_when_done"])
def test_whoever_hears_of_a_loss_may_pause_or_close(raw: Callable[..., socket.socket], does: str) -> None:
    class Resolute(Recording):
        def handle_error(self, error: Exception) -> None:
            self.events.append(("error", error))
            getattr(self, does)()

    peer = raw()
    with reactor.Reactor(socket_factory=failing(send=[errno.ENOBUFS])) as loop:
        client = Resolute.connect(peer.getsockname(), reactor=loop)
        for number in range(3):
            client.send_to(b"%d" % number)
        turns(loop, 4)
        outcome = {
            "pause_reading": (["open", "error", "drained"], [b"1", b"2"]),
            "close": (["open", "error", "close"], []),
            "close_when_done": (["open", "error", "close"], [b"1", b"2"]),
        }
        expected, arrived = outcome[does]
        assert [event[0] for event in client.events] == expected
        assert receive(loop, peer, len(arrived)) == arrived
        with pytest.raises(BlockingIOError):
            peer.recv(1)
        assert client._interest == 0


# Receiving


def test_datagram_over_the_limit_is_dropped_and_the_channel_goes_on(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    server = opened(loop, Recording.bind(LOOPBACK, limits=reactor.Limits(maximum_datagram=10), reactor=loop))
    peer = raw()
    for size in (10, 11, 60_000, 0):
        peer.sendto(bytes(size), server.address)
    run_until(loop, lambda: len(server.received) == 2)
    assert server.received == [bytes(10), b""]
    for error in server.of("error"):
        assert isinstance(error, LimitError)
        assert error.limit == "maximum_datagram"
        assert str(error) == (
            f"Recording on 127.0.0.1:{server.address[1]} (Open): a datagram from "
            f"127.0.0.1:{peer.getsockname()[1]} is larger than 10 bytes (maximum_datagram), and was dropped"
        )
    assert len(server.of("error")) == 2


def test_channel_that_is_flooded_leaves_turns_to_the_others(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    flooded, other = (opened(loop, Recording.bind(LOOPBACK, reactor=loop)) for _ in range(2))
    peer = raw()
    count = 2 * DATAGRAMS_PER_TURN + 10
    for number in range(count):
        peer.sendto(b"%d" % number, flooded.address)
    peer.sendto(b"hello", other.address)
    for received in (DATAGRAMS_PER_TURN, 2 * DATAGRAMS_PER_TURN, count):
        loop.poll(0)
        assert len(flooded.received) == received
        assert other.received == [b"hello"]
    assert flooded.received == [b"%d" % number for number in range(count)]


def test_flood_that_does_not_end_is_no_reason_to_leave_the_channel_alone(raw: Callable[..., socket.socket]) -> None:
    class Flooded(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            return b"and another one", ("127.0.0.1", 9)  # the one that has really come stays where it is

    with reactor.Reactor(socket_factory=Flooded) as loop:
        server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
        raw().sendto(b"the first one", server.address)
        run_until(loop, lambda: server.received)
        turns(loop, 2 * TURNS_WITHOUT_PROGRESS)
        assert len(server.received) == (2 * TURNS_WITHOUT_PROGRESS + 1) * DATAGRAMS_PER_TURN


def test_three_frames_stand_on_the_stack_from_loop_to_handle_datagram(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    depths: list[int] = []

    class Measuring(reactor.Datagram):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            depths.append(stack_depth())

    server = Measuring.bind(LOOPBACK, reactor=loop)
    turns(loop, 1)
    raw().sendto(b"x", server.address)
    loop.loop(10, count=1)
    assert depths == [stack_depth() + 3]


def test_handle_open_comes_before_the_first_input(loop: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    peer = raw()
    server = Recording.bind(LOOPBACK, reactor=loop)
    peer.sendto(b"early", server.address)
    client = Recording.connect(peer.getsockname(), reactor=loop)
    turns(loop, 1)
    peer.sendto(b"early", client.address)
    run_until(loop, lambda: server.received and client.received)
    for channel in (server, client):
        assert [event[0] for event in channel.events] == ["open", "datagram"]


def test_datagrams_for_a_class_that_does_not_take_them_are_dropped_with_a_line(
    loop: reactor.Reactor, raw: Callable[..., socket.socket], caplog: pytest.LogCaptureFixture
) -> None:
    server = reactor.Datagram.bind(LOOPBACK, reactor=loop)
    raw().sendto(b"x", server.address)
    run_until(loop, lambda: caplog.records)
    assert "handle_datagram is not written" in caplog.text


def test_paused_channel_takes_nothing_and_still_sends(loop: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    peer = raw()
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    server.pause_reading()
    server.pause_reading()
    peer.sendto(b"later", server.address)
    assert server.send_to(b"now", peer.getsockname())
    assert receive(loop, peer) == [b"now"]
    assert_is_idle(loop)
    assert server.received == []
    server.resume_reading()
    server.resume_reading()
    run_until(loop, lambda: server.received)


@pytest.mark.parametrize("does", ["pause_reading", "close_when_done", "close"])
def test_channel_that_stops_in_a_batch_gets_nothing_more_in_that_batch(
    loop: reactor.Reactor, raw: Callable[..., socket.socket], does: str
) -> None:
    class Jealous(Recording):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            super().handle_datagram(data, address)
            for channel in channels:
                getattr(channel, does)()

    channels = [opened(loop, Jealous.bind(LOOPBACK, reactor=loop)) for _ in range(2)]
    for channel in channels:
        for _ in range(2):
            raw().sendto(b"x", channel.address)
    turns(loop, 2)
    assert sum(len(channel.received) for channel in channels) == 1
    if does == "pause_reading":
        channels[0].resume_reading()
        run_until(loop, lambda: len(channels[0].received) == 2 or channels[0].state.name == "Paused")


def test_hook_that_raises_closes_the_channel(loop: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    class Broken(Recording):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            raise ValueError(data)

    server = opened(loop, Broken.bind(LOOPBACK, reactor=loop))
    raw().sendto(b"x", server.address)
    run_until(loop, lambda: server.of("close"))
    assert [type(error) for error in server.of("error")] == [ValueError]
    assert isinstance(server.of("close")[0], HookError)


def test_exception_in_a_hook_that_the_user_takes_loses_no_other_datagram(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    class Choking(Lenient):
        def handle_datagram(self, data: bytes, address: Any) -> None:
            super().handle_datagram(data, address)
            if data == b"1":
                raise ValueError

    server = opened(loop, Choking.bind(LOOPBACK, reactor=loop))
    peer = raw()
    for number in range(3):
        peer.sendto(b"%d" % number, server.address)
    run_until(loop, lambda: len(server.received) == 3)
    assert len(server.of("error")) == 1


# What a receive may say


def served_behind(errors: list[int], clock: FakeClock, polls: int) -> tuple[Any, int]:
    """Return a channel whose receive fails so, after so many turns in which something came; and how many it has left.

    What comes is delivered when nothing is wrong any more.
    """
    left = deque(errors)

    class Failing(socket.socket):
        def recvfrom(self, *args: Any) -> Any:
            if left:
                number = left.popleft()
                raise OSError(number, os.strerror(number))
            return super().recvfrom(*args)

    with reactor.Reactor(clock=clock, socket_factory=Failing) as loop:
        server = opened(loop, Lenient.bind(LOOPBACK, reactor=loop))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.sendto(b"hello", server.address)
        turns(loop, polls)
        remaining = len(left)
        clock.advance(10)
        left.clear()
        turns(loop, 3)
    return server, remaining


@pytest.mark.parametrize("number", [errno.EBADF, errno.ENOTSOCK])
def test_socket_that_is_broken_closes_the_channel(clock: FakeClock, number: int) -> None:
    server, _ = served_behind([number], clock, 3)
    (reason,) = server.of("close")
    assert isinstance(reason, ConnectionLost)
    assert (reason.errno, server.of("error"), server.received) == (number, [reason], [])


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.EINTR])
def test_receive_that_is_put_off_is_no_error(clock: FakeClock, number: int) -> None:
    server, remaining = served_behind([number], clock, 3)
    assert (server.received, server.of("error"), remaining) == ([b"hello"], [], 0)


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EMSGSIZE, errno.ENOBUFS])
def test_receive_that_fails_is_reported_and_the_channel_goes_on(clock: FakeClock, number: int) -> None:
    server, remaining = served_behind([number], clock, 3)
    assert [error.errno for error in server.of("error")] == [number]
    assert "(Open): a datagram is lost: " in str(server.of("error")[0])
    assert (server.received, remaining) == ([b"hello"], 0)


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM])
def test_receive_that_has_no_memory_for_long_does_not_spin(clock: FakeClock, number: int) -> None:
    server, remaining = served_behind([number] * 1000, clock, 1000)
    assert len(server.of("error")) == 1000 - remaining == TURNS_WITHOUT_PROGRESS
    assert server.received == [b"hello"]


# The queue


def test_queue_is_bounded_and_says_so_once_in_a_row(timed: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    peer = raw()
    client = Recording.connect(peer.getsockname(), limits=SMALL, reactor=timed)
    for _ in range(2):
        taken = [client.send_to(b"x" * 50) for _ in range(100)]
        assert taken.index(False) == sum(taken) == 8
        assert client.output_size <= SMALL.maximum_output
        turns(timed, 4)
        assert receive(timed, peer, 8) == [b"x" * 50] * 8
        assert client.output_size == 0
        client.pause_reading()  # so that all is queued once more
    first, second = client.of("error")
    assert isinstance(first, LimitError)
    assert first.limit == "maximum_output"
    assert str(first).endswith(
        "(Connecting): 8 datagrams of 400 bytes wait, the next ones are dropped; the limit is 2000 (maximum_output)"
    )
    assert "(Paused): 8 datagrams" in str(second)
    assert len(client.of("drained")) == 2


def test_empty_datagrams_are_bounded_too(loop: reactor.Reactor) -> None:
    client = Recording.connect(("127.0.0.1", 9), limits=SMALL, reactor=loop)
    taken = [client.send_to(b"") for _ in range(1000)]
    assert sum(taken) == SMALL.maximum_output // OVERHEAD + 1


def test_what_is_sent_before_a_bound_channel_is_open_leaves_when_it_is(
    loop: reactor.Reactor, raw: Callable[..., socket.socket]
) -> None:
    peer = raw()
    for kind in (Recording, reactor.Datagram):
        server = kind.bind(LOOPBACK, reactor=loop)
        assert server.send_to(b"first", peer.getsockname())
        turns(loop, 3)
        assert receive(loop, peer) == [b"first"]
        if isinstance(server, Recording):
            assert server.events == [("open",), ("drained", None)]


def test_queue_leaves_in_order_and_in_shares(loop: reactor.Reactor, raw: Callable[..., socket.socket]) -> None:
    peer = raw()
    server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    server.pause_reading()
    count = 2 * DATAGRAMS_PER_TURN
    for number in range(count):
        server.send_to(b"%d" % number, peer.getsockname())
    loop.poll(0)
    assert receive(loop, peer, 1) == [b"0"]
    assert len(server._queue) in (0, DATAGRAMS_PER_TURN)
    assert receive(loop, peer, count - 1) == [b"%d" % number for number in range(1, count)]
    turns(loop, 2)
    assert len(server.of("drained")) == 1
    assert server._interest == 0


@pytest.mark.parametrize("errors", [[errno.EAGAIN], [errno.EINTR], [errno.EAGAIN] * 3])
def test_send_that_is_put_off_is_made_again_in_order(raw: Callable[..., socket.socket], errors: list[int]) -> None:
    peer = raw()
    with reactor.Reactor(socket_factory=failing(sendto=errors)) as loop:
        server = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
        for number in range(3):
            assert server.send_to(b"%d" % number, peer.getsockname())
        assert server.output_size == 3
        assert receive(loop, peer, 3) == [b"0", b"1", b"2"]
        turns(loop, 2)
        assert server.events == [("open",), ("drained", None)]
        assert server._interest == READ


@linux
def test_connected_unix_channel_waits_for_a_peer_that_does_not_read_and_costs_nothing(
    loop: reactor.Reactor, socket_path: str, raw: Callable[..., socket.socket]
) -> None:
    peer = raw(socket_path)
    client = opened(loop, Recording.connect(socket_path, reactor=loop))
    sent = 0
    while not client.output_size:
        assert client.send_to(b"%d" % sent)
        sent += 1
    client.send_to(b"one more")
    assert_is_idle(loop)
    assert client._interest == READ | WRITE
    assert receive(loop, peer, sent + 1) == [b"%d" % number for number in range(sent)] + [b"one more"]
    run_until(loop, lambda: client.of("drained"))
    assert client.of("error") == []
    assert client._interest == READ


@linux
def test_unconnected_unix_channel_loses_what_a_peer_has_no_room_for_and_costs_nothing(
    loop: reactor.Reactor, socket_path: str, tmp_path: Path, raw: Callable[..., socket.socket]
) -> None:
    there, elsewhere = raw(str(tmp_path / "there")), raw(str(tmp_path / "elsewhere"))
    server = opened(loop, Recording.bind(socket_path, reactor=loop))
    sent = sum(server.send_to(b"%d" % number, there.getsockname()) for number in range(100))
    server.pause_reading()
    assert server.send_to(b"queued", there.getsockname())
    assert server.send_to(b"hello", elsewhere.getsockname())
    assert_is_idle(loop)
    assert receive(loop, elsewhere) == [b"hello"]
    losses = [(error.errno, error.address) for error in server.of("error")]
    assert losses == [(errno.EAGAIN, there.getsockname())] * (100 - sent + 1)
    assert receive(loop, there, sent) == [b"%d" % number for number in range(sent)]
    assert server._interest == 0


@linux
def test_closing_channel_is_given_up_when_its_peer_takes_nothing_for_long(
    timed: reactor.Reactor, clock: FakeClock, socket_path: str, raw: Callable[..., socket.socket]
) -> None:
    peer = raw(socket_path)
    client = Recording.connect(socket_path, limits=reactor.Limits(drain_timeout=10), reactor=timed)
    for _ in range(100):
        client.send_to(b"four")
    turns(timed, 2)
    client.close_when_done()
    for _ in range(3):  # it is slow, but it takes something
        clock.advance(9)
        turns(timed, 1)
        peer.recv(100)
        turns(timed, 1)
    assert client.state.name == "Closing"
    waiting = len(client._queue)
    for _ in range(2):  # a try that comes to nothing gives it no more time
        timed.flush_soon(client)
        turns(timed, 1)
        clock.advance(6)
    turns(timed, 1)
    (reason,) = client.of("close")
    assert isinstance(reason, DeadlineError)
    assert reason.limit == "drain_timeout"
    assert str(reason).endswith(
        f"(Closing): {waiting} datagrams of {4 * waiting} bytes wait, and none could be sent for 10 s (drain_timeout)"
    )


# Broadcast and multicast


def test_broadcast_is_sent_only_where_it_is_allowed(loop: reactor.Reactor) -> None:
    listener = Recording.bind(("0.0.0.0", 0), reactor=loop)
    everybody = ("127.255.255.255", listener.address[1])
    timid = opened(loop, Recording.bind(LOOPBACK, reactor=loop))
    assert not timid.send_to(b"nobody asked", everybody)
    turns(loop, 1)
    assert [error.errno for error in timid.of("error")] == [errno.EACCES]
    bold = opened(loop, Recording.bind(("", 0), broadcast=True, reactor=loop))
    assert bold.send_to(b"bound", everybody)
    connected = opened(loop, Recording.connect(everybody, broadcast=True, reactor=loop))
    assert connected.send_to(b"connected")
    run_until(loop, lambda: len(listener.received) == 2)
    assert listener.received == [b"bound", b"connected"]


def group_is_heard(loop: reactor.Reactor, host: str, group: str, interface: str | None) -> bool:
    """Join and leave a group; return whether this system has a way to groups by that interface."""
    member, speaker = (opened(loop, Recording.bind((host, 0), reactor=loop)) for _ in range(2))
    try:
        member.join_group(group, interface)
        speaker.set_multicast(interface=interface, hops=0)  # it does not leave this machine
    except (OSError, LocalError):
        return False
    if not speaker.send_to(b"to the group", (group, member.address[1])):
        return False
    run_until(loop, lambda: member.received)
    member.leave_group(group, interface)
    speaker.send_to(b"to those who are left", (group, member.address[1]))
    speaker.send_to(b"the end", ("::1" if ":" in group else "127.0.0.1", member.address[1]))
    run_until(loop, lambda: b"the end" in member.received)
    assert member.received == [b"to the group", b"the end"]
    return True


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("0.0.0.0", "239.255.7.8"),
        pytest.param("", "239.255.7.8", marks=dual),
        pytest.param("::", "ff02::7:8", marks=dual),
    ],
)
def test_group_is_heard_from_joining_to_leaving(loop: reactor.Reactor, host: str, group: str) -> None:
    if not any(group_is_heard(loop, host, group, interface) for interface in ("lo", None)):
        pytest.skip(f"this system has no route to {group}")


@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("", marks=dual)])
def test_options_for_groups_are_set_for_every_family_that_the_socket_speaks(loop: reactor.Reactor, host: str) -> None:
    server = Recording.bind((host, 0), reactor=loop)
    for hops, loopback in ((0, False), (3, True)):
        server.set_multicast(hops=hops, loopback=loopback)
        found = [
            server.socket.getsockopt(socket.IPPROTO_IP, option)
            for option in (socket.IP_MULTICAST_TTL, socket.IP_MULTICAST_LOOP)
        ]
        if not host:
            found += [
                server.socket.getsockopt(socket.IPPROTO_IPV6, option)
                for option in (socket.IPV6_MULTICAST_HOPS, socket.IPV6_MULTICAST_LOOP)
            ]
        assert found == [hops, int(loopback)] * (1 if host else 2)


@pytest.mark.parametrize(
    "group", ["all-hosts.mcast.net", "", "127.0.0.1", "223.255.255.255", "240.0.0.0", "::1", "fe80::1", "239.1.2.3\0"]
)
def test_group_that_is_none_is_refused(loop: reactor.Reactor, group: str) -> None:
    server = Recording.bind(LOOPBACK, reactor=loop)
    for call in (server.join_group, server.leave_group):
        with pytest.raises(AddressError, match=f"^{re.escape(repr(group))} is no address of a group; give a number"):
            call(group)


def test_group_of_another_family_than_the_socket_is_refused(loop: reactor.Reactor, tmp_path: Path) -> None:
    server = Recording.bind(LOOPBACK, reactor=loop)
    with pytest.raises(AddressError, match="^'ff02::7:8' is a group of AF_INET6, and this socket is one of AF_INET$"):
        server.join_group("ff02::7:8")
    local = Recording.bind(str(tmp_path / "sock"), reactor=loop)
    with pytest.raises(AddressError, match=r"^'239\.255\.7\.8' is a group of AF_INET, .* one of AF_UNIX$"):
        local.join_group("239.255.7.8")
    with pytest.raises(LocalError, match="^there are no groups for a socket of AF_UNIX$"):
        local.set_multicast()


@pytest.mark.parametrize("interface", ["no such interface", "", "lo\0"])
def test_network_interface_that_is_not_there_is_named(loop: reactor.Reactor, interface: str) -> None:
    server = Recording.bind(LOOPBACK, reactor=loop)
    complaint = f"^no network interface is called {re.escape(repr(interface))}; there are .*lo"
    for call in (server.join_group, server.leave_group):
        with pytest.raises(LocalError, match=complaint):
            call("239.255.7.8", interface)
    with pytest.raises(LocalError, match=complaint):
        server.set_multicast(interface=interface)


@pytest.mark.parametrize("hops", [-1, 256, 300, 1.0, True, None])
@pytest.mark.parametrize("host", ["0.0.0.0", pytest.param("", marks=dual)])
def test_hops_out_of_range_are_refused_and_change_nothing(loop: reactor.Reactor, host: str, hops: Any) -> None:
    server = Recording.bind((host, 0), reactor=loop)
    server.set_multicast(hops=7)
    with pytest.raises(LocalError, match=f"^{re.escape(repr(hops))} is no number of hops; .* from 0 to 255$"):
        server.set_multicast(hops=hops, loopback=False)
    for option, expected in ((socket.IP_MULTICAST_TTL, 7), (socket.IP_MULTICAST_LOOP, 1)):
        assert server.socket.getsockopt(socket.IPPROTO_IP, option) == expected


def test_group_needs_a_socket(loop: reactor.Reactor) -> None:
    client = Recording.connect(("127.0.0.1", 9), reactor=loop)
    for _ in range(2):
        with pytest.raises(StateError, match="it has no socket"):
            client.join_group("239.255.7.8")
        client.close()
