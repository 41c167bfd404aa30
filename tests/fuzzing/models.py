"""What the engine should do, said again in the plainest way: slow, without state, all bytes at once.

The targets hold the engine to these. They share no code with it, or a mistake would be made twice.
"""

from __future__ import annotations

import bisect
import dataclasses
import hmac
import math

HEADER = 4
LONG_HEADER = 12

CHALLENGE, WELCOME, FAILURE = b"#CHALLENGE#", b"#WELCOME#", b"#FAILURE#"
DIGEST_SIZES = {"md5": 16, "sha256": 32, "sha384": 48, "sha3_256": 32, "sha3_384": 48}
TAGS = {"listener": b"listener", "client": b"client: "}
SHORTEST_CHALLENGE = 20
LONGEST_HANDSHAKE_FRAME = 256


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
