"""A single-threaded reactor on the standard library's selectors.

Subclass `Connection` (messages, on the wire of ``multiprocessing.connection``) or `Stream` (raw bytes),
give the class to a `Listener` or to `connect`, and run `loop`. The functions of this module that are also
methods of `Reactor` work on the default reactor of the thread that calls them.
"""

from __future__ import annotations

from collections.abc import Callable as _Callable
from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING
from typing import Any as _Any

from .addresses import Endpoint, format_address, parse_address
from .authentication import ShortKeyWarning
from .calls import Call, ThreadCall
from .channel import Channel
from .chat import Chat, LineChannel
from .children import Child, spawn
from .codecs import Codec, RestrictedPickle
from .connecting import Backoff, connect
from .connection import Connection
from .datagram import Datagram
from .defaults import get_reactor
from .dispatcher import Dispatcher
from .errors import (
    AddressError,
    AddressInUseError,
    AlreadyRunningError,
    AuthenticationError,
    ClosedHere,
    ClosedReactorError,
    ConnectError,
    ConnectionLost,
    DatagramError,
    DeadlineError,
    DecodingError,
    FrameError,
    HookError,
    LimitError,
    LocalError,
    PeerClosed,
    ProducerError,
    ProxyError,
    ReactorError,
    RemoteError,
    StateError,
    TlsError,
    TruncatedError,
    UnsafePickleError,
)
from .eventloop import Reactor
from .limits import Limits
from .listener import Listener
from .shutdown import Shutdown
from .stream import Stream
from .timers import Timer

if _TYPE_CHECKING:
    from .proxying import ProxyHeader
    from .tls import ClientTls, ServerTls
    from .workers import Worker, serve

__all__ = [
    "AddressError",
    "AddressInUseError",
    "AlreadyRunningError",
    "AuthenticationError",
    "Backoff",
    "Call",
    "Channel",
    "Chat",
    "Child",
    "ClientTls",
    "ClosedHere",
    "ClosedReactorError",
    "Codec",
    "ConnectError",
    "Connection",
    "ConnectionLost",
    "Datagram",
    "DatagramError",
    "DeadlineError",
    "DecodingError",
    "Dispatcher",
    "Endpoint",
    "FrameError",
    "HookError",
    "LimitError",
    "Limits",
    "LineChannel",
    "Listener",
    "LocalError",
    "PeerClosed",
    "ProducerError",
    "ProxyError",
    "ProxyHeader",
    "Reactor",
    "ReactorError",
    "RemoteError",
    "RestrictedPickle",
    "ServerTls",
    "ShortKeyWarning",
    "Shutdown",
    "StateError",
    "Stream",
    "ThreadCall",
    "Timer",
    "TlsError",
    "TruncatedError",
    "UnsafePickleError",
    "Worker",
    "call_at",
    "call_every",
    "call_later",
    "call_soon",
    "connect",
    "format_address",
    "get_reactor",
    "loop",
    "on_signal",
    "parse_address",
    "poll",
    "run_in_thread",
    "serve",
    "shutdown",
    "shutdown_on_signal",
    "spawn",
    "stop",
]


_LATE = {"ClientTls": "tls", "ProxyHeader": "proxying", "ServerTls": "tls", "Worker": "workers", "serve": "workers"}
"""What is loaded when somebody asks for it: ssl takes longer than all the rest. By name, the module that has it."""


def __getattr__(name: str) -> _Any:
    if name in _LATE:
        return globals().setdefault(name, getattr(_import_module(f".{_LATE[name]}", __name__), name))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def loop(timeout: float | None = None, count: int | None = None) -> None:
    """Run this thread's reactor; see `Reactor.loop`."""
    get_reactor().loop(timeout, count)


def poll(timeout: float | None = 0) -> None:
    """Run one turn of this thread's reactor; see `Reactor.poll`."""
    get_reactor().poll(timeout)


def stop() -> None:
    """Make `loop` return; see `Reactor.stop`."""
    get_reactor().stop()


def call_soon(callback: _Callable[..., object], *args: _Any) -> Call:
    """See `Reactor.call_soon`."""
    return get_reactor().call_soon(callback, *args)


def call_later(delay: float, callback: _Callable[..., object], *args: _Any) -> Timer:
    """See `Reactor.call_later`."""
    return get_reactor().call_later(delay, callback, *args)


def call_at(deadline: float, callback: _Callable[..., object], *args: _Any) -> Timer:
    """See `Reactor.call_at`."""
    return get_reactor().call_at(deadline, callback, *args)


def call_every(interval: float, callback: _Callable[..., object], *args: _Any) -> Timer:
    """See `Reactor.call_every`."""
    return get_reactor().call_every(interval, callback, *args)


def run_in_thread(
    function: _Callable[..., _Any],
    *args: _Any,
    on_result: _Callable[[_Any], object] | None = None,
    on_error: _Callable[[BaseException], object] | None = None,
) -> ThreadCall:
    """See `Reactor.run_in_thread`."""
    return get_reactor().run_in_thread(function, *args, on_result=on_result, on_error=on_error)


def on_signal(signum: int, callback: _Callable[[], object] | None) -> None:
    """See `Reactor.on_signal`."""
    get_reactor().on_signal(signum, callback)


def shutdown(grace: float = 10.0) -> Shutdown:
    """See `Reactor.shutdown`."""
    return get_reactor().shutdown(grace)


def shutdown_on_signal(*signums: int, grace: float = 10.0) -> None:
    """See `Reactor.shutdown_on_signal`."""
    get_reactor().shutdown_on_signal(*signums, grace=grace)
