"""Chats: input cut at terminators, as `asynchat` did it; and lines of text."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import length_hint
from typing import Any, ClassVar, Self

from .channel import Origin
from .connecting import Connectable
from .errors import ConnectionLost, DecodingError, RemoteError, excerpt, guess_protocol
from .eventloop import Reactor
from .limits import FRAMES_PER_TURN, RECEIVE_SIZE, Limits
from .sending import STATES, Open
from .splitting import Splitter, Terminator
from .states import State

log = logging.getLogger("reactor")

NOTHING: Iterator[bytes] = iter(())
"""Says that input is held; the splitter holds it."""


class OpenForChat(Open):
    """Cuts the input at terminators."""

    def readable(self, channel: Chat) -> bool:  # type: ignore[override]
        splitter = channel._splitter
        was_held = channel._held is not None
        if not was_held:
            try:
                data = channel.socket.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                channel._fail(ConnectionLost.by(error))
                return True
            if not data:
                rest = splitter.take_rest()  # the beginning of a terminator that never ended
                if rest:
                    if channel._has_input:  # of the end of TLS, the socket does not tell twice
                        channel.reactor.resume_soon(channel)
                    channel.collect_incoming_data(rest)
                else:  # with a rest the end is still there to be read, whatever the hook did
                    self.end_of_input(channel)
                return True
            splitter.feed(data)
            # Held at once: if a hook raises, what stands behind its piece must not be lost.
            channel._held = NOTHING
        elif splitter.take_end():
            channel.found_terminator()
            if channel.state is not self:
                return True
        collect, found = channel.collect_incoming_data, channel.found_terminator
        for line in islice(splitter.lines, FRAMES_PER_TURN):
            if line:
                collect(line)
                if channel.state is not self:
                    if channel._held is not None:  # else the end was dropped, too
                        splitter.put_end_back()
                    return True
            found()
            if channel.state is not self:
                return True
        for _ in range(FRAMES_PER_TURN):
            if length_hint(splitter.lines):
                break
            piece = splitter.next_piece()
            if piece is None:
                channel._held = None
                if was_held and channel._has_input:  # TLS has more behind that
                    channel.reactor.resume_soon(channel)
                if splitter.failure is not None:
                    channel._give_up(splitter.failure)
                return True
            data, is_end = piece
            if data:
                collect(data)
                if channel.state is not self:
                    if is_end and channel._held is not None:
                        splitter.put_end_back()
                    return True
            if is_end:
                found()
                if channel.state is not self:
                    return True
        channel.reactor.resume_soon(channel)
        return True


class Chat(Connectable):
    """A channel whose input has terminators: write `collect_incoming_data` and `found_terminator`.

    The successor of ``asynchat.async_chat``. What stands in front of a terminator of bytes may be as long as the
    `maximum_line` of the channel's limits.

    Attributes:
        terminator: what every channel of this class begins with; see `set_terminator`.
    """

    __slots__ = ("_splitter",)

    terminator: ClassVar[Terminator] = None
    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": OpenForChat()}
    _splitter: Splitter

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._splitter = Splitter(cls.terminator, self.limits.maximum_line)
        return self

    # What a subclass writes

    def collect_incoming_data(self, data: bytes) -> None:
        """Some input came, in front of a terminator. By default it is dropped."""

    def found_terminator(self) -> None:
        """The terminator was found: all in front of it has been collected. By default, nothing."""

    # What a subclass calls

    def set_terminator(self, terminator: Terminator) -> None:
        """Cut the input at `terminator` from here on, also what has come already.

        Arguments:
            terminator: bytes; a number of bytes; or None, or 0, for input without an end.

        Raises:
            LocalError: it is none of these.
        """
        splitter = self._splitter
        splitter.set_terminator(terminator)
        if self._held is None and splitter.has_input:
            # Not from a hook: what was held back as the beginning of the old terminator may be a piece now.
            self._held = NOTHING
            self.reactor.resume_soon(self)

    def get_terminator(self) -> Terminator:
        """Return what the input is cut at; of a number, how many bytes are still to come."""
        return self._splitter.terminator

    def push_with_producer(self, producer: Any) -> None:
        """Queue what an object with ``more()`` makes; see `push`, which takes more than that."""
        self.push(producer)

    def discard_buffers(self) -> None:
        """Drop what has come and was not collected yet, and what is queued and has not left."""
        self._splitter.clear()
        self._drop_output()

    # What the engine calls

    def _drop_input(self) -> int:
        return super()._drop_input() + self._splitter.clear()

    def _attach(self, reactor: Reactor, peer: Any, limits: Limits, origin: Origin | None = None) -> None:
        super()._attach(reactor, peer, limits, origin)
        self._splitter.maximum = limits.maximum_line


class LineChannel(Chat):
    """A channel for lines of text: write `handle_line`, call `send_line`.

    Attributes:
        encoding: of the text, both ways.
        line_ending: what `send_line` puts behind each line. LF ends a line that comes in, with or without a CR.
    """

    __slots__ = ("_parts",)

    terminator: ClassVar[Terminator] = b"\n"
    encoding: ClassVar[str] = "utf-8"
    line_ending: ClassVar[str] = "\r\n"
    _parts: list[bytes]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._parts = []
        return self

    def handle_line(self, line: str) -> None:
        """A line came in, here without its end. By default it is dropped, with a line in the log."""
        log.warning("%s: a line came in, and handle_line is not written", self)

    def handle_unfinished(self, line: str) -> None:
        """The input has ended within a line. By default it is dropped, with a line in the log.

        What was cut off may mean something else than what was sent; ``handle_unfinished = handle_line`` takes it for
        a line all the same.
        """
        log.warning("%s: the input ended within a line, which was dropped", self)

    def send_line(self, line: str) -> None:
        """Queue a line; its end is added.

        Raises:
            UnicodeEncodeError: the encoding has no such character.
            ValueError: there is the end of a line in it, so the peer would take it for two.
        """
        if "\n" in line or "\r" in line:
            raise ValueError(f"this is more than one line: {line!r}")
        self.push((line + self.line_ending).encode(self.encoding))

    def collect_incoming_data(self, data: bytes) -> None:
        self._parts.append(data)

    def found_terminator(self) -> None:
        self.handle_line(self._take_line())

    def _input_finished(self) -> RemoteError | None:
        if self._parts:
            self.reactor.hook_soon(self, self._finish_line)
        return None

    def _drop_input(self) -> int:
        dropped = super()._drop_input() + sum(map(len, self._parts))
        self._parts.clear()
        return dropped

    def _finish_line(self) -> None:
        self.handle_unfinished(self._take_line())

    def _take_line(self) -> str:
        parts = self._parts
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        parts.clear()
        if data.endswith(b"\r"):
            data = data[:-1]
        try:
            return data.decode(self.encoding)
        except UnicodeDecodeError as error:
            protocol = guess_protocol(data)
            cause = f"this is {protocol}" if protocol else error.reason
            raise DecodingError(f"a line is no {self.encoding}: {cause}; it begins {excerpt(data)}") from None
