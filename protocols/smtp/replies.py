"""Replies of an SMTP server: to bytes, and back (RFC 5321 section 4.2, RFC 2034). No I/O."""

from __future__ import annotations

import dataclasses
import re

from reactor.errors import LocalError, excerpt

from .lines import Input, LineFault

LONGEST_LINE = 512
"""Bytes of a reply line with its CRLF (RFC 5321, section 4.5.3.1.5)."""
LONGEST_LINE_TAKEN = 4096
"""What a client takes all the same: some servers are talkative."""
MOST_LINES = 100
"""Lines of one reply, both ways."""

_STATUS = re.compile(r"([245])\.\d{1,3}\.\d{1,3}")
_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True, slots=True)
class Reply:
    """What a server says to a command.

    Arguments:
        code: from 200 to 599; its first digit says how it went.
        text: for people; each line of it becomes one of the reply.
        status: the enhanced status code of RFC 3463, as ``"5.1.1"``. None for the one that says no more than
            `code`; ``""`` for no status at all, as in a greeting.

    Raises:
        LocalError: `code` is out of range, or `status` is none that goes with it.
    """

    code: int
    text: str
    status: str | None = None

    def __post_init__(self) -> None:
        if not 200 <= self.code <= 599:
            raise LocalError(f"{self.code} is no reply code; they go from 200 to 599")
        kind = str(self.code)[0]
        if self.status is None:
            object.__setattr__(self, "status", "" if kind == "3" else f"{kind}.0.0")
        elif self.status and not (_STATUS.fullmatch(self.status) and self.status[0] == kind):
            raise LocalError(
                f"{self.status!r} is no enhanced status code for a {self.code}; it looks like '{kind}.0.0'"
            )

    def __str__(self) -> str:
        return " ".join(part for part in (str(self.code), self.status, self.text.replace("\n", " ")) if part)

    @property
    def is_positive(self) -> bool:
        """Whether what was asked is done (2yz)."""
        return self.code < 300

    @property
    def is_intermediate(self) -> bool:
        """Whether more is asked for (3yz)."""
        return 300 <= self.code < 400

    @property
    def is_temporary(self) -> bool:
        """Whether it is refused for now (4yz)."""
        return 400 <= self.code < 500

    @property
    def is_permanent(self) -> bool:
        """Whether it is refused for good (5yz)."""
        return self.code >= 500

    def encode(self) -> bytes:
        """Return the reply as it is sent. No character of the text can end the reply, or begin another one."""
        status = f"{self.status} " if self.status else ""
        room = LONGEST_LINE - len(f"{self.code} {status}\r\n")
        lines = [
            line[start : start + room]
            for line in map(_harmless, self.text.splitlines() or [""])
            for start in range(0, len(line) or 1, room)
        ][:MOST_LINES]
        last = len(lines) - 1
        return "".join(
            f"{self.code}{'-' if number < last else ' '}{status}{line}\r\n" for number, line in enumerate(lines)
        ).encode("ascii")


def _harmless(line: str) -> str:
    """Return `line` in printable ASCII; RFC 6531 allows more only in some places."""
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        letter if letter.isascii() and letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in line
    )


class ReplyDecoder:
    """Reads replies off a stream of bytes, whatever pieces the bytes come in.

    Attributes:
        failure: what is wrong with the bytes, in words, or None. From then on no reply comes out.
    """

    __slots__ = ("_code", "_input", "_lines", "_status", "failure")

    def __init__(self) -> None:
        self.failure: str | None = None
        self._input = Input()
        self._code = b""
        self._status: str | None = None
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        if self.failure is None:
            self._input.feed(data)

    def clear(self) -> int:
        """Drop what came and is no reply yet, and return how many bytes that was."""
        dropped = len(self._input)
        self._input.clear()
        return dropped

    def next_reply(self) -> Reply | None:
        """Return the next reply, or None where more bytes are needed, or where there is a `failure`."""
        while self.failure is None:
            line = self._input.take_line(LONGEST_LINE_TAKEN)
            if line is None:
                return None
            if isinstance(line, LineFault):
                self.failure = f"a line of a reply {line.value}"
                return None
            reply = self._take(line)
            if reply is not None:
                return reply
        return None

    def _take(self, line: bytes) -> Reply | None:
        match = _LINE.fullmatch(line)
        if match is None:
            self.failure = f"this is no line of a reply: {excerpt(line)}"
            return None
        code, mark, text = match.groups()
        if self._lines and code != self._code:
            self.failure = f"a reply that began with {self._code.decode()} goes on with {code.decode()}"
            return None
        if len(self._lines) >= MOST_LINES:
            self.failure = f"a reply has more than {MOST_LINES} lines"
            return None
        words = (text or b"").decode("utf-8", "replace")
        status, _, rest = words.partition(" ")
        found = _STATUS.fullmatch(status)
        if found and found[1] == code.decode()[0]:
            words = rest
            self._status = status
        self._code = code
        self._lines.append(words)
        if mark == b"-":
            return None
        reply = Reply(int(code), "\n".join(self._lines), self._status or "")
        self._lines = []
        self._status = None
        return reply
