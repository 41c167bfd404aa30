"""The command ``python -m tests.conversations``: torture in full, every call failing in turn, or every two of them."""

from __future__ import annotations

import argparse
import sys
import time

from reactor.simulation import Report, SimulationFailure, torture

from . import HANDSHAKES, SCENARIOS, name_of


def main() -> int:
    """Run the command; return its exit code: 0 for all well, 1 for violations, 2 for a mistake in it."""
    parser = argparse.ArgumentParser(prog="python -m tests.conversations", description=__doc__)
    parser.add_argument("names", nargs="*", help="of conversations; by default all of them")
    parser.add_argument("--pairs", action="store_true", help="all pairs of failures, for the handshakes")
    parser.add_argument("--every", type=int, default=1, help="only one in so many of the (first) failures")
    options = parser.parse_args()
    conversations = {name_of(scenario): scenario for scenario in (HANDSHAKES if options.pairs else SCENARIOS)}
    unknown = [name for name in options.names if name not in conversations]
    if unknown:
        parser.error(f"there is no conversation {unknown[0]}; there are {', '.join(conversations)}")
    total, violations = Report(), 0
    began = time.process_time()
    for name in options.names or conversations:
        try:
            report = torture(conversations[name], pairs=options.pairs, every=options.every)
        except SimulationFailure as failure:
            violations += 1
            print(f"{name}\n{failure}", flush=True)
        else:
            total.add(report)
            print(f"{name:52} {report}", flush=True)
    print(f"{'all':52} {total}; {violations} violations, {time.process_time() - began:,.0f} s of processor time")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
