"""Each fault does what its name says, is injected by simulations, and is harmless if it is called so."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor.eventloop import READ, WRITE
from reactor.simulation import ALL, HARMLESS, Host, World, simulate, torture
from reactor.simulation import faults as catalogue
from reactor.simulation.faults import CALLS, KIND_BITS, PARAMETERS, Call
from reactor.simulation.hosts import LONGEST_HANDLER
from reactor.simulation.network import BUFFER, KERNEL_TIMEOUT, LONGEST_DELAY
from reactor.simulation.sockets import LONGEST_CALL
from reactor.simulation.substitutes import SimulatedSelector
from reactor.simulation.tape import Tape
from tests.conftest import KEY

MOST = PARAMETERS - 1
TRIED: set[str] = set()
"""The faults that some test of this file tries."""


def faults_of(call: Call, names: Iterable[str] | None = None, *, breaks: bool | None = None) -> list[str]:
    """Return faults of a call as `ALL` names them: those with these names, or all that break something, or all others.

    Whoever asks for them has a test for each.
    """
    found = [
        f"{call.name} {fault.name}"
        for fault in call.faults
        if fault is not None
        and (names is None or fault.name in names)
        and (breaks is None or (fault.breaks is breaks and fault.number))
    ]
    TRIED.update(found)
    return found


def with_fault(label: str, scenario: Callable[[World], Any], parameter: int = 0) -> Any:
    """Return what `scenario` returns if nothing goes wrong in it but the first call that can fail so: by this fault."""
    call = next(call for call in CALLS if label in call.labels)
    log: list[tuple[str, int, Call]] = []
    run(scenario, {}, log)
    stream, number, _ = next(entry for entry in log if entry[2] is call)
    value = call.labels.index(label) | parameter << KIND_BITS
    result, world = run(scenario, {stream: {number: value}})
    assert world.faults == {label: 1}
    return result


def run(scenario: Callable[[World], Any], draws: Any, log: Any = None) -> tuple[Any, World]:
    world = World(Tape(0, ALL, draws, log))
    with world.in_charge():
        try:
            return scenario(world), world
        finally:
            world.abandon()


def attempt(function: Callable[..., Any], *args: Any) -> Any:
    """Return what `function` returns, or the name of the error."""
    try:
        return function(*args)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def make_socket(host: Host, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> Any:
    return host.reactor.socket_factory(family, kind)


def listening_socket(world: World, port: int = 6000) -> Any:
    with world.tape.calm():
        listener = make_socket(world.host("server"))
        listener.bind(("", port))
        listener.listen(10)
    return listener


def connection(world: World, port: int = 6000) -> tuple[Any, Any]:
    """Return a client's and a server's socket, which are connected; nothing has gone wrong so far."""
    listener = listening_socket(world, port)
    with world.tape.calm():
        client = make_socket(world.host("client"))
        assert client.connect_ex(address_of(world, port=port)) == errno.EINPROGRESS
        server, _ = listener.accept()
        listener.close()
    return client, server


def address_of(world: World, name: str = "server", port: int = 6000) -> tuple[str, int]:
    return world.host(name).addresses[socket.AF_INET], port


def send_file(world: World, sock: Any) -> Any:
    """Send the ten bytes of a file, from kernel to kernel."""
    source = os.memfd_create("ten bytes")
    try:
        os.write(source, b"0123456789")
        sendfile = world.host("client").reactor.sendfile
        assert sendfile is not None
        return attempt(sendfile, sock.fileno(), source, 0, 10)
    finally:
        os.close(source)


SENDING: dict[str, Callable[[World, Any], Any]] = {
    "send": lambda world, sock: attempt(sock.send, b"0123456789"),
    "sendmsg": lambda world, sock: attempt(sock.sendmsg, [b"01234", b"56789"]),
    "sendfile": send_file,
}
RECEIVING: dict[str, Callable[[Any], Any]] = {
    "recv": lambda sock: attempt(sock.recv, 100),
    "recvfrom": lambda sock: first_of(attempt(sock.recvfrom, 100)),
    "recvmsg": lambda sock: first_of(attempt(sock.recvmsg, 100)),
}


def sending_faults(names: Iterable[str] | None = None, *, breaks: bool | None = None) -> list[tuple[str, str]]:
    """Return faults of all calls that send, as `faults_of` does, each with the name of a call."""
    return [
        (label, how)
        for how in SENDING
        for label in faults_of(catalogue.SENDFILE if how == "sendfile" else catalogue.SEND, names, breaks=breaks)
    ]


def first_of(outcome: Any) -> Any:
    return outcome[0] if isinstance(outcome, tuple) else outcome


# Data


@pytest.mark.parametrize("how", RECEIVING)
@pytest.mark.parametrize("label", faults_of(catalogue.RECEIVE, breaks=True))
def test_receive_that_fails_breaks_the_connection(label: str, how: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        server.send(b"0123456789")
        return RECEIVING[how](client), RECEIVING[how](client), attempt(server.recv, 1)

    assert with_fault(label, scenario) == (label.split()[1], b"", "ECONNRESET")


@pytest.mark.parametrize(("label", "how"), sending_faults(breaks=True))
def test_send_that_fails_breaks_the_connection(label: str, how: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        return SENDING[how](world, client), SENDING[how](world, client), attempt(server.recv, 1)

    assert with_fault(label, scenario) == (label.split()[1], "EPIPE", "ECONNRESET")


@pytest.mark.parametrize("label", faults_of(catalogue.RECEIVE, ["EAGAIN", "EINTR"]))
def test_receive_that_is_put_off_loses_nothing(label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        server.send(b"0123456789")
        return attempt(client.recv, 100), attempt(client.recv, 100)

    assert with_fault(label, scenario) == (label.split()[1], b"0123456789")


@pytest.mark.parametrize(("label", "how"), sending_faults(breaks=False))
def test_send_that_is_put_off_sends_nothing(label: str, how: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        first = SENDING[how](world, client), attempt(server.recv, 100)
        return *first, SENDING[how](world, client), attempt(server.recv, 100)

    assert with_fault(label, scenario) == (label.split()[1], "EAGAIN", 10, b"0123456789")


@pytest.mark.parametrize("label", faults_of(catalogue.RECEIVE, ["short"]))
def test_short_receive_takes_a_part_of_what_is_there(label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        server.send(b"0123456789")
        return attempt(client.recv, 100), attempt(client.recv, 100)

    assert with_fault(label, scenario) == (b"0", b"123456789")
    assert with_fault(label, scenario, 3 << 3) == (b"0123", b"456789")
    assert with_fault(label, scenario, 4 << 3 | 1) == (b"012", b"3456789")


@pytest.mark.parametrize(("label", "how"), sending_faults(["short"]))
def test_short_send_takes_a_part_of_what_is_given(label: str, how: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        return SENDING[how](world, client), server.recv(100)

    assert with_fault(label, scenario) == (1, b"0")


@pytest.mark.parametrize(
    ("label", "how"),
    [*sending_faults(["slow call"]), *((label, "send") for label in faults_of(catalogue.RECEIVE, ["slow call"]))],
)
def test_slow_call_does_all_and_takes_its_time(label: str, how: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        sent = SENDING[how](world, client)
        return sent, server.recv(100), world.elapsed

    sent, received, took = with_fault(label, scenario, MOST)
    assert (sent, received) == (10, b"0123456789")
    assert took == pytest.approx(LONGEST_CALL, rel=0.01)


def test_datagram_is_never_received_in_part_by_a_short_receive() -> None:
    def scenario(world: World) -> Any:
        one, other = datagram_pair(world)
        one.send(b"0123456789")
        return other.recvmsg(100)[0]

    assert with_fault("recv short", scenario) == b"0123456789"


# Accepting


def one_who_waits(world: World) -> tuple[Any, Any]:
    """Return a listener, and a client's socket that waits to be accepted."""
    listener = listening_socket(world)
    with world.tape.calm():
        client = make_socket(world.host("client"))
        client.connect_ex(address_of(world))
    return listener, client


