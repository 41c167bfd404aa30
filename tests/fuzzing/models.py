"""What the engine should do, said again in the plainest way: slow, without state, all bytes at once.

The targets hold the engine to these. They share no code with it, or a mistake would be made twice.
"""

from __future__ import annotations

import bisect
import dataclasses
import hmac
import itertools
import math
import re
import socket
import struct
from typing import Any

HEADER = 4
LONG_HEADER = 12

CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"
DIGEST_SIZES = {"md5": 16, "sha256": 32, "sha384": 48, "sha3_256": 32, "sha3_384": 48}
TAGS = {"listener": b"listener", "client": b"client: "}
SHORTEST_CHALLENGE = 20
LONGEST_HANDSHAKE_FRAME = 256

CRLF = b"\r\n"


# Frames


@dataclasses.dataclass
class Reading:
    """What a stream of bytes holds.

    Attributes:
        frames: the whole frames, in order.
        consumed: how many bytes of the stream they are, headers included.
        refused: the size in the header behind them, where no frame may have it, else None.
        cut_short: the numbers that an end of the stream here has to name: the bytes that are there of a
            header, or of a body and of the whole body; empty between two frames.
    """

    frames: list[bytes]
    consumed: int
    refused: int | None = None
    cut_short: tuple[int, ...] = ()


def short_form(frame: bytes) -> bytes:
    """Return `frame` behind the header of 32 bits."""
    return len(frame).to_bytes(4) + frame


def long_form(frame: bytes) -> bytes:
    """Return `frame` behind the header of 64 bits."""
    return b"\xff\xff\xff\xff" + len(frame).to_bytes(8) + frame


def read_frames(
    stream: bytes, minimum: int, maximum: int, long_headers: bool = True, most: int | None = None
) -> Reading:
    """Return the first frames of `stream`.

    Arguments:
        stream: all of it.
        minimum, maximum: the sizes that a frame may have, in bytes.
        long_headers: whether a size of -1 announces one of 64 bits.
        most: so many frames are read, and no byte behind them; None for all.
    """
    frames: list[bytes] = []
    position = 0
    while position < len(stream) and len(frames) != most:
        rest = stream[position:]
        header = LONG_HEADER if long_headers and rest.startswith(b"\xff\xff\xff\xff") else HEADER
        if len(rest) < header:
            return Reading(frames, position, cut_short=(len(rest),))
        size = int.from_bytes(rest[:HEADER], signed=True) if header == HEADER else int.from_bytes(rest[HEADER:header])
        if not minimum <= size <= maximum:
            return Reading(frames, position, refused=size)
        body = rest[header : header + size]
        if len(body) < size:
            return Reading(frames, position, cut_short=(len(body), size))
        frames.append(body)
        position += header + size
    return Reading(frames, position)


# The handshake


def signed(name: str, key: bytes, message: bytes) -> bytes:
    """Return the HMAC of `message` under the digest `name`."""
    return hmac.new(key, message, name).digest()


class _Failed(Exception):
    """The handshake fails; the bytes are what the peer is told."""


@dataclasses.dataclass
class Handshaking:
    """What a handshake with a peer should come to.

    Attributes:
        sent: the frames that our side sends, in order.
        done: whether the peer is authenticated.
        failed: whether it is refused. Where neither is true, our side still waits.
        behind: what the peer sent behind its last frame of the handshake.
    """

    sent: list[bytes]
    done: bool = False
    failed: bool = False
    behind: bytes = b""


