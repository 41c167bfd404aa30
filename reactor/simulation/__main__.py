"""The command ``python -m reactor.simulation``: long campaigns, and replays of what failed in them."""

from __future__ import annotations

import argparse
import os
import sys
import time

from ..errors import LocalError
from .campaign import FAULTS, Place, Result, find_scenarios, run_campaign
from .running import SimulationFailure, simulate


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit code: 0 for all well, 1 for violations, 2 for a mistake in the command."""
    parser = argparse.ArgumentParser(
        prog="python -m reactor.simulation",
        description="Run scenarios on a simulated network, with ever new faults, for a given time.",
        epilog="Exit codes: 0 all is well, 1 something failed, 2 a mistake in the command.",
    )
    parser.add_argument(
        "target", help="module:function, or a module with lists SCENARIOS (all faults) or STRICT (harmless)"
    )
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long; 60 by default")
    parser.add_argument("--cores", type=int, default=1, help="how many processes; 1 by default")
    parser.add_argument("--faults", choices=sorted(FAULTS), help="which ones; by default as the module says")
    parser.add_argument("--first-seed", type=int, help="where the seeds begin; by default somewhere")
    parser.add_argument("--each", action="store_true", help="show the figures of each scenario")
    parser.add_argument("--seed", type=int, help="run this one seed of one function, with its trace")
    parser.add_argument("--tape", help="with --seed: the draws to replay, as a failure has printed them")
    options = parser.parse_args(arguments)
    if options.cores < 1 or not options.seconds > 0:
        parser.error("a campaign needs a processor and some time: --cores is at least 1, --seconds is above 0")
    if options.tape is not None and options.seed is None:
        parser.error("--tape replays one run: say which one with --seed")
    try:
        places = find_scenarios(options.target, options.faults)
        if options.seed is not None:
            return _replay(places, options.seed, options.tape)
    except LocalError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    first_seed = options.first_seed
    if first_seed is None:
        first_seed = int.from_bytes(os.urandom(4), "big")
    return _campaign(places, options.seconds, options.cores, first_seed, options.each)


def _replay(places: list[Place], seed: int, tape: str | None) -> int:
    if len(places) != 1:
        raise LocalError("--seed is for one scenario: name it as module:function")
    (place,) = places
    try:
        report = simulate(place.find(), [seed], faults=FAULTS[place.faults], tape=tape)
    except SimulationFailure as failure:
        print(failure)
        return 1
    print(f"{place}: seed {seed} holds; {report}")
    return 0


def _campaign(places: list[Place], seconds: float, cores: int, first_seed: int, each: bool) -> int:
    print(f"{len(places)} scenarios, {seconds:g} s on {cores} cores, seeds from {first_seed}", flush=True)
    began = last = time.monotonic()

    def progress(results: dict[Place, Result]) -> None:
        nonlocal last
        if time.monotonic() - last >= 10:
            last = time.monotonic()
            print(f"{last - began:6.0f} s {_total(results)}", flush=True)

    results = run_campaign(places, seconds, cores, first_seed, progress)
    width = max(len(place.name) for place in places) if each else 0
    for place, result in results.items():
        if each:
            print(f"{place.name:{width}} {place.faults:8} {result}")
    print(f"{'all':{width}} {_total(results)}")
    failures = [(place, text) for place, result in results.items() for text in result.failures]
    for place, text in failures:
        print(f"\n{place}\n{text}")
    return 1 if failures else 0


def _total(results: dict[Place, Result]) -> Result:
    total = Result()
    for result in results.values():
        total.add(result)
    return total


if __name__ == "__main__":
    sys.exit(main())
