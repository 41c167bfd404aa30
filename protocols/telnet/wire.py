"""The bytes of Telnet (RFC 854, 855): data and commands in one stream, told apart by the byte 255. No I/O."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

IAC = 255
"""Interpret As Command: the byte in front of every command. As data it is sent twice."""
SUBNEGOTIATION_BEGIN = 250
SUBNEGOTIATION_END = 240

_IAC = bytes([IAC])
_BEGIN = bytes([IAC, SUBNEGOTIATION_BEGIN])
_END = bytes([IAC, SUBNEGOTIATION_END])
_BARE_RETURN = re.compile(rb"\r(?!\n)")
_DOUBLED = re.compile(rb"(?:\xff\xff[^\xff]*+)++")


class Command(enum.IntEnum):
    """The commands that are one byte behind the IAC (RFC 854; the first four: RFC 1184 and 885)."""

    END_OF_FILE = 236
    SUSPEND = 237
    ABORT = 238
    END_OF_RECORD = 239
    NO_OPERATION = 241
    DATA_MARK = 242
    BREAK = 243
    INTERRUPT_PROCESS = 244
    ABORT_OUTPUT = 245
    ARE_YOU_THERE = 246
    ERASE_CHARACTER = 247
    ERASE_LINE = 248
    GO_AHEAD = 249


class Verb(enum.IntEnum):
    """The commands that negotiate an option, which is the byte behind them."""

    WILL = 251
    WONT = 252
    DO = 253
    DONT = 254


_COMMANDS = {command.value: command for command in Command}
_VERBS = {verb.value: verb for verb in Verb}
_CODES = {SUBNEGOTIATION_BEGIN, SUBNEGOTIATION_END, *_COMMANDS, *_VERBS}


@dataclass(frozen=True, slots=True)
class Negotiation:
    """The peer has said something about an option.

    Attributes:
        verb: what it said.
        option: the number of the option, known here or not.
    """

    verb: Verb
    option: int


@dataclass(frozen=True, slots=True)
class Subnegotiation:
    """The peer has sent the particulars of an option.

    Attributes:
        option: the number of the option, known here or not.
        content: the bytes, unescaped.
    """

    option: int
    content: bytes


@dataclass(frozen=True, slots=True)
class LimitExceeded:
    """The peer made something too long. What is over the limit is dropped up to its end.

    Attributes:
        limit: which limit, by the name of the argument that sets it.
        maximum: its value, in bytes.
    """

    limit: str
    maximum: int


Token = bytes | Command | Negotiation | Subnegotiation | LimitExceeded


def escape(data: bytes, binary: bool = False) -> bytes:
    """Return the bytes that stand for `data` on the wire.

    Arguments:
        data: each call stands for itself: where it ends with a carriage return, no line feed follows that.
        binary: whether the sender transmits BINARY (RFC 856). Else a carriage return is followed by a
            line feed or by NUL, and by nothing else (RFC 854, page 11).
    """
    if not binary and b"\r" in data:
        data = _BARE_RETURN.sub(b"\r\0", data)
    return data.replace(_IAC, _IAC + _IAC)


def encode_negotiation(verb: Verb, option: int) -> bytes:
    """Return the bytes of a negotiation."""
    return bytes([IAC, verb, option])


def encode_subnegotiation(option: int, content: bytes) -> bytes:
    """Return the bytes of a subnegotiation."""
    return _BEGIN + escape(bytes([option]) + content, binary=True) + _END


class Decoder:
    """Tells data from commands, whatever pieces the bytes come in.

    Arguments:
        maximum: the longest subnegotiation that is accepted, in bytes. No more than these are ever held.
    """

    __slots__ = ("_begun", "_content", "_maximum", "_room")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._begun = b""  # a command that is not complete: two bytes at the most
        self._content: bytearray | None = None  # of a subnegotiation that has not ended
        self._room = 0  # so many bytes more may it have; negative where it had too many

    def feed(self, data: bytes) -> list[Token]:
        """Take `data` and return what it completes, in order; data come unescaped, in one piece or in several."""
        tokens: list[Token] = []
        data = self._begun + data
        self._begun = b""
        position, end = 0, len(data)
        while position < end:
            mark = data.find(_IAC, position)
            if mark < 0:
                mark = end
            elif doubled := _DOUBLED.match(data, mark):  # often many: to take them one by one is slow
                mark = doubled.end()
            if mark > position:
                self._take(data[position:mark].replace(_IAC + _IAC, _IAC), tokens)
            if mark + 1 >= end:
                self._begun = data[mark:]
                break
            position = self._take_command(data, mark, tokens)
        return tokens

    def _take(self, data: bytes, tokens: list[Token]) -> None:
        """Take bytes that are no command."""
        if self._content is None:
            tokens.append(data)
        elif self._room >= 0:
            self._room -= len(data)
            if self._room >= 0:
                self._content += data
            else:
                self._content.clear()
                tokens.append(LimitExceeded("maximum_subnegotiation", self._maximum))

    def _take_command(self, data: bytes, mark: int, tokens: list[Token]) -> int:
        """Take the command whose IAC stands at `mark`; return where it ends."""
        code = data[mark + 1]
        if self._content is not None:
            if code not in _CODES:  # busybox does not double the 255 of a window so wide
                self._take(data[mark : mark + 2], tokens)
                return mark + 2
            # Any command ends it. Where that is not the right one, an IAC was not doubled or the end was
            # forgotten: what came is of no use, and to wait for an end could be to wait for ever.
            content, self._content = self._content, None
            if code == SUBNEGOTIATION_END and content:
                tokens.append(Subnegotiation(content[0], bytes(content[1:])))
        if code in _VERBS:
            if mark + 2 == len(data):
                self._begun = data[mark:]
            else:
                tokens.append(Negotiation(_VERBS[code], data[mark + 2]))
            return mark + 3
        if code == SUBNEGOTIATION_BEGIN:
            self._content = bytearray()
            self._room = self._maximum
        elif code in _COMMANDS:
            tokens.append(_COMMANDS[code])
        return mark + 2
