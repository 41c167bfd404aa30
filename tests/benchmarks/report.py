"""Makes a table of what was measured."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from .contestants import Contestant
from .workloads import Column, Workload

Figures = dict[str, float | None]


class Runs(NamedTuple):
    """What the rounds gave for one contestant: in each the figures, or why there are none."""

    contestant: Contestant
    rounds: list[Figures | str]

    @property
    def failure(self) -> str | None:
        """Why a round failed, if one did."""
        return next((outcome for outcome in self.rounds if isinstance(outcome, str)), None)

    def values(self, key: str) -> list[float]:
        """Return one figure of all rounds that have it."""
        return [
            value
            for outcome in self.rounds
            if not isinstance(outcome, str) and (value := outcome[key]) is not None
        ]  # fmt: skip


def ratios(ours: Runs, theirs: Runs, key: str) -> list[float]:
    """Return our figure over theirs, for each round in which both have one.

    Only runs of the same round are compared: the machine that they found was the same, or nearly so.
    """
    return [
        a / b
        for mine, other in zip(ours.rounds, theirs.rounds, strict=True)
        if not isinstance(mine, str) and not isinstance(other, str) and (a := mine[key]) and (b := other[key])
    ]


def summary(values: Sequence[float], decimals: int, spread: bool) -> str:
    """Write the median of `values`, and where `spread` is wanted the smallest and the largest beside it."""
    if not values:
        return "-"
    median = f"{statistics.median(values):.{decimals}f}"
    return f"{median} [{min(values):.{decimals}f}..{max(values):.{decimals}f}]" if spread else median


def table(workload: Workload, results: Sequence[Runs]) -> str:
    """Return the table of a work; `results` has ours first."""
    ours = results[0]
    cost: Column = workload.columns[0]
    rows = [["", *(column.heading for column in workload.columns), "ours / theirs"]]
    for runs in results:
        if runs.failure is not None:
            rows.append([runs.contestant.name, f"failed: {runs.failure}"])
            continue
        cells = [summary(runs.values(key), decimals, spread) for key, _, decimals, spread in workload.columns]
        ratio = "" if runs is ours else summary(ratios(ours, runs, cost.key), 3, spread=True)
        rows.append([runs.contestant.name, *cells, ratio])
    return f"{workload.name}: {workload.title.format(connections=workload.connections)}\n{aligned(rows)}"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Write rows of cells as columns: the first to the left, the others to the right.

    A row of two cells is a name and a sentence, and has no part in the widths.
    """
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(cell) for cell in column) for column in zip(*full, strict=True)]
    widths[0] = max(len(row[0]) for row in rows)
    lines = []
    for row in rows:
        first, *others = row
        if len(row) == len(widths):
            others = [cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True)]
        lines.append("  ".join(["  " + first.ljust(widths[0]), *others]).rstrip())
    return "\n".join(lines)
