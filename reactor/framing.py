"""Frames as ``multiprocessing.connection`` writes them. Bytes in, frames out, and back; no I/O.

A frame is a signed 32-bit length in network order, then that many bytes. A length of -1 is
followed by the real length in 64 bits. Source: ``Connection._send_bytes`` and ``_recv_bytes`` in
CPython's ``Lib/multiprocessing/connection.py``.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterable
from typing import Any, ClassVar

from .errors import FrameError, RemoteError, excerpt, guess_protocol

SHORT = struct.Struct("!i")
LONG = struct.Struct("!Q")
LARGEST_SHORT = 0x7FFFFFFF
LONG_MARK = SHORT.pack(-1)

_pack = SHORT.pack
_unpack = SHORT.unpack_from
_unpack_unsigned = struct.Struct("!I").unpack_from

_REFUSED_EXCERPT = 24


def frame_header(size: int) -> bytes:
    """Return the header of a frame of `size` bytes: 4 bytes long, or 12 above 0x7fffffff."""
    if size <= LARGEST_SHORT:
        return SHORT.pack(size)
    return LONG_MARK + LONG.pack(size)


def encode_frame(data: bytes) -> bytes:
    """Return `data` with its header in front, in one piece: for small frames."""
    return frame_header(len(data)) + data


def encode_frames(messages: Iterable[Any]) -> bytes:
    """Return `messages`, which are bytes-like objects, each with its header in front, in one piece."""
    parts: list[Any] = []
    for data in messages:
        if type(data) is not bytes:
            data = memoryview(data).cast("B")  # noqa: PLW2901 - what counts is bytes, not items
        size = len(data)
        parts.append(_pack(size) if size <= LARGEST_SHORT else frame_header(size))
        parts.append(data)
    return b"".join(parts)


def complete_frames(data: bytes) -> tuple[list[bytes], int]:
    """Return the frames in front of `data` that are complete, and where the last of them ends: [], 0 if none is.

    For who looks at a stream before taking anything out of it. A frame with a long header ends the search: nobody
    sends a small one so.
    """
    frames: list[bytes] = []
    end = 0
    last = len(data) - SHORT.size
    while end <= last:
        start = end + 4
        end = start + _unpack_unsigned(data, end)[0]  # where a negative size is a large one
        frames.append(data[start:end])
    if end > len(data):
        frames.pop()
        end = start - 4
    return frames, end


class FrameDecoder:
    """Cuts a stream of bytes into frames, whatever pieces the bytes come in.

    Memory grows with the bytes that came, never because a header announced them.

    Arguments:
        maximum: the largest frame accepted, in bytes.

    Attributes:
        failure: what ended the stream of frames, or None. It is set, not raised, so that the frames
            in front of the bad one are not lost; from then on `feed` returns nothing.
    """

    __slots__ = ("_between", "_body", "_head", "_size", "failure", "maximum")

    minimum: ClassVar[int] = 0
    """The smallest frame accepted, in bytes."""

    limit: ClassVar[str] = "maximum_frame"
    """What the log calls the limit."""

    long_headers: ClassVar[bool] = True
    """Whether the 64-bit form of the header is understood."""

    def __init__(self, maximum: int) -> None:
        self.maximum = maximum
        self.failure: RemoteError | None = None
        self._between = True  # two frames: no part of a header or of a body waits here
        self._head = b""
        self._body: io.BytesIO | None = None
        self._size = 0

    @property
    def needed(self) -> int:
        """How many bytes, at least one, still fit in front of the next boundary in the stream.

        Whoever feeds no more than this at a time gets at most one frame, and keeps all that
        stands behind it.
        """
        if self._body is not None:
            return self._size - self._body.tell()
        if self._head.startswith(LONG_MARK):
            return SHORT.size + LONG.size - len(self._head)
        return SHORT.size - len(self._head)

    @property
    def announced(self) -> int:
        """How many bytes the frame will have whose header is here; 0 where none is."""
        return self._size if self._body is not None else 0

    @property
    def is_between(self) -> bool:
        """Whether this is the place between two frames: all that came was complete."""
        return self._between

    @property
    def is_between_parts(self) -> bool:
        """Whether this is such a place, or one between the header of a frame, its 64-bit length and its body."""
        return not self._body.tell() if self._body is not None else self._head in (b"", LONG_MARK)

    def feed(self, data: bytes) -> list[bytes]:
        """Take `data` and return the frames that it completes, in order; often none, often many."""
        frames: list[bytes] = []
        if not self._between:
            data = self._continue(data, frames)
        position = 0
        end = len(data)
        minimum = self.minimum
        maximum = self.maximum
        while position + 4 <= end:
            (size,) = _unpack(data, position)
            start = position + 4
            stop = start + size
            if minimum <= size <= maximum and stop <= end:
                frames.append(data[start:stop])
                position = stop
                continue
            if size == -1 and self.long_headers:
                if start + 8 > end:
                    break
                (size,) = LONG.unpack_from(data, start)
                start += 8
                stop = start + size
                if minimum <= size <= maximum and stop <= end:
                    frames.append(data[start:stop])
                    position = stop
                    continue
            if not minimum <= size <= maximum:
                self.failure = self._refusal(size, data[position : position + _REFUSED_EXCERPT])
                self._between = False
                return frames
            self._body = io.BytesIO()
            self._size = size
            data = self._continue(memoryview(data)[start:], frames)
            position = 0
            end = len(data)
        if position < end:
            self._head = data[position:]
            self._between = False
        return frames

    def clear(self) -> int:
        """Drop what has come of an unfinished frame, and return how many bytes that was."""
        dropped = len(self._head) if self._body is None else SHORT.size + self._body.tell()
        self._head, self._body, self._between = b"", None, True
        return dropped

    def finish(self) -> FrameError | None:
        """Return the error that an end of the stream at this place means, or None between two frames."""
        if self._body is not None:
            got = self._body.tell()
            return FrameError(f"end of stream after {got} of {self._size} bytes of a frame")
        if self._head:
            return FrameError(f"end of stream after {len(self._head)} bytes of a frame's header")
        return None

    def _continue(self, data: bytes | memoryview, frames: list[bytes]) -> bytes:
        """Add to what has begun: a body, a header, or a failure. Return what stands behind it."""
        if self.failure is not None:
            return b""
        body = self._body
        if body is None:
            data = self._head + data
            self._head = b""
            self._between = True
            return data
        # The handler of a signal may raise behind each of these calls: what was written by then counts as taken.
        self._between = False
        missing = self._size - body.tell()
        if len(data) < missing:
            body.write(data)
            return b""
        body.write(memoryview(data)[:missing])
        rest = bytes(data[missing:])
        # getvalue() of a BytesIO hands out its own buffer: the frame is not copied once more.
        frames.append(body.getvalue())
        self._body = None
        self._between = True
        return rest

    def _refusal(self, size: int, head: bytes) -> FrameError:
        if size > self.maximum:
            message = f"a frame of {size} bytes is over the limit of {self.maximum} ({self.limit})"
        elif size < 0:
            message = f"a frame cannot be {size} bytes long"
        else:
            message = f"a frame of {size} bytes is under the minimum of {self.minimum}"
        protocol = guess_protocol(head)
        if protocol is not None:
            return FrameError(f"this is {protocol}, not a frame: {excerpt(head)}")
        return FrameError(f"{message}; it begins {excerpt(head)}")
