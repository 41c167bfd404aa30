"""Hosts: descriptors, programs that end and start again, names, threads, and loops of their own."""

from __future__ import annotations

import errno
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import LocalError
from reactor.simulation import ALL, Host, Violation, World, simulate
from reactor.simulation.faults import KIND_BITS, WEATHER
from reactor.simulation.hosts import FIRST_DESCRIPTOR
from reactor.simulation.network import KEEPALIVE, RETRANSMISSION_TIMEOUT
from reactor.simulation.running import Outcome, run_once
from tests.conftest import KEY


def check(scenario: Callable[[World], Any], seeds: int = 0, **options: Any) -> Outcome:
    """Run a scenario while nothing goes wrong outside of it, then with so many seeds; return the first outcome."""
    outcome = run_once(scenario, draws={}, tracing=True)
    if outcome.failure is not None:
        raise outcome.failure
    if seeds:
        simulate(scenario, seeds, **options)
    return outcome


class Echo(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Recorder(reactor.Stream):
    """Writes down when which hook was called."""

    def __init__(self) -> None:
        self.events: list[Any] = []

    def handle_open(self) -> None:
        self.events.append("open")

    def handle_data(self, data: bytes) -> None:
        self.events.append(data)

    def handle_eof(self) -> None:
        self.events.append("eof")
        super().handle_eof()

    def handle_error(self, error: Exception) -> None:
        self.events.append(error)

    def handle_close(self, reason: Exception) -> None:
        self.events.append("close")
        self.closed_at = self.reactor.clock()

    @property
    def number(self) -> int | None:
        """The errno of the last error."""
        errors = [event for event in self.events if isinstance(event, reactor.ConnectionLost)]
        return errors[-1].errno if errors else None


def sockets(host: Host, count: int, kind: int = socket.SOCK_STREAM) -> list[Any]:
    return [host.reactor.socket_factory(socket.AF_INET, kind) for _ in range(count)]


# Descriptors


def test_lowest_free_descriptor_comes_first() -> None:
    def scenario(world: World) -> None:
        host = world.host("host")
        first = FIRST_DESCRIPTOR + len(host.table)  # the waker has one
        made = sockets(host, 5)
        assert [sock.fileno() for sock in made] == [first, first + 1, first + 2, first + 3, first + 4]
        for place in (3, 0, 1):
            made[place].close()
        assert made[0].fileno() == -1
        again = sockets(host, 4)
        assert [sock.fileno() for sock in again] == [first, first + 1, first + 3, first + 5]
        assert [sock.fileno() for sock in sockets(world.host("other"), 1)] == [first]
        for sock in [*made, *again]:
            sock.close()
        world.host("other").table.clear()

    check(scenario)


def test_host_without_a_free_descriptor_makes_no_socket() -> None:
    def scenario(world: World) -> None:
        host = world.host("host", descriptors=4)
        made = sockets(host, 3)
        with pytest.raises(OSError, match="Too many open files") as caught:
            sockets(host, 1)
        assert caught.value.errno == errno.EMFILE
        made.pop().close()
        made += sockets(host, 1)
        for sock in made:
            sock.close()

    check(scenario)


def test_server_with_few_descriptors_serves_all_in_turn() -> None:
    def scenario(world: World) -> None:
        world.host("server", descriptors=5)
        listener = world.listen(("server", 6000), Echo)
        most = []
        world.invariant(lambda: most.append(listener.connections))
        done: list[bytes] = []

        class Asker(reactor.Stream):
            received = b""

            def handle_open(self) -> None:
                self.push(b"question")

            def handle_data(self, data: bytes) -> None:
                self.received += data
                if self.received == b"question":
                    done.append(data)
                    self.close_when_done()

        for _ in range(20):
            world.connect(("server", 6000), Asker)
        world.run(until=lambda: len(done) == 20)
        assert max(most) <= 3

    check(scenario, seeds=30)


# Programs that end


def serving(world: World, boots: list[Host], factory: Callable[[], Any] = Echo) -> Host:
    def serve(host: Host) -> None:
        boots.append(host)
        host.listen(6000, factory)

    return world.host("server", serve)


def test_boot_function_runs_at_once_and_after_every_restart() -> None:
    def scenario(world: World) -> None:
        boots: list[Host] = []
        host = serving(world, boots)
        host.on_boot(lambda host: boots.append(host))
        assert boots == [host, host]
        first = host.reactor
        host.restart()
        assert boots == [host] * 4
        assert host.reactor is not first
        assert first.is_closed
        assert (host.boots, host.is_up, host.can_restart) == (2, True, True)
        assert not world.host("other").can_restart

    check(scenario)


def test_program_that_is_killed_is_told_nothing_and_its_peers_see_the_end() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [], lambda: channels.append(Recorder()) or channels[-1])  # type: ignore[func-returns-value]
        channels: list[Recorder] = []
        client = world.connect(("server", 6000), Recorder)
        client.push(b"hello")
        world.run(until=lambda: channels and b"hello" in channels[0].events)
        server.kill()
        server.kill()
        assert (server.is_up, server.has_power, server.table) == (False, True, {})
        world.run()
        assert channels[0].events == ["open", b"hello"]
        assert channels[0].state.name == "Closed"
        assert client.events == ["open", "eof", "close"]
        assert world.elapsed == 0

    check(scenario)


