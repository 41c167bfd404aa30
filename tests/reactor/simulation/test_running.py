"""Scenarios run over many seeds, failures shrink to their cause, and every run repeats itself."""

from __future__ import annotations

from typing import Any

import pytest

import reactor
from reactor.simulation import ALL, SimulationFailure, World, simulate, torture
from reactor.simulation.running import run_once
from tests.conftest import KEY


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
        simulate(hasty_addition, seeds=100)
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
