"""A channel that speaks Telnet."""

from __future__ import annotations

import codecs
import contextlib
import logging
import socket
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import length_hint
from typing import Any, ClassVar, Self

import reactor
from reactor.channel import Origin
from reactor.limits import FRAMES_PER_TURN
from reactor.producers import FileSlice, Producer
from reactor.sending import STATES, Open
from reactor.states import State

from .lines import Line
from .options import Option, Side
from .session import Data, Event, OptionDisabled, OptionEnabled, Session, TerminalType, WindowSize
from .wire import Command, LimitExceeded, escape

log = logging.getLogger("reactor")

RECEIVE_SIZE = 8 * 1024
"""Bytes in one receive. All of them may negotiate, and that takes a microsecond for each byte."""

NOTHING: Iterator[bytes] = iter(())
"""Says that input is held: events that the session made of it, and that no hook was told yet."""


class OpenForTelnet(Open):
    """Gives what comes in to the session, and what that makes of it to the hooks."""

    def readable(self, channel: Telnet) -> bool:  # type: ignore[override]
        if channel._held is None:
            try:
                data = channel.socket.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                channel._fail(reactor.ConnectionLost.by(error))
                return True
            if not data:
                rest = channel._session.finish()
                if not rest:
                    self.end_of_input(channel)
                    return True
                channel._events = iter(rest)  # the end of the input will be there once more, behind them
            else:
                channel._events = iter(channel._session.feed(data))
                channel._send_what_waits()
            # Held at once: if a hook raises, what stands behind its event must not be lost.
            channel._held = NOTHING
        events = channel._events
        for event in islice(events, FRAMES_PER_TURN):
            channel._tell(event)
            if channel.state is not self:
                return True
        if length_hint(events):
            channel.reactor.resume_soon(channel)
        else:
            channel._held = None
            if channel._has_input:  # TLS has more behind what was held
                channel.reactor.resume_soon(channel)
        return True


