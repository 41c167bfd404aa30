"""Dispatchers: any descriptor that can be waited for, and handlers that do the reading and writing."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import selectors
import socket
import struct
import sys
import tty
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor.errors import ClosedHere, HookError
from tests.conftest import run_until
from tests.faults import SELECTORS, CountingSelector, many_descriptors, turns

__all__ = ["many_descriptors"]

Pair = tuple[socket.socket, socket.socket]


class Watcher(reactor.Dispatcher):
    """Writes down what its descriptor is ready for, and takes what is there."""

    def __init__(self, descriptor: Any, **options: Any) -> None:
        self.received = b""
        self.events: list[str] = []
        self.closed: list[Exception] = []
        super().__init__(descriptor, **options)

    def handle_readable(self) -> None:
        self.events.append("readable")
        data = os.read(self.socket.fileno(), 65536)
        self.received += data
        if not data:
            self.close()

    def handle_writable(self) -> None:
        self.events.append("writable")

    def handle_close(self, reason: Exception) -> None:
        self.closed.append(reason)


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Two sockets that are connected with each other, and do not block."""
    ours, theirs = socket.socketpair()
    for sock in (ours, theirs):
        sock.setblocking(False)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def descriptor() -> Iterator[Callable[[int], int]]:
    """Has the numbers that it is given closed at the end, where nobody else has done so."""
    numbers: list[int] = []

    def keep(number: int) -> int:
        numbers.append(number)
        return number

    yield keep
    for number in numbers:
        with suppress(OSError):
            os.close(number)


def is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


# What can be watched


@pytest.mark.parametrize("kind", SELECTORS, ids=lambda kind: kind.__name__)
def test_socket_is_read_and_written_by_the_handlers(kind: type[selectors.BaseSelector], pair: Pair) -> None:
    class Shouter(Watcher):
        def handle_readable(self) -> None:
            super().handle_readable()
            self.watch(writable=True)

        def handle_writable(self) -> None:
            super().handle_writable()
            self.socket.send(self.received.upper())
            self.watch(writable=False)

    with reactor.Reactor(kind()) as loop:
        shouter = Shouter(pair[0], reactor=loop)
        pair[1].send(b"hello")
        run_until(loop, lambda: "writable" in shouter.events)
        assert pair[1].recv(100) == b"HELLO"
        pair[1].close()
        run_until(loop, lambda: shouter.closed)
    assert shouter.events == ["readable", "writable", "readable"]


def test_pipe_is_watched_at_both_ends_by_its_bare_numbers(loop: reactor.Reactor) -> None:
    class Filler(Watcher):
        def handle_writable(self) -> None:
            with suppress(BlockingIOError):
                while True:
                    os.write(self.socket.fileno(), b"x" * 4096)
            self.events.append("full")

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    reader = Watcher(reading, readable=False, reactor=loop)
    filler = Filler(writing, readable=False, writable=True, reactor=loop)
    run_until(loop, lambda: filler.events)
    turns(loop, 3)
    assert filler.events == ["full"]
    reader.watch(readable=True)
    run_until(loop, lambda: len(filler.events) == 2)
    filler.close()
    loop.loop(timeout=10)  # it ends by itself: the reader has seen the end of the pipe
    assert len(reader.received) >= 65536
    assert reader.closed


def test_reader_that_goes_away_makes_the_other_end_of_a_pipe_readable(
    loop: reactor.Reactor, descriptor: Callable[[int], int]
) -> None:
    class Writer(reactor.Dispatcher):
        def handle_readable(self) -> None:
            self.close()

    reading, writing = os.pipe()
    descriptor(reading)
    writer = Writer(writing, reactor=loop)
    turns(loop, 3)
    assert writer.state.name == "Open"
    os.close(reading)
    loop.loop(timeout=10)
    assert writer.state.name == "Closed"


def test_terminal_is_watched(loop: reactor.Reactor, descriptor: Callable[[int], int]) -> None:
    class Terminal(Watcher):
        def handle_readable(self) -> None:
            try:
                super().handle_readable()
            except OSError as error:  # so Linux says that the last program has gone
                self.events.append(errno.errorcode[error.errno])
                self.close()

    ours, theirs = os.openpty()
    tty.setraw(descriptor(theirs))
    terminal = Terminal(ours, reactor=loop)
    os.write(theirs, b"typed")
    run_until(loop, lambda: terminal.received == b"typed")
    os.close(theirs)
    loop.loop(timeout=10)
    assert (terminal.events[-1], len(terminal.closed)) == ("EIO", 1)


@pytest.mark.skipif(not hasattr(os, "eventfd"), reason="this system has no eventfd")
def test_event_descriptor_is_watched(loop: reactor.Reactor) -> None:
    class Counter(reactor.Dispatcher):
        total = 0

        def handle_readable(self) -> None:
            self.total += os.eventfd_read(self.socket.fileno())

    counter = Counter(os.eventfd(0), reactor=loop)
    for number in (1, 2, 3):
        os.eventfd_write(counter.socket.fileno(), number)
    run_until(loop, lambda: counter.total == 6)


