"""Handlers on a bounded pool of threads."""

from __future__ import annotations

import logging
import socketserver
import sys
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .service import Service

log = logging.getLogger("reactor")

IDLE = 0.5
"""Seconds for which a thread that has nothing to do waits for the next request."""


class HandlerThreads:
    """The threads of a server, and the requests that wait for one.

    Arguments:
        server: what has `process_request_thread`, `max_threads`, `daemon_threads` and `block_on_close`.
    """

    def __init__(self, server: Any) -> None:
        self._server = server
        self._news = threading.Condition()
        self._waiting: deque[tuple[Any, Any]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._number = 0
        self._is_short = False
        self._is_closed = False

    def __len__(self) -> int:
        """Return how many threads there are."""
        return len(self._threads)

    @property
    def has_room(self) -> bool:
        """Whether fewer requests wait than there can be threads."""
        return len(self._waiting) < int(self._server.max_threads)

    def process(self, request: Any, client_address: Any) -> None:
        """Have a request processed on a thread, when one is free.

        Raises:
            RuntimeError: the system gives no thread, and there is none.
        """
        thread = None
        with self._news:  # a thread that is done needs it, so none is started inside
            self._waiting.append((request, client_address))
            if self._idle >= len(self._waiting):
                self._news.notify()
            elif len(self._threads) < self._server.max_threads:
                thread = self._new_thread()
            elif not self._is_short:
                self._is_short = True
                log.warning(
                    "%s: all %d threads are busy (max_threads); the next requests wait",
                    type(self._server).__name__,
                    len(self._threads),
                )
        if thread is not None:
            self._start(thread, request, client_address)

    def join(self) -> None:
        """Let all threads end, behind the requests that wait; wait for that, if the server wants it."""
        with self._news:
            self._is_closed = True
            self._news.notify_all()
            threads = {thread for thread in self._threads if thread.ident} - {threading.current_thread()}
        if self._server.block_on_close and not self._server.daemon_threads:
            for thread in threads:
                thread.join()

    def _new_thread(self) -> threading.Thread:
        """Return a thread for the request that came last."""
        self._number += 1
        first = [self._waiting.pop()]
        name = f"{type(self._server).__name__}-{self._number}"
        thread = threading.Thread(target=self._work, args=(first,), name=name, daemon=self._server.daemon_threads)
        self._threads.add(thread)
        return thread

    def _start(self, thread: threading.Thread, request: Any, client_address: Any) -> None:
        try:
            thread.start()
        except RuntimeError:
            with self._news:
                self._threads.discard(thread)
                if not self._threads:
                    raise
                self._waiting.append((request, client_address))
                self._news.notify()

    def _work(self, first: list[tuple[Any, Any]]) -> None:
        job: tuple[Any, Any] | None = first.pop()  # a list, because the thread keeps its arguments until its end
        while job is not None:
            try:
                self._server.process_request_thread(*job)
            except BaseException:  # what ends a thread of its own, there
                threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            job = None  # it must not live on while the thread waits
            job = self._next()

    def _next(self) -> tuple[Any, Any] | None:
        """Return the next request, waiting for it a little; None at the end of this thread."""
        with self._news:
            if not self._waiting and not self._is_closed:
                self._idle += 1
                if 2 * self._idle >= len(self._threads):
                    self._is_short = False
                try:
                    self._news.wait_for(lambda: self._waiting or self._is_closed, IDLE)
                finally:
                    self._idle -= 1
            if not self._waiting:
                self._threads.discard(threading.current_thread())
                return None
            had_room = self.has_room
            job = self._waiting.popleft()
            gets_room = self.has_room and not had_room
        if gets_room:
            self._server._service.look_for_room()
        return job


class ThreadingMixIn(socketserver.ThreadingMixIn):
    """Has each request handled on a thread, of which there are `max_threads` at the most: put it in front of a server.

    When all are busy the next requests wait, in their order, as many as there can be threads; then the server accepts
    no more, and the kernel keeps who comes, up to `request_queue_size`. A line in the log says so.

    Beside its own, it has the attributes of `socketserver.ThreadingMixIn`: `daemon_threads` and `block_on_close`.
    """

    max_threads = 256
    """Requests that are handled at the same time, at the most. A connection that a handler keeps has a thread for as
    long as it is kept: where clients are silent for long, give the handler a `timeout`."""

    _service: Service

    def process_request(self, request: Any, client_address: Any) -> None:
        """Have the request handled on a thread, by `process_request_thread`."""
        self._handler_threads.process(request, client_address)

    @property
    def _handler_threads(self) -> HandlerThreads:
        threads = vars(self).get("_threads")
        if not isinstance(threads, HandlerThreads):
            threads = vars(self)["_threads"] = HandlerThreads(self)
        return threads

    @property
    def _has_room(self) -> bool:
        return self._handler_threads.has_room

    def _leave_handlers_to_parent(self) -> None:
        vars(self).pop("_threads", None)
