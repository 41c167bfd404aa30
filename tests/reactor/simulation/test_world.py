"""The world: its time, its partitions, its log, and what it gives back when a run is over."""

from __future__ import annotations

import itertools
import logging
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from reactor import LocalError
from reactor.defaults import use_reactor
from reactor.simulation import HARMLESS, Host, NotInTime, SimulationFailure, Violation, World, simulate
from reactor.simulation.network import KERNEL_TIMEOUT
from reactor.simulation.running import run_once
from reactor.simulation.tape import Draws
from tests.reactor.simulation.test_hosts import Echo, Recorder, check, sockets


def failure_of(scenario: Callable[[World], Any], draws: Draws | None = None) -> str:
    """Return the text of what a run with these draws ends with."""
    failure = run_once(scenario, draws=draws or {}).failure
    assert failure is not None
    return f"{type(failure).__name__}: {failure}"


# Time


def test_run_returns_when_nothing_is_left_that_could_happen() -> None:
    def scenario(world: World) -> None:
        world.run()
        assert world.elapsed == 0
        world.host("client").reactor.call_later(3.25, int)
        world.run()
        assert world.elapsed == 3.25

    check(scenario)


def test_run_returns_when_its_time_is_over() -> None:
    def scenario(world: World) -> None:
        ticks: list[float] = []
        loop = world.host("client").reactor
        loop.call_every(2, lambda: ticks.append(loop.clock() - loop_began))
        loop_began = loop.clock()
        world.run(timeout=7)
        assert world.elapsed == 7
        assert ticks == [2, 4, 6]
        world.run(timeout=1)
        assert ticks == [2, 4, 6, 8]

    check(scenario)


def test_run_returns_as_soon_as_what_it_waits_for_is_true() -> None:
    def scenario(world: World) -> None:
        count: list[int] = []
        world.host("client").reactor.call_every(1, count.append, 1)
        world.run(until=lambda: len(count) == 3)
        assert world.elapsed == 3
        world.run(until=lambda: True, timeout=0)

    check(scenario)


def test_what_does_not_come_true_in_time_is_told_with_its_line() -> None:
    def scenario(world: World) -> None:
        world.host("client").reactor.call_every(1, int)
        world.run(until=lambda: False, timeout=2.5)

    line = scenario.__code__.co_firstlineno + 2
    assert failure_of(scenario) == f"NotInTime: the condition in line {line} did not come true within 2.5 s"


def test_what_cannot_come_true_any_more_is_told_at_once() -> None:
    def is_finished() -> bool:
        return False

    def scenario(world: World) -> None:
        world.host("client").reactor.call_later(1, int)
        world.run(until=is_finished, timeout=60)

    line = is_finished.__code__.co_firstlineno
    assert failure_of(scenario) == (
        f"NotInTime: is_finished in line {line} did not come true: after 1 s nothing is left that could happen"
    )


def test_condition_that_is_no_function_is_named_by_its_class() -> None:
    class Finished:
        def __call__(self) -> bool:
            return False

    assert "Finished did not come true" in failure_of(lambda world: world.run(until=Finished()))


def test_scenario_may_have_things_happen_later() -> None:
    def scenario(world: World) -> None:
        told: list[Any] = []
        world.call_later(2, lambda *args: told.append((world.elapsed, args)), "second")
        world.call_later(1, lambda *args: told.append((world.elapsed, args)), "first", 1)
        world.call_later(1, lambda: told.append(world.elapsed))
        world.run()
        assert told == [(1, ("first", 1)), 1, (2, ("second",))]

    check(scenario)


def test_exception_of_the_scenario_itself_ends_the_run() -> None:
    def scenario(world: World) -> None:
        world.call_later(1, int, "no number")
        world.run()

    assert failure_of(scenario).startswith("ValueError: invalid literal")


def test_clock_of_every_host_is_that_of_the_world() -> None:
    def scenario(world: World) -> None:
        hosts = [world.host(name) for name in ("one", "two")]
        world.call_later(1.5, int)
        world.run()
        assert {host.reactor.clock() - world.now for host in hosts} == {0}
        world.pass_time(2)
        assert world.elapsed == 3.5
        assert hosts[0].reactor.clock() == world.now

    check(scenario)


def test_scenario_without_a_host_has_no_default_reactor() -> None:
    def scenario(world: World) -> None:
        for call in (lambda: reactor.call_later(1, int), lambda: reactor.Listener(("server", 6000), Echo)):
            with pytest.raises(LocalError, match="no program of a simulated host runs here"):
                call()
        world.host("client", lambda host: reactor.call_later(1.5, int))
        world.run()
        assert world.elapsed == 1.5

    check(scenario)


# Choices


def test_choice_is_the_first_one_unless_the_tape_has_another() -> None:
    def scenario(world: World) -> None:
        assert [world.choose(["a", "b", "c"]) for _ in range(3)] == ["a", "a", "a"]
        assert world.choose(("only",)) == "only"

    check(scenario)
    assert run_once(lambda world: world.violate("", world.choose("abc")), draws={"world": {0: 2}}).failure is not None


