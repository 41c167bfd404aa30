"""Child processes: their pipes are channels, and their end is a hook."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, ClassVar, NoReturn, Self, TypeVar

from .addresses import Description
from .channel import Channel, Origin
from .codecs import Codec, Trust
from .connecting import Connectable
from .defaults import get_reactor
from .descriptors import ReadEnd, WriteEnd
from .errors import ClosedReactorError, LocalError, PeerClosed, ReactorError, StateError
from .eventloop import READ, Reactor
from .limits import Limits
from .processes import Process
from .sending import STATES
from .states import State, abandon, become

log = logging.getLogger("reactor")

CHILD_LIMITS = Limits(idle_timeout=None, stall_timeout=None, drain_timeout=None)
"""A child may be silent, or busy, for as long as it likes: when it dies, we hear of it."""

PATIENCE = 5.0
"""Seconds that a process has to end once it was killed. More takes only one that cannot be killed."""

STREAMS = {"stdin": "input", "stdout": "output", "stderr": "errors"}
"""The standard streams, and what log lines call them."""


class Running(State):
    """The process runs."""

    name = "Open"

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Child)
        return channel._look()

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        assert isinstance(channel, Child)
        if channel.stdin is not None:
            channel.stdin.close_when_done()

    def close(self, channel: Channel, reason: ReactorError) -> None:
        assert isinstance(channel, Child)
        channel._reason = reason
        become(channel, "drain")
        channel._set_deadline(PATIENCE)
        channel._demand("kill")
        channel.state.close(channel, reason)

    def shutdown(self, channel: Channel) -> None:
        assert isinstance(channel, Child)
        channel._demand("terminate")


class Ending(State):
    """The process has ended and its pipes have not, or it was killed and has not ended yet."""

    name = "Closing"

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Child)
        return channel._look()

    def close(self, channel: Channel, reason: ReactorError) -> None:
        assert isinstance(channel, Child)
        for pipe in list(channel._pipes):
            pipe.close()
        if channel.state is self and not channel.reactor.is_running:
            channel._wait(PATIENCE)
            become(channel, "close")

    def expired(self, channel: Channel) -> None:
        assert isinstance(channel, Child)
        channel._wait(0)
        become(channel, "close")

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        """It comes to its end already."""

    def shutdown(self, channel: Channel) -> None:
        """It comes to its end already."""


class Child(Channel, Origin):
    """A child process. Made by `spawn`.

    It is closed when the process has ended and all its pipes are closed. `close_when_done` ends its standard input, if
    that is a channel, and leaves the rest to the process; `close` kills. A shutdown of the reactor calls `terminate`,
    and kills when the grace is over. No process is left behind as a zombie.

    Attributes:
        argv: what was run.
        returncode: its exit code, or the number of the signal that killed it, negative; None until `handle_exit`.
        stdin: the channel to its standard input, where `spawn` was given what makes one, else None.
        stdout: the channel from its standard output, likewise.
        stderr: the channel from its standard error, likewise.
    """

    __slots__ = ("_pipes", "_process", "_signals", "_user", "argv", "returncode", "stderr", "stdin", "stdout")

    _role: ClassVar[str] = "client"
    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": Running(), "Closing": Ending()}

    argv: tuple[str, ...]
    returncode: int | None
    stdin: Any
    stdout: Any
    stderr: Any
    _process: Process | None
    _pipes: dict[Channel, None]
    _signals: set[int]
    _user: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.argv = ()
        self.returncode = self.stdin = self.stdout = self.stderr = self._process = self._user = None
        self._pipes = {}
        self._signals = set()
        return self

    @property
    def _name(self) -> str:
        if self._process is None:
            return f"{type(self).__name__} without a process"
        return f"{type(self).__name__} {self._title}"

    @property
    def _title(self) -> str:
        return f"{os.path.basename(self.argv[0])}, process {self.pid}"

    @property
    def pid(self) -> int | None:
        """The number of the process; None before there is one."""
        return None if self._process is None else self._process.pid

    # What a subclass writes

    def handle_exit(self, returncode: int) -> None:
        """The process has ended. Its output may still be on its way, its pipes not even be open: `handle_close` comes
        when all is read.

        By default nothing, but a line in the log if it did not end well, nor by a signal from here.

        Arguments:
            returncode: its exit code, or the number of the signal that killed it, negative; 255, with a line in the
                log, if nobody can tell: because SIGCHLD is ignored, or because somebody else waited for it.
        """
        if returncode and -returncode not in self._signals:
            log.warning("%s: %s", self._name, ending(returncode))

    # What a subclass calls

    def send_signal(self, signum: int) -> None:
        """Send the process a signal; nothing happens if it has ended.

        Raises:
            OSError: there is no such signal, or the process belongs to somebody else.
            StateError: there is no process yet.
        """
        if self._process is None:
            raise StateError(f"{self}: there is nothing yet to send a signal to; let spawn make it")
        self._process.send_signal(signum)
        self._signals.add(signum)

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process (SIGKILL)."""
        self.send_signal(signal.SIGKILL)

    def push(self, data: Any) -> NoReturn:
        """Nothing is sent to a process as such: push to its `stdin`.

        Raises:
            LocalError: always.
        """
        raise LocalError(f"{self}: push to its stdin, and give spawn the class of a channel for that: stdin=Stream")

    # What the engine calls

    def _run(self, argv: Any, streams: Mapping[str, Any], options: dict[str, Any]) -> None:
        """Start the program, and watch it."""
        words = [argv] if isinstance(argv, str | bytes | os.PathLike) else argv
        self.argv = tuple(os.fsdecode(word) for word in words)
        self._user = options.get("user")
        if not self.argv:
            raise LocalError("spawn needs a program to run: argv is empty")
        theirs: dict[str, int] = {}
        try:
            for name, stream in streams.items():
                if stream == subprocess.PIPE or isinstance(stream, Channel):
                    raise LocalError(f"{name}: give the class of a channel, not {stream!r}")
                if callable(stream):
                    theirs[name] = self._make_pipe(name, stream)
            self._process = self.socket = Process(self.argv, self._ended_on_thread, {**streams, **theirs, **options})
        finally:
            for number in theirs.values():
                os.close(number)
        become(self, "open")
        if self._process.fileno() >= 0:
            self._want(READ)
        for pipe in self._pipes:
            pipe.peer = Description(f"the {pipe.peer} of {self._title}")
            # A timer, so that handle_open, which is called behind the timers, comes before the first input.
            self.reactor.call_later(0, self._open_pipe, pipe)

    def _make_pipe(self, name: str, factory: Callable[[], object]) -> int:
        """Make the channel for the stream `name`, Connecting to a pipe; return the other end of that."""
        channel = factory()
        if not isinstance(channel, Connectable):
            raise LocalError(f"{name}: spawn needs something that makes a Stream, Chat or Connection, not {channel!r}")
        channel._attach(self.reactor, Description(STREAMS[name]), self.limits, self)
        self._pipes[channel] = None
        setattr(self, name, channel)
        reading, writing = os.pipe()
        ours = writing if name == "stdin" else reading
        channel.socket = WriteEnd(ours) if name == "stdin" else ReadEnd(ours)
        os.set_blocking(ours, False)
        become(channel, "connect")
        return reading if name == "stdin" else writing

    @staticmethod
    def _open_pipe(pipe: Channel) -> None:
        if pipe.state is pipe._states["Connecting"]:
            pipe._start()

    def _take_back(self) -> None:
        """It could not be run: give everything back. No hook is told; `spawn` raises."""
        if self._process is not None:
            self._demand("kill")
            self._wait(PATIENCE)
        self._close_descriptors()
        for channel in (*self._pipes, self):
            if channel._output:
                channel._output.clear()
            abandon(channel)
            self.reactor.channels.pop(channel, None)

    def _abandon(self) -> None:
        super()._abandon()
        self._close_descriptors()  # a copy of our end of a pipe would keep the process from seeing the end of its input

    def _close_descriptors(self) -> None:
        for channel in (*self._pipes, self):
            if channel.socket is not None:
                channel.socket.close()
                channel.socket = None

    def _cannot_watch(self, error: OSError) -> None:
        assert self._process is not None
        self._process.wait_on_thread()

    def _ended_on_thread(self) -> None:
        with contextlib.suppress(ClosedReactorError):
            self.reactor.call_threadsafe(self.reactor.hook_soon, self, self._look)

    def _look(self) -> bool:
        """Has the process ended? Return whether it has."""
        assert self._process is not None
        if not self._process.look():
            return False
        self._want(0)
        if self.state is self._states["Open"]:
            assert self._process.returncode is not None
            self._reason = PeerClosed(ending(self._process.returncode))
            become(self, "drain")
        try:
            self._tell()
        finally:
            self._close_if_done()
        return True

    def _tell(self) -> None:
        """Tell `handle_exit`, once the process has ended, and once."""
        returncode = None if self._process is None else self._process.returncode
        if self.returncode is None and returncode is not None:
            self.returncode = returncode
            self.handle_exit(returncode)

    def _close_if_done(self) -> None:
        if not self._pipes and self.returncode is not None and self.state is self._states["Closing"]:
            become(self, "close")

    def _demand(self, end: str) -> None:
        """Call ``"terminate"`` or ``"kill"``, which a subclass may have written. If that fails, the engine goes on."""
        try:
            getattr(self, end)()
        except Exception as error:  # the process may belong to another user by now
            log.error("%s: %s failed: %s: %s", self, end, type(error).__name__, error)

    def _wait(self, patience: float) -> None:
        """Wait for the process, which was killed, `patience` seconds at most; then leave it to a thread."""
        assert self._process is not None
        if not self._process.wait(patience):
            log.error("%s: it was killed, and does not end; the loop waits for it no longer", self._name)
            self._process.wait_on_thread()

    @property
    def _is_unfinished(self) -> bool:
        return self.returncode is None

    def _finish(self) -> None:
        try:
            self._tell()
        finally:
            super()._finish()

    def _trust_for(self, codec: str | Codec) -> Trust:
        # Whoever writes into the pipe is a child of this very user, who can do here what he likes anyway.
        trust = Trust.of(codec, None, "md5", self._user is None)
        trust.check(peer_is_this_user=False)
        return trust

    def _outlasts_shutdown(self, channel: Channel) -> bool:
        # It is asked to end, and may still say why, or what it has saved.
        return channel is not self.stdin and self.state is self._states["Open"]

    def _channel_closed(self, channel: Channel, reason: ReactorError) -> None:
        self._pipes.pop(channel, None)
        self._close_if_done()


