"""Scenarios run over many seeds, failures shrink to their cause, and every run repeats itself."""

from __future__ import annotations

import json
import logging
import re
import socket
import subprocess
from collections import Counter
from typing import Any

import pytest

import reactor
from reactor import LocalError
from reactor.simulation import ALL, HARMLESS, NotInTime, Report, SimulationFailure, Violation, World, simulate, torture
from reactor.simulation.running import TRACE_LINES, run_once
from tests.conftest import KEY
from tests.interpreters import find_interpreters
from tests.reactor.simulation import digests


class Calculator(reactor.Connection):
    def handle_message(self, message: Any) -> None:
        self.send(sum(message))


class Asker(reactor.Connection):
    answer: Any = None

    def handle_open(self) -> None:
        self.send((2, 3))

    def handle_message(self, message: Any) -> None:
        self.answer = message


class HastyAdder(reactor.Stream):
    """Takes each piece of the stream for whole lines, which it is most of the time."""

    total = 0

    def handle_data(self, data: bytes) -> None:
        self.total += sum(map(int, data.splitlines()))
        self.push(b"%d\n" % self.total)


class Collector(reactor.Stream):
    received = b""

    def handle_open(self) -> None:
        self.push(b"123\n456\n")

    def handle_data(self, data: bytes) -> None:
        self.received += data


def calculation(world: World) -> None:
    world.listen(("server", 6000), Calculator, authkey=KEY)
    client = world.connect(("server", 6000), Asker, authkey=KEY)
    world.run(until=lambda: client.answer is not None, timeout=60)
    assert client.answer == 5


def calculation_with_patience(world: World) -> None:
    answers: list[Any] = []

    class Patient(Asker):
        def handle_message(self, message: Any) -> None:
            answers.append(message)
            self.close()

    world.host("server", lambda host: host.listen(6000, Calculator, authkey=KEY))
    world.connect(("server", 6000), Patient, authkey=KEY, reconnect=reactor.Backoff())
    world.run(until=lambda: answers, timeout=100_000)
    assert set(answers) == {5}


def hasty_addition(world: World) -> None:
    world.listen(("server", 6000), HastyAdder)
    client = world.connect(("server", 6000), Collector)
    world.run(until=lambda: b"579\n" in client.received)


def test_harmless_faults_are_not_noticed_by_a_right_program() -> None:
    report = simulate(calculation, seeds=100)
    assert report.runs == 100
    assert report.injected > 100


def test_program_that_tries_again_survives_all_faults() -> None:
    report = simulate(calculation_with_patience, seeds=200, faults=ALL)
    assert report.injected > 200


def test_program_survives_the_failure_of_every_single_call() -> None:
    report = torture(calculation_with_patience)
    assert report.runs > 300
    assert report.injected > 300


def test_wrong_handler_is_found_and_its_failure_shrunk_to_one_short_receive() -> None:
    with pytest.raises(SimulationFailure) as caught:
        simulate(hasty_addition, seeds=100, faults={"recv short", "recv EAGAIN", "send EINTR", "segment late"})
    failure = caught.value
    assert failure.tape.count("=") == 1
    assert sum("recv short" in line for line in failure.trace) == 1
    assert f"simulate(hasty_addition, seeds=[{failure.seed}], tape={failure.tape!r})" in str(failure)
    with pytest.raises(SimulationFailure) as again:
        simulate(hasty_addition, seeds=[failure.seed], tape=failure.tape)
    assert again.value.trace == failure.trace


def test_run_repeats_itself_to_the_byte() -> None:
    first, second = (run_once(calculation_with_patience, 7, faults=ALL, tracing=True) for _ in range(2))
    assert first.trace == second.trace
    assert first.draws == second.draws


def test_traces_are_the_same_on_every_python_and_under_every_hash_seed() -> None:
    expected = digests.digests()
    assert len(set(expected.values())) == len(expected)
    found = {version: path for version, path in find_interpreters().items() if version.startswith("3.1")}
    pythons = [found[version] for version in ("3.11", "3.12", "3.13") if version in found]
    running = [
        subprocess.Popen(
            [python, "-s", "-S", "-B", digests.__file__], stdout=subprocess.PIPE, env={"PYTHONHASHSEED": str(number)}
        )
        for number, python in enumerate(pythons)
    ]
    for process in running:
        output, _ = process.communicate(timeout=30)
        got = json.loads(output)
        wrong = [name for name in expected if got[name] != expected[name]]
        assert not wrong, f"{process.args!r}: other traces of {wrong}"