def test_connection_with_unread_input_is_reset_when_the_program_is_killed() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [], Recorder)
        client = world.connect(("server", 6000), Recorder)
        world.run(timeout=1)
        (channel,) = (channel for channel in server.reactor.channels if isinstance(channel, Recorder))
        channel.pause_reading()
        client.push(b"nobody reads this")
        world.run(timeout=1)
        server.kill()
        world.run(timeout=1)
        assert client.number == errno.ECONNRESET

    check(scenario)


def test_peers_of_a_machine_without_power_find_out_by_keepalive() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        client = world.connect(("server", 6000), Recorder)
        world.run(timeout=1)
        before = world.now
        server.kill(power_cut=True)
        assert (server.is_up, server.has_power) == (False, False)
        world.run(until=lambda: client.number, timeout=1000)
        assert client.number == errno.ETIMEDOUT
        assert client.closed_at - before == KEEPALIVE[1]

    check(scenario)


def test_peers_of_a_machine_that_was_started_again_are_reset_by_keepalive() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        client = world.connect(("server", 6000), Recorder)
        world.run(timeout=1)
        before = world.now
        server.kill(power_cut=True)
        world.call_later(10, server.restart)
        world.run(until=lambda: client.number)
        assert client.number == errno.ECONNRESET
        assert client.closed_at - before == KEEPALIVE[0]

    check(scenario)


@pytest.mark.parametrize("comes_back", [True, False])
def test_what_is_sent_to_a_machine_without_power_is_sent_again_until_it_answers(comes_back: bool) -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        client = world.connect(("server", 6000), Recorder, limits=reactor.Limits(stall_timeout=None))
        world.run(timeout=1)
        assert client.socket is not None
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        server.kill(power_cut=True)
        before = world.now
        if comes_back:
            world.call_later(10, server.restart)
        client.push(b"is anybody there?")
        world.run(until=lambda: client.number, timeout=2000)
        assert client.number == (errno.ECONNRESET if comes_back else errno.ETIMEDOUT)
        took = client.closed_at - before
        assert 10 <= took < 20 if comes_back else RETRANSMISSION_TIMEOUT <= took < RETRANSMISSION_TIMEOUT + 120

    check(scenario)


def test_connection_that_was_never_accepted_goes_with_the_power() -> None:
    def scenario(world: World) -> None:
        server = world.host("server")
        server.listen(6000, Echo).pause()
        client = world.connect(("server", 6000), Recorder)
        world.run(timeout=1)
        assert client.events == ["open"]
        server.kill(power_cut=True)
        world.run(until=lambda: client.number, timeout=1000)
        assert client.number == errno.ETIMEDOUT

    check(scenario)


