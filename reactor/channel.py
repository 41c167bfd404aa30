"""Channels: a socket, a state and a queue for what goes out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from .addresses import format_address
from .binding import close_socket
from .codecs import Codec, Trust
from .errors import ClosedHere, ConnectionLost, HookError, PeerClosed, ReactorError, RemoteError, StateError, TlsError
from .limits import DEFAULT_LIMITS, RECEIVE_SIZE, Limits
from .producers import DISCARD, Discard, FileSlice, OutputQueue, Producer
from .sending import STATES
from .states import State, abandon, become
from .timers import DeadlineGroup

if TYPE_CHECKING:
    import ssl

    from .eventloop import Reactor
    from .proxying import ProxyHeader
    from .tls import Tls

log = logging.getLogger("reactor")

DROPS_PER_UPGRADE = 256
"""Receives of plaintext behind `start_tls`: more than any kernel holds by itself."""


class Origin:
    """Who made a channel, and is told what becomes of it: a listener, or a connect."""

    __slots__ = ()
    _role: ClassVar[str] = "listener"
    _tls: Tls | None = None
    _host: str | None = None

    def _channel_authenticating(self, channel: Channel) -> None:
        """`channel` is in a handshake from now on: that of TLS, that with the key, or one after the other."""

    def _channel_introduced(self, channel: Channel, header: ProxyHeader) -> None:
        """A proxy has said who the peer of `channel` is."""

    def _is_expected(self, channel: Channel, error: ReactorError) -> bool:
        """Whether `error` is what becomes of such a channel, and nothing that its hooks or the log should hear of."""
        return False

    def _channel_opened(self, channel: Channel) -> None:
        """`channel` is open: it has the handshake behind it, if there is one."""

    def _trust_for(self, codec: str | Codec) -> Trust:
        """Return what a connection of `codec` believes."""
        raise NotImplementedError

    def _channel_ending(self, channel: Channel) -> None:
        """This program has asked `channel` to close when all is sent."""

    def _outlasts_shutdown(self, channel: Channel) -> bool:
        """Whether `channel` stays open at a shutdown, because it will come to its end by itself."""
        return False

    def _progress(self) -> str:
        """Return how far a connect has come, in words."""
        return ""

    def _channel_closed(self, channel: Channel, reason: ReactorError) -> None:
        """`channel` was closed for `reason`."""


class Channel:
    """What all channels have in common. Subclass `Stream` or `Connection`, not this.

    A subclass may have an ``__init__`` with any arguments, and need not call this one's.

    Attributes:
        reactor: the loop that drives the channel, once it is attached.
        socket: its socket, once it has one.
        state: the `State` that it is in; ``state.name`` tells which.
        peer: the address of the other side, as the socket module writes it.
        limits: what is granted to the peer.

    Every other name here begins with an underscore, so that a subclass may have whatever names it
    likes. They are for the engine: `_interest` is what the selector watches for, `_output` what waits to be
    sent, `_held` input that was decoded and not yet delivered, `_origin` who made the channel, `_reason` why
    it closes (there only from then until `handle_close` is told), `_active_at` when the loop last had to do
    with it, on the reactor's clock.
    """

    __slots__ = (
        "__weakref__",
        "_active_at",
        "_deadline_group",
        "_held",
        "_interest",
        "_origin",
        "_output",
        "_reason",
        "limits",
        "peer",
        "reactor",
        "socket",
        "state",
    )

    _states: ClassVar[Mapping[str, State]] = STATES
    _hears_drained: ClassVar[bool] = False
    _shares_tls_buffers: ClassVar[bool] = True

    reactor: Reactor
    socket: Any
    state: State
    peer: Any
    limits: Limits
    _interest: int
    _output: list[bytes] | OutputQueue | Discard | None
    _held: Iterator[bytes] | None
    _reason: ReactorError
    _active_at: float
    _deadline_group: DeadlineGroup | None
    _origin: Origin | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.state = cls._states["New"]
        self._output = []
        self.socket = self._held = self._deadline_group = self.peer = self._origin = None
        self._interest = 0
        self.limits = DEFAULT_LIMITS
        return self

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._hears_drained = cls.handle_drained is not Channel.handle_drained

    def __str__(self) -> str:
        """Name the channel as log lines do: its class, its peer and its state."""
        return f"{self._name} ({self.state.name})"

    @property
    def _name(self) -> str:
        """The channel's class and its peer, for people."""
        return f"{type(self).__name__} with {'nobody' if self.peer is None else format_address(self.peer)}"

    def __repr__(self) -> str:
        return f"<{self}>"

    # What a subclass writes

    def handle_open(self) -> None:
        """The channel is open: connected, authenticated, ready. By default, nothing."""

    def handle_data(self, data: bytes) -> None:
        """Bytes came in, at least one. By default they are dropped, with a line in the log."""
        log.warning("%s: %d bytes came in, and handle_data is not written", self, len(data))

    def handle_eof(self) -> None:
        """The peer has sent its last byte, and may still read. By default, `close_when_done`."""
        self.state.drain(self, PeerClosed("the peer closed the connection"))

    def handle_secured(self) -> None:
        """What `start_tls` has begun is done: from now on everything is encrypted. By default, nothing."""

    def handle_drained(self) -> None:
        """All that was queued has left for the kernel. By default, nothing."""

    def handle_close(self, reason: ReactorError) -> None:
        """The channel is closed; told exactly once, for every channel that was attached.

        Arguments:
            reason: `PeerClosed` or `ClosedHere` for an end in good order, else the error.
        """

    def handle_reconnecting(self, channel: Channel, delay: float) -> None:
        """This channel is closed, and `channel` will take its place in `delay` seconds. By default, nothing."""

    def handle_error(self, error: Exception) -> None:
        """Something went wrong. By default it is logged and the channel closes.

        Arguments:
            error: a `RemoteError` for what the peer did: the channel closes whatever you do here. Or
                what one of your hooks raised: the channel closes if you say so with `close`.
        """
        if isinstance(error, ReactorError) and error.peer is not None:
            log.log(logging.WARNING if isinstance(error, RemoteError) else logging.ERROR, "%s", error)
        else:
            log.error("%s: %s: %s", self, type(error).__name__, error, exc_info=error)
            self.close(error)

    # What a subclass calls

    def push(self, data: Any) -> None:
        """Queue something to be sent; it leaves at the end of this turn of the loop, or when it can.

        Order is kept. What is pushed once the channel closes is dropped.

        Arguments:
            data: a bytes-like object; an open file, sent from its position to its end and then closed;
                an iterator of bytes-like objects, or an object with ``more()``: pulled only while
                fewer bytes wait than the low-water mark.
        Raises:
            LocalError: it is none of these.
        """
        if type(data) is not bytes:
            self._push_producer(data)
            return
        output = self._output
        if output is None:
            self._output = [data]
            self.reactor.dirty.append(self)
        elif output.append(data):
            self.state.pressed(self)

    def _push_producer(self, source: Any) -> None:
        """Queue what is not bytes; `push` comes here."""
        try:
            view = memoryview(source)
        except TypeError:
            pass
        else:
            self._push_bytes(view.tobytes())
            return
        file = FileSlice.of(source)
        queue = self._open_queue()
        if file is not None:
            queue.append(self._header_for(file.size))
        if queue.append_producer(Producer(source) if file is None else file):
            self.state.pressed(self)

    def _push_bytes(self, data: bytes) -> None:
        """Queue what was bytes-like: not by way of `push`, of which a subclass would hear twice."""
        Channel.push(self, data)

    def close(self, reason: Exception | None = None) -> None:
        """Close now; what is queued is dropped. Closing once more does nothing.

        Arguments:
            reason: what `handle_close` is told; by default that this program closed it.
        """
        if reason is None:
            reason = ClosedHere("closed by this program")
        elif not isinstance(reason, ReactorError):
            reason = HookError(f"a hook of the channel failed: {type(reason).__name__}: {reason}")
        self.state.close(self, reason)

    def close_when_done(self) -> None:
        """Close as soon as everything queued has been sent. What is pushed from now on is dropped."""
        if self._origin is not None:
            self._origin._channel_ending(self)
        self.state.drain(self, ClosedHere("closed by this program"))

    def pause_reading(self) -> None:
        """Take nothing from the peer until `resume_reading`. What is queued goes out all the same.

        Raises:
            StateError: the channel is not open.
        """
        self.state.pause(self)

    def resume_reading(self) -> None:
        """Read again. Without a pause before it, this does nothing."""
        self.state.resume(self)

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS of the channel, to be asked for its `version`, `cipher`, `getpeercert` and so on; None without."""
        return getattr(self.socket, "session", None)

    @property
    def _has_input(self) -> bool:
        """Whether there is input that no descriptor announces."""
        return self._held is not None or getattr(self.socket, "has_more", False)

    @property
    def _is_unfinished(self) -> bool:
        """Whether something is lost if the channel is closed now."""
        return bool(self._output)

    def start_tls(self, tls: Any) -> int:
        """Encrypt from here on; `handle_secured` is told when that is so.

        What was queued until now leaves in plaintext. What is queued from now on waits, and leaves encrypted. Input
        that has come and was not delivered yet is dropped, with a line in the log: it was sent behind the request for
        TLS, and whoever sits between the two could have put it there (CVE-2011-0411). A pause ends with this.

        Arguments:
            tls: as for a listener on the side that accepted, and as for `connect` on the side that connected.
        Returns: how many bytes of input were dropped.
        Raises:
            LocalError: it cannot be used here.
            StateError: the channel is not open, or encrypted already.
        """
        from .tls import tls_for

        if self._origin is None:
            raise StateError(f"{self}: there is no connection that could be encrypted")
        if self.tls is not None:
            raise StateError(f"{self}: this channel is encrypted already")
        encrypting = tls_for(self._origin, tls).wrap(self, self.socket, is_upgrade=True)
        become(self, "upgrade")
        self._make_queue().append_turning_point(encrypting)
        dropped = self._drop_input()
        with contextlib.suppress(OSError):
            for _ in range(DROPS_PER_UPGRADE):  # whoever sends still more, and faster than this, fails the handshake
                data = self.socket.recv(RECEIVE_SIZE)
                if not data:
                    break
                dropped += len(data)
        if dropped:
            log.warning("%s: %d bytes came in plaintext behind the request for TLS, and were dropped", self, dropped)
        return dropped

    @property
    def output_size(self) -> int:
        """The bytes that wait for the peer, without what producers have yet to produce."""
        output = self._output
        return sum(map(len, output)) if isinstance(output, list) else output.size if output is not None else 0

    # What the engine calls

    def _attach(self, reactor: Reactor, peer: Any, limits: Limits, origin: Origin | None = None) -> None:
        """Make this a channel of `reactor`.

        Raises:
            StateError: it is attached already, or the reactor is shutting down.
        """
        if self._is_attached:
            raise StateError(f"{self}: one channel serves one connection; make a new object for the next one")
        if reactor.is_shutting_down:
            raise StateError(f"{self}: the reactor is shutting down and takes no new channel")
        self.reactor = reactor
        self.peer = peer
        self.limits = limits
        self._origin = origin
        self._active_at = reactor.now
        reactor.channels[self] = None

    @property
    def _is_attached(self) -> bool:
        """Whether the channel has been given to a reactor."""
        return hasattr(self, "reactor")

    def _start(self) -> None:
        """The socket is connected: `begin`, and close the channel if that is not possible."""
        assert self._origin is not None
        tls = self._origin._tls
        try:
            if tls is None:
                self._begin()
            else:
                self.socket = tls.wrap(self, self.socket)
                if self._is_let_in():
                    become(self, "secure")
        except ReactorError as error:
            self._fail(error)
        except OSError as error:
            self._fail(ConnectionLost.by(error))

    def _is_let_in(self) -> bool:
        """Say that a handshake begins; return whether it still is to begin."""
        before = self.state
        assert self._origin is not None
        self._origin._channel_authenticating(self)
        return self.state is before  # a hook of the peer that had to make room may have closed this one

    def _begin(self) -> None:
        """The socket is connected, and encrypted if that is wanted: authenticate, or open at once."""
        self._opened()

    def _secured(self) -> None:
        """The handshake of TLS is done."""
        if self.socket.is_upgrade:
            self._enter_open(self.handle_secured)
        else:
            self._begin()

    def _opened(self) -> None:
        """Everything is ready for the first time."""
        self._enter_open(self.handle_open)

    def _enter_open(self, hook: Callable[[], object]) -> None:
        """Enter the open state and say so with `hook`."""
        reactor = self.reactor
        assert self._origin is not None
        self._origin._channel_opened(self)
        self._set_deadline(self.limits.idle_timeout)
        queue = self._output
        is_ending = isinstance(queue, OutputQueue) and queue.sealed
        if queue:
            reactor.flush_soon(self)
        elif not is_ending:
            self._output = None
        become(self, "open")
        reactor.hook_soon(self, hook)
        if is_ending:
            reactor.hook_soon(self, self.close_when_done)

    def _want(self, interest: int) -> None:
        """Have the selector watch for `interest`: the only place where that changes."""
        before = self._interest
        if interest == before:
            return
        try:
            if not before:
                self.reactor.register(self.socket, interest, self)
            elif not interest:
                self.reactor.unregister(self.socket)
            else:
                self.reactor.modify(self.socket, interest, self)
        except OSError as error:  # no memory, or over the number that a user may watch (epoll_ctl(2))
            self._cannot_watch(error)
        else:
            self._interest = interest

    def _cannot_watch(self, error: OSError) -> None:
        """The selector has refused the socket, perhaps in the middle of a transition: the channel fails after that."""
        lost = ConnectionLost(f"the system cannot watch it any more: {error.strerror}", error.errno)
        self.reactor.hook_soon(self, self._fail, lost)

    def _take_socket(self) -> Any:
        """Hand out the socket, which stays open; what remains of the channel closes."""
        self._want(0)
        sock, self.socket = self.socket, None
        self.close()
        return sock

    def _set_deadline(self, timeout: float | None) -> None:
        """Have the state told when `timeout` seconds have passed; this replaces the deadline before it."""
        self.reactor.deadlines.set(self, timeout)

    def _expire(self) -> None:
        """The deadline has passed."""
        try:
            self.state.expired(self)
        except Exception as error:
            self._hook_failed(error)

    def _open_queue(self) -> OutputQueue | Discard:
        """Return the queue proper, and see that it is flushed at the end of this turn."""
        if self._output is DISCARD:
            return DISCARD
        if self._output is None:
            self.reactor.flush_soon(self)
        return self._make_queue()

    def _drop_output(self) -> None:
        """Drop what is queued and has not left."""
        if self._output:
            self._output.clear()
            begun = getattr(self.socket, "begun", 0)
            if begun:  # so much has been encrypted already, and leaves: the queue counts it, whatever bytes it has
                self._make_queue().put_first(bytes(begun))

    def _drop_input(self) -> int:
        """Drop what came and was not delivered, and return how many bytes that was."""
        dropped = sum(map(len, self._held or ()))
        self._held = None
        return dropped

    def _make_queue(self) -> OutputQueue:
        """Turn the plain list for a turn's output into a queue proper, if it is none yet."""
        output = self._output
        if isinstance(output, OutputQueue):
            return output
        queue = self._output = self._new_queue()
        if isinstance(output, list):
            for data in output:
                queue.append(data)
        return queue

    def _new_queue(self) -> OutputQueue:
        """Return an empty queue with this channel's marks."""
        return OutputQueue(self.limits)

    def _header_for(self, size: int) -> bytes:
        """Return what goes out in front of a file of `size` bytes."""
        return b""

    def _input_finished(self) -> RemoteError | None:
        """The stream of input has ended: return the error that this means, if any."""
        return None

    def _fail(self, error: ReactorError) -> None:
        """Say what went wrong, and close for that reason. Only from the loop, never from inside a hook."""
        self._report(error)
        self.state.close(self, error)

    def _give_up(self, error: ReactorError) -> None:
        """The input makes no sense any more: `fail`, but let what answers the input before it reach the peer.

        Also when it has left already: to close at once, with input unread, sends a reset, and that can destroy
        what the peer has not read yet.
        """
        self._report(error)
        self.state.drain(self, error)

    def _report(self, error: ReactorError) -> None:
        """Put peer and state into `error`, and give it to `handle_error`."""
        error.peer = self._name
        error.state = self.state.name
        error.__traceback__ = None  # its frames would keep the channel alive, and its socket with it
        if self._origin is None or not self._origin._is_expected(self, error):
            self._hook_failed(error)

    def _hook_failed(self, error: Exception) -> None:
        """Tell `handle_error`; what that raises is logged and closes the channel."""
        if isinstance(error, RemoteError) and error.peer is None:
            self._fail(error)  # raised inside a hook, but the peer's doing all the same
            return
        try:
            self.handle_error(error)
        except Exception as second:
            log.error("%s: handle_error failed: %s: %s", self, type(second).__name__, second, exc_info=second)
            self.close(second)
        if self._held is not None and self.state is self._states["Open"]:
            self.reactor.resume_soon(self)

    def _abandon(self) -> None:
        """This process is the child of a fork, and the connection its parent's: touch it no more."""
        abandon(self)

    def _finish(self) -> None:
        """The batch in which the channel was closed is over: give the descriptor back, and say so."""
        reason = self._reason
        del self._reason
        if self.socket is not None:
            if isinstance(reason, ClosedHere | PeerClosed | TlsError) and self.tls is not None:
                self.socket.say_goodbye()
            close_socket(self.socket)
            self.socket = None
        origin, self._origin = self._origin, None
        try:
            self.handle_close(reason)
        finally:
            try:
                if origin is not None:
                    origin._channel_closed(self, reason)  # which may call the user's factory, for a successor
            finally:
                self.reactor.forget(self, reason)
