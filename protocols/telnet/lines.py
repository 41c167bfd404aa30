"""Lines of text, however the peer ends them. No I/O."""

from __future__ import annotations

from dataclasses import dataclass

from .wire import LimitExceeded


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text from the peer.

    Attributes:
        data: its bytes, without its end.
    """

    data: bytes


class LineSplitter:
    """Cuts text at CR LF, at LF and at CR, whatever pieces it comes in.

    Telnet ends a line with CR LF; the Return key of a terminal that sends each key at once is a CR; and what is
    piped into a client ends with LF. A CR ends its line when it comes, so nobody waits for what follows it.

    Arguments:
        maximum: the longest line accepted, in bytes. No more than these are ever held.
    """

    __slots__ = ("_begun", "_ended_with_return", "_is_overlong", "maximum")

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self._begun = bytearray()
        self._ended_with_return = False
        self._is_overlong = False

    def feed(self, data: bytes) -> list[Line | LimitExceeded]:
        """Take `data`, at least one byte, and return the lines that it completes."""
        if self._ended_with_return and data.startswith(b"\n"):
            data = data[1:]
        self._ended_with_return = data.endswith(b"\r")
        found: list[Line | LimitExceeded] = []
        lines = data.splitlines()
        rest = b"" if data.endswith((b"\r", b"\n")) or not lines else lines.pop()
        for line in lines:
            self._extend(line, found)
            self._end(found)
        self._extend(rest, found)
        return found

    def finish(self) -> list[Line | LimitExceeded]:
        """Return the line that the end of the input ends, if one has begun."""
        found: list[Line | LimitExceeded] = []
        if self._begun:
            self._end(found)
        return found

    def _extend(self, data: bytes, found: list[Line | LimitExceeded]) -> None:
        if self._is_overlong:
            return
        if len(self._begun) + len(data) > self.maximum:
            self._is_overlong = True
            found.append(LimitExceeded("maximum_line", self.maximum))
        else:
            self._begun += data

    def _end(self, found: list[Line | LimitExceeded]) -> None:
        if not self._is_overlong:
            found.append(Line(bytes(self._begun)))
        self._begun.clear()
        self._is_overlong = False