def test_keepalive_says_nothing_of_a_connection_that_is_over() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        closed, reset = (world.connect(("server", 6000), Recorder) for _ in range(2))
        world.run(timeout=1)
        server.kill(power_cut=True)
        closed.close()
        world.call_later(30, server.restart)
        reset.push(b"which is answered with a reset")
        world.run(timeout=1000)
        assert closed.number is None
        assert reset.number == errno.ECONNRESET
        assert reset.events.count("close") == 1

    check(scenario)


def test_closed_reactor_of_a_program_that_was_killed_takes_no_calls() -> None:
    def scenario(world: World) -> None:
        host = world.host("client")
        before = host.reactor
        host.kill()
        with pytest.raises(reactor.ClosedReactorError):
            before.call_threadsafe(int)

    check(scenario)


def test_host_that_another_one_kills_has_no_turn_any_more() -> None:
    def scenario(world: World) -> None:
        ran: list[str] = []
        world.host("first").reactor.call_soon(world.host("second").kill)
        world.host("second").reactor.call_soon(ran.append, "second")
        world.host("third").reactor.call_soon(ran.append, "third")
        world.run()
        assert ran == ["third"]

    check(scenario)


def test_host_that_the_scenario_has_started_again_is_not_started_once_more() -> None:
    def scenario(world: World) -> None:
        host = serving(world, [])
        host.reactor.call_every(0.5, int)
        world.call_later(1.1, host.restart)
        world.run(timeout=30)
        assert host.boots == 2

    kill = WEATHER.labels.index("weather kill") | 1023 << KIND_BITS
    outcome = run_once(scenario, draws={"world": {0: kill}})
    assert outcome.failure is None
    assert outcome.report.faults == {"weather kill": 1}


def test_silent_peer_without_keepalive_never_hears_of_a_power_cut() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        client = world.connect(("server", 6000), Recorder)
        world.run(timeout=1)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
        server.kill(power_cut=True)
        world.run(timeout=10_000)
        assert client.events == ["open"]

    check(scenario)


def test_connect_to_a_machine_without_power_waits_until_it_has_some() -> None:
    def scenario(world: World) -> None:
        server = serving(world, [])
        server.kill(power_cut=True)
        world.call_later(5, server.restart)
        client = world.connect(("server", 6000), Recorder)
        world.run(until=lambda: "open" in client.events)
        assert world.elapsed == 7  # the kernel knocks after 1 s, 3 s and 7 s

    check(scenario)


def test_half_made_connection_of_a_machine_without_power_gets_no_answer() -> None:
    def scenario(world: World) -> None:
        made: list[Recorder] = []
        serving(world, [], lambda: made.append(Recorder()) or made[-1])  # type: ignore[func-returns-value]
        (sock,) = sockets(world.host("client"), 1)
        sock.endpoint.latency = 0.05  # so late comes the answer to its connect
        sock.connect_ex((world.host("server").addresses[socket.AF_INET], 6000))
        world.run(timeout=0.01)
        world.host("client").kill(power_cut=True)
        world.run(timeout=10)
        assert made[0].events == ["open"]

    check(scenario)


def test_connect_to_a_program_that_does_not_run_is_refused() -> None:
    def scenario(world: World) -> None:
        serving(world, []).kill()
        client = world.connect(("server", 6000), Recorder)
        world.run()
        assert client.events[-1] == "close"
        assert "Connection refused" in str(client.events[0])

    check(scenario)


def test_handler_may_kill_its_own_host_which_dies_when_its_turn_is_over() -> None:
    def scenario(world: World) -> None:
        after: list[Any] = []

        class Suicidal(Recorder):
            def handle_data(self, data: bytes) -> None:
                world.host("server").kill()
                after.append(world.host("server").is_up)
                self.push(b"never sent, or just so")

        server = serving(world, [], Suicidal)
        client = world.connect(("server", 6000), Recorder)
        client.push(b"die")
        world.run(until=lambda: "close" in client.events)
        assert after == [True]
        assert not server.is_up
        server.restart()
        world.run()
        assert server.is_up

    check(scenario, seeds=20)


