"""The bytes of a fuzzer, read as decisions: which role, how many, where to cut."""

from __future__ import annotations

import itertools


class Decisions:
    """Gives out `data` from the front as the decisions that a target asks for.

    When the bytes have run out every further decision is 0, so any bytes mean something, and a byte that
    changes moves no other decision. It is true while bytes are left.

    Arguments:
        data: what the fuzzer made.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes, or what is left of them."""
        start = self._position
        self._position = min(start + count, len(self._data))
        return self._data[start : self._position]

    def rest(self) -> bytes:
        """Return all that is left."""
        return self.take(len(self._data))

    def number(self, size: int = 1) -> int:
        """Return a whole number of `size` bytes."""
        return int.from_bytes(self.take(size))

    def below(self, limit: int) -> int:
        """Return a whole number from 0 to `limit`, which itself is left out."""
        return self.number() % limit

    def flag(self) -> bool:
        """Return yes or no."""
        return bool(self.below(2))

    def string(self) -> bytes:
        """Return up to 255 bytes: their number comes first."""
        return self.take(self.number())

    def cutting(self) -> Cutting:
        """Return a way to cut a stream of bytes into pieces."""
        kind = self.number()
        if kind % 2:
            return Cutting(stride=1 + kind // 2 % 16)
        return Cutting(places=[self.number(2) for _ in range(kind // 2 % 8)])


class Cutting:
    """A way to cut bytes into pieces.

    Arguments:
        stride: the size of every piece in bytes, or 0.
        places: where to cut, where there is no stride; each counts modulo the length of what is cut.
    """

    def __init__(self, stride: int = 0, places: list[int] | None = None) -> None:
        self._stride = stride
        self._places = places or []

    def pieces(self, data: bytes) -> list[bytes]:
        """Return `data` in pieces; where two places coincide there is an empty one."""
        if self._stride:
            return [data[start : start + self._stride] for start in range(0, len(data), self._stride)]
        bounds = [0, *sorted(place % (len(data) + 1) for place in self._places), len(data)]
        return [data[start:stop] for start, stop in itertools.pairwise(bounds)]


def whole() -> Cutting:
    """Return the way of cutting that leaves all in one piece."""
    return Cutting()


# To write what is read above

WHOLE = b"\0"
BYTE_BY_BYTE = b"\x01"
IN_THREE = b"\x04" + (5).to_bytes(2) + (30).to_bytes(2)
"""Ways to cut, as `Decisions.cutting` reads them."""


def string(data: bytes) -> bytes:
    """Return `data` behind its length, as `Decisions.string` reads it."""
    return bytes([len(data)]) + data
