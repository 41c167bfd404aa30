"""Workers: a program that runs in several processes, which share the addresses that it listens on.

::

    def setup(worker):
        worker.listen(Echo)

    reactor.serve(setup, workers=4, listen=[("localhost", 6000)])
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

from ..addresses import Address
from ..connecting import Backoff
from ..errors import LocalError
from ..eventloop import Reactor
from ..handover import Predecessor
from ..inheriting import Inheritance, inheritance
from ..notifying import Notifier
from .parent import Parent, Terms
from .sharing import Share, open_shares
from .worker import Worker

__all__ = ["Worker", "serve"]


RESTARTS = Backoff(first=0.1, maximum=10.0)


def serve(
    setup: Callable[[Worker], object],
    workers: int | None = None,
    *,
    listen: Iterable[Address | socket.socket] | None = None,
    grace: float = 10.0,
    heartbeat: float | None = 30.0,
    start_timeout: float | None = 60.0,
    backoff: Backoff = RESTARTS,
    backlog: int = 1024,
    handover: Address | None = None,
    make_reactor: Callable[[], Reactor] = Reactor,
    on_ready: Callable[[list[Any]], object] | None = None,
) -> None:
    """Run a program in several processes, and return when it was told to end, and has.

    This process binds the addresses and forks the workers. In each of them `setup` is called with a `Worker`; most
    often it calls `Worker.listen`. A worker that dies is replaced. The signals, for this process:

    - SIGTERM and SIGINT end it: the workers accept no more, and their connections have `grace` seconds to come to their
      end. The second time, what is still open is closed.
    - SIGHUP replaces the workers, one after the other, each when its successor is ready; `setup` runs anew in each.
      If one fails in it, the old ones go on.
    - SIGUSR1 and SIGUSR2 are passed on to all workers, where they are ignored unless `setup` says otherwise.

    SIGTERM for one worker replaces it. The workers end with their parent. Run it without threads: it forks. Only
    connections are shared; for datagrams `setup` binds its own sockets, with ``reuse_port``.

    Arguments:
        setup: called in each worker. What it raises ends the worker, and the program if it was never up.
        workers: how many; by default one for each processor that this process may use.
        listen: what they share: addresses, the names that a unit of systemd gives to its sockets, ``fd://3`` for an
            inherited descriptor, or sockets that listen. None for all sockets that systemd passes, if it does.
        grace: seconds for the connections of a worker that is to end; then they are closed, and if the worker is still
            there six seconds later, it is killed.
        heartbeat: a worker whose loop is held for longer than so many seconds is killed and replaced, and the log tells
            where it stood; None does not look.
        start_timeout: the same for `setup`.
        backoff: how long to wait for the next start of a worker that has failed twice in a row, and so on; its
            ``attempts`` bounds how often that may happen until the program gives up. The first start is at once.
        backlog: connections that the kernel holds for each socket at the most.
        handover: the path of a Unix socket at which the next version of the program takes the sockets from this one.
            If there is a version that serves at this path, this one takes over from it.
        make_reactor: makes the loop of each worker.
        on_ready: called in this process, with the addresses, when all workers are ready for the first time.

    Raises:
        AddressError: one of the addresses cannot be used here.
        AddressInUseError: somebody alive listens there already.
        LocalError: arguments that make no sense; or the old version hands nothing over.
        OSError: the operating system refused an address.
        SystemExit: with exit code 1: the program never was up, or gave up, or a worker did not end in good order.
    """
    count = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers
    count = os.cpu_count() or 1 if count is None else count
    check(count, listen, grace, heartbeat, start_timeout)
    terms = Terms(setup, count, grace, heartbeat, start_timeout, backoff, make_reactor, on_ready)
    notifier = Notifier()
    if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # whoever started us ignores how its children end; we do not
    inherited = inheritance()  # before this process opens descriptors, which are no gifts
    predecessor = None if handover is None else Predecessor.find(handover)
    shares: list[Share] = []
    try:
        with Reactor() as loop:
            handed_over = Inheritance([*inherited.take_all(), *(predecessor.take_sockets() if predecessor else [])])
            with contextlib.closing(handed_over):
                shares = open_shares(listen, count, handed_over, loop, backlog)
            parent = Parent(terms, shares, notifier, predecessor, handover, loop)
            parent.run()
    finally:
        for share in shares:
            share.remove_file()
            share.close()
        if predecessor is not None:
            predecessor.close()
    if parent.exit_code:
        raise SystemExit(parent.exit_code)


def check(
    workers: int,
    listen: Iterable[Address | socket.socket] | None,
    grace: float,
    heartbeat: float | None,
    start_timeout: float | None,
) -> None:
    """Refuse what makes no sense.

    Raises:
        LocalError: with the name of the argument.
    """
    if threading.current_thread() is not threading.main_thread():
        raise LocalError("serve has to run in the main thread: it gets the signals")
    if not isinstance(workers, int) or workers < 1:
        raise LocalError(f"workers is {workers!r}; give a whole number of at least 1, or None for one a processor")
    if isinstance(listen, str | bytes | socket.socket) or (isinstance(listen, tuple) and int in map(type, listen)):
        raise LocalError(f"listen is {listen!r}; give a list, also of a single address: [{listen!r}]")
    for name, value in {"grace": grace, "heartbeat": heartbeat, "start_timeout": start_timeout}.items():
        if value is None and name != "grace":
            continue
        if not isinstance(value, int | float) or not 0 < value < 1e6:
            raise LocalError(f"{name} is {value!r}; give seconds above 0")