def test_host_may_be_killed_while_it_runs_its_own_loop() -> None:
    def scenario(world: World) -> None:
        host = world.host("client")
        host.reactor.call_every(1, lambda: None)
        world.call_later(3.5, host.kill)
        host.reactor.loop()
        assert world.elapsed == 3.5
        world.run()
        assert not host.is_up

    check(scenario)


def test_host_cannot_restart_itself_from_inside_of_a_handler() -> None:
    def scenario(world: World) -> None:
        host = world.host("client")
        told: list[str] = []

        def restart() -> None:
            with pytest.raises(LocalError, match="client cannot restart itself") as caught:
                host.restart()
            told.append(str(caught.value))

        host.reactor.call_soon(restart)
        world.run()
        assert "world.call_later(1, host.restart)" in told[0]

    check(scenario)


def test_setup_may_be_given_while_the_world_runs() -> None:
    def scenario(world: World) -> None:
        boots: list[Host] = []
        world.call_later(1, serving, world, boots)
        client = world.connect(("server", 6000), Recorder, reconnect=reactor.Backoff(maximum=1))
        world.host("client")
        opened: list[Any] = []
        world.call_later(5, lambda: opened.extend(world.host("client").reactor.channels))
        world.run(until=lambda: opened)
        assert [channel.state.name for channel in opened] == ["Open"]
        assert client.state.name == "Closed"

    check(scenario)


def test_seeds_with_all_faults_restart_hosts_that_know_how_to_start() -> None:
    boots: list[str] = []

    def scenario(world: World) -> None:
        def start(host: Host) -> None:
            boots.append(host.name)
            host.reactor.call_every(0.5, lambda: None)

        world.host("one", start)
        world.host("two").reactor.call_every(0.5, lambda: None)
        world.run(timeout=30)
        assert world.host("two").boots == 1

    report = simulate(scenario, 20, faults={"weather kill", "weather power cut"})
    assert set(boots) == {"one"}
    assert 20 < len(boots) <= 20 + report.injected


# Names


def test_names_are_known_inside_of_the_world_alone() -> None:
    def scenario(world: World) -> None:
        names = world.host("one").reactor.resolver
        other = world.host("db.example-1")
        assert names("db.example-1", 80) == [
            (socket.AF_INET, socket.SOCK_STREAM, 0, "", (other.addresses[socket.AF_INET], 80))
        ]
        assert names("db.example-1", 80, socket.AF_INET6, socket.SOCK_DGRAM) == [
            (socket.AF_INET6, socket.SOCK_DGRAM, 0, "", (other.addresses[socket.AF_INET6], 80, 0, 0))
        ]
        assert names("localhost", 80)[0][4] == ("127.0.0.1", 80)
        for name in ("python.org", "127.0.0.1", ""):
            with pytest.raises(socket.gaierror, match="Name or service not known"):
                names(name, 80)

    check(scenario)


@pytest.mark.parametrize("name", ["localhost", "world", "127.0.0.1", "::1", "", "a:1", "a;b", "one.2", "a b", "-a"])
def test_name_that_no_host_can_have_is_refused(name: str) -> None:
    def scenario(world: World) -> None:
        with pytest.raises(LocalError, match="a simulated host cannot have the name") as caught:
            world.listen((name, 6000), Echo)
        assert repr(name) in str(caught.value)
        assert world.hosts == {}

    check(scenario)


def test_unknown_host_is_told_as_production_tells_it() -> None:
    def scenario(world: World) -> None:
        client = world.connect(("srever", 6000), Recorder)
        world.run()
        assert "srever" in str(client.events[0])
        assert "Name or service not known" in str(client.events[0])

    check(scenario)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("where", ["", "server", "numeric"])