class Telnet(reactor.Stream):
    """A Telnet server's side of a connection: write `handle_line`, call `send_line`.

    Give the class to a `reactor.Listener`. A line may be as long as the `maximum_line` of the channel's limits.

    Attributes:
        encoding: of the text, both ways.
        errors: what is done about bytes, or characters, that the encoding does not have; see the module `codecs`.
    """

    __slots__ = ("_decoder", "_events", "_session")

    encoding: ClassVar[str] = "utf-8"
    errors: ClassVar[str] = "replace"
    _hears_text: ClassVar[bool] = False
    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": OpenForTelnet()}

    _session: Session
    _decoder: codecs.IncrementalDecoder | None
    _events: Iterator[Event]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._begin_session()
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._hears_text = cls.handle_text is not Telnet.handle_text

    # What a subclass writes

    def handle_line(self, line: str) -> None:
        """A line came in. By default it is dropped, with a line in the log.

        Arguments:
            line: without its end; it may have control characters in it, and may be empty.
        """
        log.warning("%s: a line came in, and handle_line is not written", self)

    def handle_text(self, text: str) -> None:
        """Text came in, in whatever pieces. Where this is written, nothing is cut into lines.

        Arguments:
            text: at least one character. The Return key of a terminal that sends each key at once is a CR.
        """

    def handle_command(self, command: Command) -> None:
        """A command came in. By default `ARE_YOU_THERE` is answered, and the others have no effect."""
        if command is Command.ARE_YOU_THERE:
            self.send_text("\n[Yes]\n")

    def handle_window_size(self, width: int, height: int) -> None:
        """The peer has told how large its window is, because it was asked to, or because that has changed.

        Arguments:
            width: in characters; 0 means that it does not say.
            height: in lines; 0 means that it does not say.
        """

    def handle_terminal_type(self, name: str) -> None:
        """The peer has told what terminal it has.

        Arguments:
            name: 1 to 40 printable characters of ASCII, of the peer's choice: never make a path of them.
        """

    def handle_option(self, side: Side, option: Option, enabled: bool) -> None:
        """The peer has agreed to an option, or refuses it from now on.

        Arguments:
            side: who does what the option is about.
            option: which one.
            enabled: whether that side does it from here on.
        """

    # What a subclass calls

    def send_text(self, text: str) -> None:
        r"""Queue text. The lines of it end with ``\n``, and are sent with the line end of Telnet, CR LF."""
        text = text.replace("\r\n", "\n").replace("\n", self._line_end)
        self.push(text.encode(self.encoding, self.errors))

    def send_line(self, text: str) -> None:
        """Queue a line of text; its end is added.

        Raises:
            ValueError: there is the end of a line in it, so the peer would take it for two.
        """
        if "\n" in text or "\r" in text:
            raise ValueError(f"this is more than one line: {text!r}")
        self.send_text(text + "\n")

    def send_command(self, command: Command) -> None:
        """Queue a command.

        Raises:
            LocalError: it is none.
        """
        self._session.send_command(command)
        self._send_what_waits()

    def push(self, data: Any) -> None:
        """Queue data as they are; see `Channel.push`. They are sent so that the peer gets the same bytes."""
        if type(data) is not bytes:
            try:
                data = memoryview(data).tobytes()
            except TypeError:
                FileSlice.of(data)  # refuses pipes and devices, which would block the loop
                super().push(Escaped(data, binary=self.is_enabled(Side.LOCAL, Option.BINARY)))
                return
        super().push(self._session.escape(data))

    def request_window_size(self) -> None:
        """Ask the peer for the size of its window; `handle_window_size` is told, if it tells."""
        self.do(Option.WINDOW_SIZE)

    def request_terminal_type(self) -> None:
        """Ask the peer for its terminal; `handle_terminal_type` is told, if it tells.

        Asked once more, the peer may tell another name; the same name twice is the last one (RFC 1091).
        """
        self._session.request_terminal_type()
        self._send_what_waits()

    def request_binary(self) -> None:
        """Ask for eight bits and untouched carriage returns, both ways."""
        self.will(Option.BINARY)
        self.do(Option.BINARY)

    def request_single_keys(self) -> None:
        """Ask a client to send each key at once. It echoes nothing then: what is to be seen, this side sends."""
        self.will(Option.ECHO)
        self.will(Option.SUPPRESS_GO_AHEAD)

    def will(self, option: Option) -> None:
        """Offer to do what `option` is about; see `Session.will`."""
        self._session.will(option)
        self._send_what_waits()

    def wont(self, option: Option) -> None:
        """Do no longer what `option` is about."""
        self._session.wont(option)
        self._send_what_waits()

    def do(self, option: Option) -> None:
        """Ask the peer to do what `option` is about; see `Session.do`."""
        self._session.do(option)
        self._send_what_waits()

    def dont(self, option: Option) -> None:
        """Ask the peer to do no longer what `option` is about."""
        self._session.dont(option)
        self._send_what_waits()

    def is_enabled(self, side: Side, option: Option) -> bool:
        """Return whether `side` does at present what `option` is about."""
        return self._session.is_enabled(side, option)

    # What the engine calls

    def _attach(
        self, reactor: reactor.Reactor, peer: Any, limits: reactor.Limits, origin: Origin | None = None
    ) -> None:
        super()._attach(reactor, peer, limits, origin)
        if self._session.lines is not None:
            self._session.lines.maximum = limits.maximum_line

    def _begin_session(self) -> None:
        """Speak as with a peer of whom nothing is known."""
        cls = type(self)
        self._session = self._new_session(None if cls._hears_text else self.limits.maximum_line)
        self._decoder = codecs.getincrementaldecoder(cls.encoding)(cls.errors) if cls._hears_text else None
        self._events = iter(())

    def _drop_input(self) -> int:
        # Half a line, half a command and the options are what a stranger may have said, too.
        dropped = sum(len(event.data) for event in self._events if isinstance(event, Line | Data))
        self._begin_session()
        return dropped + super()._drop_input()

    def _new_session(self, maximum_line: int | None) -> Session:
        return Session("server", maximum_line=maximum_line)

    @property
    def _line_end(self) -> str:
        return "\r\n"

    def _begin(self) -> None:
        # Some clients mark the last byte of a command as urgent (RFC 854, Synch). Out of band it would be missing
        # in the stream, and the byte behind it be taken for the command.
        with contextlib.suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        super()._begin()

    def _send_what_waits(self) -> None:
        data = self._session.data_to_send()
        if data:
            super().push(data)

    def _tell(self, event: Event) -> None:
        """Have a hook told of `event`."""
        match event:
            case Line(data):
                self.handle_line(data.decode(self.encoding, self.errors))
            case Data(data):
                assert self._decoder is not None
                text = self._decoder.decode(data)
                if text:
                    self.handle_text(text)
            case Command():
                self.handle_command(event)
            case WindowSize(width, height):
                self.handle_window_size(width, height)
            case TerminalType(name):
                self.handle_terminal_type(name)
            case OptionEnabled(side, option):
                self.handle_option(side, option, True)
            case OptionDisabled(side, option):
                self.handle_option(side, option, False)
            case LimitExceeded(limit, maximum):
                what = "a line" if limit == "maximum_line" else "a subnegotiation"
                self._give_up(reactor.LimitError(f"{what} is over the limit of {maximum} bytes ({limit})", limit))


class TelnetClient(Telnet):
    """A Telnet client's side of a connection: say `connect`.

    Attributes:
        terminal_types: the names of its terminal, the best one first; without any it does not tell.
        window_size: the width and height of its window when it is made; None does not tell.
    """

    __slots__ = ()

    terminal_types: ClassVar[tuple[str, ...]] = ()
    window_size: ClassVar[tuple[int, int] | None] = None

    def _new_session(self, maximum_line: int | None) -> Session:
        return Session(
            "client", maximum_line=maximum_line, terminal_types=self.terminal_types, window_size=self.window_size
        )

    @property
    def _line_end(self) -> str:
        # BINARY knows no lines, only keys: Return is a CR, and a line feed behind it would be one more key.
        return "\r" if self.is_enabled(Side.LOCAL, Option.BINARY) else "\r\n"

    def set_window_size(self, width: int, height: int) -> None:
        """Tell the server, if it wants to know, how large the window is from now on.

        Arguments:
            width: in characters, up to 65,535.
            height: in lines, up to 65,535.
        """
        self._session.set_window_size(width, height)
        self._send_what_waits()


class Escaped:
    """A producer of Telnet data.

    Arguments:
        source: whatever a channel takes as a producer.
        binary: whether BINARY was in effect when it was queued.
    """

    def __init__(self, source: Any, binary: bool) -> None:
        self._producer = Producer(source)
        self._binary = binary

    def more(self) -> bytes:
        """Return the next chunk, or an empty one at the end."""
        return escape(self._producer.pull(), self._binary)

    def close(self) -> None:
        """Close the source."""
        self._producer.close()
