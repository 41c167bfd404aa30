"""Tests for rows of the table of known failures, where the test named after the row lets a planted defect pass."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import stat
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest

import reactor
from reactor.framing import encode_frame
from reactor.wakeup import SocketPairWaker
from tests.conftest import RecordingConnection, RecordingStream, run_until
from tests.faults import Server, many_descriptors, receive, serve, turns

__all__ = ["many_descriptors", "serve"]

Serve = Callable[..., Server]


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        self.push(data)


# Descriptors above 1023


def test_reactor_serves_two_thousand_descriptors_by_default(
    loop: reactor.Reactor, serve: Serve, many_descriptors: None
) -> None:
    server = serve(loop, Echo)
    clients = server.crowd(1000)
    assert [channel.of("close") for channel in server.channels] == [[]] * 1000
    assert max(channel.socket.fileno() for channel in server.channels) > 1023
    for client in clients:
        client.sendall(b"ping")
    turns(loop, 2)
    assert all(client.recv(10) == b"ping" for client in clients)


# Cycles and tracebacks hold sockets


def test_sleeping_loop_holds_no_channel_that_is_closed(loop: reactor.Reactor, serve: Serve) -> None:
    references: list[weakref.ref[reactor.Channel]] = []
    left: list[Any] = []

    def make() -> reactor.Channel:
        channel = reactor.Stream()
        references.append(weakref.ref(channel))
        return channel

    def look() -> None:
        left.extend(reference() for reference in references if reference() is not None)
        loop.stop()

    server = serve(loop, make, factory=make)
    server.client().shutdown(socket.SHUT_WR)
    turns(loop, 1)
    loop.call_later(0.05, look)
    loop.loop()
    assert len(references) == 1
    assert left == []


# Timers that overflow


@pytest.mark.parametrize("delay", [2.0**31, 1e300], ids=str)
def test_loop_that_waits_for_a_timer_in_the_far_future_is_woken(loop: reactor.Reactor, delay: float) -> None:
    late = loop.call_later(delay, print)
    waker = threading.Timer(0.02, loop.call_threadsafe, [loop.stop])
    waker.start()
    loop.loop()
    waker.join()
    late.cancel()


# SIGPIPE


def test_send_into_a_broken_pipe_is_an_error_and_no_signal(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream)
    client, channel = server.pair()
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN, "the next line but three would end this process"
    channel.pause_reading()  # or it would hear of the end first, and send nothing
    client.close()
    channel.push(b"into the void")
    turns(loop, 2)
    (reason,) = channel.of("close")
    assert isinstance(reason, reactor.ConnectionLost)
    assert reason.errno == errno.EPIPE


# A wakeup from a thread is lost


@pytest.mark.parametrize("moment", ["before", "after"])
def test_call_behind_a_race_with_the_draining_wakes_the_loop(moment: str) -> None:
    ran: list[str] = []
    race = [True]

    class Racing(SocketPairWaker):
        def drain(self) -> None:
            if moment == "before":
                self.race()
            super().drain()
            if moment == "after":
                self.race()

        def race(self) -> None:
            if race:
                race.clear()
                loop.call_threadsafe(ran.append, "in the race")  # as another thread would, at this very moment

    waker = Racing()
    with reactor.Reactor(waker=waker) as loop:
        loop.call_threadsafe(ran.append, "first")
        run_until(loop, lambda: len(ran) == 2)
        turns(loop, 3)
        loop.call_threadsafe(ran.append, "later")
        ready, _, _ = select.select([waker], [], [], 0)
        assert ready, "the loop would sleep on"
        turns(loop, 1)
        assert ran == ["first", "in the race", "later"]


# Log injection


def test_name_that_a_pickle_must_not_load_stays_on_one_line(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, RecordingConnection, codec=reactor.RestrictedPickle())
    client, _ = server.pair()
    name = "no\x1b[31mname\r\x07\x85".encode() * 50
    stack_global = b"\x80\x04\x8c\x02osX" + len(name).to_bytes(4, "little") + name + b"\x93."
    client.sendall(encode_frame(stack_global))
    receive(loop, client)
    (record,) = caplog.records
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 700


# A predictable or abstract socket


def test_socket_of_the_system_s_choice_is_a_file(loop: reactor.Reactor, serve: Serve) -> None:
    address = serve(loop, Echo).listener.address
    assert isinstance(address, str)
    assert stat.S_ISSOCK(os.stat(address).st_mode)
