"""The outgoing queue and the producers that it holds. It hands out buffers; it sends nothing.

While the socket takes all that a turn of the loop queued, a channel has no such queue: a plain
list is enough. This one comes into being when something has to wait.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from .errors import LocalError, ProducerError
from .limits import Limits

log = logging.getLogger("reactor")

BUFFERS_PER_CALL = 512
"""For one gathering write; Linux and the BSDs take 1024 (IOV_MAX), POSIX promises 16."""
BYTES_PER_CALL = 256 * 1024
CHUNK = 64 * 1024

PRODUCERS_WAITING = 16
"""With more producers than this waiting, the peer is not read from: each may hold a descriptor, though no memory."""

Produce = Callable[[], bytes | bytearray | memoryview]


class FileSlice:
    """A part of an open regular file, for `os.sendfile`. The queue closes the file behind it.

    Arguments:
        file: opened for reading in binary mode.
        offset: where to begin, in bytes.
        size: how many bytes.
    """

    __slots__ = ("file", "offset", "size")

    def __init__(self, file: Any, offset: int, size: int) -> None:
        self.file = file
        self.offset = offset
        self.size = size

    @classmethod
    def of(cls, file: Any) -> FileSlice | None:
        """Return the rest of `file` from its position on, or None where it is no file of the system's.

        A compressed file is none, although it has a descriptor: what it reads is not what is on the disk.

        Raises:
            ProducerError: it is a pipe or a device.
        """
        if not isinstance(getattr(file, "raw", file), io.FileIO):
            return None
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ProducerError("a producer must not block, and this file is a pipe or a device: read it on a channel")
        offset = file.tell()
        return cls(file, offset, max(status.st_size - offset, 0))

    def advance(self, sent: int) -> None:
        """Take note that `sent` more bytes have left.

        Raises:
            ProducerError: none have: the file became shorter than it was when it was queued.
        """
        if not sent:
            raise ProducerError(f"{self.file.name!r} became shorter while it was sent; {self.size} bytes are missing")
        self.offset += sent
        self.size -= sent


class Producer:
    """Makes one pulling interface of the things that can be pushed: `more()`, a file, an iterator.

    Arguments:
        source: an object with `more()`, as asynchat had them; or one with `read(size)`; or an
            iterator or generator of bytes-like objects. An empty result of `more()` or `read()`
            ends it, as does the end of the iterator.

    Raises:
        LocalError: it is nothing of the kind.
    """

    __slots__ = ("_produce", "_source")

    def __init__(self, source: Any) -> None:
        self._source = source
        self._produce: Produce
        if hasattr(source, "more"):
            self._produce = source.more
        elif hasattr(source, "read"):
            self._produce = lambda: source.read(CHUNK)
        elif hasattr(source, "__iter__") and not isinstance(source, str):
            self._produce = _chunks_of(iter(source))
        else:
            raise LocalError(
                f"{type(source).__name__} cannot be pushed; give bytes, an open file, an iterator of bytes, "
                "or an object with more()"
            )

    def pull(self) -> bytes:
        """Return the next chunk as bytes, or an empty one at the end.

        Raises:
            ProducerError: the source raised, or gave something that is not bytes.
        """
        try:
            chunk = self._produce()
            return chunk if type(chunk) is bytes else bytes(memoryview(chunk))
        except Exception as error:
            raise ProducerError(f"the producer {self._source!r} failed: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Close what it draws from, if that can be closed."""
        close_source(self._source)


