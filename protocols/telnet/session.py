"""One side of a Telnet connection: bytes in, bytes and events out. No I/O.

RFC 854 and 855 with the options of `Option`; every other option is refused, NEW-ENVIRON among them: nothing that the
peer says gets into an environment.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reactor.errors import LocalError

from .lines import Line, LineSplitter
from .options import MEANINGS, Cause, Negotiator, Option, Side, State
from .wire import (
    IAC,
    Command,
    Decoder,
    LimitExceeded,
    Negotiation,
    Subnegotiation,
    Verb,
    encode_negotiation,
    encode_subnegotiation,
    escape,
)

HOST_OPTIONS = frozenset({Option.BINARY, Option.ECHO, Option.SUPPRESS_GO_AHEAD})
"""What the side with the programs can do."""
TERMINAL_OPTIONS = frozenset({Option.BINARY, Option.SUPPRESS_GO_AHEAD, Option.TERMINAL_TYPE, Option.WINDOW_SIZE})
"""What the side with the terminal can do."""

SUPPORTED = {
    "server": {Side.LOCAL: HOST_OPTIONS, Side.REMOTE: TERMINAL_OPTIONS},
    "client": {Side.LOCAL: TERMINAL_OPTIONS, Side.REMOTE: HOST_OPTIONS},
}
"""Role of this side -> what each side can do."""

ONLY_OFFERED = (Side.LOCAL, Option.ECHO)
"""A server agrees to echo only where it has offered that: it is the program behind the session that would have to."""

TERMINAL_TYPE_IS = b"\0"
TERMINAL_TYPE_SEND = b"\1"
LONGEST_TERMINAL_TYPE = 40
"""Characters (RFC 1091, page 5)."""
LARGEST_WINDOW = 0xFFFF

# Who must answer in no time has said all he has to say in so many bytes: names have 40, window sizes 4.
MAXIMUM_SUBNEGOTIATION = 512


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes from the peer, at least one. Line ends are as the peer wrote them, but CR NUL is CR.

    Attributes:
        data: the bytes.
    """

    data: bytes


@dataclass(frozen=True, slots=True)
class OptionEnabled:
    """From here on `side` does what `option` is about.

    Attributes:
        side: who does it.
        option: what.
    """

    side: Side
    option: Option


@dataclass(frozen=True, slots=True)
class OptionDisabled:
    """From here on `side` no longer does what `option` is about.

    Attributes:
        side: who did it.
        option: what.
    """

    side: Side
    option: Option


@dataclass(frozen=True, slots=True)
class WindowSize:
    """The peer tells how large its window is, at first and whenever that changes.

    Attributes:
        width: in characters; 0 means that it does not say.
        height: in lines; 0 means that it does not say.
    """

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class TerminalType:
    """The peer tells what terminal it has.

    Attributes:
        name: 1 to 40 printable characters of ASCII, of the peer's choice: never make a path of them.
    """

    name: str


Event = Data | Line | Command | OptionEnabled | OptionDisabled | WindowSize | TerminalType | LimitExceeded