def test_choices_of_seeds_differ_and_are_replayed() -> None:
    chosen: list[str] = []

    def scenario(world: World) -> None:
        chosen.append("".join(world.choose("abcdef") for _ in range(10)))  # type: ignore[arg-type]

    outcomes = [run_once(scenario, seed) for seed in range(5)]
    for seed, outcome in enumerate(outcomes):
        run_once(scenario, seed, draws=outcome.draws)
    assert chosen[:5] == chosen[5:]
    assert len(set(chosen)) == 5


# Partitions


def test_what_is_sent_over_a_partition_comes_in_order_when_it_has_healed() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        client = world.connect(("server", 6000), Recorder)
        world.run(until=lambda: "open" in client.events)
        world.partition("client", "server")
        for number in range(10):
            world.call_later(number, client.push, b"%d" % number)
        world.run(timeout=20)
        assert client.events == ["open"]
        world.heal("server", "client")
        client.push(b"and more")
        world.run(until=lambda: b"more" in received_by(client))
        assert received_by(client) == b"0123456789and more"

    check(scenario, seeds=20)


def received_by(client: Recorder) -> bytes:
    return b"".join(event for event in client.events if isinstance(event, bytes))


def test_partition_cuts_off_the_two_hosts_and_no_others() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        world.host("client")
        world.partition("client", "server")
        world.partition("client", "server")
        cut = world.connect(("server", 6000), Recorder, limits=reactor.Limits(connect_timeout=None))
        other = world.connect(("server", 6000), Recorder, source="other")
        inside = world.connect(("server", 6000), Recorder, source="server")
        world.run(timeout=2.5)
        assert (cut.events, other.events, inside.events) == ([], ["open"], ["open"])
        world.heal("client", "server")
        world.heal("client", "server")
        world.run(until=lambda: cut.events)
        assert cut.events == ["open"]
        assert world.elapsed == 3  # the kernel knocks after 1 s and 3 s

    check(scenario)


def test_connect_over_a_partition_is_given_up_by_the_kernel_in_the_end() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        world.host("client")
        world.partition("client", "server")
        client = world.connect(("server", 6000), Recorder, limits=reactor.Limits(connect_timeout=None))
        world.run(until=lambda: "close" in client.events, timeout=1000)
        assert "Connection timed out" in str(client.events[0])
        assert world.elapsed == pytest.approx(KERNEL_TIMEOUT)

    check(scenario)


def test_datagrams_are_lost_in_a_partition() -> None:
    def scenario(world: World) -> None:
        (one,) = sockets(world.host("one"), 1, socket.SOCK_DGRAM)
        (two,) = sockets(world.host("two"), 1, socket.SOCK_DGRAM)
        two.bind(("", 53))
        one.connect((world.host("two").addresses[socket.AF_INET], 53))
        world.partition("one", "two")
        one.send(b"lost")
        world.heal("one", "two")
        world.run()
        one.send(b"comes")
        assert two.recv(100) == b"comes"
        with pytest.raises(BlockingIOError):
            two.recv(100)
        one.close()
        two.close()

    check(scenario)


@pytest.mark.parametrize("method", ["partition", "heal"])
def test_partition_of_a_host_that_does_not_exist_is_refused(method: str) -> None:
    def scenario(world: World) -> None:
        world.host("client")
        world.host("server")
        with pytest.raises(LocalError, match="there is no host 'srever'; there are client, server"):
            getattr(world, method)("client", "srever")
        assert list(world.hosts) == ["client", "server"]

    check(scenario)


# What is logged and printed


@pytest.fixture
def engine_log() -> Iterator[logging.Logger]:
    """The log of the engine, set in a way of this test's own."""
    log = logging.getLogger("reactor")
    before = log.level, log.propagate, list(log.handlers)
    log.setLevel(logging.CRITICAL)
    log.propagate = True
    yield log
    log.level, log.propagate, log.handlers = before