def test_server_is_reached_at_all_of_its_addresses(where: str, family: socket.AddressFamily) -> None:
    def scenario(world: World) -> None:
        server = world.host("server")
        address = server.addresses[family]
        served: list[Recorder] = []
        listener = server.listen(
            (address if where == "numeric" else where, 6000),
            lambda: served.append(Recorder()) or served[-1],  # type: ignore[func-returns-value]
            family=family.name if where == "server" else None,
        )
        client = world.connect((address, 6000), Recorder)
        world.run(until=lambda: served and client.events and served[0].events)
        mapped = f"::ffff:{address}" if (where, family) == ("", socket.AF_INET) else address
        assert client.socket.getpeername()[:2] == (address, 6000)
        assert served[0].socket.getsockname()[:2] == (mapped, 6000)
        assert served[0].peer[0] == mapped.replace(address, world.host("client").addresses[family])
        assert listener.address[1] == 6000

    check(scenario)


def test_server_on_localhost_is_reached_from_its_own_host_alone() -> None:
    def scenario(world: World) -> None:
        world.host("server").listen(("localhost", 6000), Echo)
        inside = world.connect(("localhost", 6000), Recorder, source="server")
        outside = world.connect(("server", 6000), Recorder)
        world.run(until=lambda: inside.events and outside.events)
        assert inside.events == ["open"]
        assert "Connection refused" in str(outside.events[0])

    check(scenario)


def test_world_may_have_many_hosts() -> None:
    def scenario(world: World) -> None:
        addresses = {address for number in range(600) for address in world.host(f"h{number}").addresses.values()}
        assert len(addresses) == 1200
        for address in addresses:
            socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)

    check(scenario)


# The reactor of a host


def test_default_reactor_inside_of_a_hook_is_that_of_its_host() -> None:
    found: list[tuple[str, bool]] = []

    def look(where: str, expected: Any) -> None:
        found.append((where, reactor.get_reactor() is expected))

    class Looking(reactor.Stream):
        def handle_open(self) -> None:
            look("hook", self.reactor)
            self.push(b"x")
            reactor.call_soon(look, "call", self.reactor)
            reactor.call_later(1, look, "timer", self.reactor)
            reactor.run_in_thread(int, on_result=lambda _: look("thread", self.reactor))

        def handle_close(self, reason: Exception) -> None:
            look("close", self.reactor)

    def scenario(world: World) -> None:
        world.host("server", lambda host: look("boot", host.reactor))
        world.listen(("server", 6000), Looking)
        world.connect(("server", 6000), Looking)
        world.run(timeout=5)
        world.host("server").restart()

    check(scenario, seeds=10)
    assert {where for where, _ in found} == {"hook", "call", "timer", "thread", "close", "boot"}
    assert {right for _, right in found} == {True}


def test_threads_run_in_virtual_time_and_always_alike() -> None:
    order: list[Any] = []

    def scenario(world: World) -> None:
        order.clear()
        loop = world.host("client").reactor

        def work(number: int) -> int:
            order.append(number)
            return -number

        for number in range(1, 6):
            loop.run_in_thread(work, number, on_result=order.append)
        loop.run_in_thread(work, 6, on_result=order.append).cancel()
        loop.run_in_thread(divmod, 1, 0, on_error=lambda error: order.append(type(error)))
        assert order == []
        world.run()
        assert sorted(item for item in order if isinstance(item, int)) == sorted([*range(-5, 0), *range(1, 7)])
        assert ZeroDivisionError in order
        assert world.elapsed < 0.1

    check(scenario, seeds=10)
    orders = []
    for _ in range(2):
        assert run_once(scenario, 1, faults={"thread late"}).failure is None
        orders.append(list(order))
    assert orders[0] == orders[1] != [*range(1, 7), *range(-1, -6, -1), ZeroDivisionError]


def test_thread_of_a_program_that_was_killed_does_nothing_any_more() -> None:
    def scenario(world: World) -> None:
        ran: list[int] = []
        host = world.host("client")
        host.reactor.run_in_thread(ran.append, 1)
        host.kill()
        world.run()
        host.restart()
        host.reactor.run_in_thread(ran.append, 2)
        world.run()
        assert ran == [2]

    check(scenario)


