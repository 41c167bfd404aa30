"""The pytest fixture `simulation`: say ``pytest_plugins = ["reactor.simulation.fixture"]`` in your topmost conftest.py.

Options of the command line: ``--simulation-seeds 10000`` tries so many, whatever the tests say;
``--simulation-replay`` repeats one failure, and is given what the failure has printed.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Set
from typing import Protocol

import pytest

from .faults import HARMLESS
from .running import Report, Scenario, SimulationFailure, simulate


class Simulation(Protocol):
    """What the fixture gives: `simulate`, which takes the options of the command line into account."""

    def __call__(
        self, scenario: Scenario, seeds: int | Iterable[int | str] = 100, *, faults: Set[str] = HARMLESS
    ) -> Report: ...


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of this plugin."""
    group = parser.getgroup("simulation", "simulated networks (reactor.simulation)")
    group.addoption("--simulation-seeds", type=int, metavar="N", help="run each scenario with N seeds")
    group.addoption("--simulation-replay", metavar="SEED[;TAPE]", help="replay one failure of a scenario")


@pytest.fixture
def simulation(request: pytest.FixtureRequest) -> Simulation:
    """Run scenarios on a simulated network; see `reactor.simulation.simulate`."""

    def run(scenario: Scenario, seeds: int | Iterable[int | str] = 100, *, faults: Set[str] = HARMLESS) -> Report:
        __tracebackhide__ = True
        wanted = request.config.getoption("simulation_seeds")
        replay = request.config.getoption("simulation_replay")
        tape: str | None = None
        if replay is not None:
            seed, given, rest = replay.partition(";")
            tape = rest if given else None
            seeds = [int(seed) if seed.isdecimal() else seed]
        elif wanted is not None:
            seeds = wanted
        try:
            return simulate(scenario, seeds, faults=faults, tape=tape)
        except SimulationFailure as failure:
            here = os.path.relpath(request.path, request.config.invocation_params.dir)
            test = "::".join([here, *request.node.nodeid.split("::")[1:]])
            again = shlex.quote(f"{failure.seed};{failure.tape}")
            failure.replay = f"python -m pytest {shlex.quote(test)} --simulation-replay {again}"
            raise

    return run
