"""The tape: every choice that a simulation makes, as whole numbers of which 0 is the benign one.

Each entity (a socket, a host, the world) has a stream of its own, so that taking one draw back does not
shift what the others drew. A tape is written ``client.1:3=9,7=2;server:0=4``: of the stream ``client.1`` the
draws number 3 and 7, and so on; all that is not written is 0.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Set
from contextlib import contextmanager

from ..errors import LocalError
from .faults import CALLS, KIND_BITS, PARAMETERS, Call

Draws = dict[str, dict[int, int]]
"""The draws that are not 0: by the name of their stream, then by their number in it."""

KIND_MASK = (1 << KIND_BITS) - 1
TAPE_PART = re.compile(r"[^\s:;=,]+:\d+=\d+(,\d+=\d+)*", re.ASCII)
RATES = (0.0, 0.02, 0.1, 0.3, 0.5, 0.7)
HARMLESS_WEIGHT = 25
"""So many times as likely as a fault that breaks something is one that does not."""


class Profile:
    """How likely each fault is in the run of one seed: some calls fail often there, others never.

    Arguments:
        seed: which run.
        faults: those that may happen at all, as `faults.ALL` names them.
    """

    def __init__(self, seed: int | str, faults: Set[str]) -> None:
        # Of Python's generator only random() is the same in every version.
        chance = random.Random(f"profile of {seed}").random
        self.rates: list[float] = []
        self.choices: list[list[int]] = []
        for call in CALLS:
            rate = RATES[int(chance() * len(RATES))]
            choices: list[int] = []
            for kind, fault in enumerate(call.faults):
                if fault is not None and chance() < 0.5 and call.labels[kind] in faults:
                    choices += [kind] * (1 if fault.breaks else HARMLESS_WEIGHT)
            if len(choices) < HARMLESS_WEIGHT:
                rate *= len(choices) / HARMLESS_WEIGHT
            self.rates.append(rate)
            self.choices.append(choices)


class Stream:
    """The draws of one entity, made by chance."""

    __slots__ = ("_chance", "_choices", "_drawn", "_index", "_rates", "_tape")

    def __init__(self, tape: Tape, name: str, profile: Profile, drawn: dict[int, int]) -> None:
        self._tape = tape
        self._chance = random.Random(f"{name} of {tape.seed}").random
        self._rates = profile.rates
        self._choices = profile.choices
        self._drawn = drawn
        self._index = -1

    def draw(self, call: Call) -> int:
        """Return what happens at this `call`: 0 for nothing out of the ordinary."""
        if self._tape.is_calm:
            return 0
        self._index += 1
        chance = self._chance()
        rate = self._rates[call.index]
        if chance >= rate:
            return 0
        choices = self._choices[call.index]
        value = choices[int(chance / rate * len(choices))] | int(self._chance() * PARAMETERS) << KIND_BITS
        self._drawn[self._index] = value
        return value

    def pick(self, count: int) -> int:
        """Return a whole number from 0 up to, and without, `count`."""
        self._index += 1
        value = int(self._chance() * count)
        if value:
            self._drawn[self._index] = value
        return value


class PlannedStream(Stream):
    """The draws of one entity as a tape has them.

    Arguments:
        log: takes down (stream, number, call) of each draw.
    """

    __slots__ = ("_log", "_name")

    def __init__(self, tape: Tape, name: str, planned: dict[int, int], log: list[tuple[str, int, Call]] | None) -> None:
        self._tape = tape
        self._name = name
        self._drawn = planned
        self._index = -1
        self._log = log

    def draw(self, call: Call) -> int:
        if self._tape.is_calm:
            return 0
        self._index += 1
        if self._log is not None:
            self._log.append((self._name, self._index, call))
        value = self._drawn.get(self._index, 0)
        return value if 0 < value & KIND_MASK < call.size else 0

    def pick(self, count: int) -> int:
        self._index += 1
        return min(self._drawn.get(self._index, 0), count - 1)


class Tape:
    """The streams of one run.

    Arguments:
        seed: what the chance is made from.
        faults: those that may be drawn, as `faults.ALL` names them.
        planned: the draws of an earlier run, to be repeated; then nothing is left to chance.
        log: takes down every draw of such a repeated run.

    Attributes:
        draws: what was drawn so far and is not 0.
        is_calm: whether nothing is drawn for now, and all goes well.
    """

    def __init__(
        self,
        seed: int | str,
        faults: Set[str],
        planned: Draws | None = None,
        log: list[tuple[str, int, Call]] | None = None,
    ) -> None:
        self.seed = seed
        self.draws: Draws = {}
        self.is_calm = False
        self._planned = planned
        self._log = log
        self._profile = Profile(seed, faults) if planned is None else None

    def stream(self, name: str) -> Stream:
        """Return the stream of the entity `name`, which is asked for once."""
        if self._profile is None:
            assert self._planned is not None
            return PlannedStream(self, name, self._planned.get(name, {}), self._log)
        return Stream(self, name, self._profile, self.draws.setdefault(name, {}))

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Have nothing go wrong for as long as this lasts."""
        before, self.is_calm = self.is_calm, True
        try:
            yield
        finally:
            self.is_calm = before

    def random_bytes(self, name: str) -> Callable[[int], bytes]:
        """Return a source of bytes like `os.urandom`, the same for every run of this seed."""
        bits = random.Random(f"bytes of {name} of {self.seed}").getrandbits
        return lambda count: bits(8 * count).to_bytes(count, "big") if count else b""


def format_draws(draws: Draws) -> str:
    """Return the draws as one line."""
    return ";".join(
        f"{name}:{','.join(f'{number}={value}' for number, value in sorted(stream.items()))}"
        for name, stream in sorted(draws.items())
        if stream
    )


def parse_draws(text: str) -> Draws:
    """Return the draws for which the line `text` stands.

    Raises:
        LocalError: this is no tape.
    """
    draws: Draws = {}
    for part in filter(None, text.strip().split(";")):
        name, _, entries = part.partition(":")
        if not TAPE_PART.fullmatch(part) or name in draws:
            raise LocalError(f"{part!r} is no part of a tape; one looks like 'client.1:3=9,7=2;server:0=4'")
        draws[name] = {int(number): int(value) for number, value in (entry.split("=") for entry in entries.split(","))}
    return draws