# Reports


def test_report_counts_what_was_run() -> None:
    report = simulate(calculation, seeds=["a", "b", "c"])
    assert report.runs == 3
    assert report.injected == sum(report.faults.values())
    assert set(report.faults) <= HARMLESS
    assert min(report.turns, report.calls, report.hooks) > 3 * 5
    total = Report()
    total.add(report)
    total.add(report)
    assert (total.runs, total.calls, total.hooks) == (6, 2 * report.calls, 2 * report.hooks)
    assert total.faults == Counter({name: 2 * count for name, count in report.faults.items()})
    assert str(Report(1234, 5, 6789, 4, 61.4, Counter({"recv short": 1000}))) == (
        "1,234 runs, 1,000 faults injected, 6,789 system calls, 4 hooks, 5 turns, 61 virtual seconds"
    )


def test_only_the_faults_that_are_named_are_injected() -> None:
    report = simulate(calculation, seeds=30, faults={"recv short", "select EINTR"})
    assert set(report.faults) == {"recv short", "select EINTR"}
    assert simulate(calculation, seeds=3, faults=set()).faults == {}


def test_fault_that_does_not_exist_is_refused() -> None:
    for run in (simulate, torture):
        with pytest.raises(LocalError, match="there is no fault 'recv shrot'") as caught:
            run(calculation, faults={"recv short", "recv shrot"})
        assert "reactor.simulation.ALL" in str(caught.value)


# Torture


def hopeful(world: World) -> None:
    """Holds as long as no receive and no send fails."""
    world.listen(("server", 6000), Calculator, authkey=KEY)
    client = world.connect(("server", 6000), Asker, authkey=KEY)
    world.run(until=lambda: client.answer or client.state.name == "Closed", timeout=10_000)
    assert client.answer == 5 or not {name.split()[0] for name in world.faults} & {"recv", "send"}


def test_torture_tries_each_fault_of_each_call_that_is_chosen() -> None:
    report = torture(calculation_with_patience, only=lambda call: call in ("accept", "bind"))
    assert {name.split()[0] for name in report.faults} == {"accept"}
    assert set(report.faults) == {name for name in ALL if name.startswith("accept ")}


def test_torture_in_pairs_makes_two_calls_fail_in_one_run() -> None:
    chosen = {"recv EAGAIN", "send EAGAIN"}
    single = torture(calculation, faults=chosen)
    double = torture(calculation, faults=chosen, pairs=True)
    assert single.injected == single.runs - 1
    assert double.runs > single.runs * 3
    assert double.injected > 2 * (double.runs - single.runs)


def test_torture_names_the_call_without_which_the_scenario_would_hold() -> None:
    with pytest.raises(SimulationFailure) as caught:
        torture(hopeful)
    assert caught.value.tape.count("=") == 1
    assert "! client.1 recv" in str(caught.value) or "! server.2 send" in str(caught.value)
    with pytest.raises(SimulationFailure):
        simulate(hopeful, seeds=[0], tape=caught.value.tape)


# Failures are read by people


def test_failure_says_what_it_is_what_happened_and_how_to_replay_it() -> None:
    def waiting(world: World) -> None:
        loop = world.host("client").reactor
        loop.call_every(0.01, lambda: world.note("a tick"))
        loop.call_later(5, world.violate, "the cake is eaten", "by the client")
        world.run(timeout=10)

    with pytest.raises(SimulationFailure) as caught:
        simulate(waiting, seeds=["a seed"])
    failure = caught.value
    assert isinstance(failure.cause, Violation)
    assert failure.cause.kind == "the cake is eaten"
    assert failure.__cause__ is not None
    assert (failure.seed, failure.tape) == ("a seed", "")
    lines = str(failure).splitlines()
    assert lines[0] == "Violation: the cake is eaten: by the client"
    assert lines[2] == f"... {len(failure.trace) - TRACE_LINES} lines before, in the attribute `trace`"
    assert lines[3 : 3 + TRACE_LINES] == failure.trace[-TRACE_LINES:]
    assert any("VIOLATION the cake is eaten: by the client" in line for line in lines)
    assert re.search(r"    simulate\(waiting, seeds=\['a seed'\], tape=''\)", lines[-1])


