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

    def since(self, before: ProcessorTime) -> dict[str, float | None]:
        """Return the seconds from `before` to here: in total, in user mode and in the kernel."""
        total = self.total - before.total
        user = self.user_ticks - before.user_ticks
        system = self.system_ticks - before.system_ticks
        ticks = user + system
        return {
            "total": total,
            "user": total * user / ticks if ticks else None,
            "system": total * system / ticks if ticks else None,
        }


def memory_of(pid: int) -> int:
    """Return the bytes that the process alone has in memory with no file behind them: its heap, above all."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss_Anon:"):
            return int(line.split()[1]) * 1024
    raise OSError("this kernel is too old: its smaps_rollup has no Pss_Anon")
