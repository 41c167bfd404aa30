"""Input cut at terminators, however it comes in. Bytes in, pieces out; no I/O.

What `asynchat` did, in time that is linear in the input: no byte is looked at again because more came, whatever
the terminator is and wherever the input is cut.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

from .errors import LimitError, LocalError

Terminator = bytes | int | None


Piece = tuple[bytes, bool]
"""Bytes of the input in front of a terminator, maybe none, and whether the terminator was found behind them."""


class Splitter:
    """Cuts a stream of bytes at a terminator, which may change from piece to piece.

    After `feed`, whoever uses it takes the `lines`, then one `next_piece` after the other, until there is none.

    Arguments:
        terminator: see `set_terminator`.
        maximum: the most bytes, in front of a terminator of bytes, that are accepted.

    Attributes:
        terminator: what is looked for: bytes; a number, for so many more bytes; or None, for no end.
            A number counts down, and at 0 it means no end, until another one is set.
        lines: whole pieces, each in front of its terminator, that are next in turn. To cut them all at once
            is three times as fast as one by one.
        failure: set once more than `maximum` bytes came without the terminator; from then on nothing is found.
    """

    __slots__ = (
        "_borders", "_buffer", "_cuts_ahead", "_end_is_due", "_matched", "_position", "_since", "failure", "lines",
        "maximum", "terminator",
    )  # fmt: skip

    def __init__(self, terminator: Terminator = None, maximum: int = 1 << 16) -> None:
        self.maximum = maximum
        self.failure: LimitError | None = None
        self.lines: Iterator[bytes] = iter(())
        self.terminator: Terminator = None
        self._buffer = b""
        self._position = 0
        self._matched = 0  # so many bytes of the terminator end the input before the buffer
        self._since = 0  # so many bytes came since the last terminator
        self._end_is_due = False
        self._cuts_ahead = True
        self._borders: list[int] = []
        self.set_terminator(terminator)

    def set_terminator(self, terminator: Terminator) -> None:
        """Look for `terminator` from here on, in what has not been handed out yet.

        Arguments:
            terminator: bytes; a number of bytes; or None, or 0, to hand out everything as it comes.

        Raises:
            LocalError: it is none of these, or empty bytes.
        """
        if terminator is self.terminator:
            return  # many programs say it again behind each piece
        if type(terminator) is not bytes or not terminator:
            terminator = checked(terminator)
        if isinstance(self.terminator, bytes):
            self._take_back(self.terminator)
        self.terminator = terminator
        if isinstance(terminator, bytes):
            self._borders = borders(terminator)

    def feed(self, data: bytes) -> None:
        """Take more input."""
        if self.failure is not None:
            return
        if self.has_input:
            data = self._buffer[self._position :] + data
        terminator = self.terminator
        self._position = 0
        if isinstance(terminator, bytes) and self._cuts_ahead and not self._matched:
            lines = data.split(terminator)
            rest = lines.pop()
            if lines and max(map(len, lines)) <= self.maximum and self._since + len(lines[0]) <= self.maximum:
                self.lines = iter(lines)
                self._buffer = rest
                self._since = 0
                return
        self._cuts_ahead = True
        self._buffer = data

    @property
    def has_input(self) -> bool:
        """Whether there is input, beside `lines`, that was not looked at."""
        return self._position < len(self._buffer)

    def clear(self) -> int:
        """Drop what has not been handed out, and return how many bytes that was."""
        end = len(self.terminator) if isinstance(self.terminator, bytes) else 0
        # The lines are used up, for whoever iterates over them at this moment.
        dropped = sum(len(line) + end for line in self.lines) + len(self._buffer) - self._position + self._matched
        self._buffer = b""
        self._position = self._matched = self._since = 0
        self._end_is_due = False
        return dropped

    def take_rest(self) -> bytes:
        """Return what was held back as the beginning of a terminator: the input ends here."""
        matched, self._matched = self._matched, 0
        return self.terminator[:matched] if isinstance(self.terminator, bytes) else b""

    def put_end_back(self) -> None:
        """The data of a piece were taken, and whoever took them cannot take its end now."""
        self._end_is_due = True

    def take_end(self) -> bool:
        """Return whether the end of a piece was put back, and is next in turn."""
        is_due, self._end_is_due = self._end_is_due, False
        return is_due

    def next_piece(self) -> Piece | None:
        """Return the next piece, or None where more input is needed."""
        for line in self.lines:
            return line, True
        if not self.has_input or self.failure is not None:
            self._buffer, self._position = b"", 0  # an idle channel holds nothing
            return None
        terminator = self.terminator
        if isinstance(terminator, bytes):
            return self._up_to(terminator)
        if terminator:
            return self._count(terminator)
        data = self._buffer[self._position :]
        self._position = len(self._buffer)
        self._since = 0
        return data, False

    def _take_back(self, terminator: bytes) -> None:
        """Make what was cut ahead, or held back as the beginning of `terminator`, input again."""
        lines = list(self.lines)
        if lines:
            self._cuts_ahead = False  # it changes from piece to piece: to cut ahead would be for nothing
        elif not self._matched:
            return  # and the buffer is not copied: it may be long, and the terminator change again behind each piece
        rest = terminator[: self._matched] + self._buffer[self._position :]
        self._buffer = terminator.join([*lines, rest])
        self._position = self._matched = 0

    def _count(self, wanted: int) -> Piece:
        data = self._buffer[self._position : self._position + wanted]
        self._position += len(data)
        self._since = 0
        self.terminator = wanted - len(data)
        return data, not self.terminator

    def _up_to(self, terminator: bytes) -> Piece | None:
        given_up = b""
        if self._matched:
            given_up = self._resume(terminator)
            if self._matched == len(terminator):
                self._matched = 0
                return self._end(given_up)
            if self._matched:
                return self._more(given_up) if given_up else None
        start = self._position
        found = self._buffer.find(terminator, start)
        if found >= 0:
            data = self._buffer[start:found]
            self._position = found + len(terminator)
            return self._end(given_up + data if given_up else data)
        self._matched = overlap(self._buffer, start, terminator, self._borders)
        data = given_up + self._buffer[start : len(self._buffer) - self._matched]
        self._position = len(self._buffer)
        return self._more(data) if data else None

    def _resume(self, terminator: bytes) -> bytes:
        """Go on with a terminator whose beginning ends the earlier input; return what turned out to be none of it.

        Afterwards all of it is matched, or the buffer has ended and a part is; or none is, and what comes next
        is to be searched from the beginning of the buffer.
        """
        before = matched = self._matched
        buffer, start = self._buffer, self._position
        for taken, byte in enumerate(buffer[start : start + len(terminator)], 1):
            while matched and terminator[matched] != byte:
                matched = self._borders[matched - 1]
            if terminator[matched] == byte:
                matched += 1
            if matched <= taken:  # nothing of the earlier input is part of it any more
                self._matched = 0
                return terminator[:before]
            if matched == len(terminator):
                break
        self._position = start + taken
        self._matched = matched
        return terminator[: before + taken - matched]

    def _more(self, data: bytes) -> Piece | None:
        self._since += len(data)
        return (data, False) if self._is_within(self._since) else None

    def _end(self, data: bytes) -> Piece | None:
        size, self._since = self._since + len(data), 0
        return (data, True) if self._is_within(size) else None

    def _is_within(self, size: int) -> bool:
        if size <= self.maximum:
            return True
        self.failure = LimitError(
            f"{size} bytes came without the terminator {self.terminator!r}; the limit is {self.maximum} (maximum_line)",
            "maximum_line",
        )
        self.clear()
        return False


def checked(terminator: object) -> Terminator:
    """Return `terminator`, if it is one; bytes-like objects as bytes.

    Raises:
        LocalError: it is none.
    """
    if isinstance(terminator, bytearray | memoryview):
        terminator = bytes(terminator)
    if isinstance(terminator, bool) or not isinstance(terminator, bytes | int | None) or terminator == b"":
        raise LocalError(f"{terminator!r} is no terminator; give bytes, a number of bytes, or None")
    if isinstance(terminator, int) and terminator < 0:
        raise LocalError(f"a terminator of {terminator} bytes makes no sense; give 0 or more")
    return terminator


@functools.lru_cache(maxsize=100)
def borders(terminator: bytes) -> list[int]:
    """Return for each beginning of `terminator` how much of its end is a beginning again (Knuth, Morris, Pratt)."""
    table = [0] * len(terminator)
    length = 0
    for position in range(1, len(terminator)):
        while length and terminator[position] != terminator[length]:
            length = table[length - 1]
        if terminator[position] == terminator[length]:
            length += 1
        table[position] = length
    return table


def overlap(data: bytes, start: int, terminator: bytes, table: list[int]) -> int:
    """Return how many bytes at the end of `data`, from `start` on, are the beginning of `terminator`."""
    matched = 0
    for position in range(max(start, len(data) - len(terminator) + 1), len(data)):
        byte = data[position]
        while matched and terminator[matched] != byte:
            matched = table[matched - 1]
        if terminator[matched] == byte:
            matched += 1
    return matched
