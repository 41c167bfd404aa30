"""Dispatchers do what they did: connections, exceptions, files."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import threading
import types
from collections.abc import Callable
from typing import Any

import pytest

from reactor.compat import asyncore, watching
from tests.conftest import raw_client

from .conftest import run_until
from .dispatchers import Echo, Listening, Pair, Recording, raising, send_to

pytestmark = pytest.mark.usefixtures("pollster")


# Connections


def test_server_and_client_talk_and_the_loop_ends_when_all_are_closed(use_poll: bool) -> None:
    server = Listening(Echo)

    class Client(Recording):
        def writable(self) -> bool:
            return not self.connected

        def handle_connect(self) -> None:
            super().handle_connect()
            self.send(b"hello")

        def handle_read(self) -> None:
            super().handle_read()
            self.close()
            asyncore.close_all()

        def handle_write(self) -> None:
            pass

    client = Client()
    client.create_socket()
    client.connect(server.address)
    asyncore.loop(use_poll=use_poll)
    assert client.events == ["connect", b"hello"]


def test_connect_error_is_told_to_handle_error_and_handle_connect_is_not_called(use_poll: bool) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        client = Recording()
        client.writable = lambda: True  # type: ignore[method-assign]
        client.create_socket()
        client.connect(unused.getsockname())
        run_until(lambda: client.events, use_poll=use_poll)
    (error,) = client.events
    assert isinstance(error, ConnectionRefusedError)
    assert not client.connected


def test_connect_that_fails_at_once_raises() -> None:
    client = Recording()
    client.create_socket(socket.AF_UNIX)
    with pytest.raises(FileNotFoundError, match="ENOENT"):
        client.connect("/no/such/socket")
    client.close()


def test_dispatcher_of_a_broken_socket_raises_and_leaves_the_map(pair: Pair) -> None:
    class Broken:
        def setblocking(self, flag: bool) -> None:
            pass

        def fileno(self) -> int:
            return 1000

        def getpeername(self) -> None:
            raise OSError(errno.EBADF, "broken")

    with pytest.raises(OSError, match="broken"):
        asyncore.dispatcher(Broken())
    assert asyncore.socket_map == {}


def test_dispatcher_with_send_sends_a_megabyte(pair: Pair, in_thread: Callable[..., threading.Thread]) -> None:
    ours, theirs = pair()
    received = bytearray()

    def receive() -> None:
        while data := theirs.recv(65536):
            received.extend(data)

    reader = in_thread(receive)
    sender = asyncore.dispatcher_with_send(ours)
    sender.readable = lambda: False  # type: ignore[method-assign]
    sender.send(b"x" * 1_000_000)
    run_until(lambda: not sender.out_buffer)
    sender.close()
    reader.join(10)
    assert received == b"x" * 1_000_000


def test_urgent_data_is_told_to_handle_expt(use_poll: bool) -> None:
    accepted: list[Recording] = []
    server = Listening(lambda sock: accepted.append(Recording(sock)))
    with raw_client(server.address) as client:
        run_until(lambda: accepted, use_poll=use_poll)
        client.send(b"!", socket.MSG_OOB)
        run_until(lambda: "expt" in accepted[0].events, use_poll=use_poll)
        assert accepted[0].socket.recv(1, socket.MSG_OOB) == b"!"
        accepted[0].close()
    server.close()


def test_writable_and_readable_are_asked_at_every_pass(pair: Pair, use_poll: bool) -> None:
    ours, theirs = pair()
    theirs.send(b"x")
    asked: list[str] = []
    wanted: set[str] = set()

    class Asked(Recording):
        def readable(self) -> bool:
            asked.append("readable")
            return "read" in wanted

        def writable(self) -> bool:
            asked.append("writable")
            return "write" in wanted

    channel = Asked(ours)
    for wanted, expected in (  # noqa: B007
        (set(), []),
        ({"write"}, ["write"]),
        ({"read"}, [b"x"]),
        ({"write"}, ["write"]),
        (set(), []),
    ):
        channel.events.clear()
        asyncore.loop(timeout=0, count=1, use_poll=use_poll)
        assert channel.events == expected
    assert asked == ["readable", "writable"] * 5
    channel.close()


def test_poll_reads_with_all_before_it_writes_with_one_and_poll2_does_all_with_each(pair: Pair) -> None:
    order: list[str] = []

    class Ordered(asyncore.dispatcher):
        def handle_read(self) -> None:
            order.append("read")

        def handle_write(self) -> None:
            order.append("write")

    for ours, theirs in (pair(), pair()):
        theirs.send(b"x")
        Ordered(ours)
    asyncore.poll()
    assert order == ["read", "read", "write", "write"]
    order.clear()
    asyncore.poll2()
    assert order == ["read", "write", "read", "write"]
    asyncore.close_all()


def test_hangup_ends_an_object_that_only_reads_and_one_that_only_writes(pair: Pair, use_poll: bool) -> None:
    class Writing(Recording):
        def readable(self) -> bool:
            return False

        def writable(self) -> bool:
            return True

        def handle_write(self) -> None:
            self.send(b"x")

    channels = []
    for kind in (Recording, Writing):
        ours, theirs = pair()
        channels.append(kind(ours))
        theirs.close()
    run_until(lambda: not asyncore.socket_map, use_poll=use_poll)
    assert all("close" in channel.events for channel in channels)


# What an exception does


@pytest.mark.parametrize("error", [asyncore.ExitNow("now"), KeyboardInterrupt(), SystemExit(3)], ids=repr)
@pytest.mark.parametrize("handler", ["handle_read", "handle_write"])
def test_exceptions_that_end_the_loop_pass_through(
    pair: Pair, use_poll: bool, error: BaseException, handler: str
) -> None:
    ours, theirs = pair()
    theirs.send(b"x")
    channel = asyncore.dispatcher(ours)
    setattr(channel, handler, raising(error))
    with pytest.raises(type(error)) as caught:
        asyncore.loop(use_poll=use_poll)
    assert caught.value is error
    channel.close()


def test_other_exceptions_are_told_to_handle_error_and_the_others_go_on(pair: Pair, use_poll: bool) -> None:
    class OfSomebody(BaseException):
        pass

    first, second = pair(), pair()
    error = OfSomebody()
    broken, whole = Recording(first[0]), Recording(second[0])
    broken.handle_read = raising(error)  # type: ignore[method-assign]
    for _, theirs in (first, second):
        theirs.send(b"x")
    run_until(lambda: whole.events, use_poll=use_poll)
    assert broken.events == [error]
    assert whole.events == [b"x"]
    whole.close()


def test_what_handle_error_raises_ends_the_loop(pair: Pair, use_poll: bool) -> None:
    ours, theirs = pair()
    theirs.send(b"x")
    channel = asyncore.dispatcher(ours)
    channel.handle_read = raising(ValueError("mine"))  # type: ignore[method-assign]
    channel.handle_error = raising(ZeroDivisionError("yours"))  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        asyncore.loop(use_poll=use_poll)
    channel.close()


def test_handle_error_logs_the_way_of_the_exception_and_closes(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = pair()
    theirs.send(b"x")
    channel = asyncore.dispatcher(ours)
    channel.handle_read = raising(ValueError("mine"))  # type: ignore[method-assign]
    asyncore.loop()
    out = capsys.readouterr().out
    assert out.startswith("error: uncaptured python exception, closing channel <asyncore.dispatcher connected")
    assert "(<class 'ValueError'>:mine [" in out
    assert "asyncore.py|handle_read_event|" in out
    assert f"[{raising.__code__.co_filename}|raise_it|" in out


def test_object_that_cannot_say_who_it_is_is_still_told_of(
    pair: Pair, capsys: pytest.CaptureFixture[str], use_poll: bool
) -> None:
    class Nameless(asyncore.dispatcher):
        def __repr__(self) -> str:
            raise ValueError("no name")

        def writable(self) -> bool:
            return False

    broken, full = Nameless(pair()[0]), Nameless(pair()[0])
    broken.handle_read = raising(ValueError("mine"))  # type: ignore[method-assign]
    full.accepting = True
    full.handle_accept = raising(OSError(errno.EMFILE, "full"))  # type: ignore[method-assign]
    for channel in (broken, full):
        send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    name = f"<__repr__(self) failed for object at {id(broken):x}>"
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"error: uncaptured python exception, closing channel {name} (<class 'ValueError'>:mine [")
    name = f"<__repr__(self) failed for object at {id(full):x}>"
    assert second == f"error: {name} cannot accept: Too many open files; it goes on when it can"
    asyncore.loop(timeout=5, count=2, use_poll=use_poll)
    assert capsys.readouterr().out == ""  # it is said once
    full.close()


def test_error_of_an_accept_is_told_to_handle_error_unless_it_is_for_want_of_descriptors(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Failing(Recording):
        accepting = True

        def handle_accepted(self, sock: Any, addr: Any) -> None:
            self.events.append(sock)

    for number, told in ((errno.EMFILE, []), (errno.EIO, [errno.EIO])):
        listener = Failing(map={})
        listener.socket = types.SimpleNamespace(accept=raising(OSError(number, "no")), close=lambda: None)
        asyncore.read(listener)
        assert [error.errno for error in listener.events] == told
    assert capsys.readouterr().out.count("cannot accept") == 1
    listener = Failing(map={})
    full = raising(OSError(errno.EMFILE, "full"))
    for accept in (full, full, lambda: ("connection", "address"), full):
        listener.socket = types.SimpleNamespace(accept=accept)
        asyncore.read(listener)
    assert listener.events == ["connection"]
    assert capsys.readouterr().out.count("cannot accept") == 2  # once for each time that they run out


def test_close_all_goes_on_over_a_closed_descriptor_but_not_over_other_errors() -> None:
    closed = []

    class Closing:
        def __init__(self, error: BaseException | None = None) -> None:
            self.error = error

        def close(self) -> None:
            if self.error is not None:
                raise self.error
            closed.append(self)

    map = {1: Closing(OSError(errno.EBADF, "gone")), 2: Closing()}
    asyncore.close_all(map)
    assert map == {}
    assert len(closed) == 1
    for error in (OSError(errno.EIO, "other"), ValueError("wrong")):
        map = {1: Closing(error), 2: Closing()}
        with pytest.raises(type(error)):
            asyncore.close_all(map)
        assert len(map) == 2
        asyncore.close_all(map, ignore_all=True)
        assert map == {}
    map = {1: Closing(asyncore.ExitNow())}
    with pytest.raises(asyncore.ExitNow):
        asyncore.close_all(map, ignore_all=True)


# Files


def test_file_dispatcher_reads_and_writes_a_pipe(use_poll: bool) -> None:
    reading, writing = os.pipe()
    received: list[bytes] = []

    class Reader(asyncore.file_dispatcher):
        def writable(self) -> bool:
            return False

        def handle_read(self) -> None:
            received.append(self.recv(100))

        def handle_close(self) -> None:
            self.close()

    class Writer(asyncore.file_dispatcher):
        def readable(self) -> bool:
            return False

        def handle_write(self) -> None:
            self.send(b"through the pipe")
            self.close()

    Reader(reading)
    with open(writing, "wb") as file:
        Writer(file)
    assert not os.get_blocking(reading)
    os.close(reading)
    asyncore.loop(use_poll=use_poll)
    assert b"".join(received) == b"through the pipe"


def test_pipe_that_only_hangs_up_is_no_event_for_poll_and_the_end_for_poll2(use_poll: bool) -> None:
    """Its reader does not want to read for now; and, as by default, says that it wants to write."""
    reading, writing = os.pipe()
    told: list[Any] = []

    class Paused(asyncore.file_dispatcher):
        paused = True

        def readable(self) -> bool:
            return not self.paused

        def handle_read(self) -> None:
            told.append(self.recv(10))

        def handle_write(self) -> None:
            told.append("write")

        def handle_close(self) -> None:
            told.append("close")
            self.close()

    paused = Paused(reading)
    os.close(reading)
    os.close(writing)
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    if use_poll:
        assert told == ["close"]
        return
    assert told == []
    assert list(watching.get_watcher()._resting) == [paused.socket.fileno()]  # or every wait would end at once
    asyncore.loop(timeout=0, count=2)
    assert told == []
    paused.paused = False
    asyncore.loop(timeout=0, count=1)  # it wants something else now, so it does not rest
    assert told == ["close", b""]


def test_writer_is_told_of_a_pipe_that_nobody_reads(use_poll: bool) -> None:
    """It is full besides, so there is no room: nothing but an error."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(65536))
    told: list[str] = []

    class Writer(asyncore.file_dispatcher):
        def readable(self) -> bool:
            return False

        def handle_write(self) -> None:
            told.append("write")
            self.send(b"x")

        def handle_close(self) -> None:
            told.append("close")
            self.close()

    Writer(writing)
    os.close(writing)
    os.close(reading)
    asyncore.loop(use_poll=use_poll)
    assert told == (["close"] if use_poll else ["write", "close"])


