"""Loops: of the old kind, in one with the reactor, in threads and after a fork."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

import pytest

import reactor
from reactor.compat import asyncore, watching
from tests.children import KEY
from tests.conftest import open_descriptors, raw_client

from .conftest import run_until
from .dispatchers import Echo, Listening, Pair, Recording, raising, send_to

pytestmark = pytest.mark.usefixtures("pollster")


# Loops


def test_loop_counts_its_passes_and_ends_when_the_map_is_empty(
    pair: Pair, use_poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = []
    name = "poll2" if use_poll else "poll"
    original_pass = getattr(asyncore, name)

    def counting(timeout: float | None, map: Any) -> None:
        passes.append(timeout)
        original_pass(timeout, map)

    monkeypatch.setattr(asyncore, name, counting)
    asyncore.loop(use_poll=use_poll)
    asyncore.loop(use_poll=use_poll, count=5)
    assert passes == []
    channel = Recording(pair()[0])
    asyncore.loop(timeout=0.001, use_poll=use_poll, count=3)
    assert passes == [0.001] * 3
    send_to(channel)
    channel.handle_read = channel.close  # type: ignore[method-assign]
    asyncore.loop(use_poll=use_poll, count=10)
    assert passes == [0.001] * 3 + [30.0]


def test_handler_may_run_the_loop(pair: Pair, use_poll: bool) -> None:
    outer, inner = Recording(pair()[0]), Recording(pair()[0])

    def run_inner() -> None:
        outer.events.append(outer.recv(10))
        send_to(inner)
        asyncore.loop(timeout=1, count=1, use_poll=use_poll)

    outer.handle_read = run_inner  # type: ignore[method-assign]
    send_to(outer)
    asyncore.loop(timeout=1, count=1, use_poll=use_poll)
    assert (outer.events, inner.events) == ([b"x"], [b"x"])
    asyncore.close_all()


def test_what_a_loop_inside_a_handler_has_read_is_not_read_again(pair: Pair, use_poll: bool) -> None:
    """Both have something to read; the first to be told lets a loop of its own serve the other."""
    channels = [Recording(pair()[0]) for _ in range(2)]

    def nested(channel: Recording) -> Callable[[], None]:
        def handle_read() -> None:
            channel.events.append(channel.recv(10))
            asyncore.loop(timeout=0, count=1, use_poll=use_poll)

        return handle_read

    for channel in channels:
        channel.handle_read = nested(channel)  # type: ignore[method-assign]
        send_to(channel)
    asyncore.loop(timeout=0, count=2, use_poll=use_poll)
    assert [channel.events for channel in channels] == [[b"x"], [b"x"]]
    asyncore.close_all()


def test_handler_may_run_the_loop_of_another_map(pair: Pair, use_poll: bool) -> None:
    map: dict[Any, Any] = {}
    outer, bystander, inner = Recording(pair()[0]), Recording(pair()[0]), Recording(pair()[0], map)

    def run_inner() -> None:
        outer.events.append(outer.recv(10))
        for channel in (bystander, inner):
            send_to(channel)
        inner.handle_read = inner.close  # type: ignore[method-assign]
        asyncore.loop(map=map, use_poll=use_poll)
        assert bystander.events == []

    outer.handle_read = run_inner  # type: ignore[method-assign]
    send_to(outer)
    run_until(lambda: bystander.events, use_poll=use_poll)
    assert outer.events == [b"x"]
    asyncore.close_all()


def test_negative_timeout_is_refused_by_poll_as_by_select(pair: Pair) -> None:
    channel = Recording(pair()[0])
    with pytest.raises(ValueError, match="non-negative"):
        asyncore.poll(-1)
    channel.close()
    asyncore.poll(-1)


def test_negative_timeout_is_none_for_poll2_as_for_poll(pair: Pair, in_thread: Callable[..., threading.Thread]) -> None:
    channel = Recording(pair()[0])
    in_thread(send_to, channel)
    asyncore.poll2(-1)
    assert channel.events == [b"x"]
    channel.close()


@pytest.mark.parametrize("timeout", [1e12, None, float("inf")])
def test_timeout_may_be_longer_than_the_kernel_counts(pair: Pair, use_poll: bool, timeout: float | None) -> None:
    channel = Recording(pair()[0])
    send_to(channel)
    asyncore.loop(timeout=timeout, count=1, use_poll=use_poll)
    assert channel.events == [b"x"]
    channel.close()


def test_poll_sleeps_when_nobody_waits_for_anything(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[Any] = []
    monkeypatch.setattr(asyncore, "time", types.SimpleNamespace(sleep=slept.append))
    channel = Recording(pair()[0])
    channel.readable = lambda: False  # type: ignore[method-assign]
    asyncore.loop(timeout=12, count=2)
    assert slept == [12, 12]
    channel.close()
    asyncore.poll(12)
    assert len(slept) == 2


@pytest.mark.parametrize("ending", ["close", "close_all", "loop", "by hand"])
def test_no_descriptor_is_left_when_all_are_closed(pair: Pair, use_poll: bool, ending: str) -> None:
    before = open_descriptors()
    ours, theirs = pair()
    channel = Recording(ours)
    asyncore.loop(timeout=0, count=2, use_poll=use_poll)
    if ending == "close":
        channel.close()
    elif ending == "close_all":
        asyncore.close_all()
    elif ending == "loop":
        theirs.close()
        asyncore.loop(use_poll=use_poll)
    else:
        asyncore.socket_map.clear()
        channel.socket.close()
        asyncore.poll()
    theirs.close()
    assert open_descriptors() == before


# One loop with the reactor


class NewEcho(reactor.Stream):
    def handle_data(self, data: bytes) -> None:
        self.push(data.upper())


def test_old_dispatchers_and_new_channels_timers_and_calls_live_in_one_loop(
    default_reactor: reactor.Reactor, use_poll: bool, in_thread: Callable[..., threading.Thread]
) -> None:
    seen: list[Any] = []
    new = reactor.Listener(("127.0.0.1", 0), NewEcho)
    old = Listening(Echo)
    ticks = reactor.call_every(0.001, lambda: seen.append("tick"))
    reactor.call_later(0.005, seen.append, "timer")

    def talk() -> None:
        for address, expected in ((new.address, b"HELLO"), (old.address, b"hello")):
            with raw_client(address) as client:
                client.sendall(b"hello")
                assert client.recv(5, socket.MSG_WAITALL) == expected
        default_reactor.call_threadsafe(seen.append, "from a thread")

    in_thread(talk)
    run_until(lambda: {"tick", "timer", "from a thread"} <= set(seen), use_poll=use_poll)
    ticks.cancel()
    asyncore.close_all()


def test_message_server_is_served_by_the_old_loop(
    default_reactor: reactor.Reactor, in_thread: Callable[..., threading.Thread]
) -> None:
    from multiprocessing.connection import Client

    class Doubling(reactor.Connection):
        def handle_message(self, message: int) -> None:
            self.send(message * 2)

    listener = reactor.Listener(("127.0.0.1", 0), Doubling, authkey=KEY)
    old = Listening(Echo)

    def talk() -> None:
        with Client(listener.address, authkey=KEY) as client:
            for number in range(100):
                client.send(number)
                assert client.recv() == number * 2
        default_reactor.call_threadsafe(old.close)

    in_thread(talk)
    asyncore.loop()


def test_call_from_a_thread_wakes_the_old_loop(
    default_reactor: reactor.Reactor, pair: Pair, use_poll: bool, in_thread: Callable[..., threading.Thread]
) -> None:
    """Even where nobody waits for anything, and `poll` used to sleep."""
    channel = Recording(pair()[0])
    for wants in (True, False):
        channel.readable = lambda wants=wants: wants  # type: ignore[method-assign, misc]
        called: list[int] = []
        in_thread(default_reactor.call_threadsafe, called.append, 1)
        asyncore.loop(timeout=None, count=1, use_poll=use_poll)
        assert called == [1]
    channel.close()


def test_old_loop_ends_with_its_map_though_the_reactor_has_more_to_do(default_reactor: reactor.Reactor) -> None:
    called: list[str] = []
    reactor.call_later(3600, called.append, "late")
    listener = reactor.Listener(("127.0.0.1", 0), NewEcho)
    asyncore.loop()
    old = Listening(Echo)
    reactor.call_soon(old.close)
    asyncore.loop()
    assert called == []
    assert list(default_reactor.channels) == [listener]


def test_what_an_old_handler_queues_on_a_new_channel_leaves_at_the_end_of_the_pass(
    default_reactor: reactor.Reactor, pair: Pair, use_poll: bool
) -> None:
    accepted: list[reactor.Stream] = []

    class Keeping(reactor.Stream):
        def handle_open(self) -> None:
            accepted.append(self)

    listener = reactor.Listener(("127.0.0.1", 0), Keeping)
    old = Recording(pair()[0])
    with raw_client(listener.address) as client:
        run_until(lambda: accepted, use_poll=use_poll)

        def farewell() -> None:
            accepted[0].push(b"farewell")
            old.close()

        old.handle_read = farewell  # type: ignore[method-assign]
        send_to(old)
        asyncore.loop(use_poll=use_poll)
        assert client.recv(100) == b"farewell"


def test_handler_of_a_new_channel_may_run_the_old_loop(
    default_reactor: reactor.Reactor, pair: Pair, use_poll: bool
) -> None:
    old = Recording(pair()[0])
    run: list[int] = []
    inside: list[Any] = []

    def run_old() -> None:
        send_to(old)
        asyncore.loop(timeout=30, count=1, use_poll=use_poll)
        inside.append((list(run), list(old.events)))

    reactor.call_soon(run_old)
    reactor.call_soon(default_reactor.call_threadsafe, run.append, 1)  # its own events wait until that has ended
    reactor.loop()
    assert inside == [([], [b"x"])]
    assert run == [1]
    old.close()


def test_new_hook_that_fails_does_not_end_the_old_loop(
    default_reactor: reactor.Reactor, pair: Pair, caplog: pytest.LogCaptureFixture
) -> None:
    old = Recording(pair()[0])
    reactor.call_soon(raising(ValueError("mine")))
    reactor.call_soon(old.close)
    asyncore.loop()
    assert "failed" in caplog.text


def test_reactor_made_or_closed_in_a_handler_is_used_or_left_alone(pair: Pair, use_poll: bool) -> None:
    old = Recording(pair()[0])
    made: list[reactor.Reactor] = []

    def make() -> None:
        old.events.append(old.recv(10))
        if made:
            made[0].close()
        else:
            made.append(reactor.get_reactor())
            made[0].call_later(0.001, send_to, old)

    old.handle_read = make  # type: ignore[method-assign]
    send_to(old)
    reactor.get_reactor().close()
    run_until(lambda: len(old.events) == 2, use_poll=use_poll)
    assert made[0].is_closed
    asyncore.loop(timeout=0, count=2, use_poll=use_poll)
    old.close()


def test_reactor_that_is_closed_in_the_middle_of_a_pass_gets_no_turn(
    default_reactor: reactor.Reactor, pair: Pair, use_poll: bool
) -> None:
    old = Recording(pair()[0])

    def close_both() -> None:
        default_reactor.close()
        old.close()

    old.handle_read = close_both  # type: ignore[method-assign]
    send_to(old)
    default_reactor.call_threadsafe(pytest.fail)
    asyncore.loop(use_poll=use_poll)
    assert default_reactor.is_closed


def test_pass_over_an_empty_map_still_serves_the_reactor(
    default_reactor: reactor.Reactor, use_poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[int] = []
    reactor.call_soon(called.append, 1)
    one_pass = asyncore.poll2 if use_poll else asyncore.poll
    one_pass(30)
    assert called == [1]
    waited: list[float] = []

    class Impatient(watching.Poll):
        def poll(self, timeout: float, maxevents: int) -> list[tuple[int, int]]:
            waited.append(timeout)
            return []

    monkeypatch.setattr(watching, "make_pollster", Impatient)
    one_pass(30)
    assert waited == [0]  # nobody is there to be waited for


def test_reactor_runs_beside_a_select_that_was_replaced(
    default_reactor: reactor.Reactor, pair: Pair, monkeypatch: pytest.MonkeyPatch, use_poll: bool
) -> None:
    real, real_poll = select.select, select.poll
    monkeypatch.setattr(select, "select", lambda *args: real(*args))
    monkeypatch.setattr(select, "poll", lambda: real_poll())
    old = Recording(pair()[0])
    reactor.call_later(0.001, send_to, old)
    run_until(lambda: old.events, use_poll=use_poll)
    default_reactor.call_threadsafe(old.close)
    asyncore.loop(use_poll=use_poll)


# Threads and forks


def test_each_thread_runs_its_own_loop(use_poll: bool, in_thread: Callable[..., threading.Thread]) -> None:
    servers = []
    for _ in range(3):
        map: dict[Any, Any] = {}
        server = Listening(lambda sock, map=map: Echo(sock, map), map)  # type: ignore[misc]
        servers.append((server, in_thread(asyncore.loop, 0.02, use_poll, map)))
    for server, _ in servers:
        with raw_client(server.address) as client:
            client.sendall(b"hello")
            assert client.recv(5, socket.MSG_WAITALL) == b"hello"
    for server, thread in servers:
        asyncore.close_all(server._map)  # from this thread, as test suites do it
        thread.join(10)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_child_of_a_fork_has_its_own_loop_and_leaves_the_parents_alone(pair: Pair, use_poll: bool) -> None:
    parent, other = Recording(pair()[0]), Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            parent.close()  # the child's copy; in a shared epoll, this would take it out for both
            send_to(other)
            asyncore.loop(timeout=1, count=1, use_poll=use_poll)
            status = 0 if other.events == [b"x"] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    send_to(parent)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert parent.events == [b"x"]
    asyncore.close_all()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_reactor_of_the_parent_is_left_alone_in_the_child_of_a_fork(
    default_reactor: reactor.Reactor, pair: Pair
) -> None:
    old = Recording(pair()[0])
    asyncore.loop(timeout=0, count=1)
    pid = os.fork()
    if pid == 0:
        status = 9
        try:
            send_to(old)
            asyncore.loop(timeout=1, count=1)
            status = 0 if old.events == [b"x"] else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    old.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_handler_may_fork_and_both_go_on(default_reactor: reactor.Reactor, pair: Pair, use_poll: bool) -> None:
    old = Recording(pair()[0])
    pids: list[int] = []
    called: list[int] = []

    def fork() -> None:
        old.events.append(old.recv(10))
        default_reactor.call_soon(called.append, 1)
        pids.append(os.fork())

    old.handle_read = fork  # type: ignore[method-assign]
    send_to(old)
    try:
        asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    finally:
        if pids == [0]:
            os._exit(0 if sys.exc_info()[0] is None and not called else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
    assert called == [1]  # the reactor is the parent's, and has its turn there
    old.close()


def test_close_in_another_thread_leaves_the_loop_what_it_waits_with(
    pair: Pair, in_thread: Callable[..., threading.Thread]
) -> None:
    channel = Recording(pair()[0])
    asyncore.loop(timeout=0, count=1)
    watcher = watching.get_watcher()
    before = watcher._pollster
    in_thread(channel.close).join(10)
    assert watcher._pollster is before
    asyncore.poll()  # over an empty map: it gives it back


def test_number_that_has_come_back_as_that_of_the_epoll_is_invalid() -> None:
    watcher = watching.Watcher()
    reading, writing = os.pipe()
    try:
        watcher.wait({reading: watching.READ}, 0)
        if not isinstance(watcher._pollster, select.epoll):
            pytest.skip("without epoll there is no such descriptor")
        number = watcher._pollster.fileno()
        assert watcher.wait({reading: watching.READ, number: watching.READ}, 0) == {number: watching.INVALID}
    finally:
        watcher.close()
        os.close(reading)
        os.close(writing)


def test_passes_of_one_thread_and_closes_of_another_do_not_disturb_each_other(
    pair: Pair, use_poll: bool, in_thread: Callable[..., threading.Thread]
) -> None:
    failed: list[Recording] = []

    class Quick(Recording):
        def handle_error(self) -> None:
            failed.append(self)

    stop = threading.Event()

    def churn() -> None:
        for _ in range(300):
            ours, theirs = socket.socketpair()
            channel = Quick(ours)
            theirs.send(b"x")
            time.sleep(0)
            channel.close()
            theirs.close()
        stop.set()

    keeper = Recording(pair()[0])
    in_thread(churn)
    run_until(stop.is_set, use_poll=use_poll)
    # What was closed between the wait and the call may fail, as ever; the loop and the others go on.
    send_to(keeper)
    run_until(lambda: keeper.events, use_poll=use_poll)
    keeper.close()
