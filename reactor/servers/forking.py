"""Handlers in forked children, a bounded number of them."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socketserver
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from ..children import ending
from ..dispatcher import Dispatcher, Watching
from ..errors import ClosedHere, LocalError, ReactorError
from ..processes import Process
from ..states import State
from ..timers import Timer
from .service import discard

if TYPE_CHECKING:
    from ..channel import Channel
    from ..eventloop import Reactor
    from .entrance import Request
    from .service import Service

log = logging.getLogger("reactor")

SIGNALS = signal.valid_signals()

LOOKS = 0.5
"""Seconds between two looks whether a child has ended, where the system has no descriptor that tells."""


class Attending(Watching):
    """A child handles a request: at a shutdown of the reactor, it comes to its end by itself."""

    def shutdown(self, channel: Channel) -> None:
        """It is waited for, until the grace is over."""


class Attendance(Dispatcher):
    """Waits for the end of a child.

    Arguments:
        child: the child.
        options: those of `Dispatcher`.
    """

    __slots__ = ("_child",)

    _states: ClassVar[Mapping[str, State]] = {**Dispatcher._states, "Open": Attending()}

    def __init__(self, child: HandlerChild, **options: Any) -> None:
        self._child = child
        super().__init__(child, **options)

    @property
    def _name(self) -> str:
        return f"the child {self._child.process.pid}"

    @property
    def _is_unfinished(self) -> bool:
        return self._child.process.returncode is None

    def handle_readable(self) -> None:
        self._child.look()

    def handle_close(self, reason: ReactorError) -> None:
        if not isinstance(reason, ClosedHere):  # cut off
            self._child.process.send_signal(signal.SIGTERM)


class HandlerChild:
    """A child that handles a request.

    Arguments:
        pid: its number.
        place: what keeps the place of the request, if anything does.
        ended: called with this object when it has ended.

    Attributes:
        process: the process.
    """

    def __init__(self, pid: int, place: Request | None, ended: Callable[[HandlerChild], object]) -> None:
        self.process = Process.forked(pid)
        self.place = place
        self._ended = ended
        self._attendance: Attendance | None = None
        self._timer: Timer | None = None

    def watch(self, reactor: Reactor) -> None:
        """Have the reactor notice when it ends."""
        if self.process.fileno() >= 0:
            try:
                self._attendance = Attendance(self, reactor=reactor)
            except LocalError as error:  # it cannot be watched, or the reactor is shutting down
                log.debug("%s", error)
        if self._attendance is None:
            self._timer = reactor.call_every(LOOKS, self.look)

    def look(self) -> None:
        """Has it ended?"""
        if not self.process.look():
            return
        if self._timer is not None:
            self._timer.cancel()
        if self._attendance is not None:
            self._attendance.close()
        self._ended(self)

    # For the channel: the descriptor, which stays open when that closes before the child has ended

    def fileno(self) -> int:
        """Return the descriptor of the process."""
        return self.process.fileno()

    def close(self) -> None:
        """Close the descriptor, if the process has ended."""
        if self.process.returncode is not None:
            self.process.close()


class HandlerChildren:
    """The children of a server, and the requests that wait until one has ended.

    Arguments:
        server: what has `finish_request`, `max_children` and the rest.

    Attributes:
        pids: the numbers of the children.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._children: dict[int, HandlerChild] = {}
        self._is_short = False
        self.pids: set[int] = set()

    @property
    def has_room(self) -> bool:
        """Whether fewer requests wait than there can be children."""
        return len(self._waiting) < int(self._server.max_children)

    def process(self, request: Any, client_address: Any) -> None:
        """Have a request processed in a child, at once or when another one has ended.

        Raises:
            OSError: the system cannot fork.
        """
        if self._waiting or len(self._children) >= self._server.max_children:
            self._waiting.append((request, client_address))
            if not self._is_short:
                self._is_short = True
                log.warning(
                    "%s: all %d children are busy (max_children); the next requests wait",
                    type(self._server).__name__,
                    len(self._children),
                )
        else:
            self._fork(request, client_address)

    def collect(self, blocking: bool = False) -> None:
        """Take leave of the children that have ended, and have the requests processed that wait.

        Arguments:
            blocking: wait until all children have ended, and no request waits.
        """
        while True:
            for child in list(self._children.values()):
                child.look()
            if not (blocking and self._children):
                break
            wait_for_any([child.process for child in self._children.values()])

    def refuse_waiting(self) -> None:
        """Close the requests that wait: nobody will be there for them."""
        while self._waiting:
            request, _ = self._waiting.popleft()
            self._server.shutdown_request(request)

    def collect_on_thread(self) -> None:
        """Have a thread wait for the children that are left, if any are; nothing will be forked any more."""
        if self._children:
            threading.Thread(target=self.collect, args=(True,), name="reactor-children", daemon=True).start()

    def _fork(self, request: Any, client_address: Any) -> None:
        for stream in (sys.stdout, sys.stderr):  # or what waits in them would be written twice
            with contextlib.suppress(AttributeError, ValueError, OSError):
                stream.flush()
        with signals_held() as before:
            pid = os.fork()
            if pid:
                self._keep(pid, request)
            else:
                self._run_child(request, client_address, before)

    def _keep(self, pid: int, request: Any) -> None:
        """The child has the request from now on."""
        server = self._server
        child = HandlerChild(pid, server._service.take_place(request), self._take_leave)
        self._children[pid] = child
        self.pids.add(pid)
        if server._service.reactor is not None:
            child.watch(server._service.reactor)
        if hasattr(request, "forget"):
            request.forget()
        server.close_request(request)

    def _run_child(self, request: Any, client_address: Any, mask: set[int]) -> NoReturn:
        server = self._server
        status = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)  # not before: what Ctrl-C raises must not leave this frame
            self._leave_to_parent(request)
            server.finish_request(request, client_address)
            status = 0
        except Exception:
            server.handle_error(request, client_address)
        finally:
            try:
                server.shutdown_request(request)
            finally:
                for stream in (sys.stdout, sys.stderr):
                    with contextlib.suppress(AttributeError, ValueError, OSError):
                        stream.flush()
                os._exit(status)

    def _leave_to_parent(self, request: Any) -> None:
        """Close the copies of what is the parent's: else peers of whom that takes leave would not hear of it."""
        service = self._server._service
        service.leave_to_parent(request)
        if not service.takes_datagrams:
            self._server.socket.close()
        for other, _ in self._waiting:
            discard(other)
        self._waiting.clear()
        self._children.clear()
        self.pids.clear()

    def _take_leave(self, child: HandlerChild) -> None:
        process, service = child.process, self._server._service
        del self._children[process.pid]
        self.pids.discard(process.pid)
        child.close()
        service.free(child.place)
        assert process.returncode is not None
        if process.returncode < 0:
            log.warning("%s: the child %d: %s", type(self._server).__name__, process.pid, ending(process.returncode))
        self._process_waiting()
        service.look_for_room()

    def _process_waiting(self) -> None:
        while self._waiting and len(self._children) < self._server.max_children:
            request, client_address = self._waiting.popleft()
            try:
                self._fork(request, client_address)
            except Exception:
                self._server.handle_error(request, client_address)
                self._server.shutdown_request(request)
        if 2 * len(self._children) <= self._server.max_children:
            self._is_short = False