@pytest.mark.skipif(sys.platform != "linux", reason="inotify is of Linux")
def test_object_that_has_a_descriptor_is_watched_such_as_inotify(loop: reactor.Reactor, tmp_path: Path) -> None:
    class Inotify:
        def __init__(self, path: Path) -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            self._number = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
            assert libc.inotify_add_watch(self._number, os.fsencode(path), 0x100) > 0  # IN_CREATE

        def fileno(self) -> int:
            return self._number

        def close(self) -> None:
            os.close(self._number)

    class Names(Watcher):
        def handle_readable(self) -> None:
            super().handle_readable()
            *_, size = struct.unpack_from("iIII", self.received)
            self.events.append(self.received[16 : 16 + size].rstrip(b"\0").decode())

    with Names(Inotify(tmp_path), reactor=loop) as names:
        (tmp_path / "file").touch()
        run_until(loop, lambda: names.events)
    assert names.events == ["readable", "file"]


# What cannot


def test_file_on_a_disk_is_refused_and_left_open(loop: reactor.Reactor, tmp_path: Path) -> None:
    class Told(Watcher):
        made: list[Watcher] = []

        def __init__(self, descriptor: Any, **options: Any) -> None:
            Told.made.append(self)
            super().__init__(descriptor, **options)

    with (tmp_path / "file").open("wb") as file:
        with pytest.raises(reactor.LocalError, match=rf"Told on descriptor {file.fileno()} .*is always ready"):
            Told(file, reactor=loop)
        with pytest.raises(reactor.LocalError, match="is always ready"):
            reactor.Dispatcher(file.fileno(), reactor=loop)
        file.write(b"it is still open")
    Told.made[0].close()
    assert (Told.made[0].state.name, Told.made[0].closed) == ("Closed", [])
    assert loop.is_idle()


@pytest.mark.parametrize("what", [None, "a name", object(), -1, True])
def test_what_has_no_descriptor_is_refused(loop: reactor.Reactor, what: Any) -> None:
    with pytest.raises(reactor.LocalError, match=f"^{re.escape(repr(what))} is no descriptor .*, and has none$"):
        reactor.Dispatcher(what, reactor=loop)
    assert loop.is_idle()


def test_what_is_closed_already_is_refused(loop: reactor.Reactor, pair: Pair, tmp_path: Path) -> None:
    number = pair[0].fileno()
    pair[0].close()
    with pytest.raises(reactor.LocalError, match="cannot be waited for: Bad file descriptor"):
        reactor.Dispatcher(number, reactor=loop)
    file = (tmp_path / "file").open("wb")
    file.close()
    for closed in (pair[0], file):
        with pytest.raises(reactor.LocalError, match="is no descriptor .*, and has none$"):
            reactor.Dispatcher(closed, reactor=loop)
    assert loop.is_idle()


def test_what_another_channel_has_is_refused_and_stays_with_that(loop: reactor.Reactor, pair: Pair) -> None:
    first = Watcher(pair[0], reactor=loop)
    for same in (pair[0], pair[0].fileno()):
        with pytest.raises(reactor.LocalError, match="another channel of this reactor has it already"):
            reactor.Dispatcher(same, reactor=loop)
    pair[1].send(b"hello")
    run_until(loop, lambda: first.received == b"hello")
    assert list(loop.channels) == [first]


@pytest.mark.skipif(selectors.SelectSelector not in SELECTORS, reason="this system has no select")
def test_descriptor_too_large_for_select_is_refused_and_left_open(
    many_descriptors: None, pair: Pair, descriptor: Callable[[int], int]
) -> None:
    large = descriptor(fcntl.fcntl(pair[0], fcntl.F_DUPFD_CLOEXEC, 1500))
    with reactor.Reactor(selectors.SelectSelector()) as loop:
        with pytest.raises(reactor.LocalError, match="1023"):
            reactor.Dispatcher(large, reactor=loop)
        assert loop.is_idle()
    assert is_open(large)
    with reactor.Reactor() as loop:
        watcher = Watcher(large, reactor=loop)
        pair[1].send(b"hello")
        run_until(loop, lambda: watcher.received == b"hello")


def test_nothing_new_is_watched_during_a_shutdown(loop: reactor.Reactor, pair: Pair) -> None:
    refused: list[reactor.StateError] = []

    class Last(reactor.Dispatcher):
        def handle_close(self, reason: Exception) -> None:
            with pytest.raises(reactor.StateError, match="is shutting down") as caught:
                reactor.Dispatcher(pair[1], reactor=loop)
            refused.append(caught.value)

    Last(pair[0], reactor=loop)
    loop.shutdown()
    assert refused
    assert is_open(pair[1].fileno())


# Interest