def accept(listener: Any) -> Any:
    """Return the socket of whoever is accepted, or the name of the error."""
    return first_of(attempt(listener.accept))


@pytest.mark.parametrize("label", faults_of(catalogue.ACCEPT, breaks=False))
def test_accept_that_is_put_off_leaves_the_peer_where_it_is(label: str) -> None:
    def scenario(world: World) -> Any:
        listener, client = one_who_waits(world)
        first, server = accept(listener), accept(listener)
        return first, server if isinstance(server, str) else (client.send(b"x"), server.recv(1))

    assert with_fault(label, scenario) == (label.split()[1], (1, b"x"))


@pytest.mark.parametrize("label", faults_of(catalogue.ACCEPT, breaks=True))
def test_accept_that_fails_is_about_the_peer_that_is_gone(label: str) -> None:
    def scenario(world: World) -> Any:
        listener, client = one_who_waits(world)
        return accept(listener), accept(listener), attempt(client.send, b"x"), attempt(client.recv, 1)

    outcome = with_fault(label, scenario)
    assert outcome == (label.split()[1].replace("EOPNOTSUPP", "ENOTSUP"), "EAGAIN", 1, b"")


@pytest.mark.parametrize("label", faults_of(catalogue.ACCEPT, ["gone"]))
def test_peer_may_be_gone_when_it_has_been_accepted(label: str) -> None:
    def scenario(world: World) -> Any:
        listener, client = one_who_waits(world)
        server = accept(listener)
        return attempt(server.getpeername), attempt(client.recv, 1)

    assert with_fault(label, scenario) == ("ENOTCONN", "ECONNRESET")


