"""Dispatchers: any descriptor that can be waited for, and no more than that."""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any, ClassVar, NoReturn, Self

from .addresses import Description
from .channel import Channel
from .defaults import get_reactor
from .descriptors import Descriptor
from .errors import LocalError
from .eventloop import READ, WRITE, Reactor
from .limits import DEFAULT_LIMITS
from .sending import STATES
from .states import State, abandon, become

log = logging.getLogger("reactor")


class Watching(State):
    """Tells what the descriptor is ready for. Whether there was progress only the handlers know."""

    name = "Open"

    def readable(self, channel: Channel) -> bool:
        assert isinstance(channel, Dispatcher)
        if channel._interest & READ:  # another handler of this turn may have taken it away
            channel.handle_readable()
        return True

    def writable(self, channel: Channel) -> bool:
        assert isinstance(channel, Dispatcher)
        if channel._interest & WRITE:
            channel.handle_writable()
        return True


class Dispatcher(Channel):
    """A thin object around a descriptor: a pipe, a terminal, inotify, a socket that you read and write yourself.

    Write `handle_readable` and `handle_writable`, and say with `watch` which of them you want to be called. Each is
    called again and again while the descriptor is ready, so take what is there, or watch no more.

    Arguments:
        descriptor: a number, or an object with ``fileno()`` and ``close()``. It belongs to the dispatcher from now
            on and is closed with it. Set it nonblocking, if it is one that can be.
        readable: as in `watch`.
        writable: as in `watch`.
        reactor: the loop; by default the one of this thread.

    Raises:
        LocalError: a descriptor of this kind cannot be waited for; a file on a disk is always ready, for one.
        StateError: the reactor is shutting down.

    Attributes:
        socket: the descriptor, as an object.
    """

    __slots__ = ()

    _states: ClassVar[Mapping[str, State]] = {**STATES, "Open": Watching()}

    def __init__(
        self, descriptor: Any, *, readable: bool = True, writable: bool = False, reactor: Reactor | None = None
    ) -> None:
        loop = reactor or get_reactor()
        self._attach(loop, Description(f"descriptor {number_of(descriptor)}"), DEFAULT_LIMITS)
        self.socket = Descriptor(descriptor) if isinstance(descriptor, int) else descriptor
        become(self, "open")
        try:
            self.watch(readable=readable, writable=writable)
        except BaseException:
            self.socket = None  # it is not ours after all
            abandon(self)
            loop.channels.pop(self)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _name(self) -> str:
        return f"{type(self).__name__} on {self.peer}"

    def handle_readable(self) -> None:
        """There is something to read, or the other side is gone. By default it is watched no more."""
        self.watch(readable=False)

    def handle_writable(self) -> None:
        """There is room to write, or the other side is gone. By default it is watched no more."""
        self.watch(writable=False)

    def watch(self, *, readable: bool | None = None, writable: bool | None = None) -> None:
        """Say what to wait for.

        Arguments:
            readable: whether `handle_readable` is to be called; None leaves it as it is.
            writable: the same for `handle_writable`.
        Raises:
            LocalError: the descriptor cannot be waited for.
        """
        interest = self._interest
        if readable is not None:
            interest = interest & ~READ | (READ if readable else 0)
        if writable is not None:
            interest = interest & ~WRITE | (WRITE if writable else 0)
        if self.state is self._states["Open"]:
            try:
                self._want(interest)
            except KeyError:
                raise LocalError(f"{self}: another channel of this reactor has it already") from None

    def push(self, data: Any) -> NoReturn:
        """Nothing is sent by itself: write in `handle_writable`.

        Raises:
            LocalError: always.
        """
        raise LocalError(f"{self}: a dispatcher sends nothing by itself; write to the descriptor in handle_writable")

    def _cannot_watch(self, error: OSError) -> None:
        if error.errno == errno.EPERM:
            raise LocalError(f"{self}: a file of this kind is always ready, so nothing can wait for it") from None
        raise LocalError(f"{self}: it cannot be waited for: {error.strerror}") from None

    def _finish(self) -> None:
        file, self.socket = self.socket, None
        try:
            file.close()
        except Exception as error:  # it is somebody else's object: what goes wrong in it ends nothing here
            log.warning("%s: it could not be closed: %s: %s", self, type(error).__name__, error)
        super()._finish()


def number_of(descriptor: Any) -> int:
    """Return the number of `descriptor`, which is one, or an object that has one.

    Raises:
        LocalError: it is none, and has none.
    """
    try:
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
    except (AttributeError, ValueError):
        number = None
    # True is a number of Python, but the descriptor 1, which is the standard output, nobody means by it.
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise LocalError(f"{descriptor!r} is no descriptor that a dispatcher could wait for, and has none")
    return number
