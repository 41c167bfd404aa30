"""The simulated network does what the kernel does: the same calls end alike on real sockets and on simulated ones."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor.eventloop import READ, WRITE
from reactor.simulation import ALL, Host, World
from reactor.simulation.faults import CONNECT, GETSOCKOPT
from reactor.simulation.network import DATAGRAMS_WAITING
from reactor.simulation.tape import Tape
from tests.properties import steady
from tests.reactor.simulation.twins import LOOPBACK, NOBODY, Twins

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the simulation does what Linux does")

Call = tuple[Any, ...]

data = st.binary(max_size=40) | st.just(bytes(1000))
size = st.sampled_from([1, 7, 100_000])
ends = st.sampled_from(["client 0", "server 0", "client 1", "server 1", "client 2", "server 2"])

calls_on_connections = st.one_of(
    st.tuples(ends, st.just("send"), data),
    st.tuples(ends, st.just("sendmsg"), st.lists(data, max_size=3)),
    st.tuples(ends, st.sampled_from(["recv", "recv_into", "recvfrom", "recvmsg"]), size),
    st.tuples(ends, st.just("shutdown"), st.sampled_from([socket.SHUT_WR, socket.SHUT_RD, socket.SHUT_RDWR])),
    st.tuples(ends, st.sampled_from(["close", "SO_ERROR"])),
    st.tuples(st.sampled_from(["client 0", "server 1"]), st.just("listen")),
    st.tuples(st.sampled_from(["server 0", "server 1"]), st.just("connect_ex"), st.just("listener")),
    st.tuples(st.just("client 2"), st.just("connect_ex"), st.sampled_from(["listener", "bound"])),
    st.tuples(st.just("listener"), st.just("accept"), st.just("server 2")),
    st.tuples(st.just("listener"), st.sampled_from(["close", "listen", "SO_ERROR"])),
    st.tuples(st.sampled_from(["listener", "bound"]), st.just("recv"), size),
    st.tuples(st.just("bound"), st.just("accept"), st.just("nothing")),
)

peers = st.sampled_from(["one", "two", "three"])
datagram = st.binary(max_size=20) | st.just(b"")

calls_on_datagrams = st.one_of(
    st.tuples(peers | st.just("unbound"), st.just("sendto"), datagram, peers),
    st.tuples(peers | st.just("unbound"), st.just("send"), datagram),
    st.tuples(peers | st.just("unbound"), st.just("sendmsg"), st.lists(datagram, max_size=2)),
    st.tuples(peers, st.sampled_from(["recv", "recvfrom", "recvmsg", "recv_into"]), st.sampled_from([5, 100])),
    st.tuples(peers | st.just("unbound"), st.just("connect_ex"), peers),
    st.tuples(peers, st.just("bind"), st.just(NOBODY)),
    st.tuples(peers, st.sampled_from(["SO_ERROR", "close", "listen"])),
    st.tuples(peers, st.just("accept"), st.just("nothing")),
)


def listening(twins: Twins, backlog: int = 8) -> None:
    """Make a socket that listens, and one that is bound and does not."""
    twins.add(socket.SOCK_STREAM, "listener", "bound")
    twins.call("listener", "bind", NOBODY)
    twins.call("bound", "bind", NOBODY)
    twins.call("listener", "listen", backlog)


def connected(twins: Twins, number: int = 0) -> None:
    """Make a connection: "client 0" and "server 0", for example."""
    twins.add(socket.SOCK_STREAM, f"client {number}")
    assert twins.call(f"client {number}", "connect_ex", "listener") == "EINPROGRESS"
    assert twins.call("listener", "accept", f"server {number}") == (LOOPBACK, f"client {number}")


def datagram_sockets(twins: Twins) -> None:
    """Make three datagram sockets that are bound, and one that is not."""
    twins.add(socket.SOCK_DGRAM, "one", "two", "three", "unbound")
    for name in ("one", "two", "three"):
        twins.call(name, "bind", NOBODY)


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let this process open nothing more for a moment."""
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def twins() -> Iterator[Twins]:
    with Twins() as both:
        yield both


# Connections