class HandshakeModel:
    """The rules of one side, for a peer whose every byte is known from the start.

    Arguments:
        role: ``"listener"`` or ``"client"``.
        key: the shared key.
        message: what our challenge asks the peer to sign.
        allows_md5: whether MD5 is answered and accepted.
    """

    def __init__(self, role: str, key: bytes, message: bytes, allows_md5: bool) -> None:
        self._role = role
        self._key = key
        self._message = message
        self._digests = [name for name in DIGEST_SIZES if allows_md5 or name != "md5"]
        self._peer_is_ours = False
        self._peer_used_md5 = False

    def converse(self, stream: bytes) -> Handshaking:
        """Return what comes of it when the peer sends `stream`."""
        if self._role == "listener":
            first, steps = [CHALLENGE + self._message], [self._check_answer, self._answer, self._check_verdict]
        else:
            first, steps = [], [self._answer, self._check_verdict, self._check_answer]
        reading = read_frames(stream, 1, LONGEST_HANDSHAKE_FRAME, long_headers=False, most=len(steps))
        result = Handshaking(first)
        for step, frame in zip(steps, reading.frames, strict=False):
            try:
                result.sent += step(frame)
            except _Failed as failed:
                result.sent += failed.args
                result.failed = True
                return result
        if reading.refused is not None:
            result.sent.append(FAILURE)
            result.failed = True
        elif len(reading.frames) == len(steps):
            result.done = True
            result.behind = stream[reading.consumed :]
        return result

    def _signed(self, name: str, message: bytes) -> bytes:
        return signed(name, self._key, message)

    def _check_answer(self, answer: bytes) -> list[bytes]:
        right = {b"{%s}" % name.encode() + self._signed(name, self._message) for name in self._digests}
        with_md5 = {self._signed("md5", self._message), b"{md5}" + self._signed("md5", self._message)}
        if "md5" in self._digests and not self._peer_is_ours:
            right |= with_md5
        else:
            right -= with_md5
        if answer not in right:
            raise _Failed(FAILURE)
        self._peer_used_md5 = answer in with_md5
        return [WELCOME]

    def _answer(self, challenge: bytes) -> list[bytes]:
        if not challenge.startswith(CHALLENGE):
            raise _Failed(FAILURE)
        message = challenge.removeprefix(CHALLENGE)
        if len(message) < SHORTEST_CHALLENGE:
            raise _Failed(FAILURE)
        if len(message) == SHORTEST_CHALLENGE:
            if "md5" not in self._digests:
                raise _Failed(FAILURE)
            return [self._signed("md5", message)]
        for name in self._digests:
            prefix = b"{%s}" % name.encode()
            if message.startswith(prefix):
                tag = message.removeprefix(prefix)[:8]
                self._peer_is_ours = tag in TAGS.values()
                if tag == TAGS[self._role] or (self._peer_is_ours and (self._peer_used_md5 or name == "md5")):
                    raise _Failed(FAILURE)
                return [prefix + self._signed(name, message)]
        raise _Failed(FAILURE)

    def _check_verdict(self, verdict: bytes) -> list[bytes]:
        if verdict == FAILURE:
            raise _Failed
        if verdict != WELCOME:
            raise _Failed(FAILURE)
        # The client challenges only now.
        return [CHALLENGE + self._message] if self._role == "client" else []


# Timers


