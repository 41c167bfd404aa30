"""Running scenarios: over many seeds, with one failure after the other, and back from a failure to its cause."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Protocol

from ..errors import LocalError
from .faults import ALL, HARMLESS, KIND_BITS, PARAMETERS, Call
from .tape import Draws, Tape, format_draws, parse_draws
from .world import Violation, World

SHRINKING_RUNS = 400
TRACE_LINES = 60


class Scenario(Protocol):
    """A function that is given a world, does something in it, and asserts what must hold."""

    def __call__(self, world: World, /) -> object: ...


@dataclasses.dataclass
class Report:
    """What was run, counted.

    Attributes:
        runs: how many times the scenario ran.
        turns: turns of all loops.
        calls: system calls of all hosts.
        hooks: calls of hooks.
        seconds: virtual seconds.
        faults: how often each fault was injected, by its name.
    """

    runs: int = 0
    turns: int = 0
    calls: int = 0
    hooks: int = 0
    seconds: float = 0.0
    faults: Counter[str] = dataclasses.field(default_factory=Counter)

    @property
    def injected(self) -> int:
        """How many faults were injected."""
        return self.faults.total()

    def add(self, other: Report) -> None:
        """Count what `other` counted, too."""
        self.runs += other.runs
        self.turns += other.turns
        self.calls += other.calls
        self.hooks += other.hooks
        self.seconds += other.seconds
        self.faults.update(other.faults)

    def __str__(self) -> str:
        return (
            f"{self.runs:,} runs, {self.injected:,} faults injected, {self.calls:,} system calls, "
            f"{self.hooks:,} hooks, {self.turns:,} turns, {self.seconds:,.0f} virtual seconds"
        )


@dataclasses.dataclass
class Outcome:
    """How one run went.

    Attributes:
        failure: what the scenario, or an invariant, raised; None if all was well.
        draws: what was drawn and is not 0.
        trace: what happened, if that was asked for.
        report: the run, counted.
    """

    failure: BaseException | None
    draws: Draws
    trace: list[str]
    report: Report

    def is_like(self, other: Outcome) -> bool:
        """Return whether both failed in the same way."""
        mine, others = self.failure, other.failure
        if mine is None or others is None or type(mine) is not type(others):
            return False
        return getattr(mine, "kind", None) == getattr(others, "kind", None)


class SimulationFailure(AssertionError):
    """A scenario failed.

    Attributes:
        name: of the scenario.
        seed: of the run in which it failed.
        tape: the fewest draws that were found to make it fail, as a line.
        found: how many draws that were not benign that run had.
        trace: what happened in the run with the fewest draws.
        cause: what was raised.
        replay: the line that replays it.
    """

    def __init__(self, name: str, seed: int | str, found: int, outcome: Outcome) -> None:
        super().__init__(name, seed)
        self.name = name
        self.seed = seed
        self.tape = format_draws(outcome.draws)
        self.found = found
        self.trace = outcome.trace
        self.cause = outcome.failure
        self.replay = f"simulate({name}, seeds=[{seed!r}], tape={self.tape!r})"

    def __str__(self) -> str:
        lines = [f"{type(self.cause).__name__}: {self.cause}", ""]
        if len(self.trace) > TRACE_LINES:
            lines.append(f"... {len(self.trace) - TRACE_LINES} lines before, in the attribute `trace`")
        lines += self.trace[-TRACE_LINES:]
        kept = self.tape.count("=")
        why = (
            f"Of {self.found} draws that were not benign {kept} {'is' if kept == 1 else 'are'} left, "
            "the fewest that were found to make it fail."
        )
        lines += [
            "",
            f"{self.name} failed with seed {self.seed!r}. {why if kept else 'It fails without any fault.'}",
            "This line replays it:",
            f"    {self.replay}",
        ]
        return "\n".join(lines)


def run_once(
    scenario: Scenario,
    seed: int | str = 0,
    *,
    faults: Set[str] = HARMLESS,
    draws: Draws | None = None,
    tracing: bool = False,
    log: list[tuple[str, int, Call]] | None = None,
) -> Outcome:
    """Run `scenario` once.

    Arguments:
        seed: what its chance is made from.
        faults: those that may be drawn; see `HARMLESS` and `ALL`.
        draws: draws to be repeated, instead of chance.
        tracing: whether to write down what happens.
        log: takes down every draw, if they are repeated.
    """
    __tracebackhide__ = True
    tape = Tape(seed, faults, draws, log)
    world = World(tape, tracing)
    failure: BaseException | None = None
    with world.in_charge():
        try:
            scenario(world)
            world.finish()
        except BaseException as error:
            failure = error if world.violation is None else world.violation
            world.abandon()
            if not is_failure(error):
                raise
    report = Report(
        1, world.turns, sum(host.calls for host in world.hosts.values()), world.hooks, world.elapsed,
        Counter(world.faults),
    )  # fmt: skip
    kept = {name: dict(stream) for name, stream in (tape.draws if draws is None else draws).items() if stream}
    return Outcome(failure, kept, world.trace, report)


def simulate(
    scenario: Scenario,
    seeds: int | Iterable[int | str] = 100,
    *,
    faults: Set[str] = HARMLESS,
    tape: str | None = None,
) -> Report:
    """Run `scenario` once for each seed, each time with other faults, and see that it holds.

    Arguments:
        scenario: called with a fresh `World`; it asserts what must hold.
        seeds: how many, or which ones.
        faults: those that may be injected. `HARMLESS`, the default: a right program notices nothing of
            them but a second or two. `ALL`: connections break, hosts die, datagrams are lost.
        tape: the draws of an earlier failure, to be replayed, instead of chance.
    Returns: what was run, counted.

    Raises:
        SimulationFailure: the scenario, or an invariant, did not hold; with the shrunk tape and the trace.
        LocalError: `faults` names one that does not exist, `tape` is none, or there is no seed.
    """
    __tracebackhide__ = True  # what pytest shows should begin with the scenario
    check_faults(faults)
    draws = None if tape is None else parse_draws(tape)
    total = Report()
    if isinstance(seeds, str):
        raise LocalError(f"seeds is a number, or some seeds: [{seeds!r}]")
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        outcome = run_once(scenario, seed, faults=faults, draws=draws)
        total.add(outcome.report)
        if outcome.failure is not None:
            raise explain(scenario, seed, outcome, shrinking=draws is None) from outcome.failure
    if not total.runs:
        raise LocalError(f"{seeds!r} is no seed at all, and nothing was run")
    return total


def torture(
    scenario: Scenario,
    *,
    faults: Set[str] = ALL,
    pairs: bool = False,
    only: Callable[[str], bool] | None = None,
    every: int = 1,
) -> Report:
    """Run `scenario` once for each failure of each call that it makes: one failure a run, or two.

    Arguments:
        scenario: as `simulate` has it. It must hold whatever fails.
        faults: those that are tried.
        pairs: try every two failures, the second among the calls that follow the first.
        only: tells by the name of a call (``"recv"``) whether it is to fail; by default every call is.
        every: try one in so many of the failures; of pairs, one in so many of the first ones.

    Raises:
        SimulationFailure: as `simulate` does.
    """
    check_faults(faults)
    total = Report()

    def attempt(draws: Draws) -> list[tuple[str, int, Call]]:
        log: list[tuple[str, int, Call]] = []
        outcome = run_once(scenario, draws=draws, log=log)
        total.add(outcome.report)
        if outcome.failure is not None:
            raise explain(scenario, 0, outcome, shrinking=False) from outcome.failure
        return log

    for first in itertools.islice(_failures(attempt({}), faults, only), 0, None, every):
        log = attempt(_joined(first))
        if pairs:
            where = log.index(next(entry for entry in log if entry[:2] == first[:2]))
            for second in _failures(log[where + 1 :], faults, only):
                attempt(_joined(first, second))
    return total


def explain(scenario: Scenario, seed: int | str, outcome: Outcome, *, shrinking: bool = True) -> SimulationFailure:
    """Return the failure for `outcome`: with its draws shrunk, if that is wanted, and with a trace."""
    found = sum(map(len, outcome.draws.values()))
    draws = shrunk(scenario, seed, outcome) if shrinking else outcome.draws
    traced = run_once(scenario, seed, draws=draws, tracing=True)
    if traced.failure is None:
        details = f"it failed with {outcome.failure!r} at first; what it does depends on something outside of its world"
        traced.failure = Violation("the run does not repeat itself", details)
    return SimulationFailure(getattr(scenario, "__name__", "scenario"), seed, found, traced)


def shrunk(scenario: Scenario, seed: int | str, outcome: Outcome) -> Draws:
    """Return fewer and smaller draws with which `scenario` fails in the same way."""
    left = SHRINKING_RUNS
    kept = [(name, number, value) for name, stream in outcome.draws.items() for number, value in stream.items()]

    def fails(entries: list[tuple[str, int, int]]) -> bool:
        nonlocal left
        left -= 1
        return run_once(scenario, seed, draws=_joined(*entries)).is_like(outcome)

    size = len(kept)
    while size and left > 0:  # leave out half of them, then quarters, and so on down to single ones
        start = 0
        while start < len(kept) and left > 0:
            fewer = kept[:start] + kept[start + size :]
            if fails(fewer):
                kept = fewer
            else:
                start += size
        size //= 2
    for place, (name, number, value) in enumerate(kept):
        for smaller in _smaller(value):
            if left > 0 and fails([*kept[:place], (name, number, smaller), *kept[place + 1 :]]):
                kept[place] = (name, number, smaller)
                break
    return _joined(*kept)


def is_failure(error: BaseException) -> bool:
    """Return whether a scenario that raises `error` has failed: not if somebody pressed Ctrl-C, or pytest skips it."""
    # What pytest.fail raises is no Exception; it is told by its name, because pytest may not be installed.
    return isinstance(error, Exception | SystemExit) or type(error).__name__ == "Failed"


def check_faults(faults: Set[str]) -> None:
    """Raise LocalError where `faults` names one that does not exist."""
    if isinstance(faults, str):
        raise LocalError(f"faults is a set of names, as reactor.simulation.ALL is: {{{faults!r}}}")
    unknown = sorted(set(faults) - ALL)
    if unknown:
        raise LocalError(
            f"there is no fault {unknown[0]!r}; they are in reactor.simulation.ALL, for example 'recv short'"
        )


def _failures(
    log: list[tuple[str, int, Call]], faults: Set[str], only: Callable[[str], bool] | None
) -> Iterator[tuple[str, int, int]]:
    for name, number, call in log:
        if only is None or only(call.name):
            for kind, fault in enumerate(call.faults):
                if fault is not None and call.labels[kind] in faults:
                    for parameter in fault.tried:
                        yield name, number, kind | parameter << KIND_BITS


def _joined(*entries: tuple[str, int, int]) -> Draws:
    draws: Draws = {}
    for name, number, value in entries:
        draws.setdefault(name, {})[number] = value
    return draws


def _smaller(value: int) -> Iterator[int]:
    """Yield draws for the same fault with a smaller parameter."""
    kind = value & ((1 << KIND_BITS) - 1)
    parameter = value >> KIND_BITS
    for divisor in (PARAMETERS, 64, 8, 2):
        if parameter:
            yield kind | parameter // divisor << KIND_BITS
