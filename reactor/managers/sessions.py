"""The connections of clients: one request after the other."""

from __future__ import annotations

import signal
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..connection import Connection
from ..errors import ReactorError
from .crew import Job
from .lines import Wait

if TYPE_CHECKING:
    from .server import Server

REQUESTS_WAITING = 16
"""Requests of one client that wait for the answer to an earlier one. Proxies send none before they have it."""

OVER = {"HalfClosed", "Closing", "Closed"}
"""The states of a session whose client hears no more. It is in one of them before its hooks are told."""


class Session(Connection):
    """The connection of a client.

    Attributes:
        server: to whom it belongs.
        serves: whether the requests are calls of shared objects; else the first one is for the server, and the last.
    """

    def __init__(self, server: Server) -> None:
        self.server = server
        self.serves = False
        self._requests: deque[bytes] = deque()
        self._is_busy = False
        self._wait: Wait | None = None

    def handle_frame(self, data: bytes) -> None:
        self._requests.append(data)
        if not self._is_busy:
            self._go_on()
        elif len(self._requests) > REQUESTS_WAITING:
            self.pause_reading()

    def handle_close(self, reason: ReactorError) -> None:
        if self._wait is not None:
            self._wait.abandon()

    def encode(self, message: Any) -> bytes:
        """Return `message` in bytes, or another one that tells why it cannot be sent. From any thread."""
        codec = self.server.codec
        try:
            return codec.dumps(message)
        except Exception:
            return codec.dumps(("#UNSERIALIZABLE" if self.serves else "#TRACEBACK", traceback.format_exc()))

    def reply(self, message: Any) -> None:
        """Answer the request under way with `message`."""
        try:
            data = self.encode(message)
        except BaseException as error:
            self.exited(error)
        else:
            self.answer(data)

    def answer(self, data: bytes) -> None:
        """Send the answer to the request under way, and take the next one."""
        self._wait = None
        self._is_busy = False
        self.send_bytes(data)
        if not self.serves:
            self.close_when_done()
        elif self._requests:
            self._go_on()

    def drop(self, error: BaseException) -> None:
        """The request has raised no Exception, but a SystemExit: that ends the connection, as in the original."""
        self.close()

    def exited(self, error: BaseException) -> None:
        """The same, of a request that was served on the loop.

        Raises:
            BaseException: `error` itself, if it means the server: Ctrl-C, or what a signal's handler raised.
        """
        if isinstance(error, KeyboardInterrupt) or is_of_a_signal(error):
            raise error
        self.drop(error)

    @property
    def is_silent(self) -> bool:
        """Whether nothing is about to be sent."""
        return not self.output_size and self.state.name != "Closing"

    # As a `Caller`

    @property
    def has_left(self) -> bool:
        return self.state.name in OVER

    def hold(self, wait: Wait) -> None:
        self._wait = wait
        if wait.timeout is not None and not wait.is_impatient:
            wait.helpers.append(self.reactor.call_later(wait.timeout, wait.expire))

    def run_aside(self, function: Callable[[], Any], ended: Callable[[BaseException | None], object]) -> None:
        self.server.crew.run(Job(function, lambda _: ended(None), ended))

    def _go_on(self) -> None:
        """Take a request after this batch of events: until then it shows who else has left."""
        self._is_busy = True
        self.reactor.hook_soon(self, self._take)

    def _take(self) -> None:
        data = self._requests.popleft()
        self.resume_reading()
        try:
            self.server.receive(self, data)
        except Exception:
            raise
        except BaseException as error:
            self.exited(error)


def is_of_a_signal(error: BaseException) -> bool:
    """Return whether the handler of a signal was running when `error` was raised."""
    handlers = {getattr(signal.getsignal(signum), "__code__", None) for signum in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))
