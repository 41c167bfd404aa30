"""A worker, inside its own process: it listens, gives signs of life, and comes to its end when it is told to."""

from __future__ import annotations

import contextlib
import dataclasses
import faulthandler
import functools
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..addresses import Address, parse_address
from ..channel import Channel
from ..errors import LocalError, ReactorError
from ..eventloop import Reactor
from ..inheriting import is_bound_to
from ..limits import ACCEPTS_PER_TURN
from ..listener import Listener
from .control import Control
from .sharing import Share

log = logging.getLogger("reactor")

LOOKS = 0.05
"""Seconds between two looks at whether the last connection is gone."""

LAST_WORDS = 1.0
"""Seconds for what is still queued, once the connections have had their time."""

PATIENCE = 5.0
"""Seconds that a worker has to end, after all that; then it is killed."""

SIGNS = 4
"""Signs of life that a worker gives in the time of one heartbeat, and looks of its parent for one."""

PR_SET_PDEATHSIG = 1

ORPHANED = getattr(signal, "SIGRTMAX", 0)
"""What Linux sends to a worker whose parent dies, and nobody else is likely to. Its number is a time; see below."""


@dataclasses.dataclass
class _Service:
    """What a worker does on one address: how it makes a listener, and those it has, by the number of the socket."""

    share: int
    make: Callable[..., Listener]
    listeners: dict[int, Listener] = dataclasses.field(default_factory=dict)


class WorkerControl(Control):
    """The worker's end of the line to its parent."""

    def __init__(self, sock: socket.socket, worker: Worker) -> None:
        super().__init__(sock, worker.reactor)
        self.worker = worker

    def handle_word(self, word: str, value: str) -> None:
        if word == "listen":
            self.worker._listen_on(json.loads(value))
        elif word == "leave":
            self.worker._drain(value, takes_backlog=False)
        elif word == "stop":
            self.worker._drain("", takes_backlog=True)
        elif word == "cut":
            self.worker._cut()

    def handle_end(self) -> None:
        self.worker._end_alone()

    def handle_close(self, reason: ReactorError) -> None:
        if sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)  # no longer here: another descriptor may get the number


