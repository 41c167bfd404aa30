"""Lines and message contents, as they stand on the wire (RFC 5321 sections 2.3.8 and 4.5.2). No I/O.

A line ends with CRLF, and with nothing else. Two ends of a connection that do not agree on what ends a line, or a
message, let a stranger hide a second message in the first: that is called smuggling. So a bare CR or a bare LF ends
nothing here, and nothing that has one in it is believed. Nor is a NUL, which some leave out: CR NUL LF is a CRLF then.
"""

from __future__ import annotations

import enum
import io
import re

CRLF = b"\r\n"
END_OF_CONTENT = b"\r\n.\r\n"

_ANY_LINE_END = re.compile(rb"\r\n|\r|\n")


class LineFault(enum.Enum):
    """What can be wrong with a line; the rest of it, up to its CRLF, is skipped."""

    TOO_LONG = "is too long"
    BARE = "has a CR or an LF that stands alone"


class Input:
    """Bytes that came and are not taken yet."""

    __slots__ = ("_buffer", "_searched", "_skipping")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._searched = 0  # so many bytes in front hold neither CR nor LF
        self._skipping = False  # the rest of a line that was refused

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take more bytes."""
        self._buffer += data

    def take_line(self, maximum: int) -> bytes | LineFault | None:
        """Take the next line, without its CRLF; None where more bytes are needed.

        A fault is told as soon as it can be known, and once for each line.

        Arguments:
            maximum: the most bytes, with the CRLF, that a line may have.
        """
        buffer = self._buffer
        if self._skipping and not self._skip():
            return None
        found = self._find_end(maximum - 1)
        if found < 0:
            if len(buffer) < maximum - 1:
                self._searched = len(buffer)
                return None
            return self._refuse(maximum - 1, LineFault.TOO_LONG)
        self._searched = found
        if buffer[found] == 0x0D:
            if found + 1 == len(buffer):
                return None
            if buffer[found + 1] == 0x0A:
                line = bytes(buffer[:found])
                del buffer[: found + 2]
                self._searched = 0
                return line
        return self._refuse(found + 1, LineFault.BARE)

    def take_all(self) -> bytes:
        """Take whatever is there."""
        data = bytes(self._buffer)
        self.clear()
        return data

    def clear(self) -> None:
        """Drop whatever is there."""
        self._buffer.clear()
        self._searched = 0
        self._skipping = False

    def _find_end(self, stop: int) -> int:
        """Return where the first CR or LF in front of `stop` stands, or -1."""
        carriage_return = self._buffer.find(b"\r", self._searched, stop)
        line_feed = self._buffer.find(b"\n", self._searched, stop if carriage_return < 0 else carriage_return)
        return carriage_return if line_feed < 0 else line_feed

    def _refuse(self, looked_at: int, fault: LineFault) -> LineFault:
        del self._buffer[:looked_at]
        self._searched = 0
        self._skipping = True
        return fault

    def _skip(self) -> bool:
        """Drop the rest of a line that was refused; return whether its end was there."""
        end = self._buffer.find(CRLF)
        if end < 0:
            del self._buffer[: len(self._buffer) - self._buffer.endswith(b"\r")]
            return False
        del self._buffer[: end + 2]
        self._skipping = False
        return True


class ContentFault(enum.Enum):
    """What can be wrong with the content of a message; where several things are, the first one here is told."""

    FAR_TOO_LARGE = "so large that nobody waits for its end"
    BARE = "bare CR or LF"
    NUL = "NUL"
    TOO_LARGE = "too large"
    LONG_LINE = "long line"


class ContentDecoder:
    """Takes the content of one message off the wire: up to CRLF.CRLF, without the dots that were put in.

    Content that is at fault is read to its end all the same, because only there a reply is understood. What is
    `FAR_TOO_LARGE` is known to be so at once: above twice the maximum.

    Arguments:
        maximum: the most bytes that a content may have.
        maximum_line: the most bytes, with the CRLF, that a line of it may have.
    """

    __slots__ = ("_faults", "_held", "_kept", "_lead", "_line", "_longest", "_maximum", "_size")

    def __init__(self, maximum: int, maximum_line: int) -> None:
        self._maximum = maximum
        self._longest = maximum_line - len(CRLF)
        # A content begins at the beginning of a line: as if a CRLF had come in front of it, which is not kept.
        self._held = CRLF  # bytes that may be the beginning of the end
        self._lead = len(CRLF)
        self._line = 0  # so many bytes of the line that is under way
        self._size = 0
        self._kept = io.BytesIO()
        self._faults: set[ContentFault] = set()

    def feed(self, data: bytes) -> bytes | None:
        """Take `data`. Return what stands behind the end of the content, or None where the end did not come yet."""
        data = self._held + data
        end = data.find(END_OF_CONTENT)
        if end >= 0:
            self._held = b""
            self._take(data[: end + len(CRLF)])
            return data[end + len(END_OF_CONTENT) :]
        held = next(count for count in (4, 3, 2, 1, 0) if data.endswith(END_OF_CONTENT[:count]))
        self._held = END_OF_CONTENT[:held]
        self._take(data[: len(data) - held])
        return None

    @property
    def fault(self) -> ContentFault | None:
        """What is wrong with the content so far, or None."""
        return next((fault for fault in ContentFault if fault in self._faults), None)

    @property
    def content(self) -> bytes:
        """The content: lines that end with CRLF. Without meaning where there is a fault."""
        return self._kept.getvalue()

    def _take(self, data: bytes) -> None:
        """Take what is known to be content. No CRLF, and no dot with the CRLF in front of it, is cut in two here."""
        if not data:
            return
        data = data.replace(b"\r\n.", CRLF)[self._lead :]
        self._lead = 0
        self._size += len(data)
        if self._size > self._maximum:
            self._faults.add(ContentFault.TOO_LARGE)
            self._kept = io.BytesIO()
        if self._size > 2 * self._maximum:
            self._faults.add(ContentFault.FAR_TOO_LARGE)
        first, *others = data.split(CRLF)
        longest = self._line + len(first)
        if others:
            longest = max(longest, *map(len, others))
        self._line = len(others[-1]) if others else longest
        if longest > self._longest:
            self._faults.add(ContentFault.LONG_LINE)
        if not data.count(b"\r") == data.count(b"\n") == len(others):
            self._faults.add(ContentFault.BARE)
        if b"\0" in data:
            self._faults.add(ContentFault.NUL)
        if not self._faults:
            self._kept.write(data)


def canonical(content: bytes) -> bytes:
    """Return `content` with CRLF, and nothing else, at the end of every line, the last one included.

    A CR or an LF that stands alone becomes a CRLF: on the wire it has no meaning, except to smugglers.
    """
    crlfs = content.count(CRLF)
    if content.count(b"\r") != crlfs or content.count(b"\n") != crlfs:
        content = _ANY_LINE_END.sub(CRLF, content)
    return content if not content or content.endswith(CRLF) else content + CRLF


def encode_content(content: bytes) -> bytes:
    """Return canonical `content` as it is sent: a dot in front of lines that begin with one, and the end behind it."""
    dot = b"." if content.startswith(b".") else b""
    return dot + content.replace(b"\r\n.", b"\r\n..") + b".\r\n"