class ForkingMixIn(socketserver.ForkingMixIn):
    """Has each request handled in a forked child, of which there are `max_children` at the most: put it in front of a
    server.

    When that many are at work the next requests wait, in their order, as many as there can be children; then the server
    accepts no more, and the kernel keeps who comes, up to `request_queue_size`. A line in the log says so. The reactor
    hears of the end of each child: none stays behind as a zombie.

    No thread is started in the process of the server; to fork beside threads of others is as dangerous as ever. The
    child has the request, and no copy of the listening socket or of other requests: it ends without finishing the
    program, as with `socketserver`.

    Beside its own, it has the attributes of `socketserver.ForkingMixIn`: `max_children`, `block_on_close`, `timeout`.
    """

    _service: Service
    _handler_children: HandlerChildren | None = None

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have the request handled in a child."""
        self._children_here.process(request, client_address)

    def collect_children(self, *, blocking: bool = False) -> None:
        """Take leave of the children that have ended; the reactor does that by itself when it runs.

        Arguments:
            blocking: wait until all have ended.
        """
        if self._handler_children is not None:
            self._handler_children.collect(blocking)

    def server_close(self) -> None:
        """Accept no more, close the socket, and give everything back.

        With `block_on_close` that waits for the children, and for the requests that wait for one. Otherwise those are
        refused, and a thread waits for the children.
        """
        if self._handler_children is not None and not self.block_on_close:
            self._handler_children.refuse_waiting()
        super().server_close()
        if self._handler_children is not None:
            self._handler_children.collect_on_thread()

    @property
    def _children_here(self) -> HandlerChildren:
        if self._handler_children is None:
            self._handler_children = HandlerChildren(self)
            self.active_children = self._handler_children.pids
        return self._handler_children

    @property
    def _has_room(self) -> bool:
        return self._children_here.has_room

    def _leave_handlers_to_parent(self) -> None:
        self._handler_children = None


@contextlib.contextmanager
def signals_held() -> Iterator[set[int]]:
    """Let no handler of a signal run inside: what it raises, Ctrl-C for one, is lost in the hooks of a fork.

    Gives the signals that were blocked before.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # here the handlers run of those that have come
        yield before
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_any(processes: list[Process]) -> None:
    """Wait until one of `processes` has ended, or a moment where the system cannot tell."""
    numbers = [process.fileno() for process in processes]
    if min(numbers) < 0:
        time.sleep(LOOKS / 10)
        return
    poll = select.poll()
    for number in numbers:
        poll.register(number, select.POLLIN)
    poll.poll()