def test_host_may_run_its_own_loop() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        client = world.connect(("server", 6000), Recorder)
        client.push(b"hello")
        loop = world.host("client").reactor
        loop.call_later(2.5, client.close)
        loop.loop()
        assert client.events == ["open", b"hello", "close"]
        assert world.elapsed == 2.5
        loop.loop(timeout=10)
        assert world.elapsed == 2.5
        loop.call_every(1, int)
        loop.loop(timeout=10)
        assert world.elapsed == 12.5
        reactor.call_later(1, reactor.get_reactor().stop)
        reactor.loop()
        assert world.elapsed == 13.5

    check(scenario, seeds=10, faults=ALL - {name for name in ALL if name.split()[0] not in ("thread", "schedule")})


def test_loop_that_would_wait_for_ever_says_so() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        world.host("server").reactor.loop()

    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, LocalError)
    assert str(failure) == "server waits for ever: nothing is left that could happen"


def test_violation_ends_a_loop_that_a_host_runs_by_itself() -> None:
    def scenario(world: World) -> None:
        world.host("other").reactor.call_later(1, divmod, 1, 0)
        world.host("client").reactor.call_later(5, int)
        world.host("client").reactor.loop()

    failure = run_once(scenario, draws={}).failure
    assert isinstance(failure, Violation)
    assert failure.kind == "an exception escaped"


# What a simulated host has not


def test_unix_sockets_are_refused() -> None:
    def scenario(world: World) -> None:
        with pytest.raises(LocalError, match="no sockets of other families"):
            world.host("server").listen("/run/server", Echo)
        with pytest.raises(LocalError, match="no sockets of other families"):
            world.host("server").reactor.socket_factory(socket.AF_UNIX)
        client = world.connect("/run/server", Recorder)
        world.run()
        assert "no sockets of other families" in str(client.events)

    check(scenario)


def test_directory_of_a_unix_socket_that_cannot_be_bound_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def scenario(world: World) -> None:
        with pytest.raises(LocalError):
            reactor.Listener(None, Echo, reactor=world.host("server").reactor)

    check(scenario)
    assert list(tmp_path.iterdir()) == []


def test_blocking_calls_are_refused() -> None:
    def scenario(world: World) -> None:
        (sock,) = sockets(world.host("client"), 1)
        with sock:
            sock.setblocking(False)
            sock.settimeout(0)
            assert sock.gettimeout() == 0
            for call, argument in ((sock.setblocking, True), (sock.settimeout, None), (sock.settimeout, 5.0)):
                with pytest.raises(LocalError, match="a simulated socket does not block"):
                    call(argument)
            with pytest.raises(LocalError, match="cannot be detached"):
                sock.detach()
            assert repr(sock) == "<SimulatedSocket client.1>"
            assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)

    check(scenario)


def test_selector_keeps_to_what_selectors_do() -> None:
    def scenario(world: World) -> None:
        selector = world.host("client").reactor._selector
        (sock,) = sockets(world.host("client"), 1)
        with pytest.raises(KeyError, match="is not registered"):
            selector.modify(sock, 1)
        with pytest.raises(KeyError, match="is not registered"):
            selector.unregister(sock)
        selector.register(sock, 1)
        with pytest.raises(KeyError, match="is registered already"):
            selector.register(sock, 1)
        assert sock.fileno() in selector.get_map()
        selector.unregister(sock)
        sock.close()
        with pytest.raises(ValueError, match="no descriptor -1"):
            selector.register(sock, 1)

    check(scenario)


def test_keys_are_those_of_the_handshake_in_every_run() -> None:
    """The random bytes of a host come from the seed: what two runs send is the same to the byte."""
    challenges: list[bytes] = []

    class Spy(reactor.Stream):
        def handle_data(self, data: bytes) -> None:
            challenges.append(data)
            self.close()

    class Guarded(reactor.Connection):
        codec = "json"

    def scenario(world: World) -> None:
        world.listen(("server", 6000), Guarded, authkey=KEY)
        world.connect(("server", 6000), Spy)
        before = len(challenges)
        world.run(until=lambda: len(challenges) > before)

    for seed in (1, 1, 2):
        assert run_once(scenario, seed, draws={}).failure is None
    assert len(challenges) == 3
    assert challenges[0] == challenges[1] != challenges[2]
