"""How systems of this kind fail. Each section is one of the ways, and its tests plant the situation."""

from __future__ import annotations

import contextlib
import errno
import gc
import io
import logging
import os
import selectors
import socket
import stat
import struct
import threading
import time
import tracemalloc
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor.authentication import CHALLENGE, FAILURE, WELCOME, Handshake
from reactor.framing import FrameDecoder, encode_frame
from reactor.limits import ACCEPTS_PER_TURN, FRAMES_PER_TURN
from reactor.wakeup import SocketPairWaker
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, RecordingStream, open_descriptors, run_until
from tests.faults import (
    SELECTORS,
    AcceptingSocket,
    CountingSelector,
    Server,
    fill,
    in_child,
    many_descriptors,
    receive,
    scripted_accept,
    serve,
    stack_depth,
    turns,
)

__all__ = ["many_descriptors", "serve"]

Serve = Callable[..., Server]
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing sends a reset."""


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


class EchoMessages(RecordingConnection):
    codec = "bytes"

    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        self.send(message)


@pytest.fixture(params=SELECTORS, ids=lambda kind: kind.__name__)
def any_loop(request: pytest.FixtureRequest) -> Iterator[reactor.Reactor]:
    """A reactor on each selector class of the platform."""
    with reactor.Reactor(request.param()) as loop:
        yield loop


@pytest.fixture
def traced() -> Iterator[Callable[[], int]]:
    """A function that tells how many bytes were at most allocated since the test began."""
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    tracemalloc.reset_peak()
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


# An event reaches a channel closed, or a descriptor reused, in the same batch


def test_event_for_a_channel_closed_in_the_same_batch_is_ignored(any_loop: reactor.Reactor, serve: Serve) -> None:
    class Jealous(Echo):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            for other in server.channels:
                if other is not self:
                    other.close()

    server = serve(any_loop, Jealous)
    pairs = [server.pair() for _ in range(5)]
    for client, _ in pairs:
        client.sendall(b"ping")
    turns(any_loop, 2)
    assert sorted(len(channel.of("data")) for _, channel in pairs) == [0, 0, 0, 0, 1]
    assert sorted(len(channel.of("close")) for _, channel in pairs) == [0, 1, 1, 1, 1]


def test_descriptor_closed_in_a_batch_is_not_reused_in_it_and_its_successor_echoes(
    any_loop: reactor.Reactor, serve: Serve
) -> None:
    made_in_batch: list[int] = []

    class Replacing(Echo):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            if data == b"replace":
                server.channels[0].close()
                with socket.socket() as fresh:
                    made_in_batch.append(fresh.fileno())

    server = serve(any_loop, Replacing)
    _, first = server.pair()
    second_client, _ = server.pair()
    number = first.socket.fileno()
    second_client.sendall(b"replace")
    run_until(any_loop, lambda: first.of("close"))
    assert receive(any_loop, second_client, 7) == b"replace"
    assert made_in_batch
    assert number not in made_in_batch
    with socket.socket() as taken:
        assert taken.fileno() == number, "the descriptor was not given back after the batch"
    server.clients[0].close()
    client, successor = server.pair()
    numbers = {successor.socket.fileno(), client.fileno()}
    assert number in numbers
    assert server.echoes(client)
    assert server.echoes(second_client)


def test_descriptor_accepted_and_closed_in_one_batch_leaves_nothing(any_loop: reactor.Reactor, serve: Serve) -> None:
    class Refusing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            if self.connections % 2:
                channel.close()

    accepted = Accepting(Echo)
    with Refusing(("127.0.0.1", 0), accepted, reactor=any_loop) as listener:
        clients = [socket.create_connection(listener.address) for _ in range(10)]
        run_until(any_loop, lambda: len(accepted.channels) == 10 and any_loop.turns > 3)
        kept = [channel for channel in accepted.channels if not channel.of("close")]
        assert len(kept) < 10
        assert listener.connections == len(kept)
        for client in clients:
            client.close()
        run_until(any_loop, lambda: listener.connections == 0)
        assert all(len(channel.of("close")) == 1 for channel in accepted.channels)


# A descriptor is closed before it is unregistered, and its successor is never armed


class Auditor:
    """Makes sockets that complain when they are closed while the selector still watches them."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.wrong: list[str] = []
        auditor = self

        class Audited(AcceptingSocket):
            def close(self) -> None:
                if self.fileno() in auditor.selector.get_map():
                    auditor.wrong.append(f"closed while it was registered: {self}")
                super().close()

        self.socket_class = Audited

    def only_the_waker_is_left(self) -> bool:
        return len(self.selector.get_map()) == 1


def test_descriptor_is_unregistered_before_it_is_closed(serve: Serve) -> None:
    auditor = Auditor()

    def raising_factory() -> reactor.Channel:
        raise ValueError("no channel today")

    class Refusing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.close()

    class Failing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            raise ValueError("no")

    with reactor.Reactor(auditor.selector, socket_factory=auditor.socket_class) as loop:
        open_server = serve(loop, Echo)
        keyed_server = serve(loop, EchoMessages, authkey=KEY)
        broken_server = serve(loop, Echo, factory=raising_factory)
        listeners = [kind(None, Echo, reactor=loop) for kind in (Refusing, Failing)]
        for ending in (socket.SHUT_WR, socket.SHUT_RDWR):
            client, channel = open_server.pair()
            client.sendall(b"ping")
            turns(loop, 2)
            client.shutdown(ending)
            run_until(loop, lambda channel=channel: channel.of("close"))
        client, channel = open_server.pair()
        fill(client, b"x" * 65536)
        turns(loop, 3)
        channel.close()
        client, channel = keyed_server.pair()
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert receive(loop, client).endswith(FAILURE)
        receive(loop, broken_server.client())
        for listener in listeners:
            with socket.socket(socket.AF_UNIX) as refused:
                refused.connect(listener.address)
                refused.setblocking(False)
                receive(loop, refused)
        lost = reactor.connect(("127.0.0.1", 1), RecordingStream, reactor=loop)
        run_until(loop, lambda: lost.of("close"))
        assert open_server.echoes(open_server.client())
        for channel in list(loop.channels):
            channel.close()
        turns(loop, 2)
        assert auditor.only_the_waker_is_left()
        assert loop.is_idle()
    assert auditor.wrong == []


def test_selector_that_refuses_a_descriptor_harms_that_channel_alone(serve: Serve) -> None:
    class Refusing(selectors.DefaultSelector):
        refuse = 0

        def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
            if self.refuse and isinstance(data, Echo):
                self.refuse -= 1
                raise OSError(errno.ENOSPC, "no room for one more watch")
            return super().register(fileobj, events, data)

    selector = Refusing()
    with reactor.Reactor(selector) as loop:
        server = serve(loop, Echo)
        good, _ = server.pair()
        selector.refuse = 1
        refused, channel = server.pair()
        assert receive(loop, refused) == b""
        run_until(loop, lambda: channel.of("close"))
        assert len(channel.of("close")) == 1
        assert ("open",) not in channel.events
        assert server.echoes(good)
        assert server.echoes(server.client())
        assert server.listener.connections == 2


# Accept spins at EMFILE, or the listener closes for good


def test_listener_out_of_descriptors_rests_serves_and_recovers() -> None:
    seen = in_child("out_of_descriptors")
    assert 1 <= seen["accepts"] <= 20, "in one second"
    assert seen["turns"] <= 60, "the loop spins"
    assert seen["echoed"]
    assert seen["turns_for_echo"] <= 5, "the existing connection waits for the listener"
    assert seen["recovered"]
    assert seen["recovery"] < 2.0
    assert seen["states"] == ["Resting", "Listening"]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM], ids=errno.errorcode.get)