@settings(steady, max_examples=120)
@given(st.lists(calls_on_connections, max_size=30))
def test_calls_on_connections_end_as_they_do_on_real_ones(calls: list[Call]) -> None:
    with Twins() as twins:
        listening(twins)
        connected(twins, 0)
        connected(twins, 1)
        twins.add(socket.SOCK_STREAM, "client 2")
        connects = 0
        for call in calls:
            if call[0] not in twins or (call[1] == "accept" and call[2] in twins):
                continue
            if call[0] == "client 2":  # a simulated socket connects once, and is not shut down before that
                connects += call[1] == "connect_ex"
                if connects != 1 and call[1] in ("connect_ex", "shutdown"):
                    continue
            twins.call(*call)


def test_peer_that_closes_with_unread_input_resets_the_connection(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    twins.call("client 0", "send", b"unread")
    twins.call("server 0", "send", b"still to be read")
    twins.call("server 0", "close")
    assert twins.call("client 0", "getpeername") == "ENOTCONN"
    assert twins.call("client 0", "recv", 100) == b"still to be read"
    assert twins.call("client 0", "recv", 100) == "ECONNRESET"
    assert twins.call("client 0", "recv", 100) == b""
    assert twins.call("client 0", "send", b"x") == "EPIPE"


def test_what_is_sent_to_a_peer_that_has_closed_breaks_the_connection(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    twins.call("server 0", "close")
    assert twins.call("client 0", "send", b"") == 0
    assert twins.call("client 0", "send", b"x") == 1
    assert twins.call("client 0", "recv", 100) == b""
    assert twins.call("client 0", "SO_ERROR") == "EPIPE"
    assert twins.call("client 0", "SO_ERROR") == "none"


def test_connection_is_over_when_both_ends_have_said_so(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    twins.call("client 0", "shutdown", socket.SHUT_WR)
    assert twins.call("server 0", "recv", 1) == b""
    assert twins.call("server 0", "getpeername") == "its peer"
    twins.call("server 0", "send", b"the answer")
    twins.call("server 0", "shutdown", socket.SHUT_WR)
    assert twins.call("client 0", "getpeername") == "ENOTCONN"
    assert twins.call("client 0", "shutdown", socket.SHUT_WR) == "ENOTCONN"
    assert twins.call("client 0", "recv_into", 3) == b"the"
    assert twins.call("client 0", "recv", 100) == b" answer"


def test_refused_connect_is_told_once(twins: Twins) -> None:
    listening(twins)
    for name, how in (("first", "SO_ERROR"), ("second", "recv"), ("third", "send")):
        twins.add(socket.SOCK_STREAM, name)
        assert twins.ready(name) == READ | WRITE  # which epoll says of a socket that nothing was done with
        assert twins.call(name, "connect_ex", "bound") == "EINPROGRESS"
        assert twins.ready(name) == READ | WRITE
        argument = {"SO_ERROR": (), "recv": (1,), "send": (b"x",)}[how]
        assert twins.call(name, how, *argument) == "ECONNREFUSED"
        assert twins.call(name, "getpeername") == "ENOTCONN"
        assert twins.call(name, "recv", 1) == b""
        assert twins.call(name, "send", b"x") == "EPIPE"


@pytest.mark.parametrize("asked", [True, False])
def test_second_connect_of_a_socket_tells_how_the_first_one_ended(asked: bool, twins: Twins) -> None:
    listening(twins)
    twins.add(socket.SOCK_STREAM, "client")
    twins.call("client", "connect_ex", "bound")
    if asked:
        assert twins.call("client", "SO_ERROR") == "ECONNREFUSED"
    for side in (twins.real, twins.simulated):
        assert side.call("client", "connect_ex", "bound") == ("ECONNABORTED" if asked else "ECONNREFUSED")


def test_what_is_sent_to_a_peer_that_has_shut_down_both_directions_breaks_the_connection(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    twins.call("server 0", "shutdown", socket.SHUT_RDWR)
    assert twins.call("server 0", "recv", 1) == b""
    assert twins.call("client 0", "send", b"x") == 1
    assert twins.call("server 0", "recv", 1) == "ECONNRESET"
    assert twins.call("client 0", "SO_ERROR") == "EPIPE"


def test_address_that_is_given_to_a_connection_is_of_no_use(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    assert twins.call("client 0", "sendto", b"x", "bound") == 1
    assert twins.call("server 0", "recvfrom", 10) == (b"x", None)


def test_connection_that_is_full_takes_more_when_its_peer_has_read(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    for side in (twins.real, twins.simulated):
        sent = received = 0
        while (taken := side.call("client 0", "send", bytes(65536))) != "EAGAIN":
            sent += taken
        assert side.wait_for("client 0", lambda ready: not ready & WRITE)
        assert side.wait_for("server 0", lambda ready: ready & READ)
        while received < sent:
            assert side.wait_for("server 0", lambda ready: ready & READ)
            received += len(side.call("server 0", "recv", 1 << 20))
        assert side.wait_for("client 0", lambda ready: ready & WRITE)
        assert side.call("client 0", "send", b"more") == 4


def test_full_connection_is_writable_when_nothing_is_to_be_written_any_more(twins: Twins) -> None:
    listening(twins)
    connected(twins)
    for side in (twins.real, twins.simulated):
        while side.call("client 0", "send", bytes(65536)) != "EAGAIN":
            pass
        assert side.wait_for("client 0", lambda ready: not ready & WRITE)
        assert side.call("client 0", "shutdown", socket.SHUT_WR) is None
        assert side.wait_for("client 0", lambda ready: ready & WRITE)
        assert side.call("client 0", "send", b"x") == "EPIPE"


# What the simulation is asked for by programs, and the two sides cannot show together


def world_with(*names: str) -> tuple[World, list[Host]]:
    world = World(Tape(0, frozenset(), {}))
    return world, [world.host(name) for name in names]


def test_connect_raises_what_connect_ex_returns() -> None:
    world, (host,) = world_with("host")
    sock: Any = host.reactor.socket_factory()
    with sock, pytest.raises(BlockingIOError) as caught:
        sock.connect(("10.0.0.1", 6000))
    assert caught.value.errno == errno.EINPROGRESS
    world.finish()


def test_options_are_taken_and_forgotten() -> None:
    world, (host,) = world_with("host")
    sock: Any
    with host.reactor.socket_factory() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
    world.finish()


def test_port_that_somebody_listens_on_is_not_chosen_by_the_system() -> None:
    world, (host,) = world_with("host")
    sockets: list[Any] = [host.reactor.socket_factory() for _ in range(4)]
    sockets[0].bind(("", 0))
    following = sockets[0].getsockname()[1] + 1
    sockets[1].bind(("", following))
    sockets[1].listen()
    sockets[2].bind(("", 0))
    assert sockets[2].getsockname()[1] == following + 1
    for sock in sockets:
        sock.close()
    world.finish()


def test_datagrams_that_nobody_receives_are_lost_when_there_is_no_more_room() -> None:
    world, (host,) = world_with("host")
    one: Any = host.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
    other: Any = host.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
    other.bind(("", 53))
    for number in range(DATAGRAMS_WAITING + 1):
        one.sendto(b"%d" % number, (LOOPBACK, 53))
    received = [other.recv(10) for _ in range(DATAGRAMS_WAITING)]
    assert received == [b"%d" % number for number in range(DATAGRAMS_WAITING)]
    with pytest.raises(BlockingIOError):
        other.recv(10)
    one.close()
    other.close()
    world.finish()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize("is_real", [True, False])
def test_datagram_socket_for_both_families_maps_addresses_of_ipv4(is_real: bool) -> None:
    world, (host,) = world_with("host")
    make = socket.socket if is_real else host.reactor.socket_factory
    both: Any = make(socket.AF_INET6, socket.SOCK_DGRAM)
    one: Any = make(socket.AF_INET, socket.SOCK_DGRAM)
    six: Any = make(socket.AF_INET6, socket.SOCK_DGRAM)
    both.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    for sock, wildcard in ((both, "::"), (one, "0.0.0.0"), (six, "::")):
        sock.bind((wildcard, 0))
        sock.settimeout(10 if is_real else 0)
    port, ports = both.getsockname()[1], [sock.getsockname()[1] for sock in (one, six)]
    one.sendto(b"from IPv4", (LOOPBACK, port))
    six.sendto(b"from IPv6", ("::1", port))
    assert both.recvfrom(100) == (b"from IPv4", ("::ffff:" + LOOPBACK, ports[0], 0, 0))
    assert both.recvfrom(100) == (b"from IPv6", ("::1", ports[1], 0, 0))
    both.sendto(b"to IPv4", ("::ffff:" + LOOPBACK, ports[0]))
    assert one.recvfrom(100) == (b"to IPv4", (LOOPBACK, port))
    one.close()
    both.connect(("::ffff:" + LOOPBACK, ports[0]))
    both.send(b"to nobody")
    with pytest.raises(ConnectionRefusedError):
        both.recv(1)
    six.close()
    both.close()
    world.finish()


def test_datagram_for_another_address_than_the_one_that_is_bound_is_refused() -> None:
    world, (one, other) = world_with("one", "other")
    inside: Any = other.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
    inside.bind((LOOPBACK, 53))
    outside: Any = one.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM)
    outside.connect((other.addresses[socket.AF_INET], 53))
    outside.send(b"x")
    with pytest.raises(ConnectionRefusedError):
        outside.send(b"x")
    inside.close()
    outside.close()
    world.finish()


def test_what_comes_for_a_connection_that_both_sides_have_left_is_dropped() -> None:
    world, (host,) = world_with("host")
    listener: Any = host.reactor.socket_factory()
    listener.listen()
    client: Any = host.reactor.socket_factory()
    client.connect_ex((LOOPBACK, listener.getsockname()[1]))
    server, _ = listener.accept()
    server.endpoint.latency = 0.05
    client.send(b"comes late")
    client.close()
    server.close()
    world.run()
    listener.close()
    assert world.elapsed == pytest.approx(0.05)
    world.finish()


def test_connect_that_is_given_up_by_the_program_is_not_heard_of_again() -> None:
    world = World(Tape(0, ALL, {"client.1": {0: CONNECT.labels.index("connect hangs")}}))
    client, server = world.host("client"), world.host("server")
    sock: Any = client.reactor.socket_factory()
    sock.connect_ex((server.addresses[socket.AF_INET], 6000))
    sock.close()
    world.run(timeout=200)
    assert sock.endpoint.error == 0
    world.finish()


def test_failure_of_a_socket_that_connects_ends_the_attempt() -> None:
    world = World(Tape(0, ALL, {"client.1": {1: GETSOCKOPT.labels.index("getsockopt EINVAL")}}))
    client, server = world.host("client"), world.host("server")
    world.partition("client", "server")
    sock: Any = client.reactor.socket_factory()
    sock.connect_ex((server.addresses[socket.AF_INET], 6000))
    with pytest.raises(OSError, match="Invalid argument"):
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert sock.connect_ex((server.addresses[socket.AF_INET], 6000)) == errno.ECONNRESET
    sock.close()
    world.run(timeout=200)
    world.finish()


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
def test_listener_of_both_families_sees_ipv4_clients_as_mapped() -> None:
    world, (host,) = world_with("host")
    shapes = []
    for make in (socket.socket, host.reactor.socket_factory):
        sockets: list[Any] = [make(socket.AF_INET6, socket.SOCK_STREAM), make(socket.AF_INET, socket.SOCK_STREAM)]
        listener, client = sockets
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.bind(("::", 0))
        listener.listen()
        if make is not socket.socket:
            client.setblocking(False)
        client.connect_ex((LOOPBACK, listener.getsockname()[1]))
        server, address = listener.accept()
        assert address[1] == client.getsockname()[1]
        names = (listener.getsockname(), address, server.getsockname(), server.getpeername(), client.getpeername())
        shapes.append([(*name[:1], *name[2:]) for name in names])
        for sock in (*sockets, server):
            sock.close()
    assert shapes[0] == shapes[1]
    world.finish()


# Listeners


def test_backlog_holds_one_more_than_it_says_and_the_next_one_waits(twins: Twins) -> None:
    listening(twins, backlog=1)
    for name in ("first", "second", "third"):
        twins.add(socket.SOCK_STREAM, name)
        assert twins.call(name, "connect_ex", "listener") == "EINPROGRESS"
    assert [twins.ready(name) for name in ("first", "second", "third")] == [WRITE, WRITE, 0]
    assert twins.call("third", "getpeername") == "ENOTCONN"
    assert twins.call("third", "connect_ex", "listener") == "EALREADY"
    assert twins.call("third", "send", b"x") == "EAGAIN"
    assert twins.call("third", "recv", 1) == "EAGAIN"
    assert twins.call("third", "SO_ERROR") == "none"
    assert twins.call("listener", "accept", "one") == (LOOPBACK, "first")
    assert twins.call("listener", "accept", "two") == (LOOPBACK, "second")


def test_listener_that_closes_resets_who_waits(twins: Twins) -> None:
    listening(twins)
    twins.add(socket.SOCK_STREAM, "talker", "silent one")
    for name in ("talker", "silent one"):
        twins.call(name, "connect_ex", "listener")
    twins.call("talker", "send", b"nobody reads it")
    twins.call("listener", "close")
    assert twins.call("talker", "recv", 1) == "ECONNRESET"
    assert twins.call("silent one", "recv", 1) == "ECONNRESET"


def test_client_that_has_gone_is_accepted_all_the_same(twins: Twins) -> None:
    listening(twins)
    twins.add(socket.SOCK_STREAM, "client")
    twins.call("client", "connect_ex", "listener")
    twins.call("client", "send", b"its last words")
    twins.call("client", "close")
    assert twins.call("listener", "accept", "server") == (LOOPBACK, "client")
    assert twins.call("server", "recv", 100) == b"its last words"
    assert twins.call("server", "recv", 100) == b""


def test_sockets_take_addresses_as_the_kernel_gives_them(twins: Twins) -> None:
    listening(twins)
    twins.add(socket.SOCK_STREAM, "other", "wild")
    assert twins.call("other", "getsockname") == ("0.0.0.0", "its own port")
    assert twins.call("other", "bind", "listener") == "EADDRINUSE"
    assert twins.call("other", "bind", ("192.0.2.1", 0)) == "EADDRNOTAVAIL"
    assert twins.call("other", "bind", NOBODY) is None
    assert twins.call("other", "bind", NOBODY) == "EINVAL"
    assert twins.call("other", "getsockname") == (LOOPBACK, "its own port")
    assert twins.call("other", "listen") is None
    assert twins.call("other", "listen", 3) is None
    assert twins.call("wild", "listen") is None
    assert twins.call("wild", "getsockname") == ("0.0.0.0", "its own port")
    twins.add(socket.SOCK_STREAM, "client")
    assert twins.call("client", "bind", ("0.0.0.0", 0)) is None
    assert twins.call("client", "getsockname") == ("0.0.0.0", "its own port")
    assert twins.call("client", "connect_ex", "wild") == "EINPROGRESS"
    assert twins.call("client", "getsockname") == (LOOPBACK, "its own port")
    assert twins.call("wild", "accept", "server") == (LOOPBACK, "client")
    assert twins.call("server", "getsockname") == (LOOPBACK, "its own port")
    assert twins.call("server", "connect_ex", "wild") == "EISCONN"
    assert twins.call("server", "bind", NOBODY) == "EINVAL"
    assert twins.call("server", "listen") == "EINVAL"


def test_port_is_shared_until_somebody_listens_on_it(twins: Twins) -> None:
    twins.add(socket.SOCK_STREAM, "first", "second")
    for name in ("first", "second"):
        twins.call(name, "setsockopt", socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    twins.call("first", "bind", NOBODY)
    assert twins.call("second", "bind", "first") is None
    assert twins.call("first", "listen") is None
    assert twins.call("second", "listen") == "EADDRINUSE"
    twins.call("first", "close")
    assert twins.call("second", "listen") is None


def test_ports_that_the_system_chooses_differ(twins: Twins) -> None:
    twins.add(socket.SOCK_STREAM, *"abcd")
    for name in "abcd":
        twins.call(name, "bind", NOBODY)
    for side in (twins.real, twins.simulated):
        assert len(set(side.ports.values())) == 4
        assert all(1024 < port < 65536 for port in side.ports.values())


def test_accept_without_a_free_descriptor_fails_even_if_nobody_waits(twins: Twins) -> None:
    listening(twins)
    twins.simulated.host.descriptors = len(twins.simulated.host.table)
    with no_descriptor_left():
        assert twins.real.call("listener", "accept", "nobody") == "EMFILE"
    assert twins.simulated.call("listener", "accept", "nobody") == "EMFILE"


# Datagrams


@settings(steady, max_examples=120)
@given(st.lists(calls_on_datagrams, max_size=30))
def test_calls_on_datagrams_end_as_they_do_on_real_ones(calls: list[Call]) -> None:
    with Twins() as twins:
        datagram_sockets(twins)
        for call in calls:
            if call[0] in twins:
                twins.call(*call)


def test_datagram_that_nobody_hears_is_an_error_for_a_connected_socket_alone(twins: Twins) -> None:
    datagram_sockets(twins)
    twins.call("three", "connect_ex", "two")  # so that it hears nobody else
    twins.call("one", "sendto", b"x", "three")
    assert twins.call("one", "recv", 1) == "EAGAIN"
    twins.call("one", "connect_ex", "three")
    for argument in (("SO_ERROR",), ("recv", 1), ("send", b"y")):
        twins.call("one", "send", b"x")
        assert twins.ready("one") == READ | WRITE
        assert twins.call("one", *argument) == "ECONNREFUSED"
    assert twins.call("one", "recv", 1) == "EAGAIN"
    twins.call("one", "connect_ex", "two")
    twins.call("one", "sendto", b"to somebody else", "three")
    assert twins.call("one", "recv", 1) == "EAGAIN"


def test_datagrams_are_taken_whole_or_cut_and_may_be_empty(twins: Twins) -> None:
    datagram_sockets(twins)
    twins.call("one", "sendto", b"", "two")
    assert twins.ready("two") == READ | WRITE
    assert twins.call("two", "recvfrom", 100) == (b"", (LOOPBACK, "one"))
    twins.call("one", "sendto", b"four", "two")
    assert twins.call("two", "recvmsg", 3) == (b"fou", [], socket.MSG_TRUNC, (LOOPBACK, "one"))
    twins.call("one", "sendto", b"four", "two")
    assert twins.call("two", "recvmsg", 4) == (b"four", [], 0, (LOOPBACK, "one"))
    assert twins.call("two", "recvmsg", 4) == "EAGAIN"


def test_datagram_has_a_largest_size(twins: Twins) -> None:
    datagram_sockets(twins)
    assert twins.call("one", "sendto", bytes(65507), "two") == 65507
    assert twins.call("two", "recv", 100_000) == bytes(65507)
    assert twins.call("one", "sendto", bytes(65508), "two") == "EMSGSIZE"
    assert twins.call("one", "sendto", bytes(70000), "two") == "EMSGSIZE"
    assert twins.call("one", "send", bytes(10)) == "EDESTADDRREQ"


def test_port_of_a_datagram_socket_is_taken(twins: Twins) -> None:
    datagram_sockets(twins)
    assert twins.call("unbound", "bind", "one") == "EADDRINUSE"
    assert twins.call("unbound", "bind", ("192.0.2.1", 0)) == "EADDRNOTAVAIL"
    twins.call("one", "close")
    assert twins.call("unbound", "bind", "one") is None
    assert twins.call("unbound", "bind", NOBODY) == "EINVAL"


def test_datagram_socket_is_no_stream(twins: Twins) -> None:
    datagram_sockets(twins)
    assert twins.call("one", "listen") == "ENOTSUP"
    assert twins.call("one", "accept", "nobody") == "ENOTSUP"
    assert twins.call("one", "getpeername") == "ENOTCONN"