# Connecting


@pytest.mark.parametrize("label", faults_of(catalogue.SOCKET, breaks=True))
def test_socket_cannot_be_made(label: str) -> None:
    def scenario(world: World) -> Any:
        host = world.host("client")
        before = dict(host.table)
        return attempt(make_socket, host), host.table == before

    assert with_fault(label, scenario) == (label.split()[1], True)


def connecting(world: World) -> Any:
    listening_socket(world)
    return make_socket(world.host("client"))


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, breaks=True))
def test_connect_fails_at_once_or_later(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = connecting(world)
        number = sock.connect_ex(address_of(world))
        world.run()
        outcome = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), attempt(sock.getpeername)
        return errno.errorcode[number], errno.errorcode.get(outcome[0]), outcome[1]

    error = label.split()[1]
    assert with_fault(label, scenario, 0) == ("EINPROGRESS", error, "ENOTCONN")
    assert with_fault(label, scenario, 1) == (error, None, "ENOTCONN")


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, ["EINTR"]))
def test_connect_that_is_interrupted_goes_on_by_itself(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = connecting(world)
        return sock.connect_ex(address_of(world)), attempt(sock.getpeername) == address_of(world)

    assert with_fault(label, scenario) == (errno.EINTR, True)


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, ["at once"]))
def test_connect_has_its_result_at_once(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = connecting(world)
        return sock.connect_ex(address_of(world)), attempt(sock.getpeername) == address_of(world)

    def refused(world: World) -> Any:
        sock = connecting(world)
        return sock.connect_ex(address_of(world, port=6001)), sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    def unanswered(world: World) -> Any:
        sock = connecting(world)
        number = sock.connect_ex(("10.0.0.99", 6000))
        world.run(timeout=200)
        return number, sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)

    assert with_fault(label, scenario) == (0, True)
    assert with_fault(label, refused) == (errno.ECONNREFUSED, 0)
    assert with_fault(label, unanswered) == (errno.EINPROGRESS, errno.ETIMEDOUT)


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, ["late"]))
def test_connect_may_take_a_moment(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = connecting(world)
        number = sock.connect_ex(address_of(world))
        before = attempt(sock.getpeername)
        world.run()
        return number, before, attempt(sock.getpeername) == address_of(world), world.elapsed

    *outcome, took = with_fault(label, scenario, MOST)
    assert outcome == [errno.EINPROGRESS, "ENOTCONN", True]
    assert took == pytest.approx(LONGEST_DELAY, rel=0.01)


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, ["hangs"]))
def test_connect_that_hangs_ends_when_the_kernel_gives_it_up(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = connecting(world)
        number = sock.connect_ex(address_of(world))
        world.run(timeout=KERNEL_TIMEOUT - 1)
        before = attempt(sock.recv, 1)
        world.run(timeout=2)
        return number, before, attempt(sock.recv, 1)

    assert with_fault(label, scenario) == (errno.EINPROGRESS, "EAGAIN", "ETIMEDOUT")


# Other calls

CALLING: dict[Call, Callable[[Any], Any]] = {
    catalogue.SHUTDOWN: lambda sock: sock.shutdown(socket.SHUT_WR),
    catalogue.SETSOCKOPT: lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    catalogue.GETSOCKOPT: lambda sock: sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR),
    catalogue.GETPEERNAME: lambda sock: sock.getpeername(),
    catalogue.GETSOCKNAME: lambda sock: sock.getsockname(),
}