class Noisy(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        logging.getLogger("reactor").warning("the server says %s", data)
        raise ValueError("noise")


def noise(world: World) -> None:
    world.tolerate(ValueError)
    world.listen(("server", 6000), Noisy)
    client = world.connect(("server", 6000), Recorder)
    client.push(b"hello")
    world.run(until=lambda: "close" in client.events)


def crash(world: World) -> None:
    noise(world)
    raise ZeroDivisionError


def violate(world: World) -> None:
    noise(world)
    world.violate("something", "is wrong")


@pytest.mark.parametrize("scenario", [noise, crash, violate])
@pytest.mark.parametrize("tracing", [True, False])
def test_log_goes_to_the_trace_and_all_is_put_back(
    scenario: Callable[[World], Any], tracing: bool, engine_log: logging.Logger, capfd: pytest.CaptureFixture[str]
) -> None:
    inner = reactor.Reactor()
    before = use_reactor(inner)
    handlers = list(engine_log.handlers)
    try:
        outcome = run_once(scenario, draws={}, tracing=tracing)
        assert (outcome.failure is None) == (scenario is noise)
        assert use_reactor(None) is inner
    finally:
        use_reactor(before)
        inner.close()
    assert (engine_log.level, engine_log.propagate, engine_log.handlers) == (logging.CRITICAL, True, handlers)
    assert capfd.readouterr() == ("", "")
    logged = [line for line in outcome.trace if "log " in line]
    assert len(logged) == (2 if tracing else 0)
    if tracing:
        assert "log WARNING: the server says b'hello'" in logged[0]
        assert "log ERROR: Noisy with 10.0.0.2:32769 (Open): ValueError: noise" in logged[1]


def test_interrupt_goes_through_and_all_is_put_back(engine_log: logging.Logger) -> None:
    def scenario(world: World) -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        world.host("client").reactor.call_soon(interrupt)
        world.run()

    before = use_reactor(None)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_once(scenario)
        assert use_reactor(None) is None
    finally:
        use_reactor(before)
    assert engine_log.propagate


def test_notes_of_the_scenario_stand_in_the_trace_without_the_places_of_objects() -> None:
    def scenario(world: World) -> None:
        world.host("client").reactor.call_later(1.5, world.note, f"this is {object()}", "client")
        world.note("the beginning")
        world.run()

    trace = run_once(scenario, draws={}, tracing=True).trace
    assert "    0.000000  world     the beginning" in trace
    assert "    1.500000  client    this is <object object>" in trace


# The end of a run


def test_channels_that_are_left_are_closed_when_the_scenario_is_over() -> None:
    channels: list[Recorder] = []

    def scenario(world: World) -> None:
        world.listen(("server", 6000), Echo)
        channels.append(world.connect(("server", 6000), Recorder))
        channels.append(world.connect(("nowhere", 6000), Recorder))
        world.run(until=lambda: channels[0].events)

    assert run_once(scenario, draws={}).failure is None
    assert channels[0].events == ["open", "close"]
    assert channels[1].events[-1] == "close"
    assert all(channel.reactor.is_closed for channel in channels)


def test_failure_of_the_scenario_wins_over_what_is_wrong_when_all_is_closed() -> None:
    def scenario(world: World) -> None:
        sockets(world.host("client"), 1)  # which is never closed
        raise ValueError("the first thing that went wrong")

    assert failure_of(scenario) == "ValueError: the first thing that went wrong"


def test_violation_wins_over_what_the_scenario_makes_of_it() -> None:
    def scenario(world: World) -> None:
        try:
            world.host("client").reactor.call_soon(int, "no number")
            world.run()
        except Violation:
            raise KeyError("a second thing") from None

    assert failure_of(scenario).startswith("Violation: an exception escaped: ValueError")


def test_only_the_first_violation_counts() -> None:
    def scenario(world: World) -> None:
        world.violate("first")
        world.violate("second", "of them")
        world.host("client").reactor.call_soon(int)
        world.run()

    assert failure_of(scenario) == "Violation: first"


def test_hook_that_fails_while_all_is_closed_is_a_violation() -> None:
    class Fragile(reactor.Stream):
        def handle_close(self, reason: Exception) -> None:
            raise RuntimeError("at the very end")

    def scenario(world: World) -> None:
        world.listen(("server", 6000), Fragile)
        client = world.connect(("server", 6000), Recorder)
        world.run(until=lambda: client.events)

    assert "an exception escaped: RuntimeError: at the very end" in failure_of(scenario)


@pytest.mark.parametrize("address", [6000, "server", ("server",), (6000, "server"), ("server", 6000, 0)])
def test_world_listens_on_a_host_that_has_a_name(address: Any) -> None:
    def scenario(world: World) -> None:
        with pytest.raises(LocalError, match=r"says not on which host; give \(name of the host, port\)"):
            world.listen(address, Echo)

    check(scenario)


def test_host_is_the_same_for_the_same_name() -> None:
    def scenario(world: World) -> None:
        host = world.host("server", descriptors=10)
        assert world.host("server", descriptors=20) is host
        assert (host.descriptors, repr(host)) == (10, "<Host server>")
        listener = world.listen(("server", 6000), Echo)
        assert listener.reactor is host.reactor
        assert host.listen(0, Echo).address[0] == "0.0.0.0"

    check(scenario)


def test_invariant_is_looked_at_after_every_turn_of_every_host() -> None:
    def scenario(world: World) -> None:
        counts: list[int] = []
        world.invariant(lambda: counts.append(world.turns))
        for host, _ in itertools.product((world.host("one"), world.host("two")), range(3)):
            host.reactor.call_soon(int)
        world.run()
        assert counts == [2]

    check(scenario)


def test_faults_are_counted_by_name() -> None:
    def scenario(world: World) -> None:
        def serve(host: Host) -> None:
            host.listen(6000, Echo)

        world.host("server", serve)
        client = world.connect(("server", 6000), Recorder)
        client.push(b"x" * 1000)
        world.run(until=lambda: len(received_by(client)) == 1000)

    report = simulate(scenario, 30)
    assert set(report.faults) <= HARMLESS
    assert report.faults["recv short"] > 10
    with pytest.raises(SimulationFailure):
        simulate(lambda world: world.run(until=lambda: False), 1)
    assert issubclass(NotInTime, AssertionError)
