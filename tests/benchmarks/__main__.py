"""The command: see the docstring of the package."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .report import Runs, table
from .running import FailedError, Mistake, compile_load, run_once
from .surroundings import Interpreter, describe_machine, examine
from .workloads import WORKLOADS, Tools, Workload

SPARE_DESCRIPTORS = 300
"""Descriptors that a server or a client needs beside those of the connections."""


def main() -> int:
    arguments = parse_arguments()
    # Whoever ends this command ends the servers with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if sys.platform != "linux":
            raise Mistake(f"this reads the accounts of the Linux kernel, and this system is {sys.platform}")
        return run(arguments)
    except Mistake as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures this reactor beside what a user would pick instead.",
    )
    names = [workload.name for workload in WORKLOADS]
    parser.add_argument("--rounds", type=whole_number, default=5, metavar="N", help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=duration, default=1.0, metavar="S", help="of measuring in each run (default: %(default)s)"
    )
    parser.add_argument(
        "--work", nargs="+", choices=names, default=names, metavar="NAME", help=f"some of: {', '.join(names)}"
    )
    parser.add_argument(
        "--python", nargs="+", default=[sys.executable], metavar="PATH",
        help="interpreters to measure, one after another (default: this one)",
    )  # fmt: skip
    parser.add_argument(
        "--connections", type=whole_number, metavar="N",
        help="at most so many in each work, to try something out in a moment; the figures are others then",
    )  # fmt: skip
    return parser.parse_args()


def whole_number(text: str) -> int:
    """Return the number of at least 1 that `text` means, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def duration(text: str) -> float:
    """Return the seconds that `text` means, for argparse."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds between 0 and 3600")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print. Return the exit code: 1 if a contestant failed."""
    limit = raise_descriptor_limit()
    processors = reserve_processor()
    workloads = [workload for workload in WORKLOADS if workload.name in arguments.work]
    if arguments.connections is not None:
        workloads = [
            dataclasses.replace(workload, connections=min(workload.connections, arguments.connections))
            for workload in workloads
        ]
    needed = {contestant.distribution for workload in workloads for contestant in workload.contestants} - {None}
    interpreters = [examine(python, sorted(filter(None, needed))) for python in arguments.python]
    failures = 0
    with tempfile.TemporaryDirectory() as directory:
        load = compile_load(Path(directory)) if any(workload.needs_compiler for workload in workloads) else None
        certificate = make_certificate() if any(workload.needs_certificate for workload in workloads) else None
        print(describe_machine())
        print(f"rounds {arguments.rounds}, seconds {arguments.seconds:g}; medians, with [smallest..largest]")
        for interpreter in interpreters:
            print(f"\n{interpreter.describe()}")
            for name, version in interpreter.libraries.items():
                if version is None:
                    print(f"{name} is left out: it is not installed (python -m pip install -e '.[bench]')")
            tools = Tools(interpreter.path, load, processors, certificate)
            for workload in workloads:
                print()
                if workload.connections + SPARE_DESCRIPTORS > limit:
                    print(f"{workload.name} is left out: a process may have no more than {limit} descriptors here")
                    continue
                if workload.needs_certificate and certificate is None:
                    print(f"{workload.name} is left out: trustme is not installed (python -m pip install -e '.[test]')")
                    continue
                results = measure(workload, interpreter, tools, arguments.rounds, arguments.seconds)
                failures += sum(runs.failure is not None for runs in results)
                print(table(workload, results), flush=True)
    return 1 if failures else 0


def make_certificate() -> str | None:
    """Return a file with a certificate and its key; None without the library that makes them."""
    try:
        from tests.certificates import certificate
    except ImportError:
        return None
    return certificate()


def raise_descriptor_limit() -> int:
    """Let this process, and those that it starts, have as many descriptors as the system allows; return how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return sys.maxsize if most == resource.RLIM_INFINITY else most


def reserve_processor() -> frozenset[int] | None:
    """Keep one processor for this process and for the loads that it starts; return those that are left to the servers.

    Left alone, the scheduler puts a load and its server on the same processor in some runs and not in
    others: they wake each other. Then the server finds more to do at each wakeup, and a message costs
    something else. None if there is only one processor.
    """
    *others, own = sorted(os.sched_getaffinity(0))
    if not others:
        return None
    os.sched_setaffinity(0, {own})
    return frozenset(others)


def measure(workload: Workload, interpreter: Interpreter, tools: Tools, rounds: int, seconds: float) -> Sequence[Runs]:
    """Let the contestants take turns, and return what each one's rounds gave."""
    results = [
        Runs(contestant, [])
        for contestant in workload.contestants
        if contestant.distribution is None or interpreter.libraries[contestant.distribution] is not None
    ]
    for _ in range(rounds):
        for runs in results:
            try:
                runs.rounds.append(run_once(workload, runs.contestant, tools, seconds))
            except FailedError as error:
                runs.rounds.append(str(error))
    return results


if __name__ == "__main__":
    sys.exit(main())
