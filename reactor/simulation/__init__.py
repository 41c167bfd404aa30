"""A network that does not exist: the real reactor and the user's own channels, in virtual time, with faults.

A scenario is a function that is given a `World`. `simulate` runs it once for each seed, every time with other
faults; what fails is repeatable to the byte. `torture` fails every single call of it in turn.
"""

from .faults import ALL, HARMLESS
from .hosts import Host
from .running import Report, SimulationFailure, simulate, torture
from .world import NotInTime, Violation, World

__all__ = [
    "ALL",
    "HARMLESS",
    "Host",
    "NotInTime",
    "Report",
    "SimulationFailure",
    "Violation",
    "World",
    "simulate",
    "torture",
]