def close_source(source: Any) -> None:
    """Close `source`, if it can be closed; what goes wrong there is logged, and holds up nobody else."""
    close = getattr(source, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception as error:
        log.warning("%r could not be closed: %s: %s", source, type(error).__name__, error)


def _chunks_of(iterator: Iterator[Any]) -> Produce:
    def produce() -> Any:
        for chunk in iterator:
            if len(chunk):  # an empty chunk in the middle is not the end
                return chunk
        return b""

    return produce


class TurningPoint:
    """Stands in a queue where encryption begins: nothing behind it leaves before somebody has taken it out.

    Arguments:
        sock: through which that leaves then.
    """

    __slots__ = ("sock",)

    def __init__(self, sock: Any) -> None:
        self.sock = sock


class OutputQueue:
    """What waits for a peer: buffers and producers, first in, first out.

    Arguments:
        limits: their water marks say when there is pressure, and when producers are pulled.
        frame: turns a producer's chunk into what is sent, header in front; None sends it as it is.

    Attributes:
        size: the bytes that wait, without what the producers still hold.
        sealed: whether it takes nothing more.
        taken_at: when the socket last took something; kept by whoever sends.
    """

    __slots__ = ("_entries", "_frame", "_limits", "_mark", "_producers", "sealed", "size", "taken_at")

    def __init__(self, limits: Limits, frame: Callable[[bytes], bytes] | None = None) -> None:
        self._entries: deque[bytes | memoryview | FileSlice | Producer | TurningPoint] = deque()
        self._limits = limits
        self._frame = frame
        self._mark = limits.high_water
        self.sealed = False
        self.size = 0
        self._producers = 0
        self.taken_at = 0.0

    def __bool__(self) -> bool:
        return bool(self._entries)

    def append(self, data: bytes | memoryview) -> bool:
        """Queue `data`, which nobody may change any more.

        Returns: whether this passed the high-water mark or the limit; said once for each of them.
        """
        if self.sealed or not data:
            return False  # an empty buffer would never leave: no call takes a byte of it
        self._entries.append(data)
        self.size += len(data)
        if self.size <= self._mark:
            return False
        maximum = self._limits.maximum_output
        self._mark = maximum if self.size <= maximum else sys.maxsize
        return True

    @property
    def is_relieved(self) -> bool:
        """Whether little waits: less than the low-water mark, and few producers."""
        return self.size <= self._limits.low_water and self._producers <= PRODUCERS_WAITING // 2

    def renew_marks(self) -> None:
        """Have `append` tell again of the marks under which the queue has fallen since."""
        limits = self._limits
        self._mark = limits.high_water if self.size <= limits.high_water else limits.maximum_output

    def append_producer(self, producer: Producer | FileSlice) -> bool:
        """Queue a producer; it is pulled when its turn has come and little waits.

        Returns: whether many producers wait by now; said once.
        """
        if self.sealed:
            _close_entry(producer)
            return False
        self._entries.append(producer)
        self._producers += 1
        return self._producers == PRODUCERS_WAITING + 1

    @property
    def is_pressed(self) -> bool:
        """Whether more waits than the high-water mark, or many producers do."""
        return self.size > self._limits.high_water or self._producers > PRODUCERS_WAITING

    def put_first(self, data: bytes) -> None:
        """Queue `data` in front of everything."""
        self._entries.appendleft(data)
        self.size += len(data)

    def append_turning_point(self, sock: Any) -> None:
        """Hold back what is queued from here on, which is for another socket."""
        self._entries.append(TurningPoint(sock))

    def take_turning_point(self) -> Any:
        """Take the turning point out if it is next in line, and return its socket; None where something else is."""
        if not self._entries or not isinstance(self._entries[0], TurningPoint):
            return None
        point = self._entries.popleft()
        assert isinstance(point, TurningPoint)
        return point.sock

    def seal(self) -> None:
        """Take nothing more: the channel is closing."""
        self.sealed = True

    def next_buffers(self) -> list[bytes | memoryview]:
        """Return the buffers for the next gathering write; empty if a `FileSlice` is next, or nothing.

        Raises:
            ProducerError: see `Producer.pull`.
        """
        entries = self._entries
        buffers: list[bytes | memoryview] = []
        gathered = 0
        for entry in entries:
            if not isinstance(entry, bytes | memoryview):
                break
            buffers.append(entry)
            gathered += len(entry)
            if gathered >= BYTES_PER_CALL or len(buffers) == BUFFERS_PER_CALL:
                return buffers
        # What is queued behind a producer does not count here, or the producer would never be pulled.
        while len(buffers) < len(entries) and gathered < self._limits.low_water:
            producer = entries[len(buffers)]
            if not isinstance(producer, Producer) or len(buffers) == BUFFERS_PER_CALL:
                break
            chunk = producer.pull()
            if len(entries) <= len(buffers) or entries[len(buffers)] is not producer:
                return []  # it has closed its own channel
            if not chunk:
                del entries[len(buffers)]
                self._producers -= 1
                producer.close()
                if len(entries) < len(buffers):
                    return []  # to be closed was a reason for it to close its own channel
                continue
            if self._frame is not None:
                chunk = self._frame(chunk)
            entries.insert(len(buffers), chunk)
            buffers.append(chunk)
            self.size += len(chunk)
            gathered += len(chunk)
        return buffers

    def next_file(self) -> FileSlice | None:
        """Return the file that is next in line, or None where something else is."""
        entries = self._entries
        while entries and isinstance(entries[0], FileSlice):
            if entries[0].size:
                return entries[0]
            self._producers -= 1
            _close_entry(entries.popleft())
        return None

    def advance(self, sent: int) -> None:
        """Take `sent` bytes off the front: the socket has them."""
        self.size -= sent
        entries = self._entries
        while sent:
            first = entries[0]
            assert isinstance(first, bytes | memoryview)
            if len(first) > sent:
                entries[0] = memoryview(first)[sent:]
                return
            sent -= len(first)
            entries.popleft()

    def clear(self) -> None:
        """Drop everything but a turning point, and close the files and generators that wait."""
        self.size = self._producers = 0
        kept = [entry for entry in self._entries if isinstance(entry, TurningPoint)]
        while self._entries:
            _close_entry(self._entries.popleft())
        self._entries.extend(kept)


class Discard:
    """The queue of a channel that sends no more: it takes everything and keeps nothing."""

    __slots__ = ()
    size = 0

    def __bool__(self) -> bool:
        return False

    def append(self, data: bytes | memoryview) -> bool:
        return False

    def append_producer(self, producer: Producer | FileSlice) -> bool:
        _close_entry(producer)
        return False

    def clear(self) -> None:
        pass


DISCARD = Discard()


def _close_entry(entry: bytes | memoryview | FileSlice | Producer | TurningPoint) -> None:
    if isinstance(entry, FileSlice):
        close_source(entry.file)
    elif isinstance(entry, Producer):
        entry.close()