class Session:
    """One side of a Telnet connection, as a machine.

    `feed` takes what came and returns what it means. What is to be sent, for whatever reason, waits until
    `data_to_send` hands it out: ask after each call of another method.

    Arguments:
        role: ``"server"`` for the side with the programs, ``"client"`` for the one with the terminal.
        maximum_line: cut what comes into lines of so many bytes at the most, and make a `Line` of each; None for
            `Data` as they come.
        maximum_subnegotiation: the most bytes in which the peer may tell particulars of an option.
        terminal_types: for a client, the names of its terminal, the best one first; without any it does not tell.
        window_size: for a client, the width and height of its window; None does not tell.

    Attributes:
        lines: what cuts the lines, or None.

    Raises:
        LocalError: an argument that makes no sense.
    """

    __slots__ = (
        "_decoder", "_ended_with_return", "_negotiator", "_output", "_supported", "_terminal_types", "_types_told",
        "_window_size", "lines",
    )  # fmt: skip

    def __init__(
        self,
        role: str = "server",
        *,
        maximum_line: int | None = None,
        maximum_subnegotiation: int = MAXIMUM_SUBNEGOTIATION,
        terminal_types: Iterable[str] = (),
        window_size: tuple[int, int] | None = None,
    ) -> None:
        if role not in SUPPORTED:
            raise LocalError(f"the role of a Telnet session is 'server' or 'client', not {role!r}")
        self._supported = SUPPORTED[role]
        self._terminal_types = _checked_terminal_types(terminal_types)
        self._types_told = 0
        self._window_size = None if window_size is None else _checked_window_size(window_size)
        self._decoder = Decoder(maximum_subnegotiation)
        self._negotiator = Negotiator()
        self.lines = None if maximum_line is None else LineSplitter(maximum_line)
        self._ended_with_return = False
        self._output: list[bytes] = []

    # What comes in

    def feed(self, data: bytes) -> list[Event]:
        """Take bytes from the peer and return what they mean, in order."""
        events: list[Event] = []
        pieces: list[bytes] = []
        for token in self._decoder.feed(data):
            if isinstance(token, bytes):
                pieces.append(token)
                continue
            if pieces:
                self._take_data(b"".join(pieces), events)
                pieces.clear()
            if isinstance(token, Negotiation):
                self._take_negotiation(token, events)
            elif isinstance(token, Subnegotiation):
                self._take_subnegotiation(token, events)
            else:
                events.append(token)
        if pieces:
            self._take_data(b"".join(pieces), events)
        return events

    def finish(self) -> list[Event]:
        """The peer has sent its last byte: return what that means, a `Line` without an end maybe."""
        return [] if self.lines is None else [*self.lines.finish()]

    # What goes out

    def data_to_send(self) -> bytes:
        """Return what is to be sent to the peer by now, once; often nothing."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    def send_data(self, data: bytes) -> None:
        """Send `data`, with what stands in it and would mean something else doubled or marked.

        A CR at the end of `data` is sent as one that no line feed follows. The peer is given the same
        bytes all the same, wherever they are cut, but may see two ends of a line in a CR LF that is cut in two.
        """
        self._output.append(self.escape(data))

    def escape(self, data: bytes) -> bytes:
        """Return the bytes that stand for `data` on the wire at present."""
        return escape(data, binary=self.is_enabled(Side.LOCAL, Option.BINARY))

    def send_command(self, command: Command) -> None:
        """Send a command, such as `Command.INTERRUPT_PROCESS`.

        Raises:
            LocalError: it is none.
        """
        try:
            self._output.append(bytes([IAC, Command(command)]))
        except ValueError:
            raise LocalError(f"{command!r} is no command of Telnet") from None

    def set_window_size(self, width: int, height: int) -> None:
        """Tell the server, if it wants to know, how large the window is from now on.

        Arguments:
            width: in characters, up to 65,535.
            height: in lines, up to 65,535.

        Raises:
            LocalError: it is too large, or negative, or no whole number.
        """
        self._window_size = _checked_window_size((width, height))
        if self.is_enabled(Side.LOCAL, Option.WINDOW_SIZE):
            self._tell_window_size()

    def request_terminal_type(self) -> None:
        """Ask a client for its terminal; a `TerminalType` comes, if it tells. Asked once more, it may tell another.

        Raises:
            LocalError: this side is the client.
        """
        if self._negotiator.state(Side.REMOTE, Option.TERMINAL_TYPE) is State.YES:
            self._ask_terminal_type()
        else:
            self.do(Option.TERMINAL_TYPE)

    # Options

    def is_enabled(self, side: Side, option: Option) -> bool:
        """Return whether `side` does at present what `option` is about."""
        return self._negotiator.is_in_effect(side, option)

    def will(self, option: Option) -> None:
        """Offer to do what `option` is about. `OptionEnabled` comes if the peer agrees, else nothing.

        A server that offers `Option.ECHO`, and echoes nothing, hides what is typed, a password for example. Until
        an offer of `Option.BINARY` is answered, the peer may see a NUL behind a CR that no line feed follows.

        Raises:
            LocalError: it is nothing that this side can do.
        """
        self._want(Side.LOCAL, option)

    def wont(self, option: Option) -> None:
        """Do no longer what `option` is about."""
        self._apply(Side.LOCAL, option, Cause.UNWANTED)

    def do(self, option: Option) -> None:
        """Ask the peer to do what `option` is about. `OptionEnabled` comes if it agrees, else nothing.

        Raises:
            LocalError: it is nothing that the other side can do.
        """
        self._want(Side.REMOTE, option)

    def dont(self, option: Option) -> None:
        """Ask the peer to do no longer what `option` is about. `OptionDisabled` comes when it has stopped."""
        self._apply(Side.REMOTE, option, Cause.UNWANTED)

    def _supports(self, side: Side, option: int) -> bool:
        if side is Side.LOCAL and option == Option.WINDOW_SIZE and self._window_size is None:
            return False
        if side is Side.LOCAL and option == Option.TERMINAL_TYPE and not self._terminal_types:
            return False
        return option in self._supported[side]

    def _want(self, side: Side, option: Option) -> None:
        if not self._supports(side, option):
            raise LocalError(f"this session has no {getattr(option, 'name', option)} on the {side.value} side")
        self._apply(side, option, Cause.WANTED)

    def _take_negotiation(self, negotiation: Negotiation, events: list[Event]) -> None:
        side, agrees = MEANINGS[negotiation.verb]
        option = negotiation.option
        if not agrees:
            cause = Cause.DENIED
        elif self._supports(side, option) and (side, option) != ONLY_OFFERED:
            cause = Cause.OFFERED
        else:
            cause = Cause.UNWELCOME
        was_enabled = self._negotiator.is_in_effect(side, option)
        self._apply(side, option, cause)
        is_enabled = self._negotiator.is_in_effect(side, option)
        if is_enabled != was_enabled:
            known = Option(option)
            if (side, known) == (Side.REMOTE, Option.BINARY):
                self._ended_with_return = False  # a NUL in binary data is a NUL
            events.append(OptionEnabled(side, known) if is_enabled else OptionDisabled(side, known))
            if self._negotiator.state(side, known) is State.YES:
                self._tell_particulars(side, known)

    def _apply(self, side: Side, option: int, cause: Cause) -> None:
        verb: Verb | None = self._negotiator.step(side, option, cause)
        if verb is not None:
            self._output.append(encode_negotiation(verb, option))

    def _tell_particulars(self, side: Side, option: Option) -> None:
        """`option` is on: say what there is to say about it."""
        match side, option:
            case Side.REMOTE, Option.TERMINAL_TYPE:
                self._ask_terminal_type()
            case Side.LOCAL, Option.TERMINAL_TYPE:
                self._types_told = 0
            case Side.LOCAL, Option.WINDOW_SIZE:
                self._tell_window_size()

    def _take_subnegotiation(self, said: Subnegotiation, events: list[Event]) -> None:
        """Take particulars of an option that is on; others mean nothing (RFC 855)."""
        content = said.content
        match said.option:
            case Option.WINDOW_SIZE if self.is_enabled(Side.REMOTE, Option.WINDOW_SIZE) and len(content) == 4:
                events.append(WindowSize(int.from_bytes(content[:2], "big"), int.from_bytes(content[2:], "big")))
            case Option.TERMINAL_TYPE if content[:1] == TERMINAL_TYPE_IS:
                name = content[1:].decode("latin-1")
                if self.is_enabled(Side.REMOTE, Option.TERMINAL_TYPE) and _is_terminal_type(name):
                    events.append(TerminalType(name))
            case Option.TERMINAL_TYPE if content == TERMINAL_TYPE_SEND:
                if self.is_enabled(Side.LOCAL, Option.TERMINAL_TYPE):
                    self._tell_terminal_type()

    def _ask_terminal_type(self) -> None:
        self._output.append(encode_subnegotiation(Option.TERMINAL_TYPE, TERMINAL_TYPE_SEND))

    def _tell_terminal_type(self) -> None:
        """Tell the next name; the last one twice, so that it is known for the last one (RFC 1091, page 4)."""
        names = self._terminal_types
        name = names[min(self._types_told, len(names) - 1)]
        self._types_told = (self._types_told + 1) % (len(names) + 1)
        self._output.append(encode_subnegotiation(Option.TERMINAL_TYPE, TERMINAL_TYPE_IS + name.encode("ascii")))

    def _tell_window_size(self) -> None:
        assert self._window_size is not None
        content = b"".join(number.to_bytes(2, "big") for number in self._window_size)
        self._output.append(encode_subnegotiation(Option.WINDOW_SIZE, content))

    def _take_data(self, data: bytes, events: list[Event]) -> None:
        if not self.is_enabled(Side.REMOTE, Option.BINARY):
            if self._ended_with_return and data.startswith(b"\0"):
                data = data[1:]
            self._ended_with_return = data.endswith(b"\r")
            data = data.replace(b"\r\0", b"\r")
        if data:
            events.extend([Data(data)] if self.lines is None else self.lines.feed(data))


def _is_terminal_type(name: str) -> bool:
    return 0 < len(name) <= LONGEST_TERMINAL_TYPE and name.isascii() and name.isprintable()


def _checked_terminal_types(names: Iterable[str]) -> list[str]:
    if isinstance(names, str):
        raise LocalError(f"terminal types are several names; give ({names!r},)")
    found = list(names)
    for name in found:
        if not isinstance(name, str) or not _is_terminal_type(name):
            raise LocalError(
                f"{name!r} is no terminal type; give 1 to {LONGEST_TERMINAL_TYPE} printable ASCII characters"
            )
    return found


def _checked_window_size(size: tuple[int, int]) -> tuple[int, int]:
    match size:
        case (int(width), int(height)) if 0 <= width <= LARGEST_WINDOW and 0 <= height <= LARGEST_WINDOW:
            return width, height
    raise LocalError(f"a window of {size!r} cannot be told; give numbers from 0 to {LARGEST_WINDOW}")