def test_file_dispatcher_of_a_file_is_always_ready(tmp_path: Any, pair: Pair, use_poll: bool) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 10)
    received: list[bytes] = []

    class Reader(asyncore.file_dispatcher):
        wants = True

        def readable(self) -> bool:
            return self.wants

        def writable(self) -> bool:
            return False

        def handle_read(self) -> None:
            received.append(self.recv(3))

        def handle_close(self) -> None:
            """It stays, at the end of the file."""

    with open(path, "rb") as file:
        reader = Reader(file)
    beside = Recording(pair()[0])
    send_to(beside)
    asyncore.loop(timeout=30, count=5, use_poll=use_poll)
    assert received == [b"abc"] * 5
    assert beside.events == [b"x"]
    asyncore.loop(timeout=0, count=watching.CHECK_EVERY, use_poll=use_poll)
    assert b"".join(received) == b"abc" * 10
    reader.wants = False
    asyncore.loop(timeout=0, count=2, use_poll=use_poll)
    assert len(received) == 5 + watching.CHECK_EVERY
    reader.wants = True
    asyncore.loop(timeout=30, count=1, use_poll=use_poll)
    assert len(received) == 6 + watching.CHECK_EVERY
    asyncore.close_all()


def test_file_wrapper_has_as_much_of_a_socket_as_is_needed(tmp_path: Any) -> None:
    path = tmp_path / "file"
    with open(path, "wb") as file:
        wrapper = asyncore.file_wrapper(file.fileno())
        assert wrapper.fileno() != file.fileno()
    assert wrapper.send(b"written") == 7
    assert wrapper.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    with pytest.raises(NotImplementedError):
        wrapper.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    wrapper.close()
    wrapper.close()
    assert wrapper.fileno() == -1
    assert path.read_bytes() == b"written"


def test_file_wrapper_that_is_not_closed_warns() -> None:
    reading, writing = os.pipe()
    wrapper = asyncore.file_wrapper(reading)
    os.close(reading)
    os.close(writing)
    with pytest.warns(ResourceWarning, match="unclosed file <reactor.compat.asyncore.file_wrapper"):
        del wrapper
