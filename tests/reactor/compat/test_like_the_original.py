"""Whatever a socket does and whatever a handler raises, our dispatcher does what the original one does."""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from reactor.compat import asyncore

from .conftest import original

ERRORS = [
    None, OSError(errno.ECONNRESET, "reset"), OSError(errno.EBADF, "gone"), OSError(errno.EIO, "other"),
    OSError("no number"), BlockingIOError(errno.EWOULDBLOCK, "later"), OSError(errno.ECONNABORTED, "aborted"),
    OSError(errno.ENOTCONN, "not connected"), OSError(errno.EMFILE, "full"), TypeError("odd"), ValueError("wrong"),
    KeyboardInterrupt(), SystemExit(1), "ExitNow",
]  # fmt: skip


@pytest.fixture
def modules() -> list[ModuleType]:
    """Ours, and the original."""
    return [asyncore, original("asyncore")]


def error_of(error: Any, module: ModuleType) -> Any:
    """Return the exception to raise; `ExitNow` is each module's own."""
    return module.ExitNow("now") if error == "ExitNow" else error


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns, or what it raises, in a form that can be compared."""
    try:
        return function(*args)
    except BaseException as error:
        return type(error).__name__, str(error)


class Odd:
    """A socket that raises `error` at each call, or answers; `so_error` is what its SO_ERROR says."""

    def __init__(self, error: Any = None, so_error: int = 0, data: bytes = b"data") -> None:
        self.error = error
        self.so_error = so_error
        self.data = data

    def fileno(self) -> int:
        return 900_000

    def setblocking(self, flag: bool) -> None:
        pass

    def _answer(self, answer: Any) -> Any:
        if self.error is not None:
            raise self.error
        return answer

    def getsockopt(self, *args: Any) -> int:
        return int(self._answer(self.so_error))

    def setsockopt(self, *args: Any) -> None:
        self._answer(None)

    def getpeername(self) -> Any:
        return self._answer(("peer", 1))

    def accept(self) -> Any:
        return self._answer(("connection", "address"))

    def connect_ex(self, address: Any) -> int:
        return self.so_error

    def send(self, data: bytes) -> int:
        return int(self._answer(len(data)))

    def recv(self, size: int) -> bytes:
        return bytes(self._answer(self.data))

    def close(self) -> None:
        self._answer(None)


HANDLERS = (
    "handle_read", "handle_write", "handle_expt", "handle_connect", "handle_accepted", "handle_error", "handle_close",
    "log_info",
)  # fmt: skip


def make_logged(module: ModuleType, log: list[Any], sock: Any = None, **attributes: Any) -> Any:
    """Return a dispatcher of `module` that writes down in `log` which of its handlers are called."""
    dispatcher = module.dispatcher(None, {})
    dispatcher.socket = sock
    for name in HANDLERS:
        setattr(dispatcher, name, lambda *args, name=name: log.append((name, args)))
    for name, value in attributes.items():
        setattr(dispatcher, name, value)
    return dispatcher


def same(values: list[Any]) -> bool:
    ours, theirs = values
    assert ours == theirs
    return True


@pytest.mark.parametrize("error", ERRORS, ids=repr)
@pytest.mark.parametrize("data", [b"data", b""])
def test_calls_of_the_socket(modules: list[ModuleType], error: Any, data: bytes) -> None:
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        error = None  # to accept, where no descriptor is left, is the one thing that is not the same
    for call in (
        lambda dispatcher: dispatcher.send(b"out"),
        lambda dispatcher: dispatcher.recv(10),
        lambda dispatcher: dispatcher.accept(),
        lambda dispatcher: dispatcher.close(),
        lambda dispatcher: dispatcher.set_reuse_addr(),
        lambda dispatcher: dispatcher.handle_accept(),
    ):
        found = []
        for module in modules:
            log: list[Any] = []
            dispatcher = make_logged(module, log, Odd(error_of(error, module), data=data))
            found.append((outcome(call, dispatcher), log))
        assert same(found)


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_making_of_a_dispatcher(modules: list[ModuleType], error: Any) -> None:
    found = []
    for module in modules:
        map: dict[Any, Any] = {}
        made = outcome(module.dispatcher, Odd(error_of(error, module)), map)
        told = made if isinstance(made, tuple) else (made.connected, made.addr, made._fileno, made._map is map)
        found.append((told, list(map)))
    assert same(found)


@pytest.mark.parametrize("so_error", [0, errno.ECONNREFUSED])
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)), ids=repr)
def test_events(modules: list[ModuleType], flags: tuple[bool, ...], so_error: int) -> None:
    accepting, connected, connecting = flags
    for event in ("handle_read_event", "handle_write_event", "handle_expt_event", "handle_connect_event"):
        found = []
        for module in modules:
            log: list[Any] = []
            dispatcher = make_logged(
                module, log, Odd(so_error=so_error), accepting=accepting, connected=connected, connecting=connecting
            )
            told = outcome(getattr(dispatcher, event))
            found.append((told, log, dispatcher.connected, dispatcher.connecting))
        assert same(found)


@pytest.mark.parametrize("result", [0, errno.EISCONN, errno.EINPROGRESS, errno.EALREADY, errno.EWOULDBLOCK, errno.EIO])
def test_connect(modules: list[ModuleType], result: int) -> None:
    found = []
    for module in modules:
        log: list[Any] = []
        sock = Odd(so_error=result)
        if result == errno.EISCONN:
            sock.getsockopt = lambda *args: 0  # type: ignore[method-assign]
        dispatcher = make_logged(module, log, sock, connected=True)
        told = outcome(dispatcher.connect, "address")
        found.append((told, log, dispatcher.connected, dispatcher.connecting, dispatcher.addr))
    assert same(found)


ALL_FLAGS = (select.POLLIN, select.POLLOUT, select.POLLPRI, select.POLLHUP)


class Told:
    """Writes down in `log` what it is told; the handler `failing` raises `error`."""

    def __init__(self, log: list[str], failing: str, error: Any) -> None:
        self.log = log
        self.failing = failing
        self.error = error

    def __getattr__(self, name: str) -> Callable[[], None]:
        def handle() -> None:
            self.log.append(name)
            if name == self.failing and self.error is not None:
                raise self.error

        return handle


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_functions_that_tell_an_object(modules: list[ModuleType], error: Any) -> None:
    calls: list[tuple[str, tuple[int, ...]]] = [("read", ()), ("write", ()), ("_exception", ())]
    for chosen in itertools.product([False, True], repeat=len(ALL_FLAGS)):
        calls.append(("readwrite", (sum(itertools.compress(ALL_FLAGS, chosen)),)))
    calls += [("readwrite", (select.POLLERR,)), ("readwrite", (select.POLLNVAL,))]
    for (name, arguments), failing in itertools.product(
        calls, ["handle_read_event", "handle_write_event", "handle_expt_event"]
    ):
        found = []
        for module in modules:
            log: list[str] = []
            found.append((outcome(getattr(module, name), Told(log, failing, error_of(error, module)), *arguments), log))
        assert same(found)


@pytest.mark.parametrize("addr", [None, ("host", 5), ("::1", 5, 0, 0), "path", b"path", ("host", "text"), ""])
@pytest.mark.parametrize("accepting", [False, True])
@pytest.mark.parametrize("connected", [False, True])
def test_representation(modules: list[ModuleType], addr: Any, accepting: bool, connected: bool) -> None:
    found = []
    for module in modules:
        dispatcher = module.dispatcher()
        dispatcher.addr, dispatcher.accepting, dispatcher.connected = addr, accepting, connected
        found.append(repr(dispatcher).partition("dispatcher")[2].rpartition(" at ")[0])
    assert same(found)


def test_what_handlers_say_by_default(modules: list[ModuleType], capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for module in modules:
        dispatcher = module.dispatcher(None, {})
        for ignored in (dispatcher.ignore_log_types, ()):
            dispatcher.ignore_log_types = ignored
            for name in ("handle_read", "handle_write", "handle_expt", "handle_connect", "handle_close"):
                getattr(dispatcher, name)()
            dispatcher.handle_accepted(Odd(), "address")
            dispatcher.log("a line")
            dispatcher.log_info("a message")
            dispatcher.log_info(("a", "tuple"), "error")
        sender = module.dispatcher_with_send(None, {})
        sender.debug, sender.socket = True, Odd()
        sender.send(b"data")
        found.append(capsys.readouterr())
    assert same(found)
    assert len(found[0].out.splitlines()) == 11


@pytest.mark.parametrize("number", [0, 2, 99_999, -1, 2**100])
def test_words_for_an_error(modules: list[ModuleType], number: int) -> None:
    assert same([module._strerror(number) for module in modules])


def test_traceback_without_an_exception() -> None:
    with pytest.raises(AssertionError, match="traceback does not exist"):
        asyncore.compact_traceback()


def test_channels_in_maps(modules: list[ModuleType]) -> None:
    found = []
    for module in modules:
        own: dict[Any, Any] = {}
        other: dict[Any, Any] = {}
        dispatcher = module.dispatcher(None, own)
        dispatcher.set_socket(Odd(), other)
        steps = [(list(own), list(other), dispatcher._fileno)]
        dispatcher.add_channel()
        steps.append((list(own), list(other), dispatcher._fileno))
        dispatcher.del_channel(other)
        steps.append((list(own), list(other), dispatcher._fileno))
        dispatcher.del_channel()
        steps.append((list(own), list(other), dispatcher._fileno))
        found.append(steps)
    assert same(found)


def test_connect_that_is_done_at_once_is_told_at_once(socket_path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(socket_path)
        listener.listen()
        log: list[Any] = []
        client = make_logged(asyncore, log)
        client.create_socket(socket.AF_UNIX)
        client.connect(socket_path)
        assert (log, client.connected) == ([("handle_connect", ())], True)
        client.close()
    os.unlink(socket_path)
