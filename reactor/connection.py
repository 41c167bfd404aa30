"""Connections: messages in frames, as ``multiprocessing.connection`` sends them, both roles."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator, Mapping
from itertools import islice
from operator import length_hint
from typing import Any, ClassVar, Self

from .authentication import ChallengeSpotter, Handshake
from .binding import acknowledge_at_once
from .channel import Channel, Origin
from .codecs import Codec, Trust
from .connecting import Connectable
from .errors import (
    AuthenticationError,
    ConnectionLost,
    DeadlineError,
    DecodingError,
    RemoteError,
    StateError,
    excerpt,
    printable,
)
from .eventloop import READ, WRITE, Reactor
from .framing import SHORT, FrameDecoder, encode_frame, frame_header
from .limits import FRAMES_PER_TURN, RECEIVE_SIZE, Limits
from .producers import OutputQueue
from .sending import STATES, Open
from .states import Preparing, State, become

log = logging.getLogger("reactor")

JOINED = 16 * 1024
"""Up to so many bytes a frame is copied behind its header; a larger one is queued beside it."""

_pack = SHORT.pack


class OpenForMessages(Open):
    """Reads frames and gives them to `handle_message`, or to `handle_frame` where that is written."""

    def readable(self, channel: Connection) -> bool:  # type: ignore[override]
        frames = channel._held
        batch: Iterator[bytes]
        if frames is None:
            try:
                data = channel.socket.recv(RECEIVE_SIZE)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                channel._fail(ConnectionLost.by(error))
                return True
            if not data:
                self.end_of_input(channel)
                return True
            found = channel._decoder.feed(data)
            # Held at once: if a hook raises, what stands behind its frame must not be lost.
            batch = frames = channel._held = iter(found)
            if len(found) > FRAMES_PER_TURN:
                batch = islice(frames, FRAMES_PER_TURN)
        else:
            batch = islice(frames, FRAMES_PER_TURN)
        loads = None if channel._hears_frames else channel._trust.codec.loads
        handle = channel.handle_frame if loads is None else channel.handle_message
        for message in batch:
            if loads is not None:
                try:
                    message = loads(message)  # noqa: PLW2901
                except Exception as error:
                    channel._give_up(undecodable(message, error))
                    return True
            handle(message)
            if channel.state is not self:
                return True
        is_part = batch is not frames
        if is_part and length_hint(frames):
            channel.reactor.resume_soon(channel)
            return True
        channel._held = None
        if is_part and channel._has_input:  # TLS has more behind what was held
            channel.reactor.resume_soon(channel)
        if channel._decoder.failure is not None:
            channel._give_up(channel._decoder.failure)
        return True


class Authenticating(Preparing):
    """In the challenge handshake: its bytes go out in front of everything that was pushed."""

    name = "Authenticating"
    reads = READ

    def enter(self, channel: Channel) -> None:
        assert isinstance(channel, Connection)
        super().enter(channel)
        handshake = channel._start_handshake()
        channel._greeting = handshake.start()
        channel._want(READ)
        channel._set_deadline(channel.limits.authentication_timeout)
        channel.reactor.flush_soon(channel)
        if channel._has_input:
            channel.reactor.resume_soon(channel)

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Connection)
        assert channel._handshake is not None
        try:
            data = channel.socket.recv(self.receive_size(channel._handshake))
        except (BlockingIOError, InterruptedError):
            return False
        except OSError as error:
            channel._fail(ConnectionLost.by(error))
            return True
        handshake = channel._handshake
        if not data:
            end = AuthenticationError(f"the peer closed the connection; expected was {handshake.expectation}")
            end.__cause__ = EOFError()
            channel._fail(end)
            return True
        try:
            channel._greeting += handshake.receive(data)
        except AuthenticationError as error:
            self._refuse(channel, error)
            return True
        if handshake.done:
            channel._authenticated(handshake.trailing)
        else:
            channel.reactor.flush_soon(channel)
        return True

    def receive_size(self, handshake: Handshake) -> int:
        """Return how many bytes to receive at once."""
        return RECEIVE_SIZE

    def writable(self, channel: Channel) -> bool:
        return self.flush(channel)

    def flush(self, channel: Channel) -> bool:
        assert isinstance(channel, Connection)
        if self.check_output(channel):
            return True
        try:
            sent = channel.socket.send(channel._greeting) if channel._greeting else 0
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            channel._fail(ConnectionLost.by(error))
            return True
        channel._greeting = channel._greeting[sent:]
        channel._want(READ | WRITE if channel._greeting else READ)
        return sent > 0

    def expired(self, channel: Channel) -> None:
        assert isinstance(channel, Connection)
        assert channel._handshake is not None
        channel._fail(
            DeadlineError(
                f"no authentication within {channel.limits.authentication_timeout:g} s (authentication_timeout); "
                f"expected was {channel._handshake.expectation}",
                "authentication_timeout",
            )
        )

    def _refuse(self, channel: Connection, error: AuthenticationError) -> None:
        """Tell the peer that it failed before the channel closes; nothing else that was queued goes out."""
        channel._report(error)
        if channel.state is not self:
            return
        if not channel._greeting and not error.reply:
            self.close(channel, error)
            return
        queue = channel._make_queue()
        queue.clear()
        if channel.state is not self:
            return  # a producer that was dropped has closed its channel
        queue.put_first(channel._greeting + error.reply)  # which goes even into a queue that is sealed
        channel._reason = error
        become(channel, "drain")


class Connection(Connectable):
    """A channel for messages: write `handle_message`, call `send`.

    Attributes:
        codec: what turns messages into frames and back: ``"pickle"``, ``"bytes"``, ``"json"``, a
            `RestrictedPickle`, or any object with `dumps` and `loads`.
    """

    __slots__ = ("_decoder", "_greeting", "_handshake", "_trust")

    codec: ClassVar[str | Codec] = "pickle"
    _hears_frames: ClassVar[bool] = False
    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": OpenForMessages(), "Authenticating": Authenticating()}

    _decoder: FrameDecoder
    _greeting: bytes
    _handshake: Handshake | None
    _trust: Trust

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._handshake = None
        self._trust = NOT_ATTACHED
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._hears_frames = cls.handle_frame is not Connection.handle_frame

    # What a subclass writes

    def handle_message(self, message: Any) -> None:
        """A message came in. By default it is dropped, with a line in the log.

        Arguments:
            message: what the codec made of the frame.
        """
        log.warning("%s: a message came in, and handle_message is not written", self)

    def handle_frame(self, data: bytes) -> None:
        """A frame came in. By default it is decoded and given to `handle_message`.

        Raises:
            DecodingError: the codec cannot make a message of it.
        """
        try:
            message = self._trust.codec.loads(data)
        except Exception as error:
            raise undecodable(data, error) from None
        self.handle_message(message)

    # What a subclass calls

    def send(self, message: Any) -> None:
        """Queue `message`, any object that the codec takes; it leaves at the end of this turn, or when it can.

        Raises:
            Exception: whatever the codec raises for an object that it cannot take. Nothing is queued then.
        """
        data = self._trust.codec.dumps(message)
        if type(data) is str:  # from the module json, for example
            data = data.encode()
        elif type(data) is not bytes:
            data = memoryview(data).cast("B")
        if len(data) > JOINED:
            self._queue_large(data)
        else:
            self.send_bytes(bytes(data))

    def send_bytes(self, buffer: Any, offset: int = 0, size: int | None = None) -> None:
        """Queue bytes as one frame, without the codec.

        Arguments:
            buffer: a bytes-like object. What can be changed is copied; a `bytes` object never is.
            offset: where to begin in it, in bytes.
            size: how many bytes; None for all from `offset` on.
        Raises:
            ValueError: `offset` or `size` is negative, or reaches past the end.
        """
        if type(buffer) is not bytes or offset or size is not None:
            buffer = cut(buffer, offset, size)
        length = len(buffer)
        if length > JOINED:
            self._queue_large(buffer)
            return
        output = self._output
        if output is None:
            self._output = [_pack(length) + buffer]
            self.reactor.dirty.append(self)
        elif output.append(_pack(length) + buffer):
            self.state.pressed(self)

    def _queue_large(self, data: bytes | memoryview) -> None:
        """Queue `data`, which nobody changes any more, as one frame, without copying it."""
        queue = self._open_queue()
        if queue.append(frame_header(len(data))) | queue.append(data):
            self.state.pressed(self)

    def push(self, data: Any) -> None:
        """Queue frames; see `Channel.push`.

        Arguments:
            data: a bytes-like object or an open file, each of which makes one frame; or an iterator,
                or an object with ``more()``, whose every chunk makes a frame.
        """
        if type(data) is bytes:
            self.send_bytes(data)
        else:
            self._push_producer(data)

    def _push_bytes(self, data: bytes) -> None:
        self.send_bytes(data)

    # What the engine calls

    def _attach(self, reactor: Reactor, peer: Any, limits: Limits, origin: Origin | None = None) -> None:
        assert origin is not None
        trust = origin._trust_for(self.codec)
        super()._attach(reactor, peer, limits, origin)
        self._trust = trust

    def _begin(self) -> None:
        assert self._origin is not None
        trust = self._trust
        if trust.authkey is not None:
            if self._is_let_in():
                become(self, "authenticate")
            return
        if trust.needs_known_peer:
            trust.check(peer_is_this_user(self.socket))
        maximum = self.limits.maximum_frame
        self._decoder = FrameDecoder(maximum) if self._origin._role == "listener" else ChallengeSpotter(maximum)
        self._opened()

    def _start_handshake(self) -> Handshake:
        """Return the handshake for this side of the connection."""
        assert self._origin is not None
        assert self._trust.authkey is not None
        tls = self.tls
        self._handshake = Handshake(
            self._origin._role,
            self._trust.authkey,
            self.reactor.random,
            self._trust.minimum_digest,
            binding=None if tls is None else tls.get_channel_binding("tls-unique"),
        )
        return self._handshake

    def _authenticated(self, trailing: bytes) -> None:
        """The handshake is done; `trailing` bytes came behind it."""
        self._handshake = None
        if isinstance(self.peer, tuple):
            # A client of the standard library writes its welcome, then its first message, without
            # TCP_NODELAY: the message would wait 40 ms for the acknowledgement that Linux delays.
            acknowledge_at_once(self.socket)
        self._decoder = FrameDecoder(self.limits.maximum_frame)
        if self._greeting:
            self._make_queue().put_first(self._greeting)
            self._greeting = b""
        if trailing:
            self._held = iter(self._decoder.feed(trailing))
        self._opened()

    def _new_queue(self) -> OutputQueue:
        return OutputQueue(self.limits, encode_frame)

    def _header_for(self, size: int) -> bytes:
        return frame_header(size)

    def _drop_input(self) -> int:
        frames, self._held = list(self._held or ()), None
        return sum(len(frame_header(len(frame))) + len(frame) for frame in frames) + self._decoder.clear()

    def _input_finished(self) -> RemoteError | None:
        return self._decoder.finish()

    def _finish(self) -> None:
        if self._handshake is not None:
            self._handshake.abandon()
            self._handshake = None
        super()._finish()


class NotAttachedCodec:
    """The codec of a connection that has not been given to a listener or a connect."""

    @staticmethod
    def dumps(message: Any) -> bytes:
        raise StateError("this connection is not attached yet: let a Listener make it, or say connect()")

    loads = dumps


NOT_ATTACHED = Trust(NotAttachedCodec())


def undecodable(frame: bytes, error: Exception) -> DecodingError:
    """Return the error for a `frame` of which the codec could make nothing."""
    cause = f"{type(error).__name__}: {printable(str(error))}"
    return DecodingError(f"a frame cannot be decoded: {cause}; it begins {excerpt(frame)}")


def cut(buffer: Any, offset: int, size: int | None) -> bytes:
    """Return a part of `buffer` as bytes of its own; see `part_of`."""
    return part_of(buffer, offset, size).tobytes()


def part_of(buffer: Any, offset: int, size: int | None) -> memoryview:
    """Return a part of `buffer`, not copied; the errors are those of ``multiprocessing.connection``."""
    view = memoryview(buffer).cast("B")
    if offset < 0:
        raise ValueError("offset is negative")
    if len(view) < offset:
        raise ValueError("buffer length < offset")
    if size is None:
        size = len(view) - offset
    elif size < 0:
        raise ValueError("size is negative")
    elif offset + size > len(view):
        raise ValueError("buffer length < offset + size")
    return view[offset : offset + size]


def peer_is_this_user(sock: Any) -> bool:
    """Return whether the operating system says that the peer runs as this very user on this machine."""
    if not hasattr(socket, "SO_PEERCRED") or sock.family != socket.AF_UNIX:
        return False
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return bool(uid == os.geteuid())