@pytest.mark.parametrize(
    ("call", "label"), [(call, label) for call in CALLING for label in faults_of(call, breaks=True)]
)
def test_call_that_fails_finds_the_connection_broken(call: Call, label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        return attempt(CALLING[call], client), attempt(client.recv, 1), attempt(server.recv, 1)

    assert with_fault(label, scenario) == (label.split()[1], "ECONNRESET", "ECONNRESET")


@pytest.mark.parametrize("label", faults_of(catalogue.BIND, breaks=True) + faults_of(catalogue.LISTEN, breaks=True))
def test_socket_cannot_be_bound_or_does_not_listen(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = make_socket(world.host("server"))
        outcomes = attempt(sock.bind, ("", 6000)), attempt(sock.listen)
        return outcomes[label.startswith("listen")], world.host("server").is_taken(socket.AF_INET, 6000)

    assert with_fault(label, scenario) == (label.split()[1].replace("EOPNOTSUPP", "ENOTSUP"), False)


@pytest.mark.parametrize("label", faults_of(catalogue.CLOSE, breaks=False))
def test_close_that_fails_has_given_the_descriptor_back(label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        number = client.fileno()
        return attempt(client.close), number in world.host("client").table, server.recv(1), attempt(client.close)

    assert with_fault(label, scenario) == (label.split()[1], False, b"", None)


# The selector


def events_of(world: World, *sockets: Any) -> list[Any]:
    """Return the sockets of the client for which a select has an event, in its order."""
    return [key.data for key, _ in world.host("client").collect()]


def registered(world: World, count: int = 3) -> list[str]:
    """Register datagram sockets: the first one waits in vain to read, all others are writable."""
    host = world.host("client")
    selector = SimulatedSelector(host)
    with world.tape.calm():
        selector.register(make_socket(host, socket.SOCK_DGRAM), READ, "silent")
        for number in range(count):
            selector.register(make_socket(host, socket.SOCK_DGRAM), WRITE, f"socket {number}")
    return [key.data for key, _ in host.collect()]


@pytest.mark.parametrize("label", faults_of(catalogue.SELECT, ["shuffled"]))
def test_events_come_in_another_order(label: str) -> None:
    assert with_fault(label, registered, 1) == ["socket 1", "socket 2", "socket 0"]
    assert with_fault(label, registered, 512) == ["socket 1", "socket 0", "socket 2"]


@pytest.mark.parametrize("label", faults_of(catalogue.SELECT, ["some unseen"]))
def test_some_events_are_not_seen_yet(label: str) -> None:
    assert with_fault(label, registered, 0) == []
    assert with_fault(label, registered, 2) == ["socket 0", "socket 1"]


@pytest.mark.parametrize("label", faults_of(catalogue.SELECT, ["EINTR"]))
def test_select_that_is_interrupted_has_no_events(label: str) -> None:
    assert with_fault(label, registered, 2) == []


@pytest.mark.parametrize("label", faults_of(catalogue.SELECT, ["spurious"]))
def test_event_comes_for_nothing(label: str) -> None:
    def scenario(world: World) -> Any:
        host = world.host("client")
        with world.tape.calm():
            for number in range(2):
                host.reactor._selector.register(make_socket(host, socket.SOCK_DGRAM), READ, f"silent {number}")
        return [(key.data, mask) for key, mask in host.collect()]

    assert with_fault(label, scenario, 0) == [("silent 0", READ)]
    assert with_fault(label, scenario, 1) == [("silent 1", READ)]


@pytest.mark.parametrize("label", faults_of(catalogue.REGISTER, breaks=True) + faults_of(catalogue.MODIFY, breaks=True))
def test_selector_refuses(label: str) -> None:
    def scenario(world: World) -> Any:
        host = world.host("client")
        with world.tape.calm():
            sock = make_socket(host, socket.SOCK_DGRAM)
        selector = SimulatedSelector(host)
        first = attempt(selector.register, sock, READ)
        if isinstance(first, str):
            return first, sock.endpoint.key is None
        return attempt(selector.modify, sock, WRITE), sock.endpoint.key == first

    assert with_fault(label, scenario) == (label.split()[1], True)


# Names, threads and handlers


def resolve(world: World) -> Any:
    world.host("server")
    before = world.now
    try:
        found = world.host("client").reactor.resolver("server", 80)
    except socket.gaierror as error:
        return error.errno, world.now - before
    return [entry[4][0] for entry in found], world.now - before


def test_name_has_one_address_if_all_is_well() -> None:
    assert run(resolve, {})[0] == (["10.0.0.1"], 0.0)


@pytest.mark.parametrize("label", faults_of(catalogue.RESOLVE, ["IPv6 first", "IPv6 behind", "no name"]))
def test_name_has_other_addresses_or_none(label: str) -> None:
    expected = {
        "resolve IPv6 first": ["fd00::1", "10.0.0.1"],
        "resolve IPv6 behind": ["10.0.0.1", "fd00::1"],
        "resolve no name": socket.EAI_AGAIN,
    }
    assert with_fault(label, resolve) == (expected[label], 0.0)


@pytest.mark.parametrize("label", faults_of(catalogue.RESOLVE, ["late", "very late"]))
def test_name_is_known_late(label: str) -> None:
    found, took = with_fault(label, resolve, MOST)
    assert found == ["10.0.0.1"]
    assert took == pytest.approx(MOST / 8 if "very" in label else LONGEST_DELAY, rel=0.01)


@pytest.mark.parametrize("label", faults_of(catalogue.THREAD, ["late"]))
def test_thread_comes_late(label: str) -> None:
    def scenario(world: World) -> Any:
        results: list[Any] = []
        world.host("client").reactor.run_in_thread(pow, 3, 5, on_result=results.append)
        world.run()
        return results, world.elapsed

    results, took = with_fault(label, scenario, MOST)
    assert results == [243]
    assert took == pytest.approx(LONGEST_DELAY, rel=0.01)


@pytest.mark.parametrize("label", faults_of(catalogue.HANDLER, ["slow handler"]))
def test_clock_runs_on_while_a_handler_runs(label: str) -> None:
    def scenario(world: World) -> Any:
        times = []

        class Client(reactor.Stream):
            def handle_open(self) -> None:
                times.append((self.reactor.clock() - world.now, world.elapsed))
                self.close()

        world.listen(("server", 6000), reactor.Stream)
        world.connect(("server", 6000), Client)
        world.run()
        return times

    ((difference, took),) = with_fault(label, scenario, MOST)
    assert difference == 0
    assert took == pytest.approx(LONGEST_HANDLER, rel=0.01)


# The network


def link(world: World) -> Any:
    """Connect, send much, and return how much of it was taken, and when it came."""
    listener = listening_socket(world)
    sock = make_socket(world.host("client"))
    sock.connect_ex(address_of(world))
    world.run()
    server, _ = listener.accept()
    before = world.now
    taken = server.send(bytes(1_000_000))
    at_once = len(sock.endpoint.inbox)
    world.run()
    return taken, at_once, len(sock.endpoint.inbox), world.now - before


@pytest.mark.parametrize("label", faults_of(catalogue.LINK, ["small buffers", "tiny buffers"]))
def test_buffers_are_small(label: str) -> None:
    smallest = 64 if "small" in label else 1
    assert with_fault(label, link) == (smallest, smallest, smallest, 0.0)
    taken, *_ = with_fault(label, link, MOST)
    assert taken == (64 + 4 * MOST if "small" in label else 16)


def test_small_buffers_grow_with_what_has_passed() -> None:
    def scenario(world: World) -> Any:
        listener = listening_socket(world)
        client = make_socket(world.host("client"))
        client.connect_ex(address_of(world))
        server, _ = listener.accept()
        sizes = []
        for _ in range(100):
            sizes.append(attempt(server.send, bytes(1_000_000)))
            client.recv(1_000_000)
        return sizes

    sizes = with_fault("link tiny buffers", scenario)
    assert sizes[0] == 1
    assert sizes == sorted(sizes)
    assert sizes[-1] == BUFFER


@pytest.mark.parametrize("label", faults_of(catalogue.LINK, ["late"]))
def test_everything_comes_a_moment_late(label: str) -> None:
    taken, at_once, later, took = with_fault(label, link, MOST)
    assert (taken, at_once, later) == (BUFFER, 0, BUFFER)
    assert took == pytest.approx(LONGEST_DELAY / 2, rel=0.01)


@pytest.mark.parametrize("label", faults_of(catalogue.SEGMENT, ["late", "very late"]))
def test_what_comes_late_holds_up_what_was_sent_behind_it(label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        client.send(b"first, ")
        client.send(b"second")
        at_once = attempt(server.recv, 100)
        world.run(timeout=1000)
        return at_once, attempt(server.recv, 100), world.elapsed

    at_once, received, took = with_fault(label, scenario, MOST)
    assert (at_once, received) == ("EAGAIN", b"first, second")
    assert took == pytest.approx(MOST / 8 if "very" in label else LONGEST_DELAY, rel=0.01)


def test_harmless_delays_of_one_direction_add_up_to_half_a_second_and_no_more() -> None:
    def scenario(world: World) -> float:
        client, server = connection(world)
        for _ in range(100):
            client.send(b"x")
            world.run()
            assert server.recv(100) == b"x"
        return world.elapsed

    late = catalogue.SEGMENT.labels.index("segment late") | MOST << KIND_BITS
    log: list[tuple[str, int, Call]] = []
    run(scenario, {}, log)
    draws: dict[str, dict[int, int]] = {}
    for name, number, call in log:
        if call is catalogue.SEGMENT:
            draws.setdefault(name, {})[number] = late
    took, world = run(scenario, draws)
    assert world.faults == {"segment late": 100}
    assert took == pytest.approx(0.5)


@pytest.mark.parametrize("label", faults_of(catalogue.RESET, ["unread input is lost"]))
def test_reset_may_destroy_input_that_was_not_read(label: str) -> None:
    def scenario(world: World) -> Any:
        client, server = connection(world)
        client.send(b"unread")
        server.send(b"unread too")
        server.close()
        return attempt(client.recv, 100)

    assert run(scenario, {})[0] == b"unread too"
    assert with_fault(label, scenario) == "ECONNRESET"


def datagram_pair(world: World) -> tuple[Any, Any]:
    """Return two datagram sockets of two hosts; the first one is connected to the other."""
    with world.tape.calm():
        one, other = (make_socket(world.host(name), socket.SOCK_DGRAM) for name in ("one", "two"))
        other.bind(("", 53))
        one.connect(address_of(world, "two", 53))
    return one, other


def three_datagrams(world: World) -> Any:
    one, other = datagram_pair(world)
    for data in (b"first", b"second", b"third"):
        one.send(data)
    world.run()
    received = []
    while (outcome := attempt(other.recv, 100)) != "EAGAIN":
        received.append(outcome)
    return received


@pytest.mark.parametrize(
    ("label", "received"),
    [
        (faults_of(catalogue.DATAGRAM, ["lost"])[0], [b"second", b"third"]),
        (faults_of(catalogue.DATAGRAM, ["twice"])[0], [b"first", b"first", b"second", b"third"]),
        (faults_of(catalogue.DATAGRAM, ["overtaken"])[0], [b"second", b"third", b"first"]),
    ],
)
def test_datagrams_are_lost_doubled_and_overtaken(label: str, received: list[bytes]) -> None:
    assert run(three_datagrams, {})[0] == [b"first", b"second", b"third"]
    assert with_fault(label, three_datagrams, MOST) == received


@pytest.mark.parametrize("label", faults_of(catalogue.ICMP))
@pytest.mark.parametrize("call", ["send", "recv"])
def test_icmp_message_comes_back_in_place_of_a_datagram_and_is_told_once(label: str, call: str) -> None:
    def scenario(world: World) -> Any:
        one, other = datagram_pair(world)
        one.send(b"lost")
        told = attempt(one.send, b"not sent") if call == "send" else attempt(one.recv, 100)
        one.send(b"sent")
        return told, attempt(other.recv, 100), attempt(other.recv, 100)

    assert with_fault(label, scenario) == (label.split()[1], b"sent", "EAGAIN")


@pytest.mark.parametrize("label", faults_of(catalogue.CONNECT, breaks=True))
def test_datagram_socket_has_no_way_to_its_peer(label: str) -> None:
    def scenario(world: World) -> Any:
        sock = make_socket(world.host("client"), socket.SOCK_DGRAM)
        return attempt(sock.connect, address_of(world)), attempt(sock.getpeername), attempt(sock.send, b"to nobody")

    assert with_fault(label, scenario) == (label.split()[1], "ENOTCONN", "EDESTADDRREQ")


# The world


@pytest.mark.parametrize("label", faults_of(catalogue.SCHEDULE, ["other host first"]))
def test_other_host_runs_first(label: str) -> None:
    def scenario(world: World) -> Any:
        order: list[str] = []
        for name in ("one", "two", "three"):
            world.host(name).reactor.call_soon(order.append, name)
        world.run()
        return order

    assert with_fault(label, scenario) == ["two", "three", "one"]
    assert with_fault(label, scenario, 1) == ["three", "one", "two"]


def weather(world: World) -> Any:
    """Return what is to be seen of two hosts after one second and a half, and after half a minute."""
    boots: list[str] = []
    for name in ("one", "two"):
        world.host(name, lambda host: boots.append(host.name))
    hosts = world.host("one"), world.host("two")
    clock = world.host("clock")
    seen = []

    def look() -> None:
        seen.append((world.is_cut(*hosts), [(host.is_up, host.has_power) for host in hosts], list(boots)))

    clock.reactor.call_every(0.5, lambda: None)
    world.call_later(1.25, look)
    world.call_later(30, look)
    world.run(until=lambda: len(seen) == 2)
    return seen


@pytest.mark.parametrize(
    ("label", "parameter", "then"),
    [
        (faults_of(catalogue.WEATHER, ["partition"])[0], 1020, (True, [(True, True)] * 2, ["one", "two"])),
        (faults_of(catalogue.WEATHER, ["kill"])[0], 513, (False, [(True, True), (False, True)], ["one", "two"])),
        (faults_of(catalogue.WEATHER, ["power cut"])[0], 512, (False, [(False, False), (True, True)], ["one", "two"])),
    ],
)
def test_outage_comes_and_goes(label: str, parameter: int, then: Any) -> None:
    restarted = {"kill": ["two"], "power cut": ["one"]}.get(label.removeprefix("weather "), [])
    first, second = with_fault(label, weather, parameter)
    assert first == then
    assert second == (False, [(True, True)] * 2, ["one", "two", *restarted])


# All of them


def test_call_is_shown_with_its_name() -> None:
    assert repr(catalogue.RECEIVE) == "<Call recv>"


def test_every_fault_is_tried_by_some_test_of_this_file() -> None:
    assert TRIED == ALL


BULK = bytes(range(256)) * 2000
NUMBERS = [b"%d" % number for number in range(50)]


class Server(reactor.Connection):
    """Sends a file, many small frames and a large one, and what a thread has computed."""

    codec = "json"

    def handle_message(self, message: Any) -> None:
        if message == "thread":
            self.reactor.run_in_thread(pow, 2, 3, on_result=self.send)
            return
        self.push(open(__file__, "rb"))
        self.push(iter(NUMBERS))
        self.send_bytes(BULK)


class Client(reactor.Connection):
    """Asks for everything, and closes when it has it."""

    codec = "json"

    def __init__(self, complete: list[list[bytes]]) -> None:
        self.complete = complete
        self.frames: list[bytes] = []

    def handle_open(self) -> None:
        self.send("data")

    def handle_frame(self, data: bytes) -> None:
        self.frames.append(data)
        if len(self.frames) == 2 + len(NUMBERS):
            self.send("thread")
        elif len(self.frames) == 3 + len(NUMBERS):
            self.complete.append(self.frames)
            self.close_when_done()


EXPECTED = [Path(__file__).read_bytes(), *NUMBERS, BULK, b"8"]


def everything(world: World) -> list[list[bytes]]:
    """Make every call that can go wrong; return what the client got, for each connection that got all."""
    complete: list[list[bytes]] = []

    def serve(host: Host) -> None:
        host.listen(6000, Server, authkey=KEY)

    def ask(host: Host) -> None:
        host.connect(("server", 6000), lambda: Client(complete), authkey=KEY, reconnect=reactor.Backoff(maximum=1.0))

    def listen_for_a_moment() -> None:
        with contextlib.suppress(OSError):
            reactor.Listener(("", 6001), reactor.Stream).close()

    world.host("server", serve)
    client = world.host("client", ask)
    for number in range(10):
        client.reactor.call_later(number, listen_for_a_moment)
    exchange_datagrams(world)
    lose_unread_input(world)
    return complete


def exchange_datagrams(world: World) -> None:
    """Send datagrams from host to host, as well as that goes."""
    one, other = datagram_pair(world)
    for _ in range(10):
        attempt(one.send, b"datagram")
    attempt(other.recv, 100)
    for sock in (one, other):
        attempt(sock.close)


def lose_unread_input(world: World) -> None:
    """Reset a connection while both sides have something to read, as well as that goes."""
    client, server = connection(world, 7000)
    attempt(client.send, b"unread")
    attempt(server.send, b"unread too")
    for sock in (server, client):
        attempt(sock.close)


def strict(world: World) -> None:
    complete = everything(world)
    world.run(until=lambda: complete, timeout=60)
    assert complete == [EXPECTED]


def tolerant(world: World) -> None:
    complete = everything(world)
    world.run(timeout=15)
    assert all(frames == EXPECTED for frames in complete)


def listener_without_a_name(world: World) -> None:
    world.host("server").reactor.call_soon(attempt, reactor.Listener, ("", 6000), reactor.Stream)
    world.run()


@pytest.mark.parametrize("label", sorted(HARMLESS))
def test_harmless_fault_is_injected_and_does_no_harm(label: str) -> None:
    injected = 0
    for seed in range(100):
        injected += simulate(strict, [seed], faults={label}).faults[label]
        if seed >= 3 and injected:
            return
    pytest.fail(f"{label} was never injected")


@pytest.mark.parametrize("label", sorted(ALL - HARMLESS))
def test_fault_that_breaks_something_is_injected_and_survived(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reactor.simulation.tape.HARMLESS_WEIGHT", 1)  # else one would have to wait for long
    for seed in range(100):
        if simulate(tolerant, [seed], faults={label}).faults[label]:
            return
    pytest.fail(f"{label} was never injected")


def test_listener_whose_own_address_cannot_be_had_gives_its_socket_back() -> None:
    torture(listener_without_a_name, only=lambda call: call == "getsockname")