class TimerModel:
    """What a timer queue does, with a list that is kept sorted.

    Attributes:
        latest: the sequence number of the timer that was set last.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[float, int, int]] = []
        self._entries: dict[int, tuple[float, int, int]] = {}
        self._passed = -math.inf
        self.latest = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def next_due(self) -> float:
        """When the first one is due; infinity where none waits."""
        return self._waiting[0][0] if self._waiting else math.inf

    def add(self, name: int, deadline: float) -> None:
        """Set the timer `name`; in the middle of a pass it stands behind all that are due in it."""
        self.latest += 1
        entry = self._entries[name] = (max(deadline, self._passed), self.latest, name)
        bisect.insort(self._waiting, entry)

    def cancel(self, name: int) -> None:
        """Call the timer `name` off, if it waits."""
        if name in self._entries:
            self._waiting.remove(self._entries.pop(name))

    def clear(self) -> None:
        """Call all of them off."""
        self._waiting.clear()
        self._entries.clear()

    def take(self, now: float, latest: int) -> int | None:
        """Return the first timer that is due at `now` and was not set after `latest`."""
        if not self._waiting or self._waiting[0][0] > now or self._waiting[0][1] > latest:
            self._passed = -math.inf
            return None
        self._passed = now
        name = self._waiting.pop(0)[2]
        del self._entries[name]
        return name


# Terminators

Terminator = bytes | int | None


def held_back(data: bytes, terminator: bytes) -> int:
    """Return how many bytes at the end of `data` may be the beginning of `terminator`."""
    return max(count for count in range(len(terminator)) if data.endswith(terminator[:count]))


@dataclasses.dataclass
class Split:
    """A stream, cut at its terminators.

    Attributes:
        pieces: what stands in front of each terminator that was found.
        rest: what stands behind the last one.
        failed: whether more came in front of a terminator than may.
    """

    pieces: list[bytes]
    rest: bytes
    failed: bool = False


def split_plainly(stream: bytes, terminators: list[Terminator], maximum: int) -> Split:
    """Cut `stream`.

    Arguments:
        terminators: the first one, and those that follow it, one for each that is found; behind the last one the
            first one comes again. Where there is one only it stays, and a number has then counted down to no end.
        maximum: the most bytes in front of a terminator of bytes.
    """
    pieces: list[bytes] = []
    first = terminators[0]
    upcoming = itertools.cycle(terminators)
    if len(terminators) == 1 and not isinstance(first, bytes):
        upcoming = itertools.chain([first], itertools.repeat(None))
    for terminator in upcoming:
        if isinstance(terminator, bytes):
            piece, found, behind = stream.partition(terminator)
            if len(piece) - (0 if found else held_back(piece, terminator)) > maximum:
                return Split(pieces, stream, failed=True)
        elif terminator:
            piece, behind = stream[:terminator], stream[terminator:]
            found = piece[terminator - 1 :]
        else:
            found = b""
        if not found:
            break
        pieces.append(piece)
        stream = behind
    return Split(pieces, stream)


class SplitterModel:
    """What a splitter hands out next, with all that it was fed and has not handed out in one piece.

    Attributes:
        left: that piece.
        terminator: what it looks for; a number counts down.
        failed: whether it has given up.
    """

    def __init__(self, terminator: Terminator, maximum: int) -> None:
        self.left = b""
        self.terminator = terminator
        self.failed = False
        self._maximum = maximum
        self._since = 0

    def next_piece(self) -> tuple[bytes, bool] | None:
        """Hand out what can be handed out, and say whether a terminator was found behind it."""
        terminator, is_end = self.terminator, False
        if not self.left or self.failed:
            return None
        if isinstance(terminator, bytes):
            data, found, behind = self.left.partition(terminator)
            is_end = bool(found)
            if not is_end:
                held = held_back(data, terminator)
                data, behind = data[: len(data) - held], data[len(data) - held :]
            if self._since + len(data) > self._maximum:
                self.failed = True
                self.clear()
                return None
            self._since = 0 if is_end else self._since + len(data)
        else:
            data, behind = (self.left[:terminator], self.left[terminator:]) if terminator else (self.left, b"")
            self._since = 0
            if terminator:
                self.terminator = terminator - len(data)
                is_end = not self.terminator
        self.left = behind
        return (data, is_end) if data or is_end else None

    def clear(self) -> None:
        """Drop what was not handed out."""
        self.left = b""
        self._since = 0


# Telnet

IAC, SUBNEGOTIATION_BEGIN, SUBNEGOTIATION_END = 255, 250, 240
LOWEST_COMMAND, LOWEST_VERB = 236, 251


def read_telnet(stream: bytes, maximum: int) -> list[Any]:
    """Return what a stream of Telnet says: data, numbers of commands, (verb, option), (option, particulars).

    Particulars of more than `maximum` bytes, with the number of the option, are the words "too long".
    """
    tokens: list[Any] = []
    particulars: bytes | None = None
    rest = list(stream)
    while rest:
        said = bytes([rest.pop(0)])
        code = IAC
        if said[0] == IAC:
            if not rest:
                break
            code = rest.pop(0)
            if code != IAC:
                said = bytes([IAC, code])
        if LOWEST_COMMAND <= code < IAC:
            if particulars and code == SUBNEGOTIATION_END and len(particulars) <= maximum:
                tokens.append((particulars[0], particulars[1:]))
            particulars = b"" if code == SUBNEGOTIATION_BEGIN else None
            if code >= LOWEST_VERB:
                tokens += [(code, rest.pop(0))] if rest else []
            elif code not in (SUBNEGOTIATION_BEGIN, SUBNEGOTIATION_END):
                tokens.append(code)
        elif particulars is not None:
            tokens += ["too long"] * (len(particulars) <= maximum < len(particulars) + len(said))
            particulars += said
        elif len(said) == 1:
            tokens.append(said)
    return joined(tokens)


def joined(tokens: list[Any]) -> list[Any]:
    """Return `tokens` with bytes that stand beside one another joined."""
    found: list[Any] = []
    for token in tokens:
        if isinstance(token, bytes) and found and isinstance(found[-1], bytes):
            found[-1] += token
        else:
            found.append(token)
    return found


# SMTP

MOST_REPLY_LINES = 100
LONGEST_REPLY_LINE = 4096


def read_replies(stream: bytes) -> list[int]:
    """Return the codes of the whole replies in `stream`, up to the first that is none."""
    codes: list[int] = []
    lines: list[bytes] = []
    while b"\r\n" in stream:
        line, _, stream = stream.partition(b"\r\n")
        lines.append(line[:3])
        if (
            not re.fullmatch(rb"[2-5][0-9]{2}([ -][^\r\n]*)?", line)
            or len(line) + len(CRLF) > LONGEST_REPLY_LINE
            or len(lines) > MOST_REPLY_LINES
            or len(set(lines)) > 1
        ):
            break
        if line[3:4] != b"-":
            codes.append(int(line[:3]))
            lines.clear()
    return codes


def plain_content(wire: bytes) -> bytes:
    """Return the content that stands on the wire as `wire`, with its last dot: without the dots that were put in."""
    *lines, end = wire.split(CRLF)[:-1]
    assert end == b"."
    return b"".join((line[1:] if line.startswith(b".") else line) + CRLF for line in lines)


# The PROXY protocol


@dataclasses.dataclass
class Introduction:
    """What the header of a proxy says.

    Attributes:
        size: how many bytes it has.
        places: source and destination, each as its family (4, 6 or "unix"), its host or path, and its port; or none.
        transport: 1 for streams, 2 for datagrams, 0 if nobody says.
        values: what the proxy has added, by numbers.
    """

    size: int
    places: list[tuple[Any, bytes, int]] = dataclasses.field(default_factory=list)
    transport: int = 0
    is_local: bool = False
    values: list[tuple[int, bytes]] = dataclasses.field(default_factory=list)


class NoIntroduction(Exception):
    """There is no header."""


SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
CRC32C = 3


def read_introduction(stream: bytes, maximum: int) -> Introduction | None:
    """Return what the header in front of `stream` says; None where the stream is too short to tell.

    Raises:
        NoIntroduction: something else stands there.
    """
    if stream.startswith(b"PROXY "):
        return read_proxy_line(stream)
    if stream.startswith(SIGNATURE):
        return read_proxy_block(stream, maximum)
    if b"PROXY ".startswith(stream) or SIGNATURE.startswith(stream):
        return None
    raise NoIntroduction


def read_proxy_line(stream: bytes) -> Introduction | None:
    line, end, _ = stream[:107].partition(CRLF)
    if not end:
        if len(stream) < 107:
            return None
        raise NoIntroduction
    size = len(line) + 2
    words = line.split(b" ")
    if words[1] == b"UNKNOWN":
        return Introduction(size)
    if len(words) != 6 or words[1] not in (b"TCP4", b"TCP6"):
        raise NoIntroduction
    family = 4 if words[1] == b"TCP4" else 6
    places = []
    for host, port in zip(words[2:4], words[4:], strict=True):
        if str(int(port) if port.isdigit() and len(port) < 6 else -1).encode() != port or int(port) > 65535:
            raise NoIntroduction
        try:
            packed = socket.inet_pton(socket.AF_INET if family == 4 else socket.AF_INET6, host.decode("ascii"))
        except (OSError, ValueError):
            raise NoIntroduction from None
        places.append((family, packed, int(port)))
    return Introduction(size, places, 1)


def read_proxy_block(stream: bytes, maximum: int) -> Introduction | None:
    if len(stream) < 16:
        return None
    command, kind, length = struct.unpack_from("!BBH", stream, 12)
    family, transport = divmod(kind, 16)
    if command not in (0x20, 0x21) or 16 + length > maximum or (command == 0x21 and (family > 3 or transport > 2)):
        raise NoIntroduction
    if len(stream) < 16 + length:
        return None
    if command == 0x20:
        return Introduction(16 + length, is_local=True)
    rest = stream[16 : 16 + length]
    form = ("!", "!4s4sHH", "!16s16sHH", "!108s108s")[family]
    start = struct.calcsize(form)
    if len(rest) < start:
        raise NoIntroduction
    values = []
    while start < len(rest):
        number, size = struct.unpack("!BH", rest[start : start + 3].ljust(3, b"\xff"))
        value = rest[start + 3 : start + 3 + size]
        if len(value) < size:
            raise NoIntroduction
        if number == CRC32C:
            zeroed = stream[: 16 + start + 3] + bytes(size) + rest[start + 3 + size :]
            if size != 4 or crc32c(zeroed) != int.from_bytes(value) or CRC32C in dict(values):
                raise NoIntroduction
        values.append((number, value))
        start += 3 + size
    places: list[tuple[Any, bytes, int]] = []
    if family and transport:
        fields = struct.unpack_from(form, rest)
        if family == 3:
            places = [("unix", path, 0) for path in fields]
        else:
            places = [({1: 4, 2: 6}[family], fields[at], fields[at + 2]) for at in (0, 1)]
    return Introduction(16 + length, places, transport if places else 0, values=values)


def crc32c(data: bytes) -> int:
    """Return the checksum of Castagnoli, bit by bit."""
    register = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            register = register >> 1 ^ (0x82F63B78 if (register ^ byte >> bit) & 1 else 0)
    return register ^ 0xFFFFFFFF