def test_listener_tries_ten_times_a_second_without_descriptors(
    clock: FakeClock, serve: Serve, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    errors = deque([number] * 1000)
    with reactor.Reactor(clock=clock, socket_factory=scripted_accept(errors)) as loop:
        server = serve(loop, Echo)
        client = server.client()
        for _ in range(100):
            turns(loop, 3)
            clock.advance(0.01)
        assert 5 <= 1000 - len(errors) <= 20
        assert len(caplog.records) <= 20
        errors.clear()
        clock.advance(0.2)
        turns(loop, 3)
        assert len(server.channels) == 1
        assert server.echoes(client)


# An errno from accept kills the server

ERRORS_OF_ACCEPT = [
    getattr(errno, name)
    for name in (
        "EAGAIN", "EBADF", "ECONNABORTED", "ECONNRESET", "EFAULT", "EINTR", "EINVAL", "EMFILE", "ENFILE", "ENOBUFS",
        "ENOMEM", "ENOTSOCK", "EOPNOTSUPP", "EPERM", "EACCES", "EPROTO", "ENOSR", "ESOCKTNOSUPPORT",
        "EPROTONOSUPPORT", "ETIMEDOUT", "ENETDOWN", "ENOPROTOOPT", "EHOSTDOWN", "ENONET", "EHOSTUNREACH",
        "ENETUNREACH", "ENOTCONN", "EIO", "ENOSPC",
    )
    if hasattr(errno, name)
]  # fmt: skip


@pytest.mark.parametrize("number", ERRORS_OF_ACCEPT, ids=errno.errorcode.get)
def test_listener_survives_every_error_of_accept(clock: FakeClock, serve: Serve, number: int) -> None:
    errors: deque[int] = deque()
    with reactor.Reactor(clock=clock, socket_factory=scripted_accept(errors)) as loop:
        server = serve(loop, Echo)
        before = server.client()
        turns(loop, 2)
        errors.append(number)
        after = server.client()
        turns(loop, 1)
        assert not errors
        assert server.echoes(before)
        clock.advance(0.2)
        turns(loop, 2)
        assert len(server.channels) == 2
        assert server.echoes(after)
        assert server.listener.state.name == "Listening"


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM], ids=errno.errorcode.get)
def test_listener_takes_the_next_peer_at_once_when_one_is_gone(
    clock: FakeClock, serve: Serve, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    errors = deque([number] * 10)
    with reactor.Reactor(clock=clock, socket_factory=scripted_accept(errors)) as loop:
        server = serve(loop, Echo)
        server.client()
        turns(loop, 2)
        assert len(server.channels) == 1
        assert caplog.records == []


# The peer is gone between accept and the calls on the accepted socket


@pytest.mark.parametrize("number", [errno.ENOTCONN, errno.EINVAL, errno.ECONNRESET], ids=errno.errorcode.get)
@pytest.mark.parametrize("method", ["setblocking", "getpeername", "getsockname", "setsockopt", "getsockopt"])
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
def test_peer_gone_right_after_accept_harms_nobody_else(serve: Serve, family: str, method: str, number: int) -> None:
    failing = [0]

    def fail(self: socket.socket, *args: Any) -> Any:
        if failing[0] and not self.getsockopt_of_the_system(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):  # type: ignore[attr-defined]
            failing[0] -= 1
            raise OSError(number, os.strerror(number))
        return getattr(AcceptingSocket, method)(self, *args)

    # A socket that fails in one method, once, unless it is the one that listens.
    faulty = type("Faulty", (AcceptingSocket,), {method: fail, "getsockopt_of_the_system": socket.socket.getsockopt})
    with reactor.Reactor(socket_factory=faulty) as loop:
        options: dict[str, Any] = {"address": ("127.0.0.1", 0), "authkey": KEY} if family == "AF_INET" else {}
        server = serve(loop, RecordingConnection, **options)
        failing[0] = 1
        server.client()
        turns(loop, 3)
        failing[0] = 0
        _, good = server.pair()
        run_until(loop, lambda: good.events or good._handshake)
        for each in server.clients:
            each.close()
        run_until(loop, lambda: all(channel.of("close") for channel in server.channels if channel._is_attached))
        assert all(len(channel.of("close")) <= 1 for channel in server.channels)
        assert server.listener.connections == 0
        server.listener.close()
        turns(loop, 2)
        assert loop.is_idle()


def test_peers_that_reset_before_they_are_accepted_harm_nobody(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingConnection, address=("127.0.0.1", 0), authkey=KEY)
    for _ in range(50):
        client = server.client()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.close()
    client = server.client()
    assert CHALLENGE in receive(loop, client, 40)
    client.close()
    run_until(loop, lambda: server.listener.connections == 0)
    assert all(len(channel.of("close")) == 1 for channel in server.channels)


# Descriptors above 1023


@pytest.mark.parametrize("kind", [kind for kind in SELECTORS if kind is not selectors.SelectSelector])
def test_two_thousand_descriptors_are_served(
    kind: type[selectors.BaseSelector], serve: Serve, many_descriptors: None
) -> None:
    with reactor.Reactor(kind()) as loop:
        server = serve(loop, Echo)
        clients = server.crowd(1000)
        assert max(channel.socket.fileno() for channel in server.channels) > 2000
        for client in clients:
            client.sendall(b"ping")
        turns(loop, 2)
        assert all(client.recv(10) == b"ping" for client in clients)


@pytest.mark.skipif(selectors.SelectSelector not in SELECTORS, reason="this system has no select")
def test_descriptor_too_large_for_select_is_refused_and_the_loop_goes_on(serve: Serve, many_descriptors: None) -> None:
    with reactor.Reactor(selectors.SelectSelector()) as loop:
        server = serve(loop, Echo)
        good, _ = server.pair()
        hoard = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
        try:
            refused, channel = server.pair()
            assert receive(loop, refused) == b""
            run_until(loop, lambda: channel.of("close"))
            assert "1023" in str(channel.of("error")[0])
            assert server.echoes(good)
        finally:
            for number in hoard:
                os.close(number)
        assert server.echoes(server.client())


# An output queue without bound


def test_peer_that_never_reads_is_not_read_either_and_goes_at_the_deadline(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve
) -> None:
    limits = reactor.Limits(stall_timeout=60, idle_timeout=None)
    server = serve(timed, Echo, limits=limits)
    client, channel = server.pair()
    largest = sent = 0
    for _ in range(200):
        sent += fill(client, b"x" * 65536)
        turns(timed, 1)
        largest = max(largest, channel.output_size)
    assert sent > 2 * limits.high_water
    assert largest <= limits.high_water + 65536
    assert channel.state.name == "Throttled"
    events = len(channel.events)
    clock.advance(59)
    turns(timed, 2)
    assert len(channel.events) == events, "more was read, or it was closed too early"
    clock.advance(2)
    turns(timed, 2)
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "stall_timeout"


def test_large_answers_to_a_peer_that_never_reads_pause_reading_from_it(loop: reactor.Reactor, serve: Serve) -> None:
    class Generous(RecordingStream):
        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            for _ in data:
                self.push(bytes(1 << 20))

    server = serve(loop, Generous)
    client, channel = server.pair()
    for _ in range(20):
        client.sendall(b"?")
        turns(loop, 2)
    assert len(channel.received) < 5
    assert channel.output_size < 4 << 20
    assert len(receive(loop, client, 20 << 20)) == 20 << 20
    assert len(channel.received) == 20


def test_output_for_a_peer_that_never_reads_ends_at_its_limit(loop: reactor.Reactor, serve: Serve) -> None:
    limits = reactor.Limits(maximum_output=1 << 20)
    server = serve(loop, RecordingStream, limits=limits)
    _, channel = server.pair()
    largest = 0
    for _ in range(1000):
        channel.push(bytes(10_000))
        turns(loop, 1)
        largest = max(largest, channel.output_size)
    assert largest <= limits.maximum_output + 10_000
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.LimitError)
    assert reason.limit == "maximum_output"
    assert channel.output_size == 0


@pytest.mark.parametrize("state", ["Connecting", "Authenticating"])
def test_output_before_the_channel_is_open_ends_at_its_limit(loop: reactor.Reactor, serve: Serve, state: str) -> None:
    limits = reactor.Limits(maximum_output=1 << 20)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("\0" + os.urandom(8).hex())
        silent.listen(1)
        # With the backlog full, a connect to a Unix socket waits.
        fillers = []
        for _ in range(2 if state == "Connecting" else 0):
            fillers.append(socket.socket(socket.AF_UNIX))
            fillers[-1].connect(silent.getsockname())
        channel = RecordingConnection.connect(silent.getsockname(), authkey=KEY, limits=limits, reactor=loop)
        run_until(loop, lambda: loop.turns > 3)
        assert channel.state.name == state
        for _ in range(1000):
            channel.send_bytes(bytes(10_000))
            turns(loop, 1)
        assert channel.output_size == 0
        assert [type(reason) for reason in channel.of("close")] == [reactor.LimitError]
        for filler in fillers:
            filler.close()


def test_endless_producer_is_pulled_only_as_the_peer_reads(
    loop: reactor.Reactor, serve: Serve, traced: Callable[[], int]
) -> None:
    pulled = [0]

    def endless() -> Iterator[bytes]:
        chunk = bytes(10_000)
        while True:
            pulled[0] += 1
            yield chunk

    server = serve(loop, RecordingStream)
    client, channel = server.pair()
    channel.push(endless())
    turns(loop, 200)
    stopped_at = pulled[0]
    turns(loop, 200)
    assert pulled[0] == stopped_at
    assert channel.output_size <= channel.limits.low_water + 10_000
    received = 0
    while received < 10 << 20:
        received += len(receive(loop, client, 1))
    assert traced() < 8 << 20
    channel.close()
    turns(loop, 1)


# The tail of a short write is lost or reordered


def trickling_socket(taken: int) -> type[socket.socket]:
    """Return a class of sockets that take `taken` bytes at a time, and nothing at all now and then."""
    calls = [0]

    def refuse_now_and_then() -> None:
        calls[0] += 1
        if calls[0] % 7 == 0:
            raise BlockingIOError(errno.EAGAIN, "not now")
        if calls[0] % 11 == 0:
            raise InterruptedError(errno.EINTR, "a signal")

    class Trickling(AcceptingSocket):
        def send(self, data: Any, flags: int = 0) -> int:
            refuse_now_and_then()
            return super().send(memoryview(data)[:taken], flags)

        def sendmsg(self, buffers: Any, *args: Any) -> int:
            refuse_now_and_then()
            return super().send(b"".join(buffers)[:taken])

    return Trickling