def test_handlers_are_called_as_interest_was_said_in_both_directions(loop: reactor.Reactor, pair: Pair) -> None:
    watcher = Watcher(pair[0], readable=False, reactor=loop)
    pair[1].send(b"hello")

    def happens(**interest: bool) -> list[str]:
        watcher.events.clear()
        watcher.watch(**interest)
        loop.poll(0)
        return watcher.events

    assert happens() == []
    assert happens(writable=True) == ["writable"]
    assert happens() == ["writable"]
    assert happens(readable=True) == ["readable", "writable"]
    assert happens(writable=False) == []
    pair[1].send(b"again")
    assert happens(writable=True, readable=False) == ["writable"]
    assert happens(readable=True, writable=False) == ["readable"]
    pair[1].send(b"and again")
    assert happens(readable=False) == []
    assert happens(readable=True) == ["readable"]
    assert watcher.received == b"helloagainand again"


def test_nothing_that_is_watched_costs_no_wakeup(pair: Pair) -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        watcher = Watcher(pair[0], readable=False, reactor=loop)
        pair[1].send(b"hello")
        pair[1].close()
        turns(loop, 10)
        assert (selector.events, watcher.events) == (0, [])
        watcher.watch(readable=True)
        loop.poll(0)
        assert (selector.events, watcher.events) == (1, ["readable"])


def test_default_handlers_watch_no_more(pair: Pair) -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        reactor.Dispatcher(pair[0], writable=True, reactor=loop)
        pair[1].send(b"hello")
        turns(loop, 10)
        assert selector.events == 1


def test_what_a_handler_takes_away_is_not_told_in_the_same_turn(loop: reactor.Reactor, pair: Pair) -> None:
    class Jealous(Watcher):
        def handle_readable(self) -> None:
            super().handle_readable()
            self.watch(writable=False)
            for other in watchers:
                if other is not self:
                    other.watch(readable=False, writable=False)

    watchers = [Jealous(sock, writable=True, reactor=loop) for sock in pair]
    for sock in pair:
        sock.send(b"hello")
    turns(loop, 3)
    assert sorted(watcher.events for watcher in watchers) == [[], ["readable"]]


def test_nothing_is_pushed(loop: reactor.Reactor, pair: Pair) -> None:
    with pytest.raises(reactor.LocalError, match="write to the descriptor in handle_writable"):
        reactor.Dispatcher(pair[0], reactor=loop).push(b"hello")


# The end


def test_descriptor_is_closed_with_the_dispatcher(loop: reactor.Reactor, pair: Pair) -> None:
    with Watcher(pair[0].detach(), reactor=loop) as watcher:
        number = watcher.socket.fileno()
        assert str(watcher) == f"Watcher on descriptor {number} (Open)"
    assert not is_open(number)
    assert pair[1].recv(1) == b""
    watcher.close()
    watcher.watch(readable=True, writable=True)
    assert str(watcher) == f"Watcher on descriptor {number} (Closed)"
    assert [type(reason) for reason in watcher.closed] == [ClosedHere]
    assert loop.is_idle()


def test_descriptor_that_its_handler_closes_is_closed_once(
    loop: reactor.Reactor, descriptor: Callable[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    class Hasty(Watcher):
        def handle_readable(self) -> None:
            number = self.socket.fileno()
            self.socket.close()
            descriptor(fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, number))  # somebody else gets the number
            self.close()

    reading, writing = os.pipe()
    os.close(writing)
    hasty = Hasty(reading, reactor=loop)
    run_until(loop, lambda: hasty.closed)
    assert is_open(reading)
    assert caplog.messages == []


@pytest.mark.parametrize("handler", ["handle_readable", "handle_writable"])
def test_handler_that_raises_closes_and_is_logged(
    loop: reactor.Reactor, pair: Pair, handler: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: Watcher) -> None:
        raise RuntimeError("no")

    watcher = type("Failing", (Watcher,), {handler: fail})(pair[0], writable=True, reactor=loop)
    other = Watcher(pair[1], reactor=loop)
    pair[1].send(b"hello")
    run_until(loop, lambda: watcher.closed)
    assert isinstance(watcher.closed[0], HookError)
    assert "RuntimeError: no" in caplog.text
    run_until(loop, lambda: other.closed)  # it has seen the end of the stream


def test_close_inside_a_handler_is_the_last_that_is_heard(loop: reactor.Reactor, pair: Pair) -> None:
    class Once(Watcher):
        def handle_readable(self) -> None:
            self.events.append("readable")
            self.close()
            assert is_open(self.socket.fileno())  # until the batch is over, its number means nothing else

    once = Once(pair[0], writable=True, reactor=loop)
    pair[1].send(b"hello")
    loop.loop(timeout=10)
    assert once.events == ["readable"]
    assert len(once.closed) == 1


def test_shutdown_closes_at_once(loop: reactor.Reactor, pair: Pair) -> None:
    watcher = Watcher(pair[0], reactor=loop)
    shutdown = loop.shutdown()
    assert shutdown.is_complete
    assert shutdown.cut == []
    assert "shut down" in str(watcher.closed[0])


def test_object_that_cannot_close_costs_a_line_in_the_log(
    loop: reactor.Reactor, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def fileno(self) -> int:
            return pair[0].fileno()

        def close(self) -> None:
            raise RuntimeError("no")

    watcher = Watcher(Broken(), reactor=loop)
    watcher.close()
    assert len(watcher.closed) == 1
    assert loop.is_idle()
    assert "it could not be closed: RuntimeError: no" in caplog.text