def ending(returncode: int) -> str:
    """Return in words how a process has ended."""
    if returncode >= 0:
        return f"it ended with exit code {returncode}"
    try:
        return f"it was killed by {signal.Signals(-returncode).name}"
    except ValueError:  # a real-time signal
        return f"it was killed by signal {-returncode}"


AnyChild = TypeVar("AnyChild", bound=Child)

Standard = Callable[[], Channel] | int | IO[Any] | None
"""What a child may get as a standard stream."""


def spawn(
    argv: Sequence[str],
    factory: Callable[[], AnyChild] = Child,  # type: ignore[assignment]
    *,
    stdin: Standard = None,
    stdout: Standard = None,
    stderr: Standard = None,
    limits: Limits = CHILD_LIMITS,
    reactor: Reactor | None = None,
    **options: Any,
) -> AnyChild:
    """Run a program in a child process.

    Arguments:
        argv: the program and its arguments; no shell reads them.
        factory: called without arguments for the `Child`; its class, most often.
        stdin: what makes the channel that writes to the standard input of the program, a class most often;
            or, as `subprocess` has it, None for our own standard input, ``DEVNULL``, a file or a descriptor.
        stdout: the same for its standard output, from which the channel reads.
        stderr: the same for its standard error; also ``subprocess.STDOUT``.
        limits: what is granted to these channels; by default they have no timeouts.
        reactor: the loop; by default the one of this thread.
        options: others of `subprocess.Popen`: ``cwd``, ``env``, ``start_new_session``, ``user``, ``umask``...

    Returns: the child, which runs.
    Raises:
        OSError: the program cannot be run: it is not there, for example.
        LocalError: `subprocess.PIPE` was given, or something that makes no `Child` or no channel.
        UnsafePickleError: the program runs as another `user`, and what it writes would be unpickled.
        StateError: the reactor is shutting down.
        ClosedReactorError: it was closed, or belongs to the parent of a fork.
    """
    loop = reactor or get_reactor()
    child = factory()
    if not isinstance(child, Child):
        raise LocalError(f"spawn needs something that makes a Child, not {child!r}")
    child._attach(loop, None, limits)
    try:
        loop._selector.get_map()  # raises in a reactor that is closed, or that belongs to the parent of a fork
        child._run(argv, {"stdin": stdin, "stdout": stdout, "stderr": stderr}, options)
    except BaseException:
        child._take_back()
        raise
    return child