@pytest.mark.parametrize("taken", [1, 3, 1000])
def test_every_send_short_keeps_bytes_and_order(
    serve: Serve, taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sendfile = os.sendfile
    monkeypatch.setattr(os, "sendfile", lambda out, file, offset, count: sendfile(out, file, offset, min(count, taken)))
    path = tmp_path / "file"
    path.write_bytes(b"a file " * 100)

    class More:
        def __init__(self) -> None:
            self.chunks = [b"more " * 50, b"and more " * 50, b""]

        def more(self) -> bytes:
            return self.chunks.pop(0)

    with reactor.Reactor(socket_factory=trickling_socket(taken)) as loop:
        server = serve(loop, RecordingStream)
        client, channel = server.pair()
        expected = b""
        for number in range(20):
            piece = b"%d," % number * number
            channel.push(piece)
            expected += piece
        channel.push(iter([b"iterated ", b"", bytearray(b"in pieces ")]))
        turns(loop, 3)
        channel.push(path.open("rb"))
        channel.push(More())
        channel.push(memoryview(b"view "))
        channel.push(b"")
        channel.push(b"the end")
        expected += b"iterated in pieces " + b"a file " * 100 + b"more " * 50 + b"and more " * 50 + b"view the end"
        channel.close_when_done()
        assert receive(loop, client) == expected
        client.close()
        run_until(loop, lambda: channel.of("close"))


def test_empty_push_behind_a_short_write_neither_spins_nor_stalls(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(timed, RecordingStream)
    client, channel = server.pair()
    expected = 0
    while not channel.output_size:
        channel.push(bytes(10_000))
        expected += 10_000
        turns(timed, 1)
    channel.push(b"")
    assert len(receive(timed, client, expected)) == expected
    turns(timed, 200)
    assert caplog.records == []
    clock.advance(channel.limits.stall_timeout + 1)
    turns(timed, 2)
    assert channel.of("close") == []
    channel.push(b"more")
    assert receive(timed, client, 4) == b"more"


@pytest.mark.parametrize("taken", [1, 5])
def test_handshake_and_messages_survive_short_sends_on_both_sides(serve: Serve, taken: int) -> None:
    with reactor.Reactor(socket_factory=trickling_socket(taken)) as loop:
        server = serve(loop, EchoMessages, authkey=KEY)
        client = RecordingConnection.connect(server.listener.address, authkey=KEY, codec="bytes", reactor=loop)
        messages = [b"", b"a", b"b" * 300, b"c" * 20_000] if taken > 1 else [b"", b"a", b"b" * 300]
        for message in messages:
            client.send(message)
        run_until(loop, lambda: len(client.of("message")) == len(messages))
        assert client.of("message") == messages


def test_small_buffers_and_a_slow_reader_keep_bytes_and_order(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, address=("127.0.0.1", 0))
    # With the segments of 64 KiB of loopback, each buffer would wait 40 ms for a delayed acknowledgement.
    server.listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 8000)
    client, channel = server.pair()
    channel.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    expected = os.urandom(3 << 20)
    for start in range(0, len(expected), 70_001):
        channel.push(expected[start : start + 70_001])
        turns(loop, 1)
    assert receive(loop, client, len(expected)) == expected


# Input without an end, and allocation by announced length


def test_gibibyte_behind_a_refused_header_is_not_kept(traced: Callable[[], int]) -> None:
    decoder = FrameDecoder(1 << 20)
    decoder.feed(struct.pack("!i", 1 << 30))
    zeros = bytes(65536)
    for _ in range((1 << 30) // len(zeros)):
        assert decoder.feed(zeros) == []
    assert isinstance(decoder.failure, reactor.FrameError)
    assert traced() < 1 << 20


@pytest.mark.parametrize(
    "header",
    [struct.pack("!i", 0x7FFFFFFF), struct.pack("!iQ", -1, 1 << 62), struct.pack("!iQ", -1, (1 << 64) - 1)],
    ids=["2 GiB", "4 EiB", "16 EiB"],
)
@pytest.mark.parametrize("authkey", [None, KEY], ids=["open", "authenticating"])
def test_header_over_the_limit_ends_the_connection_and_memory_stays_flat(
    loop: reactor.Reactor, serve: Serve, traced: Callable[[], int], header: bytes, authkey: bytes | None
) -> None:
    server = serve(loop, EchoMessages, authkey=authkey)
    client, channel = server.pair()
    client.sendall(header)
    pumped = 0
    try:
        while pumped < 16 << 20:
            pumped += fill(client, bytes(65536))
            turns(loop, 1)
    except ConnectionError:
        pass
    client.close()
    run_until(loop, lambda: channel.of("close"))
    (reason,) = channel.of("error")
    assert isinstance(reason, reactor.RemoteError)
    assert str(channel.limits.maximum_frame if authkey is None else 256) in str(reason) or "-1" in str(reason)
    assert traced() < 2 << 20


def test_announced_length_allocates_nothing(loop: reactor.Reactor, serve: Serve, traced: Callable[[], int]) -> None:
    server = serve(loop, EchoMessages)
    for _ in range(200):
        server.client().sendall(struct.pack("!i", 64 << 20) + b"x" * 100)
    run_until(loop, lambda: len(server.channels) == 200)
    turns(loop, 5)
    assert server.listener.connections == 200
    assert traced() < 8 << 20


def test_flood_of_empty_frames_keeps_memory_flat(
    loop: reactor.Reactor, serve: Serve, traced: Callable[[], int]
) -> None:
    class Counting(reactor.Connection):
        codec = "bytes"
        count = 0

        def handle_message(self, message: bytes) -> None:
            self.count += 1

    server = serve(loop, Counting)
    client, channel = server.pair()
    sent = 0
    while sent < 1 << 18:
        sent += fill(client, bytes(65536))
        turns(loop, 20)
    run_until(loop, lambda: channel.count == sent // 4)
    assert traced() < 3 << 20


def test_flood_behind_a_refused_handshake_is_dropped_until_the_deadline(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, traced: Callable[[], int]
) -> None:
    server = serve(timed, EchoMessages, authkey=KEY)
    client, channel = server.pair()
    client.sendall(b"\0\0\0\0")
    for _ in range(50):
        fill(client, bytes(65536))
        turns(timed, 5)
    assert channel.state.name == "Closing"
    clock.advance(channel.limits.drain_timeout + 1)
    turns(timed, 2)
    assert len(channel.of("close")) == 1
    assert traced() < 2 << 20


# A fast peer starves the others


@pytest.mark.parametrize("kind", [Echo, EchoMessages])
def test_flooder_does_not_starve_a_thousand_echoers(
    loop: reactor.Reactor, serve: Serve, many_descriptors: None, kind: type[reactor.Channel]
) -> None:
    handled = [0]

    class Sink(kind):  # type: ignore[misc, valid-type]
        def handle_data(self, data: bytes) -> None:
            handled[0] += 1

        def handle_message(self, message: bytes) -> None:
            handled[0] += 1

    sink = serve(loop, Sink)
    flooder, _ = sink.pair()
    server = serve(loop, kind)
    clients = server.crowd(1000)
    ping = encode_frame(b"ping")
    flood = encode_frame(b"") * 16384
    for _ in range(3):
        fill(flooder, flood)
        for client in clients:
            client.sendall(ping)
        before = handled[0]
        turns(loop, 1)
        assert all(client.recv(100) == ping for client in clients), "somebody waits for more than one turn"
        assert 0 < handled[0] - before <= 2 * FRAMES_PER_TURN


def test_flood_of_connections_does_not_starve_those_that_are_there(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Echo)
    client, _ = server.pair()
    for _ in range(300):
        server.client()
    before = len(server.channels)
    client.sendall(b"ping")
    turns(loop, 1)
    assert client.recv(10) == b"ping"
    assert 0 < len(server.channels) - before <= ACCEPTS_PER_TURN


def test_timer_that_sets_itself_for_now_starves_neither_channels_nor_timers(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve
) -> None:
    runs: Counter[str] = Counter()

    def again(deadline: float) -> None:
        runs["again"] += 1
        if runs["again"] > 10_000:
            pytest.exit("a timer holds the loop for ever", 1)
        timed.call_at(deadline, again, deadline)

    server = serve(timed, Echo)
    client, _ = server.pair()
    timed.call_at(clock.now - 10, again, clock.now - 10)
    timed.call_at(clock.now, runs.update, ["other"])
    client.sendall(b"ping")
    turns(timed, 3)
    assert client.recv(10) == b"ping"
    assert runs["other"] == 1
    assert runs["again"] <= 3


# Recursion through callbacks


def test_hundred_thousand_immediate_calls_keep_the_stack_flat(loop: reactor.Reactor) -> None:
    depths: Counter[int] = Counter()
    left = [100_000]

    def chain() -> None:
        if left[0] % 100 == 0:
            depths[stack_depth()] += 1
        left[0] -= 1
        if left[0]:
            loop.call_soon(chain)

    loop.call_soon(chain)
    loop.loop()
    assert left == [0]
    assert len(depths) == 1


def test_ten_thousand_immediate_timers_keep_the_stack_flat(loop: reactor.Reactor) -> None:
    depths: set[int] = set()
    left = [10_000]

    def chain() -> None:
        depths.add(stack_depth())
        left[0] -= 1
        if left[0]:
            loop.call_later(0, chain)

    loop.call_later(0, chain)
    loop.loop()
    assert left == [0]
    assert len(depths) == 1


def test_pushing_whenever_the_queue_is_drained_keeps_the_stack_flat(loop: reactor.Reactor, serve: Serve) -> None:
    depths: set[int] = set()

    class Endless(RecordingStream):
        left = 5000

        def handle_drained(self) -> None:
            depths.add(stack_depth())
            self.left -= 1
            self.push(b"x") if self.left else self.close_when_done()

    server = serve(loop, Endless)
    client, channel = server.pair()
    channel.push(b"x")
    assert receive(loop, client) == b"x" * 5000
    assert len(depths) == 1


def test_pausing_and_resuming_in_every_message_keeps_the_stack_flat(loop: reactor.Reactor, serve: Serve) -> None:
    depths: set[int] = set()

    class Hesitant(reactor.Connection):
        codec = "bytes"
        messages: list[bytes] = []

        def handle_message(self, message: bytes) -> None:
            depths.add(stack_depth())
            self.messages.append(message)
            self.pause_reading()
            self.resume_reading()

    server = serve(loop, Hesitant)
    client, channel = server.pair()
    expected = [b"%d" % number for number in range(5000)]
    client.sendall(b"".join(map(encode_frame, expected)))
    run_until(loop, lambda: len(channel.messages) == 5000)
    assert channel.messages == expected
    # From the loop's two entrances at the most: an event, and input that was held.
    assert len(depths) == 1


def test_closing_chain_of_channels_keeps_the_stack_flat(loop: reactor.Reactor, serve: Serve) -> None:
    depths: list[int] = []

    class Domino(RecordingStream):
        def handle_close(self, reason: Exception) -> None:
            super().handle_close(reason)
            depths.append(stack_depth())
            if len(depths) < len(server.channels):
                server.channels[len(depths)].close()

    server = serve(loop, Domino)
    for _ in range(200):
        server.client()
    run_until(loop, lambda: len(server.channels) == 200)
    loop.call_soon(server.channels[0].close)
    run_until(loop, lambda: len(depths) == 200)
    assert len(set(depths)) == 1


# A handler's exception ends the process


def raising(kind: type, hooks: tuple[str, ...]) -> type:
    """Return a class like `kind` whose `hooks` raise, and which counts how often `handle_close` was called."""

    def handle_close(self: Any, reason: Exception) -> None:
        self.events.append(("close", reason))
        if "handle_close" in hooks:
            raise ValueError("planted in handle_close")

    def fail_in(hook: str) -> Callable[..., None]:
        def fail(self: Any, *args: Any) -> None:
            self.events.append((hook,))
            raise ValueError(f"planted in {hook}")

        return fail

    methods = {hook: fail_in(hook) for hook in hooks if hook != "handle_close"}
    return type("Victim", (kind,), {**methods, "handle_close": handle_close})


STREAM_HOOKS = [
    ("handle_open",),
    ("handle_data",),
    ("handle_eof",),
    ("handle_drained",),
    ("handle_close",),
    ("handle_data", "handle_error"),
    ("handle_data", "handle_error", "handle_close"),
    ("handle_open", "handle_data", "handle_eof", "handle_drained", "handle_error", "handle_close"),
]


@pytest.mark.parametrize("hooks", STREAM_HOOKS, ids=" ".join)
def test_exception_in_a_hook_of_a_stream_ends_that_stream_alone(
    loop: reactor.Reactor, serve: Serve, hooks: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, Echo)
    good, _ = server.pair()
    victims = serve(loop, raising(Echo, hooks))
    client, victim = victims.pair()
    with contextlib.suppress(OSError):  # handle_open closes it before it hears anything
        client.sendall(b"ping")
        client.shutdown(socket.SHUT_WR)
        receive(loop, client)
    run_until(loop, lambda: victim.of("close"))
    turns(loop, 3)
    assert len(victim.of("close")) == 1
    assert victim.state.name == "Closed"
    assert victim.socket is None
    assert victims.listener.connections == 0
    assert server.echoes(good)
    assert any("planted" in record.getMessage() for record in caplog.records)


CONNECTION_HOOKS = [
    ("handle_open",),
    ("handle_message",),
    ("handle_frame",),
    ("handle_eof",),
    ("handle_drained",),
    ("handle_close",),
    ("handle_message", "handle_error"),
    ("handle_frame", "handle_error", "handle_close"),
]


@pytest.mark.parametrize("hooks", CONNECTION_HOOKS, ids=" ".join)
def test_exception_in_a_hook_of_a_connection_ends_that_connection_alone(
    loop: reactor.Reactor, serve: Serve, hooks: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, Echo)
    good, _ = server.pair()
    victims = serve(loop, raising(EchoMessages, hooks))
    client, victim = victims.pair()
    with contextlib.suppress(OSError):  # handle_open closes it before it hears anything
        client.sendall(encode_frame(b"ping"))
        client.shutdown(socket.SHUT_WR)
        receive(loop, client)
    run_until(loop, lambda: victim.of("close"))
    turns(loop, 3)
    assert len(victim.of("close")) == 1
    assert victim.state.name == "Closed"
    assert victims.listener.connections == 0
    assert server.echoes(good)
    assert any("planted" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    "garbage", [b"\x7f\xff\xff\xff", encode_frame(b"no pickle"), b"GET / HTTP/1.1\r\n\r\n"], ids=repr
)
@pytest.mark.parametrize("authkey", [None, KEY], ids=["open", "authenticating"])
def test_handle_error_that_raises_about_a_peer_does_not_save_it(
    loop: reactor.Reactor, serve: Serve, garbage: bytes, authkey: bytes | None
) -> None:
    server = serve(loop, raising(RecordingConnection, ("handle_error",)), authkey=authkey)
    client, victim = server.pair()
    client.sendall(garbage)
    receive(loop, client)
    client.close()
    run_until(loop, lambda: victim.of("close"))
    turns(loop, 2)
    assert len(victim.of("close")) == 1
    assert server.listener.connections == 0


@pytest.mark.parametrize("hook", ["factory", "handle_accepted", "handle_accepted handle_error"])
def test_exception_in_a_hook_of_a_listener_refuses_that_connection_alone(
    loop: reactor.Reactor, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    planted = [False]
    accepted = Accepting(Echo)

    def factory() -> reactor.Channel:
        if hook == "factory" and planted[0]:
            raise ValueError("planted")
        return accepted()

    class Failing(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            if "handle_accepted" in hook and planted[0]:
                raise ValueError("planted")

        def handle_error(self, error: Exception) -> None:
            super().handle_error(error)
            if "handle_error" in hook:
                raise ValueError("planted once more")

    with Failing(None, factory, reactor=loop) as listener:
        clients = [socket.socket(socket.AF_UNIX) for _ in range(3)]
        for number, client in enumerate(clients):
            planted[0] = number == 1
            if listener.state.name == "Listening":
                client.connect(listener.address)
                client.setblocking(False)
                turns(loop, 3)
        if hook == "handle_accepted handle_error":
            # Its last word raised: now it is closed like any other channel, and says so.
            assert listener.state.name == "Closed"
            assert len(caplog.records) >= 2
        else:
            assert listener.state.name == "Listening"
            assert receive(loop, clients[1]) == b""
            assert listener.connections == 2
            for client in (clients[0], clients[2]):
                client.sendall(b"ping")
                assert receive(loop, client, 4) == b"ping"
        for client in clients:
            client.close()
        run_until(loop, lambda: listener.connections == 0)
        assert all(len(channel.of("close")) == 1 for channel in accepted.channels)
    turns(loop, 2)
    assert loop.is_idle()


def test_connection_whose_codec_is_unknown_is_refused_alone(loop: reactor.Reactor) -> None:
    made: list[reactor.Channel] = []

    class Confused(RecordingConnection):
        codec = "no such codec"

    def factory() -> reactor.Channel:
        made.append(Confused() if len(made) == 0 else EchoMessages())
        return made[-1]

    with reactor.Listener(None, factory, reactor=loop) as listener:
        for wanted in (b"", encode_frame(b"ping")):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(listener.address)
                client.setblocking(False)
                client.sendall(encode_frame(b"ping"))
                assert receive(loop, client, len(wanted) or None) == wanted
        run_until(loop, lambda: listener.connections == 0)
    turns(loop, 2)
    assert loop.is_idle()


@pytest.mark.parametrize("kind", ["call_soon", "call_later", "call_threadsafe", "on_result", "on_error"])
def test_exception_in_a_callback_is_logged_and_the_loop_goes_on(
    loop: reactor.Reactor, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    after: list[int] = []

    def fail(*args: object) -> None:
        raise ValueError("planted")

    if kind == "on_result":
        loop.run_in_thread(int, on_result=fail)
    elif kind == "on_error":
        loop.run_in_thread(fail, on_error=fail)
    else:
        getattr(loop, kind)(*([0] if kind == "call_later" else []), fail)
    loop.call_later(0.01, after.append, 1)
    loop.loop(timeout=10)
    assert after == [1]
    (record,) = caplog.records
    assert record.exc_info is not None


def test_exception_in_handle_reconnecting_does_not_stop_the_loop(
    loop: reactor.Reactor, socket_path: str, serve: Serve
) -> None:
    class Stubborn(RecordingStream):
        def handle_reconnecting(self, channel: reactor.Channel, delay: float) -> None:
            successors.append(channel)
            raise ValueError("planted")

    successors: list[Any] = []
    server = serve(loop, Echo)
    good, _ = server.pair()
    channel = Stubborn.connect(socket_path, reactor=loop, reconnect=reactor.Backoff(first=0.001, maximum=0.001))
    run_until(loop, lambda: len(successors) >= 3)
    assert len(channel.of("close")) == 1
    assert server.echoes(good)
    for successor in successors:
        successor.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("kind", [Echo, EchoMessages])
def test_interrupt_in_a_hook_passes_through_and_loses_nothing(
    loop: reactor.Reactor, serve: Serve, error: type[BaseException], kind: type[reactor.Channel]
) -> None:
    planted = [True]

    class Interrupted(kind):  # type: ignore[misc, valid-type]
        def push(self, data: Any) -> None:
            super().push(data)
            self.interrupt()

        def send(self, message: Any) -> None:
            super().send(message)
            self.interrupt()

        def interrupt(self) -> None:
            if planted and len(self.events) > 1:
                planted.clear()
                raise error

    server = serve(loop, Interrupted)
    pairs = [server.pair() for _ in range(5)]
    request = encode_frame(b"ping") * 600
    for client, _ in pairs:
        client.sendall(request)
    with pytest.raises(error):
        turns(loop, 10)
    for client, _ in pairs:
        assert receive(loop, client, len(request), timeout=2) == request


def test_interrupt_while_deadlines_expire_together_leaves_nobody_behind(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve
) -> None:
    planted = [True]

    class Interrupted(RecordingStream):
        def handle_error(self, error: Exception) -> None:
            super().handle_error(error)
            if planted:
                planted.clear()
                raise KeyboardInterrupt

    server = serve(timed, Interrupted, limits=reactor.Limits(idle_timeout=100))
    server.crowd(5)
    clock.advance(101)
    with pytest.raises(KeyboardInterrupt):
        turns(timed, 2)
    turns(timed, 2)
    assert [len(channel.of("close")) for channel in server.channels[1:]] == [1, 1, 1, 1]


def test_failing_producer_ends_that_channel_alone(loop: reactor.Reactor, serve: Serve) -> None:
    def broken() -> Iterator[Any]:
        yield b"some"
        raise ValueError("planted")

    server = serve(loop, Echo)
    good, _ = server.pair()
    for source in (broken(), iter([b"some", 5]), io.StringIO("some")):
        client, victim = server.pair()
        victim.push(source)
        receive(loop, client)
        run_until(loop, lambda victim=victim: victim.of("close"))
        assert isinstance(victim.of("close")[0], reactor.ProducerError)
    assert server.echoes(good)


# Cycles and tracebacks hold sockets


class Scene:
    """Situations after which a channel must be gone, without the cyclic garbage collector."""

    def __init__(self, loop: reactor.Reactor, serve: Serve) -> None:
        self.loop = loop
        self.serve = serve
        self.references: list[weakref.ref[reactor.Channel]] = []

    def remembered(self, kind: type[reactor.Channel]) -> Callable[[], reactor.Channel]:
        def make() -> reactor.Channel:
            channel = kind()
            self.references.append(weakref.ref(channel))
            return channel

        return make

    def server(self, kind: type[reactor.Channel] = reactor.Stream, **options: Any) -> Server:
        return self.serve(self.loop, kind, factory=self.remembered(kind), **options)

    def exchange(self, server: Server, data: bytes) -> None:
        client = server.client()
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        receive(self.loop, client)
        client.close()

    def closed_by_the_peer(self) -> None:
        self.exchange(self.server(), b"ping")

    def closed_here(self) -> None:
        class Brief(reactor.Stream):
            def handle_open(self) -> None:
                self.push(b"goodbye")
                self.close()

        self.exchange(self.server(Brief), b"")

    def garbage(self) -> None:
        self.exchange(self.server(reactor.Connection, authkey=KEY), b"GET / HTTP/1.1\r\n\r\n")

    def silence_then_end(self) -> None:
        self.exchange(self.server(reactor.Connection, authkey=KEY), b"")

    def wrong_key(self) -> None:
        server = self.server(reactor.Connection, authkey=KEY)
        client = reactor.connect(
            server.listener.address, self.remembered(reactor.Connection), authkey=KEY + b"!", reactor=self.loop
        )
        run_until(self.loop, lambda: client.state.name == "Closed" and not server.listener.connections, timeout=2)

    def undecodable(self) -> None:
        self.exchange(self.server(reactor.Connection), encode_frame(b"no pickle"))

    def cut_in_a_frame(self) -> None:
        self.exchange(self.server(reactor.Connection), encode_frame(b"no pickle")[:-1])

    def deadline(self) -> None:
        limits = reactor.Limits(authentication_timeout=0.01)
        server = self.server(reactor.Connection, authkey=KEY, limits=limits)
        receive(self.loop, server.client())

    def refused_by_handle_accepted(self) -> None:
        class Refusing(reactor.Listener):
            def handle_accepted(self, channel: reactor.Channel) -> None:
                channel.close()

        listener = Refusing(None, self.remembered(reactor.Stream), reactor=self.loop)
        with listener, socket.socket(socket.AF_UNIX) as client:
            client.connect(listener.address)
            client.setblocking(False)
            receive(self.loop, client)

    def hook_raises(self) -> None:
        class Broken(reactor.Stream):
            def handle_data(self, data: bytes) -> None:
                raise ValueError("planted")

        self.exchange(self.server(Broken), b"ping")

    def handle_error_raises(self) -> None:
        class Broken(reactor.Stream):
            def handle_data(self, data: bytes) -> None:
                raise ValueError("planted")

            def handle_error(self, error: Exception) -> None:
                raise ValueError("planted once more") from error

        self.exchange(self.server(Broken), b"ping")

    def connect_refused(self) -> None:
        channel = reactor.connect(("127.0.0.1", 1), self.remembered(reactor.Stream), reactor=self.loop)
        run_until(self.loop, lambda: channel.state.name == "Closed")

    def connect_timed_out(self) -> None:
        with socket.socket(socket.AF_UNIX) as full, socket.socket(socket.AF_UNIX) as filler:
            full.bind("\0" + os.urandom(8).hex())
            full.listen(0)
            filler.connect(full.getsockname())
            channel = reactor.connect(
                full.getsockname(),
                self.remembered(reactor.Stream),
                limits=reactor.Limits(connect_timeout=0.01),
                reactor=self.loop,
            )
            run_until(self.loop, lambda: channel.state.name == "Closed")

    def with_output_waiting(self) -> None:
        class Generous(reactor.Stream):
            def handle_open(self) -> None:
                self.push(bytes(1 << 20))
                self.push(iter([b"more"]))

        server = self.server(Generous)
        client = server.client()
        run_until(self.loop, lambda: server.listener.connections == 1)
        turns(self.loop, 3)
        client.close()
        run_until(self.loop, lambda: server.listener.connections == 0)


SCENES = [name for name in vars(Scene) if not name.startswith("_") and name not in ("remembered", "server", "exchange")]


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    # A test's runner keeps what is logged, with the traceback; that is not what is asked here.
    logging.disable()
    yield
    logging.disable(logging.NOTSET)
    gc.enable()


@pytest.mark.parametrize("scene", SCENES)
def test_channel_and_its_descriptor_die_without_the_collector(
    loop: reactor.Reactor, serve: Serve, no_collector: None, scene: str
) -> None:
    stage = Scene(loop, serve)
    getattr(stage, scene)()
    run_until(loop, lambda: all(channel.state.name == "Listening" for channel in loop.channels))
    turns(loop, 3)
    assert stage.references, "the situation made no channel"
    assert [reference() for reference in stage.references if reference() is not None] == []


def test_channel_that_was_ready_for_nothing_once_dies_all_the_same(serve: Serve, no_collector: None) -> None:
    spurious = [1]

    class Spurious(AcceptingSocket):
        def recv(self, *args: Any) -> bytes:
            if spurious[0]:
                spurious[0] -= 1
                raise BlockingIOError(errno.EAGAIN, "nothing after all")
            return super().recv(*args)

    with reactor.Reactor(socket_factory=Spurious) as loop:
        stage = Scene(loop, serve)
        stage.closed_by_the_peer()
        turns(loop, 5)
        assert spurious == [0]
        assert [reference() for reference in stage.references if reference() is not None] == []


def test_reactor_dies_without_the_collector(no_collector: None) -> None:
    loop = reactor.Reactor()
    loop.call_soon(time.monotonic)
    loop.loop()
    loop.close()
    reference = weakref.ref(loop)
    del loop
    assert reference() is None


# A half-close spins, or loses the reply


class HalfClosingClient:
    """A client that sends so many bytes of its part of a conversation, and then its end of stream."""

    def __init__(self, client: socket.socket, count: int, messages: bytes, authkey: bytes | None) -> None:
        self.left = count
        self.received = b""
        self.ended = False
        self._client = client
        self._messages = messages
        self._handshake = None if authkey is None else Handshake("client", authkey, os.urandom)
        self._to_send = messages
        if self._handshake is not None:
            self._to_send = self._handshake.start()

    def step(self) -> None:
        if self._to_send and self.left > 0:
            piece, self._to_send = self._to_send[: self.left], self._to_send[self.left :]
            self._client.sendall(piece)
            self.left -= len(piece)
        if not self.left:
            self._client.shutdown(socket.SHUT_WR)
            self.left = -1
        try:
            data = self._client.recv(65536)
        except BlockingIOError:
            return
        self.ended = not data
        if data and self._handshake is not None:
            self._to_send += self._handshake.receive(data)
            if self._handshake.done:
                data = self._handshake.trailing
                self._to_send += self._messages
                self._handshake = None
            else:
                data = b""
        self.received += data


@pytest.mark.parametrize("authkey", [None, KEY], ids=["open", "authenticating"])
def test_half_close_at_every_byte_neither_spins_nor_loses_the_reply(serve: Serve, authkey: bytes | None) -> None:
    messages = [b"one", b"", b"three"]
    wire = b"".join(map(encode_frame, messages))
    ends = [len(b"".join(map(encode_frame, messages[:count]))) for count in range(len(messages) + 1)]
    handshake = 0 if authkey is None else 4 + 8 + 32 + 4 + len(WELCOME) + 4 + len(CHALLENGE) + 8 + 40
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        server = serve(loop, EchoMessages, authkey=authkey)
        for count in range(handshake + len(wire) + 1):
            sock, channel = server.pair()
            client = HalfClosingClient(sock, count, wire, authkey)
            before = selector.events
            while not client.ended:
                client.step()
                turns(loop, 1)
                assert selector.events - before < 40, f"it spins after {count} bytes"
            whole = sum(end <= count - handshake for end in ends) - 1
            expected = b"".join(map(encode_frame, messages[: max(whole, 0)]))
            assert client.received == expected, f"after {count} bytes"
            sock.close()
            run_until(loop, lambda channel=channel: channel.of("close"))
            (reason,) = channel.of("close")
            if count < handshake:
                assert type(reason) is reactor.AuthenticationError
            elif count - handshake in ends:
                assert type(reason) is reactor.PeerClosed
            else:
                assert type(reason) is reactor.FrameError


def test_half_close_before_a_late_reply_costs_no_event(serve: Serve) -> None:
    class Late(RecordingStream):
        def handle_eof(self) -> None:
            self.events.append(("eof",))

    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        server = serve(loop, Late, address=("127.0.0.1", 0))
        client, channel = server.pair()
        client.sendall(b"ping")
        client.shutdown(socket.SHUT_WR)
        run_until(loop, lambda: ("eof",) in channel.events)
        before = selector.events
        turns(loop, 100)
        assert selector.events == before
        reply = bytes(4 << 20)
        channel.push(reply)
        channel.close_when_done()
        assert receive(loop, client) == reply
        run_until(loop, lambda: channel.of("close"))


@pytest.mark.parametrize("pieces", [1, 100])
def test_half_close_loses_nothing_of_a_large_reply(loop: reactor.Reactor, serve: Serve, pieces: int) -> None:
    class Generous(RecordingStream):
        def handle_data(self, data: bytes) -> None:
            for _ in range(pieces):
                self.push(bytes((4 << 20) // pieces))

    server = serve(loop, Generous, address=("127.0.0.1", 0))
    client, channel = server.pair()
    client.sendall(b"?")
    client.shutdown(socket.SHUT_WR)
    turns(loop, 10)
    assert len(receive(loop, client)) == (4 << 20) // pieces * pieces
    run_until(loop, lambda: channel.of("close"))
    assert type(channel.of("close")[0]) is reactor.PeerClosed


def test_reset_while_output_waits_ends_a_half_closed_channel(loop: reactor.Reactor, serve: Serve) -> None:
    class Generous(RecordingStream):
        def handle_eof(self) -> None:
            self.push(bytes(16 << 20))

    server = serve(loop, Generous, address=("127.0.0.1", 0))
    client, channel = server.pair()
    client.shutdown(socket.SHUT_WR)
    turns(loop, 5)
    assert channel.state.name == "HalfClosed"
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    client.close()
    run_until(loop, lambda: channel.of("close"))
    assert type(channel.of("close")[0]) is reactor.ConnectionLost


# The wall clock jumps


@pytest.mark.parametrize("years", [-10, 10])
def test_jump_of_the_wall_clock_moves_no_timer_and_no_deadline(
    loop: reactor.Reactor, serve: Serve, monkeypatch: pytest.MonkeyPatch, years: int
) -> None:
    fired: list[str] = []
    server = serve(loop, Echo, limits=reactor.Limits(idle_timeout=1000.0))
    client, channel = server.pair()
    loop.call_later(0.02, fired.append, "soon")
    loop.call_later(1000, fired.append, "late")
    every = loop.call_every(0.01, fired.append, "every")
    real, real_ns = time.time, time.time_ns
    seconds = years * 365 * 86400
    monkeypatch.setattr(time, "time", lambda: real() + seconds)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + seconds * 10**9)
    run_until(loop, lambda: "soon" in fired)
    assert server.echoes(client)
    assert "late" not in fired
    assert fired.count("every") < 1000
    assert channel.of("close") == []
    every.cancel()


# Timers out of order, and timers that overflow


def test_timers_run_in_the_order_of_a_sorted_list(clock: FakeClock, timed: reactor.Reactor) -> None:
    ran: list[tuple[float, int]] = []
    expected = []
    for sequence in range(1000):
        deadline = clock.now + (sequence * 7919) % 101
        expected.append((deadline, sequence))
        timed.call_at(deadline, ran.append, (deadline, sequence))
    for _ in range(101):
        turns(timed, 1)
        assert ran == sorted(entry for entry in expected if entry[0] <= clock.now)
        clock.advance(1)


@pytest.mark.parametrize("delay", [2.0**31, 2.0**63, 1e300], ids=str)
def test_timer_in_the_far_future_neither_overflows_nor_spins(any_loop: reactor.Reactor, delay: float) -> None:
    fired: list[str] = []
    late = any_loop.call_later(delay, fired.append, "late")
    any_loop.call_later(0.01, fired.append, "soon")
    before = any_loop.turns
    any_loop.loop(timeout=0.05)
    assert fired == ["soon"]
    assert any_loop.turns - before <= 10
    assert any_loop.next_timeout() is not None
    late.cancel()


# EINTR and SIGPIPE


def test_interval_timer_of_a_thousand_hertz_disturbs_nothing() -> None:
    seen = in_child("interval_timer")
    assert seen["wrong"] == []
    assert seen["ticks"] > 50


@pytest.mark.parametrize("error", [BlockingIOError, InterruptedError])
def test_interrupted_calls_are_made_again(serve: Serve, error: type[OSError]) -> None:
    calls: Counter[str] = Counter()

    def every_second(name: str) -> Callable[..., Any]:
        def call(self: socket.socket, *args: Any) -> Any:
            calls[name] += 1
            if calls[name] % 2:
                raise error
            return getattr(AcceptingSocket, name)(self, *args)

        return call

    names = ("accept", "recv", "send", "sendmsg")
    faulty = type("Interrupted", (AcceptingSocket,), {name: every_second(name) for name in names})
    with reactor.Reactor(socket_factory=faulty) as loop:
        server = serve(loop, EchoMessages, authkey=KEY)
        client = EchoMessages.connect(server.listener.address, authkey=KEY, reactor=loop)
        client.handle_message = client.of  # type: ignore[method-assign] # so that it does not echo what it gets
        seen: list[bytes] = []
        client.handle_message = seen.append  # type: ignore[method-assign]
        for size in (0, 1, 20_000, 300_000):
            client.send(bytes(size))
        run_until(loop, lambda: len(seen) == 4)
        assert list(map(len, seen)) == [0, 1, 20_000, 300_000]
    assert all(calls[name] for name in names)


def test_sending_to_a_peer_that_has_gone_is_an_error_and_no_signal() -> None:
    assert in_child("broken_pipe")["reasons"] == ["ConnectionLost"]


# A fork shares the selector


def test_child_of_a_fork_is_refused_and_the_parent_is_unharmed() -> None:
    seen = in_child("fork_in_handler")
    assert seen["received"] == "FIRST SECOND", "the child spoke on the parent's connection"
    assert seen["status"] == 0, "the use of this number was not refused"


# A wakeup from a thread is lost


def test_hundred_thousand_wakeups_from_eight_threads_are_not_lost(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    each = 12_500
    ran: list[list[int]] = [[] for _ in range(8)]

    def work(thread: int) -> None:
        for number in range(each):
            loop.call_threadsafe(ran[thread].append, number)

    for thread in range(8):
        in_thread(work, thread)
    run_until(loop, lambda: sum(map(len, ran)) == 8 * each, timeout=30)
    assert all(numbers == list(range(each)) for numbers in ran), "out of order"


def test_wakeup_at_each_moment_of_the_draining_is_not_lost() -> None:
    moments = ["before", "after"]
    ran: list[str] = []

    class Racing(SocketPairWaker):
        def drain(self) -> None:
            for moment in moments:
                if moment == "after":
                    super().drain()
                # What another thread would do at this very moment.
                loop.call_threadsafe(ran.append, moment)

    with reactor.Reactor(waker=Racing()) as loop:
        loop.call_threadsafe(ran.append, "first")
        loop.loop(timeout=0, count=1)
        moments.clear()
        loop.loop(timeout=0.05)
        assert sorted(ran) == ["after", "before", "first"]

        def drain(self: Racing) -> None:
            SocketPairWaker.drain(self)

        Racing.drain = drain  # type: ignore[method-assign]
        loop.call_threadsafe(loop.stop)
        began = time.monotonic()
        keep = loop.call_later(60, print)
        loop.loop(timeout=30)
        keep.cancel()
        assert time.monotonic() - began < 20, "the wakeup after a race was lost"


def test_interrupt_while_the_wakeups_are_drained_loses_no_call() -> None:
    planted = [True]
    ran: list[int] = []

    class Interrupted(SocketPairWaker):
        def drain(self) -> None:
            super().drain()
            if planted:
                planted.clear()
                raise KeyboardInterrupt

    with reactor.Reactor(waker=Interrupted()) as loop:
        loop.call_threadsafe(ran.append, 1)
        with pytest.raises(KeyboardInterrupt):
            loop.poll(0)
        loop.call_threadsafe(ran.append, 2)
        turns(loop, 3)
        assert ran == [1, 2]


@pytest.mark.parametrize("pending", [False, True])
def test_call_on_a_closed_reactor_is_refused_each_time(pending: bool) -> None:
    loop = reactor.Reactor()
    if pending:
        loop.call_threadsafe(print)
    loop.close()
    for _ in range(3):
        with pytest.raises(reactor.ClosedReactorError):
            loop.call_threadsafe(print)


# Slow loris


@pytest.fixture
def slow_limits() -> reactor.Limits:
    return reactor.Limits(
        connect_timeout=5, authentication_timeout=10, idle_timeout=100, stall_timeout=20, drain_timeout=30
    )


def test_byte_a_second_does_not_stretch_the_handshake(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, slow_limits: reactor.Limits
) -> None:
    server = serve(timed, RecordingConnection, authkey=KEY, limits=slow_limits)
    clients = [server.client() for _ in range(200)]
    run_until(timed, lambda: len(server.channels) == 200)
    response = encode_frame(b"{sha256}" + bytes(32))
    for second in range(9):
        for client in clients:
            client.send(response[second : second + 1])
        clock.advance(1)
        turns(timed, 2)
    assert server.listener.connections == 200
    clock.advance(1.5)
    turns(timed, 2)
    assert server.listener.connections == 0
    for channel in server.channels:
        (reason,) = channel.of("close")
        assert isinstance(reason, reactor.DeadlineError)
        assert reason.limit == "authentication_timeout"


def test_connect_that_nobody_answers_ends_at_its_deadline(clock: FakeClock, slow_limits: reactor.Limits) -> None:
    class Unanswered(socket.socket):
        def connect_ex(self, address: Any) -> int:
            return errno.EINPROGRESS

    class NeverWritable(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            return []

    with reactor.Reactor(NeverWritable(), clock=clock, socket_factory=Unanswered) as loop:
        channel = RecordingStream.connect(("192.0.2.1", 9), limits=slow_limits, reactor=loop)
        turns(loop, 2)
        clock.advance(4.9)
        turns(loop, 2)
        assert channel.of("close") == []
        clock.advance(0.2)
        turns(loop, 2)
        (reason,) = channel.of("close")
        assert isinstance(reason, reactor.DeadlineError)
        assert reason.limit == "connect_timeout"


def test_silent_open_peer_ends_at_the_idle_deadline_and_a_talking_one_does_not(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, slow_limits: reactor.Limits
) -> None:
    server = serve(timed, Echo, limits=slow_limits)
    _, silent = server.pair()
    client, talking = server.pair()
    for _ in range(3):
        clock.advance(40)
        turns(timed, 1)
        assert server.echoes(client)
    (reason,) = silent.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "idle_timeout"
    assert talking.of("close") == []


@pytest.mark.parametrize("state", ["Open", "Paused", "Throttled", "HalfClosed"])
def test_peer_that_takes_nothing_ends_at_the_stall_deadline_in_every_state(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, slow_limits: reactor.Limits, state: str
) -> None:
    class Patient(RecordingStream):
        def handle_eof(self) -> None:
            pass

    server = serve(timed, Patient, limits=slow_limits)
    client, channel = server.pair()
    if state == "Paused":
        channel.pause_reading()
    elif state == "HalfClosed":
        client.shutdown(socket.SHUT_WR)
        turns(timed, 3)
    while not channel.output_size:
        channel.push(bytes(10_000))
        turns(timed, 1)
    if state == "Throttled":
        channel.push(bytes(1 << 20))
        turns(timed, 1)
    assert channel.state.name == state
    clock.advance(19)
    turns(timed, 2)
    assert channel.of("close") == []
    clock.advance(2)
    turns(timed, 2)
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "stall_timeout"


@pytest.mark.parametrize("output", [0, 4 << 20])
def test_closing_channel_ends_at_the_drain_deadline(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, slow_limits: reactor.Limits, output: int
) -> None:
    server = serve(timed, RecordingStream, limits=slow_limits)
    client, channel = server.pair()
    channel.push(bytes(output) or b"goodbye")
    channel.close_when_done()
    for _ in range(70):
        clock.advance(1)
        client.send(b"x")
        turns(timed, 2)
        if channel.of("close"):
            break
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.DeadlineError if output else reactor.ClosedHere)


# One silent or keyless peer blocks all


def test_thousand_silent_peers_cost_a_good_one_nothing_and_go_at_the_deadline(
    clock: FakeClock, timed: reactor.Reactor, serve: Serve, many_descriptors: None, in_thread: Callable[..., Any]
) -> None:
    server = serve(timed, EchoMessages, authkey=KEY, limits=reactor.Limits(maximum_unauthenticated=2000))
    server.crowd(1000)
    took: list[float] = []

    def client() -> None:
        began = time.monotonic()
        with Client(server.listener.address, authkey=KEY) as connection:
            took.append(time.monotonic() - began)
            connection.send_bytes(b"ping")
            assert connection.recv_bytes() == b"ping"

    in_thread(client)
    run_until(timed, lambda: took and server.listener.connections == 1000)
    assert took[0] < 2.0
    clock.advance(11)
    turns(timed, 2)
    assert server.listener.connections == 0
    assert sum(len(channel.of("close")) for channel in server.channels) == 1001


def test_burst_of_silent_peers_stays_within_the_cap_and_the_newest_stay(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingConnection, authkey=KEY, limits=reactor.Limits(maximum_unauthenticated=5))
    for _ in range(50):
        server.client()
    run_until(loop, lambda: len(server.channels) == 50)
    turns(loop, 3)
    assert server.listener.connections == 5
    assert [bool(channel.of("close")) for channel in server.channels] == [True] * 45 + [False] * 5
    assert all(len(channel.of("error")) == 1 for channel in server.channels[:45]), "one was told more than once"


def test_burst_at_the_cap_on_connections_evicts_one_silent_peer_for_each(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingConnection, authkey=KEY, limits=reactor.Limits(maximum_connections=5))
    for _ in range(30):
        server.client()
    run_until(loop, lambda: len(server.channels) == 30)
    turns(loop, 3)
    assert server.listener.connections == 5
    assert [bool(channel.of("close")) for channel in server.channels] == [True] * 25 + [False] * 5


def test_keyless_client_of_a_keyed_listener_is_told_why(clock: FakeClock, timed: reactor.Reactor, serve: Serve) -> None:
    server = serve(timed, RecordingConnection, authkey=KEY)
    client = RecordingConnection.connect(
        server.listener.address, reactor=timed, limits=reactor.Limits(idle_timeout=1000)
    )
    run_until(timed, lambda: client.of("close"))
    assert "authkey" in str(client.of("close")[0])
    clock.advance(11)
    turns(timed, 3)
    assert server.listener.connections == 0


def test_client_of_ours_that_is_refused_closes_at_once(
    timed: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(timed, RecordingConnection, authkey=KEY)
    client = RecordingConnection.connect(server.listener.address, authkey=KEY + b"!", reactor=timed)
    turns(timed, 50)
    assert [type(reason) for reason in client.of("close")] == [reactor.AuthenticationError]
    assert [type(reason) for reason in server.channels[0].of("close")] == [reactor.AuthenticationError]
    assert len(caplog.records) == 2


# Decoding differs when it is split across packets


def test_every_split_of_a_conversation_gives_the_same_events(loop: reactor.Reactor, serve: Serve) -> None:
    messages = [b"", b"one", b"x" * 300, b""]
    wire = b"".join(map(encode_frame, messages[:3])) + struct.pack("!iQ", -1, 0)
    server = serve(loop, EchoMessages)
    for split in range(len(wire) + 1):
        client, channel = server.pair()
        for piece in (wire[:split], wire[split:]):
            client.sendall(piece)
            turns(loop, 1)
        client.shutdown(socket.SHUT_WR)
        assert receive(loop, client) == b"".join(map(encode_frame, messages))
        client.close()
        run_until(loop, lambda channel=channel: channel.of("close"))
        assert channel.of("message") == messages
        assert type(channel.of("close")[0]) is reactor.PeerClosed


# Log injection

NASTY = b"\r\n2030-01-01 ERROR \x1b[31mroot logged in\x07\x00\x85\xe2\x80\xa8 %s %d {0}\n" * 20


def nasty_conversations() -> dict[str, tuple[bytes | None, bytes]]:
    return {
        "handshake garbage": (KEY, NASTY),
        "handshake answer": (KEY, encode_frame(NASTY[:200])),
        "handshake prefix": (KEY, encode_frame(b"{sha256}" + NASTY[:100])),
        "frame garbage": (None, b"\x7f" + NASTY),
        "no pickle": (None, encode_frame(NASTY)),
        "missing module": (None, encode_frame(b"c" + b"no\x1b[31mmodule\x07\x85" * 50 + b"\nname\n.")),
        "cut short": (None, encode_frame(NASTY)[:-1]),
    }


@pytest.mark.parametrize("name", list(nasty_conversations()))
def test_control_bytes_of_a_peer_make_one_bounded_line_in_the_log(
    loop: reactor.Reactor, serve: Serve, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    authkey, data = nasty_conversations()[name]
    server = serve(loop, RecordingConnection, authkey=authkey)
    client, channel = server.pair()
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    receive(loop, client)
    run_until(loop, lambda: channel.of("close"))
    (record,) = caplog.records
    line = logging.Formatter("%(levelname)s %(message)s").format(record)
    assert line.isprintable()
    assert len(line) < 700


def test_control_bytes_in_the_name_of_a_peer_stay_on_one_line(
    loop: reactor.Reactor, serve: Serve, socket_path: str, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, RecordingConnection, authkey=KEY)
    path = f"{socket_path}\nERROR root \x1b[31m logged in"
    with socket.socket(socket.AF_UNIX) as client:
        client.bind(path)
        client.connect(server.listener.address)
        client.sendall(b"\0\0\0\0")
        client.setblocking(False)
        receive(loop, client)
    os.unlink(path)
    (record,) = caplog.records
    assert record.getMessage().isprintable()


# A predictable or abstract socket, and pickle from strangers


def test_socket_of_the_system_s_choice_is_private(loop: reactor.Reactor, serve: Serve) -> None:
    old = os.umask(0)
    try:
        server = serve(loop, Echo)
    finally:
        os.umask(old)
    path = Path(server.listener.address)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    server.listener.close()
    turns(loop, 1)
    assert not path.parent.exists()


def test_unpickling_is_refused_where_nothing_says_who_the_peer_is(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.UnsafePickleError, match="authkey"):
        reactor.Listener(("127.0.0.1", 0), reactor.Connection, reactor=loop)
    with pytest.raises(reactor.UnsafePickleError, match="authkey"):
        reactor.Connection.connect(("127.0.0.1", 1), reactor=loop)
    assert loop.is_idle()


def test_nothing_is_unpickled_before_authentication(loop: reactor.Reactor, serve: Serve, tmp_path: Path) -> None:
    mark = tmp_path / "unpickled"
    server = serve(loop, RecordingConnection, authkey=KEY)
    client, channel = server.pair()
    client.sendall(encode_frame(b"cos\nmkdir\n(V" + str(mark).encode() + b"\ntR."))
    receive(loop, client)
    client.close()
    run_until(loop, lambda: channel.of("close"))
    assert not mark.exists()
    assert channel.of("message") == []


# A stale Unix socket file


def test_stale_socket_file_is_taken_over(loop: reactor.Reactor, socket_path: str, serve: Serve) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(socket_path)
        dead.listen()
    server = serve(loop, Echo, address=socket_path)
    assert stat.S_IMODE(os.stat(socket_path).st_mode) == 0o600
    assert server.echoes(server.client())
    server.listener.close()
    turns(loop, 1)
    assert not os.path.exists(socket_path)


@pytest.mark.parametrize("backlog", ["free", "full"])
def test_live_socket_file_is_a_clear_error_and_stays(loop: reactor.Reactor, socket_path: str, backlog: str) -> None:
    with socket.socket(socket.AF_UNIX) as alive, socket.socket(socket.AF_UNIX) as waiting:
        alive.bind(socket_path)
        alive.listen(0)
        if backlog == "full":
            waiting.connect(socket_path)
        with pytest.raises(reactor.AddressInUseError, match="already"):
            reactor.Listener(socket_path, Echo, reactor=loop)
        assert os.path.exists(socket_path)
    os.unlink(socket_path)
    assert loop.is_idle()


@pytest.mark.parametrize("what", ["file", "directory", "symbolic link", "datagram socket"])
def test_another_s_file_is_never_removed(loop: reactor.Reactor, tmp_path: Path, what: str) -> None:
    path = tmp_path / "precious"
    other = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if what == "file":
        path.write_text("precious")
    elif what == "directory":
        path.mkdir()
    elif what == "symbolic link":
        (tmp_path / "target").write_text("precious")
        path.symlink_to(tmp_path / "target")
    else:
        other.bind(str(path))
    with other, pytest.raises(reactor.AddressInUseError):
        reactor.Listener(str(path), Echo, reactor=loop)
    assert path.exists()
    assert loop.is_idle()


def test_file_of_a_successor_is_not_removed_at_close(loop: reactor.Reactor, socket_path: str, serve: Serve) -> None:
    first = serve(loop, Echo, address=socket_path)
    os.unlink(socket_path)
    second = serve(loop, Echo, address=socket_path)
    first.listener.close()
    turns(loop, 1)
    assert second.echoes(second.client())
    second.listener.close()
    turns(loop, 1)
    assert not os.path.exists(socket_path)


def test_file_whose_mode_somebody_changed_is_still_removed_at_close(
    loop: reactor.Reactor, socket_path: str, serve: Serve
) -> None:
    server = serve(loop, Echo, address=socket_path)
    os.chmod(socket_path, 0o660)
    server.listener.close()
    turns(loop, 1)
    left = os.path.exists(socket_path)
    if left:
        os.unlink(socket_path)
    assert not left


# The guards: a descriptor that is ready for nothing, and a handler that holds the loop


def test_channel_ready_for_nothing_is_parked_reported_and_tried_again(
    clock: FakeClock, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    stuck = [True]
    calls = [0]

    class Stuck(AcceptingSocket):
        def recv(self, *args: Any) -> bytes:
            calls[0] += 1
            if stuck[0] and self is server.channels[0].socket:
                raise BlockingIOError(errno.EAGAIN, "nothing after all")
            return super().recv(*args)

    selector = CountingSelector()
    with reactor.Reactor(selector, clock=clock, socket_factory=Stuck) as loop:
        server = serve(loop, Echo)
        client, _ = server.pair()
        good, _ = server.pair()
        client.sendall(b"ping")
        turns(loop, 1000)
        assert 50 <= calls[0] <= 200
        assert selector.events <= 210
        (record,) = caplog.records
        assert "Echo" in record.getMessage()
        assert "Open" in record.getMessage()
        assert "readable" in record.getMessage()
        assert server.echoes(good)
        stuck[0] = False
        clock.advance(2)
        assert receive(loop, client, 4) == b"ping"


def test_channel_parked_and_then_closed_is_closed_once(clock: FakeClock, serve: Serve) -> None:
    class Stuck(AcceptingSocket):
        def recv(self, *args: Any) -> bytes:
            raise BlockingIOError(errno.EAGAIN, "nothing after all")

    with reactor.Reactor(clock=clock, socket_factory=Stuck) as loop:
        server = serve(loop, Echo)
        client, channel = server.pair()
        client.sendall(b"ping")
        turns(loop, 150)
        channel.close()
        turns(loop, 1)
        clock.advance(2)
        turns(loop, 2)
        assert len(channel.of("close")) == 1
        assert channel.socket is None


def test_progress_now_and_then_is_no_spinning(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    calls = [0]

    class Hesitant(AcceptingSocket):
        def recv(self, *args: Any) -> bytes:
            calls[0] += 1
            if calls[0] % 50:
                raise BlockingIOError(errno.EAGAIN, "not yet")
            return super().recv(1)

    with reactor.Reactor(socket_factory=Hesitant) as loop:
        server = serve(loop, Echo)
        client, channel = server.pair()
        client.sendall(b"a longer message")
        turns(loop, 1000)
        assert channel.received == b"a longer message"
        assert caplog.records == []


class Reports(logging.Handler):
    """Sets an event when something is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived = threading.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.arrived.set()


@pytest.fixture
def reports() -> Iterator[Reports]:
    handler = Reports()
    logging.getLogger("reactor").addHandler(handler)
    yield handler
    logging.getLogger("reactor").removeHandler(handler)


@pytest.mark.parametrize("turns_before", [0, 3])
def test_handler_that_holds_the_loop_is_reported_with_its_place(reports: Reports, turns_before: int) -> None:
    def a_handler_that_waits() -> None:
        assert reports.arrived.wait(10), "nobody reported it"

    with reactor.Reactor(slow_handler=0.02) as loop:
        for _ in range(turns_before):
            loop.call_later(0.03, time.monotonic)
            loop.loop()
        loop.call_soon(a_handler_that_waits)
        loop.loop()
    assert len(reports.messages) == 1
    assert "a_handler_that_waits" in reports.messages[0]


def test_loop_that_sleeps_is_not_reported(reports: Reports) -> None:
    with reactor.Reactor(slow_handler=0.01) as loop:
        loop.call_later(0.1, time.monotonic)
        loop.loop()
    assert reports.messages == []


def test_everything_is_given_back_after_a_storm_of_failures(
    loop: reactor.Reactor, serve: Serve, in_thread: Callable[..., Any]
) -> None:
    before = len(open_descriptors())
    server = serve(loop, EchoMessages, authkey=KEY)
    for number in range(100):
        client = server.client()
        if number % 3 == 0:
            client.sendall(os.urandom(number))
        if number % 3 == 1:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        if number % 5 == 0:
            turns(loop, 1)
        client.close()
    run_until(loop, lambda: len(server.channels) == 100 and server.listener.connections == 0)
    assert len(open_descriptors()) == before + 1
    assert all(len(channel.of("close")) == 1 for channel in server.channels)
