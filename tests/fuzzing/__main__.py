"""The command: see the docstring of the package."""

from __future__ import annotations

import argparse
import concurrent.futures
import sys
from pathlib import Path

from .running import Mistake, Run, check_atheris, fuzz, minimize
from .targets import TARGETS, Target, limit_memory

COLUMNS = "{:<20}{:>12}{:>12}{:>8}{:>10}"


def main() -> int:
    """Do what the command line says, and return the exit code: 1 if something was found."""
    arguments = parse_arguments()
    targets = [TARGETS[name] for name in arguments.targets or TARGETS]
    try:
        if arguments.replay:
            return replay(targets, arguments.replay)
        check_atheris()
        if arguments.minimize:
            return minimize_all(targets)
        return fuzz_all(targets, arguments.seconds, arguments.jobs)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzzing",
        description="Fuzzes the pure parts of the reactor and the protocols, guided by the code that is reached.",
        epilog="targets:\n" + "\n".join(f"  {target.name:<18}{target.summary}" for target in TARGETS.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="some of those below (default: all of them)")
    parser.add_argument("--seconds", type=whole_number, default=60, metavar="N", help="for each (default: %(default)s)")
    parser.add_argument("--jobs", type=whole_number, default=1, metavar="N", help="so many at once (default: 1)")
    parser.add_argument("--minimize", action="store_true", help="select the corpus anew from all that was found")
    parser.add_argument(
        "--replay", nargs="+", type=Path, metavar="FILE", help="run the one target on these files alone"
    )
    arguments = parser.parse_args()
    for name in arguments.targets:
        if name not in TARGETS:
            parser.error(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    return arguments


def whole_number(text: str) -> int:
    """Return the number of at least 1 that `text` means, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def replay(targets: list[Target], paths: list[Path]) -> int:
    """Run the one target on files; what is wrong is raised, and shows where."""
    if len(targets) != 1:
        raise Mistake("--replay takes one target: python -m tests.fuzzing TARGET --replay FILE")
    limit_memory()
    for path in paths:
        targets[0].check(path.read_bytes())
        print(f"{path}: all is well")
    return 0


def minimize_all(targets: list[Target]) -> int:
    for target in targets:
        files, size = minimize(target)
        print(f"{target.name}: {files} files, {size} bytes", flush=True)
    return 0


def fuzz_all(targets: list[Target], seconds: int, jobs: int) -> int:
    print(COLUMNS.format("target", "executions", "a second", "edges", "findings"), flush=True)
    failed = False
    with concurrent.futures.ThreadPoolExecutor(jobs) as executor:
        for run in executor.map(lambda target: fuzz(target, seconds), targets):
            show(run)
            failed = failed or bool(run.findings)
    return int(failed)


def show(run: Run) -> None:
    """Print what came of a run."""
    print(COLUMNS.format(run.target.name, run.executions, run.rate, run.edges, len(run.findings)), flush=True)
    for path in run.findings:
        print(f"  {path}: {run.cause}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