class Worker:
    """One of the processes that `serve` keeps, as the program in it sees it: `setup` is called with this.

    Attributes:
        number: from 1 to the number of workers; a successor has the number of the one whose place it takes.
        reactor: the loop of this process, which is its default reactor, too.
    """

    def __init__(
        self, number: int, reactor: Reactor, shares: Sequence[Share], plan: list[list[int]], grace: float
    ) -> None:
        self.number = number
        self.reactor = reactor
        self._shares = shares
        self._plan = plan
        self._grace = grace
        self._services: list[_Service] = []
        self._callbacks: list[Callable[[], object]] = []
        self._control: WorkerControl
        self._stage: Callable[..., object] = self._begin_to_drain

    def __str__(self) -> str:
        return f"worker {self.number} (process {os.getpid()})"

    # What the program calls

    @property
    def addresses(self) -> list[Any]:
        """The addresses that the workers share, as the socket module writes them."""
        return [share.address for share in self._shares]

    def listen(
        self,
        factory: Callable[[], Channel],
        address: Address | None = None,
        *,
        kind: Callable[..., Listener] = Listener,
        **options: Any,
    ) -> None:
        """Listen on what the workers share. Most of a setup is this call.

        Each worker has its own sockets, or all have the same one. When another worker dies, this one may get a further
        listener, on the socket of that one, until it has a successor.

        Arguments:
            factory: called without arguments for each connection; the channel's class, most often.
            address: one of those that `serve` was given, or the name that systemd gives it; None for all of them.
            kind: what makes a listener: its class.
            options: as for a `Listener`: ``authkey``, ``codec``, ``limits``, ``tls``...
        Raises:
            LocalError: the workers share no address, or not this one; or as `Listener` does.
        """
        for index in self._find(address):
            given = {"reactor": self.reactor, "backlog": self._shares[index].backlog, **options}
            service = _Service(index, functools.partial(kind, None, factory, **given))
            self._open(service)
            self._services.append(service)

    def sockets(self, address: Address | None = None) -> list[socket.socket]:
        """Return the sockets of this worker, for code that accepts by itself; they listen, and belong to the caller.

        They do not block, and have to stay like that: other processes have the same ones. What waits in the sockets of
        a worker that has died stays there until its successor is ready.

        Arguments:
            address: as in `listen`.
        Raises:
            LocalError: as in `listen`.
        """
        return [
            self._shares[index].sockets[number].dup() for index in self._find(address) for number in self._plan[index]
        ]

    def on_drain(self, callback: Callable[[], object]) -> None:
        """Call `callback` when this worker is about to end: it has accepted its last connection.

        Those that it has may go on until the grace is over. Where a protocol has a word for it, tell the peers now;
        where none of them is needed any more, `close_when_done` saves the time.
        """
        self._callbacks.append(callback)

    # What the parent wants

    def run(self, setup: Callable[[Worker], object], control: socket.socket, heartbeat: float | None) -> None:
        """Be a worker until the end."""
        self._control = WorkerControl(control, self)
        faulthandler.enable(control)  # a crash, or SIGABRT: the parent gets the stack
        self.reactor.on_signal(signal.SIGTERM, self._asked)
        self._die_with_parent()
        setup(self)
        self._die_with_parent()  # who has changed the user meanwhile has lost that
        self._control.say("ready")
        if heartbeat is not None:
            self.reactor.call_every(heartbeat / SIGNS, self._control.say, "alive")
        self.reactor.loop()

    def _find(self, address: Address | None) -> list[int]:
        """Return the numbers of the shares that `address` means."""
        if address is None:
            found = list(range(len(self._shares)))
        else:
            found = [index for index, share in enumerate(self._shares) if share.name == address]
        if not found and address is not None:
            endpoint = parse_address(address)
            found = [
                index
                for index, share in enumerate(self._shares)
                if share.name == str(endpoint) or is_bound_to(share.sockets[0], endpoint)
            ]
        if not found:
            what = "nothing" if address is None else repr(address)
            raise LocalError(f"{self}: {what} is to be listened on; say so in serve(listen=[...])")
        return found

    def _open(self, service: _Service) -> None:
        """Have `service` listen on the sockets that are planned, and on no others."""
        wanted = self._plan[service.share]
        for number in set(service.listeners) - set(wanted):
            service.listeners.pop(number).close()
        for number in wanted:
            if number not in service.listeners:
                sock = self._shares[service.share].sockets[number].dup()
                service.listeners[number] = service.make(sock=sock)

    def _listen_on(self, plan: list[list[int]]) -> None:
        self._plan = plan
        for service in self._services:
            try:
                self._open(service)
            except Exception as error:
                log.error("%s: cannot listen for another one: %s", self, error, exc_info=error)

    # The end

    def _asked(self) -> None:
        """SIGTERM: from somebody who wants this process to end. The parent may want a successor first."""
        if self._control.socket is None:
            self._drain("asked to end; ", takes_backlog=True)
        else:
            self._control.say("leaving")

    def _drain(self, why: str, takes_backlog: bool) -> None:
        """Accept no more, let the connections come to their end, and end.

        Arguments:
            takes_backlog: nobody else will accept what waits in the sockets that are shared.
        """
        self._stage(why, takes_backlog)

    def _begin_to_drain(self, why: str, takes_backlog: bool) -> None:
        self._stage = self._drains_already
        if takes_backlog:  # also of those who are not there, or are ahead of this one
            self._listen_on([list(range(len(share.sockets))) for share in self._shares])
        shared = {listener for service in self._services for listener in service.listeners.values()}
        for listener in [channel for channel in self.reactor.channels if isinstance(channel, Listener)]:
            if takes_backlog or listener not in shared:
                accept_all(listener)
            listener.close()
        self._services.clear()
        for share in self._shares:
            share.close()
        for callback in self._callbacks:
            try:
                callback()
            except Exception:
                log.exception("%s: the callback %r failed", self, callback)
        log.info("%s: %saccepts no more; connections left: %d", self, why, connections_of(self.reactor))
        self.reactor.call_later(self._grace, self._cut)
        self._looking = self.reactor.call_every(LOOKS, self._look)
        self._look()

    def _drains_already(self, why: str, takes_backlog: bool) -> None:
        """Once is enough."""

    def _look(self) -> None:
        if not connections_of(self.reactor):
            self._end()

    def _cut(self) -> None:
        """The time is over."""
        self._drain("", takes_backlog=False)
        count = connections_of(self.reactor)
        if count:
            log.warning("%s: the time is over; connections closed before their end: %d", self, count)
        self._end()

    def _end(self) -> None:
        self._looking.cancel()
        self.reactor.shutdown(LAST_WORDS)

    def _die_with_parent(self) -> None:
        """Have the kernel end this process a minute after its parent, should it be stuck; the line tells only the loop.

        The handler of the signal is alarm(2) itself, and the number of the signal its argument, in seconds. A handler
        in Python would wait until what holds the loop comes back to Python.
        """
        if sys.platform == "linux":
            with contextlib.suppress(ImportError, OSError, AttributeError):
                import ctypes

                libc = ctypes.CDLL(None)
                libc.signal(ORPHANED, ctypes.cast(libc.alarm, ctypes.c_void_p))
                libc.prctl(PR_SET_PDEATHSIG, ORPHANED, 0, 0, 0)

    def _end_alone(self) -> None:
        """The parent is gone, and the loop is not stuck; it may get stuck yet."""
        if ORPHANED:
            signal.signal(ORPHANED, signal.SIG_IGN)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._grace + LAST_WORDS + PATIENCE)
        self._drain("its parent is gone; ", takes_backlog=True)


def connections_of(reactor: Reactor) -> int:
    """Return how many connections are there that were accepted here."""
    return sum(isinstance(channel._origin, Listener) for channel in reactor.channels)


def accept_all(listener: Listener) -> None:
    """Accept whoever waits in the backlog: when the socket is closed they would be reset."""
    for _ in range(listener.backlog // ACCEPTS_PER_TURN + 2):
        if listener.state.name != "Listening" or not listener._accept_some():
            return
