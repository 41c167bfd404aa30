"""What the kernel knows of another process: its processor time and its memory."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Self


class ProcessorTime(NamedTuple):
    """Seconds that a process and all its threads have taken, and the kernel's samples of how."""

    total: float
    user_ticks: int
    system_ticks: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Read it; `load.c` says why from two places."""
        # What clock_getcpuclockid(3) returns; the encoding is part of the kernel's interface.
        total = time.clock_gettime((~pid << 3) | 2)
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return cls(total, int(fields[11]), int(fields[12]))

    def since(self, before: ProcessorTime) -> ProcessorTime:
        """Return what was taken from `before` to here."""
        return ProcessorTime(
            self.total - before.total, self.user_ticks - before.user_ticks, self.system_ticks - before.system_ticks
        )

    def plus(self, other: ProcessorTime) -> ProcessorTime:
        """Return what was taken in two spans of time together."""
        return ProcessorTime(
            self.total + other.total, self.user_ticks + other.user_ticks, self.system_ticks + other.system_ticks
        )

    def shares(self) -> dict[str, float | None]:
        """Return the seconds in total, in user mode and in the kernel."""
        ticks = self.user_ticks + self.system_ticks
        return {
            "total": self.total,
            "user": self.total * self.user_ticks / ticks if ticks else None,
            "system": self.total * self.system_ticks / ticks if ticks else None,
        }


def memory_of(pid: int) -> int:
    """Return the bytes that the process alone has in memory with no file behind them: its heap, above all."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel is too old: its smaps_rollup has no Pss_Anon")