def test_run_ends_in_time_although_handlers_let_the_time_pass() -> None:
    """Somebody is always ready, and a slow handler moves the clock: the world is never asked to let time pass."""

    class Echo(reactor.Stream):
        def handle_open(self) -> None:
            self.push(b"back and forth")

        def handle_data(self, data: bytes) -> None:
            self.push(data)

    def endless(world: World) -> None:
        world.listen(("server", 6000), Echo)
        world.connect(("server", 6000), Echo)
        with pytest.raises((NotInTime, Violation)):
            world.run(until=lambda: False, timeout=0.1)
        assert world.elapsed < 5

    for seed in range(3):
        assert run_once(endless, seed).failure is None


def test_failure_that_pytest_raises_is_told_with_its_seed() -> None:
    def scenario(world: World) -> None:
        with pytest.raises(KeyError):
            world.host("server")

    with pytest.raises(SimulationFailure, match="It fails without any fault") as caught:
        simulate(scenario, seeds=[3])
    assert "DID NOT RAISE" in str(caught.value)


def test_skip_in_a_scenario_is_no_failure() -> None:
    def scenario(world: World) -> None:
        pytest.skip("not here")

    with pytest.raises(pytest.skip.Exception):
        simulate(scenario, seeds=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "nothing was run"),
        ({"seeds": "nightly"}, "some seeds"),
        ({"faults": "recv short"}, "a set of names"),
        ({"faults": {"recv shrot"}}, "no fault 'recv shrot'"),
        ({"tape": "client.1"}, "no part of a tape"),
    ],
)
def test_mistake_in_the_arguments_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(LocalError, match=message):
        simulate(calculation, **arguments)


def test_weather_does_not_end_a_partition_that_the_scenario_has_made() -> None:
    def scenario(world: World) -> None:
        world.listen(("server", 6000), Calculator, authkey=KEY)
        client = world.connect(("server", 6000), Asker, authkey=KEY)
        world.call_later(0.5, world.partition, "server", "client")
        world.call_later(1, client.send, (1, 1))
        world.run(timeout=30)
        assert len(world.partitions) == 1

    simulate(scenario, seeds=100, faults={"weather partition"})


def test_invariant_is_looked_at_once_more_at_the_end() -> None:
    def scenario(world: World) -> None:
        happened: list[int] = []
        world.invariant(lambda: not happened)
        world.call_later(1, happened.append, 1)
        world.run()

    with pytest.raises(SimulationFailure, match="an invariant of the scenario does not hold"):
        simulate(scenario, seeds=1)


def failing_hook(world: World) -> None:
    class Failing(reactor.Stream):
        def handle_open(self) -> None:
            raise KeyError

    world.listen(("server", 6000), Failing)
    world.connect(("server", 6000), reactor.Stream)
    world.run()


def test_invariants_do_not_depend_on_the_settings_of_logging() -> None:
    logging.disable(logging.CRITICAL)
    try:
        with pytest.raises(SimulationFailure, match="an exception escaped"):
            simulate(failing_hook, seeds=1)
        assert logging.root.manager.disable == logging.CRITICAL
    finally:
        logging.disable(logging.NOTSET)


def test_ports_that_the_system_chooses_begin_again_at_the_first() -> None:
    def scenario(world: World) -> None:
        host = world.host("client")
        host._ports = 60_998
        sockets = [host.reactor.socket_factory(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(3)]
        for sock in sockets:
            sock.bind(("", 0))
        assert [sock.getsockname()[1] for sock in sockets] == [60_999, 32_768, 32_769]
        for sock in sockets:
            sock.close()

    outcome = run_once(scenario, draws={})
    assert outcome.failure is None
