"""Campaigns: scenarios run for a given time on given processors, with seeds that nobody has tried before."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from types import ModuleType

from ..errors import LocalError
from .faults import ALL, HARMLESS
from .running import Report, Scenario, SimulationFailure, simulate

FAULTS = {"all": ALL, "harmless": HARMLESS}
LONGEST_BATCH = 0.5
"""Seconds of processor time after which a process reports; a run that has begun is finished first."""


@dataclasses.dataclass
class Result:
    """What one scenario, or one batch of its runs, came to.

    Attributes:
        report: the runs, counted.
        seconds: of processor time.
        failures: the texts of the failures.
    """

    report: Report = dataclasses.field(default_factory=Report)
    seconds: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)

    def add(self, other: Result) -> None:
        """Count what `other` counted, too."""
        self.report.add(other.report)
        self.seconds += other.seconds
        self.failures += other.failures

    def __str__(self) -> str:
        report = self.report
        rate = report.injected / self.seconds if self.seconds else 0.0
        return (
            f"{report.runs:9,} seeds {report.injected:13,} faults {report.calls:14,} calls "
            f"{report.seconds:14,.0f} virtual s {rate:8,.0f} faults/s a core {len(self.failures):4} violations"
        )


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a scenario is found, so that another process finds it too.

    Attributes:
        module: its name.
        name: of the function in it.
        faults: ``"all"`` or ``"harmless"``: what it stands.
    """

    module: str
    name: str
    faults: str

    def find(self) -> Scenario:
        """Return the function."""
        scenario: Scenario = getattr(importlib.import_module(self.module), self.name)
        return scenario

    def __str__(self) -> str:
        return f"{self.module}:{self.name}"


def find_scenarios(target: str, faults: str | None = None) -> list[Place]:
    """Return the scenarios that `target` means.

    Arguments:
        target: ``"package.module:function"``, or a module with the list `SCENARIOS`, of those that
            stand all faults, or the list `STRICT`, of those that stand the harmless ones, or both.
        faults: ``"all"`` or ``"harmless"``; None for what the module says, and harmless for a function.

    Raises:
        LocalError: there is no such module, or nothing to run in it.
    """
    name, _, function = target.partition(":")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        hint = "; give it as package.module or package.module:function" if isinstance(error, ImportError) else ""
        raise LocalError(f"{target!r} cannot be imported: {type(error).__name__}: {error}{hint}") from None
    if function:
        if not callable(getattr(module, function, None)):
            raise LocalError(f"{name} has no function {function!r}")
        return [Place(name, function, faults or "harmless")]
    places = [
        *_places(module, "SCENARIOS", faults or "all"),
        *_places(module, "STRICT", faults or "harmless"),
    ]
    if not places:
        raise LocalError(f"{name} has no list SCENARIOS or STRICT; name a function of it, as {name}:function")
    return places


def run_campaign(
    places: list[Place],
    seconds: float,
    cores: int = 1,
    first_seed: int = 0,
    progress: Callable[[dict[Place, Result]], None] | None = None,
) -> dict[Place, Result]:
    """Run the scenarios in turn, with one seed after the other, until the time is over.

    Arguments:
        places: the scenarios.
        seconds: for how long.
        cores: how many processes.
        first_seed: where the seeds begin; each scenario gets every one of them.
        progress: told what there is so far, about once a second.
    Returns: what came of each scenario. One that fails is not run any more.
    """
    results = {place: Result() for place in places}
    end = time.monotonic() + seconds
    work = itertools.cycle(places)
    batch = min(LONGEST_BATCH, seconds * cores / len(places) / 4)  # so that each one has its turn
    next_seed = dict.fromkeys(places, first_seed)
    with ProcessPoolExecutor(cores, multiprocessing.get_context("spawn")) as pool:
        running: dict[Future[tuple[Result, int]], Place] = {}
        busy: set[Place] = set()
        while True:
            able = [place for place in places if place not in busy and not results[place].failures]
            while able and len(running) < cores and time.monotonic() < end:
                place = next(place for place in work if place in able)
                able.remove(place)
                busy.add(place)
                running[pool.submit(run_batch, place, next_seed[place], batch)] = place
            if not running:
                return results
            done, _ = wait(running, 1.0, FIRST_COMPLETED)
            for future in done:
                place = running.pop(future)
                busy.discard(place)
                result, next_seed[place] = future.result()
                results[place].add(result)
            if progress is not None:
                progress(results)


def run_batch(place: Place, first_seed: int, seconds: float) -> tuple[Result, int]:
    """Run one scenario for so many `seconds`; return what came of it, and the first seed that is left."""
    scenario = place.find()
    result = Result()
    began = time.process_time()
    for seed in itertools.count(first_seed):
        try:
            result.report.add(simulate(scenario, [seed], faults=FAULTS[place.faults]))
        except SimulationFailure as failure:
            failure.replay = f"python -m reactor.simulation {place} --seed {seed} --tape '{failure.tape}'"
            failure.replay += "" if place.faults == "harmless" else f" --faults {place.faults}"
            result.failures.append(str(failure))
        result.seconds = time.process_time() - began
        if result.failures or result.seconds >= seconds:
            return result, seed + 1
    raise AssertionError("the seeds have no end")


def _places(module: ModuleType, name: str, faults: str) -> Iterator[Place]:
    for scenario in getattr(module, name, ()):
        home, called = getattr(scenario, "__module__", ""), getattr(scenario, "__name__", "")
        if getattr(sys.modules.get(home), called, None) is not scenario:
            raise LocalError(
                f"{scenario!r} in {module.__name__}.{name} is not found by its name, and other processes must find it; "
                "make it a function of a module"
            )
        yield Place(home, called, faults)
