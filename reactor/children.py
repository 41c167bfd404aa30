"""Child processes: their pipes are channels, and their end is a hook."""

from __future__ import annotations

import errno
import logging
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import IO, Any, ClassVar, Self, TypeVar

from .addresses import Description
from .channel import Channel, Origin
from .codecs import Codec, Trust
from .defaults import get_reactor
from .dispatcher import Descriptor
from .errors import ClosedReactorError, LocalError, PeerClosed, ReactorError
from .eventloop import READ, Reactor
from .limits import Limits
from .sending import STATES
from .states import State, become

log = logging.getLogger("reactor")

CHILD_LIMITS = Limits(idle_timeout=None, stall_timeout=None)
"""A child may be silent, or busy, for as long as it likes: when it dies, we hear of it."""

PATIENCE = 5.0
"""Seconds to wait for a process that was killed, where no loop runs that could wait for it."""


class PipeEnd(Descriptor):
    """Our end of a pipe, with as much of a socket's face as the states of a stream need."""

    def shutdown(self, how: int) -> None:
        """There is no other direction that could stay open: a channel that has sent everything can close."""
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


class ReadEnd(PipeEnd):
    """The end of a pipe into which the child writes."""

    def recv(self, size: int) -> bytes:
        return os.read(self._number, size)

    def send(self, data: Any) -> int:
        raise OSError(errno.EBADF, "the child writes into this pipe, and reads nothing from it")

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        return self.send(buffers)


class WriteEnd(PipeEnd):
    """The end of a pipe from which the child reads."""

    def recv(self, size: int) -> bytes:
        """Nothing can come, but the end: nobody reads from the pipe any more."""
        poll = select.poll()
        poll.register(self._number, 0)
        if poll.poll(0):
            return b""
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def send(self, data: Any) -> int:
        return os.write(self._number, data)

    def sendmsg(self, buffers: Sequence[Any]) -> int:
        return os.writev(self._number, buffers)


class Running(State):
    """The process runs."""

    name = "Open"

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Child)
        return channel._look()

    def close(self, channel: Channel, reason: ReactorError) -> None:
        assert isinstance(channel, Child)
        channel._reason = reason
        become(channel, "drain")
        channel.kill()
        channel.state.close(channel, reason)

    def shutdown(self, channel: Channel) -> None:
        assert isinstance(channel, Child)
        channel.terminate()


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
        if channel.returncode is None and not channel.reactor.is_running:
            channel._wait()
        if channel.returncode is not None:
            super().close(channel, channel._reason)

    def drain(self, channel: Channel, reason: ReactorError) -> None:
        """It comes to its end already."""

    def shutdown(self, channel: Channel) -> None:
        """It comes to its end already."""


class Child(Channel, Origin):
    """A child process. Made by `spawn`.

    It is closed when the process has ended and all its pipes are closed. A shutdown of the reactor asks it to
    terminate, and kills it when the grace is over; so does `close`, at once. No process is left behind as a zombie.

    Attributes:
        argv: what was run.
        stdin: the channel to its standard input, where `spawn` was given what makes one, else None.
        stdout: the channel from its standard output, likewise.
        stderr: the channel from its standard error, likewise.
    """

    __slots__ = ("_has_told", "_pipes", "_process", "_signals", "argv", "stderr", "stdin", "stdout")

    _role: ClassVar[str] = "client"
    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": Running(), "Closing": Ending()}

    argv: Sequence[str]
    stdin: Any
    stdout: Any
    stderr: Any
    _process: subprocess.Popen[bytes] | None
    _pipes: dict[Channel, None]
    _signals: set[int]
    _has_told: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self.argv = ()
        self.stdin = self.stdout = self.stderr = self._process = None
        self._pipes = {}
        self._signals = set()
        self._has_told = False
        return self

    @property
    def _name(self) -> str:
        what = f"{os.path.basename(self.argv[0])} (process {self.pid})" if self.pid else "without a process"
        return f"{type(self).__name__} {what}"

    @property
    def pid(self) -> int | None:
        """The number of the process; None until it runs."""
        return None if self._process is None else self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code, or the number of the signal that killed it, negative; None while it runs."""
        return None if self._process is None else self._process.returncode

    # What a subclass writes

    def handle_exit(self, returncode: int) -> None:
        """The process has ended. Its output may still be on its way: `handle_close` comes when that is all read.

        By default nothing, but a line in the log if it did not end well, nor by a signal from here.

        Arguments:
            returncode: its exit code, or the number of the signal that killed it, negative.
        """
        if returncode and -returncode not in self._signals:
            log.warning("%s: %s", self._name, self._ending)

    # What a subclass calls

    def send_signal(self, signum: int) -> None:
        """Send the process a signal; nothing happens if it has ended."""
        assert self._process is not None
        self._signals.add(signum)
        self._process.send_signal(signum)

    def terminate(self) -> None:
        """Ask the process to end (SIGTERM)."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End the process (SIGKILL)."""
        self.send_signal(signal.SIGKILL)

    # What the engine calls

    @property
    def _ending(self) -> str:
        """How the process has ended, in words."""
        code = self.returncode
        if code is None or code >= 0:
            return f"it ended with exit code {code}"
        try:
            return f"it was killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"it was killed by signal {-code}"

    @property
    def _is_unfinished(self) -> bool:
        return self.returncode is None

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        become(self, "open")
        try:
            self.socket = Descriptor(os.pidfd_open(process.pid))
        except (AttributeError, OSError):  # not Linux, or an old one; or no descriptor is left
            threading.Thread(
                target=self._wait_on_thread, args=(process,), name=f"reactor-child-{process.pid}", daemon=True
            ).start()
        else:
            self._want(READ)

    def _wait_on_thread(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        try:
            self.reactor.call_threadsafe(self._look)
        except ClosedReactorError:
            pass

    def _look(self) -> bool:
        """Has the process ended? Return whether it has."""
        assert self._process is not None
        if self._process.poll() is None:
            return False
        self._want(0)
        if self.state is self._states["Open"]:
            self._reason = PeerClosed(self._ending)
            become(self, "drain")
        try:
            self._tell()
        finally:
            self._close_if_done()
        return True

    def _tell(self) -> None:
        """Tell `handle_exit`, once."""
        if self.returncode is not None and not self._has_told:
            self._has_told = True
            self.handle_exit(self.returncode)

    def _close_if_done(self) -> None:
        if not self._pipes and self.returncode is not None and self.state is self._states["Closing"]:
            self.state.close(self, self._reason)

    def _wait(self) -> None:
        """Wait for the process, which was killed, where no loop does."""
        assert self._process is not None
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            log.error("%s: it was killed, and does not end; it is left alone", self._name)

    def _finish(self) -> None:
        try:
            self._tell()
        finally:
            super()._finish()

    def _add_pipe(self, channel: Channel, end: PipeEnd, what: str, limits: Limits) -> None:
        channel._attach(self.reactor, Description(f"the {what} of {self.argv[0]}, process {self.pid}"), limits, self)
        channel.socket = end
        self._pipes[channel] = None
        become(channel, "connect")
        # A timer, so that handle_open, which is called behind the timers, comes before the first input.
        self.reactor.call_later(0, self._start_pipe, channel)

    @staticmethod
    def _start_pipe(channel: Channel) -> None:
        if channel.state is channel._states["Connecting"]:
            channel._start()

    def _trust_for(self, codec: str | Codec) -> Trust:
        return Trust.of(codec, None, "md5", True)  # whoever can write into the pipe is this program's own child

    def _channel_closed(self, channel: Channel, reason: ReactorError) -> None:
        self._pipes.pop(channel, None)
        self._close_if_done()


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
        limits: what is granted to these channels.
        reactor: the loop; by default the one of this thread.
        options: others of `subprocess.Popen`: ``cwd``, ``env``, ``start_new_session``, ``user``, ``umask``...

    Returns: the child, which runs.
    Raises:
        OSError: the program cannot be run: it is not there, for example.
        LocalError: `subprocess.PIPE` was given, or the factory makes no `Child`.
        StateError: the reactor is shutting down.
    """
    loop = reactor or get_reactor()
    child = factory()
    if not isinstance(child, Child):
        raise LocalError(f"spawn needs something that makes a Child, not {child!r}")
    streams: dict[str, Any] = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    ours: dict[str, PipeEnd] = {}
    theirs: dict[str, int] = {}
    child.argv = argv
    try:
        for name, stream in streams.items():
            if stream == subprocess.PIPE:
                raise LocalError(f"{name}: give the class of a channel, not subprocess.PIPE")
            if callable(stream):
                reading, writing = os.pipe()
                ours[name] = WriteEnd(writing) if name == "stdin" else ReadEnd(reading)
                theirs[name] = reading if name == "stdin" else writing
                os.set_blocking(ours[name].fileno(), False)
        child._attach(loop, None, limits)
        process = subprocess.Popen(argv, **{**streams, **theirs, **options})
    except BaseException:
        for end in ours.values():
            end.close()
        loop.channels.pop(child, None)
        raise
    finally:
        for number in theirs.values():
            os.close(number)
    child._watch(process)
    for name, stream in streams.items():
        channel = stream() if name in ours and callable(stream) else None
        setattr(child, name, channel)
        if channel is not None:
            child._add_pipe(channel, ours[name], {"stdin": "input", "stdout": "output"}.get(name, "errors"), limits)
    return child
