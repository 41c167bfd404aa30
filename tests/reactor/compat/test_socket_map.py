"""The socket map belongs to the program: it is edited by hand, and descriptors come and go."""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from reactor.compat import asyncore, watching

from .conftest import run_until
from .dispatchers import Pair, Recording, raising, send_to

pytestmark = pytest.mark.usefixtures("pollster")


# The map


def test_object_taken_out_of_the_map_in_a_handler_is_told_nothing_more(pair: Pair, use_poll: bool) -> None:
    class Removing(Recording):
        other: Recording

        def handle_read(self) -> None:
            super().handle_read()
            for fd, obj in list(asyncore.socket_map.items()):
                if obj is self.other:
                    del asyncore.socket_map[fd]

    first, second = Removing(pair()[0]), Removing(pair()[0])
    first.other, second.other = second, first
    for channel in (first, second):
        channel.socket.setblocking(False)
    for sock in (first, second):
        send_to(sock)
    asyncore.loop(timeout=0, count=2, use_poll=use_poll)
    assert sorted(len(channel.events) for channel in (first, second)) == [0, 1]
    for channel in (first, second):
        channel.close()


def test_object_put_in_the_place_of_another_is_told_from_the_next_pass_on(pair: Pair, use_poll: bool) -> None:
    class Switching(Recording):
        successor: Recording | None = None

        def handle_read(self) -> None:
            fd = self.socket.fileno()
            self.successor = Recording()
            self.successor.socket, self.successor._fileno, self.successor.connected = self.socket, fd, True
            asyncore.socket_map[fd] = self.successor

    channel = Switching(pair()[0])
    send_to(channel)
    run_until(lambda: channel.successor and channel.successor.events, use_poll=use_poll)
    assert channel.successor is not None
    assert channel.successor.events == [b"x"]
    channel.successor.close()


def test_map_may_hold_objects_that_are_no_dispatchers(use_poll: bool) -> None:
    reading, writing = os.pipe()
    told: list[Any] = []

    class Wakeup:
        accepting = False

        def readable(self) -> bool:
            return True

        def writable(self) -> bool:
            return False

        def handle_read_event(self) -> None:
            told.append(os.read(reading, 10))
            del asyncore.socket_map[reading]

    asyncore.socket_map[reading] = Wakeup()
    os.write(writing, b"now")
    asyncore.loop(use_poll=use_poll)
    assert told == [b"now"]
    os.close(reading)
    os.close(writing)


def test_keys_of_the_map_may_be_anything_with_a_descriptor(pair: Pair, use_poll: bool) -> None:
    ours, _ = pair()
    channel = Recording(ours, map={})
    asyncore.socket_map[ours] = channel
    send_to(channel)
    run_until(lambda: channel.events, use_poll=use_poll)
    assert channel.events == [b"x"]
    asyncore.socket_map.clear()
    channel.close()


class Number(int):
    """A descriptor that is more than a number."""


@pytest.mark.parametrize("key", [None, "text", 1.5])
def test_key_that_is_no_descriptor_is_a_mistake_of_the_program(use_poll: bool, key: Any) -> None:
    asyncore.socket_map[key] = Recording()
    with pytest.raises(TypeError, match="a key of the socket map must be a descriptor"):
        asyncore.loop(use_poll=use_poll)
    asyncore.socket_map.clear()


def test_key_may_be_more_than_a_number(pair: Pair, use_poll: bool) -> None:
    ours, _ = pair()
    channel = Recording(ours, map={})
    asyncore.socket_map[Number(ours.fileno())] = channel
    send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert channel.events == [b"x"]
    asyncore.socket_map.clear()
    channel.close()


def test_key_that_was_closed_ends_its_object_alone(pair: Pair, use_poll: bool) -> None:
    ours, _ = pair()
    whole = Recording(pair()[0])
    broken = Recording(map={})
    broken.handle_close = lambda: asyncore.socket_map.pop(ours)  # type: ignore[method-assign]
    asyncore.socket_map[ours] = broken
    ours.close()
    send_to(whole)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert list(asyncore.socket_map.values()) == [whole]
    assert whole.events == [b"x"]
    whole.close()


def test_objects_are_told_in_the_order_of_the_map(pair: Pair, use_poll: bool) -> None:
    told: list[int] = []
    channels = [Recording(pair()[0]) for _ in range(5)]
    for number, channel in enumerate(channels):
        channel.handle_read = lambda number=number: told.append(number)  # type: ignore[method-assign, misc]
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    for number in (3, 1, 4, 0, 2):
        send_to(channels[number])
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert told == [0, 1, 2, 3, 4]
    asyncore.close_all()


class Bare:
    """No dispatcher, but in the map: the end of a pipe."""

    accepting = False

    def __init__(self) -> None:
        self.told: list[bytes] = []
        self.open()

    def open(self) -> None:
        self.reading, self.writing = os.pipe()
        asyncore.socket_map[self.reading] = self

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return False

    def handle_read_event(self) -> None:
        self.told.append(os.read(self.reading, 10))

    def close(self) -> None:
        os.close(self.reading)
        os.close(self.writing)


def test_number_that_came_back_for_an_object_without_a_socket_is_watched_anew(use_poll: bool) -> None:
    """Such an object closes and opens as it likes, under the same key, and nobody tells."""
    bare = Bare()
    for _ in range(3):
        asyncore.loop(timeout=0, count=1, use_poll=use_poll)
        bare.close()
        bare.open()
        assert len(asyncore.socket_map) == 1
        os.write(bare.writing, b"x")
        bare.told.clear()
        asyncore.loop(timeout=5, count=1, use_poll=use_poll)
        assert bare.told == [b"x"]
    asyncore.close_all()


def test_event_is_not_told_to_an_object_without_a_socket_that_got_the_number_in_the_same_pass(use_poll: bool) -> None:
    class Reopening(Bare):
        other: Bare
        successor: Bare | None = None

        def handle_read_event(self) -> None:
            super().handle_read_event()
            if not self.other.told and self.successor is None:
                self.other.close()
                self.successor = Bare()
                assert self.successor.reading == self.other.reading

    both = Reopening(), Reopening()
    both[0].other, both[1].other = both[1], both[0]
    for bare in both:
        os.write(bare.writing, b"x")
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    (acted,) = [bare for bare in both if bare.told]
    assert acted.successor is not None
    assert acted.successor.told == []
    asyncore.close_all()


@pytest.mark.parametrize("closing", ["close", "by hand"])
def test_object_that_connects_again_under_the_same_number_is_watched_anew(
    pair: Pair, use_poll: bool, closing: str
) -> None:
    channel = Recording(pair()[0])
    send_to(channel)
    run_until(lambda: channel.events, use_poll=use_poll)
    number = channel.socket.fileno()
    if closing == "close":
        channel.close()
    else:
        channel.socket.close()  # the map is not told
    channel.set_socket(pair()[0])
    assert channel.socket.fileno() == number
    channel.connected = True
    send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert len(channel.events) == 2
    channel.close()


class OfItsOwn(Recording):
    """Programs write `add_channel` anew."""

    def add_channel(self, map: Any = None) -> None:
        asyncore.socket_map[self._fileno] = self


class ByHand(Recording):
    """Programs write `set_socket` anew."""

    def set_socket(self, sock: Any, map: Any = None) -> None:
        self.socket = sock
        self._fileno = sock.fileno()
        self.add_channel(map)


@pytest.mark.parametrize("kind", [OfItsOwn, ByHand])
def test_object_that_gets_the_number_of_one_that_was_closed_by_hand_is_watched_anew(
    pair: Pair, use_poll: bool, kind: type[Recording]
) -> None:
    closed, bystander = Recording(pair()[0]), Recording(pair()[0])
    number = closed.socket.fileno()
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    closed.socket.close()
    successor = kind(pair()[0])
    assert successor.socket.fileno() == number
    send_to(successor)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert successor.events == [b"x"]
    successor.close()
    bystander.close()


def test_socket_that_was_wrapped_keeps_being_watched(pair: Pair, use_poll: bool) -> None:
    """As by `ssl.wrap_socket`: another object, the same descriptor."""
    channel = Recording(pair()[0])
    for _ in range(3):
        send_to(channel)
        run_until(lambda: channel.events, use_poll=use_poll)
        channel.events.clear()
        channel.socket = socket.socket(fileno=channel.socket.detach())
    channel.close()


def test_socket_that_is_another_object_each_time_keeps_being_watched(pair: Pair, use_poll: bool) -> None:
    ours, theirs = pair()
    told: list[bytes] = []

    class Odd:
        accepting = False

        @property
        def socket(self) -> list[socket.socket]:
            return [ours]

        def readable(self) -> bool:
            return True

        def writable(self) -> bool:
            return False

        def handle_read_event(self) -> None:
            told.append(ours.recv(10))

    asyncore.socket_map[ours.fileno()] = Odd()
    for _ in range(3):
        theirs.send(b"x")
        run_until(lambda: told, use_poll=use_poll)
        told.clear()
    asyncore.socket_map.clear()


class Reusing(Recording):
    """At the first event it closes the victim, so that another socket gets its number in the same pass."""

    def __init__(self, sock: Any, pair: Pair, closing: Callable[[asyncore.dispatcher], None]) -> None:
        super().__init__(sock)
        self.pair = pair
        self.close_victim = closing
        self.victim: Recording
        self.successor: Recording | None = None

    def handle_read(self) -> None:
        super().handle_read()
        if self.victim.events or self.victim.successor is not None:  # type: ignore[attr-defined]
            return
        number = self.victim.socket.fileno()
        self.close_victim(self.victim)
        ours, _ = self.pair()
        if ours.fileno() != number:
            ours.close()
            pytest.fail("the number did not come back")
        self.successor = Recording(ours)


def unregister_by_hand(channel: asyncore.dispatcher) -> None:
    del asyncore.socket_map[channel.socket.fileno()]
    channel.socket.close()


@pytest.mark.parametrize("closing", [asyncore.dispatcher.close, unregister_by_hand])
def test_event_is_not_told_to_who_got_the_number_in_the_same_pass(
    pair: Pair, use_poll: bool, closing: Callable[[asyncore.dispatcher], None]
) -> None:
    channels = [Reusing(pair()[0], pair, closing) for _ in range(2)]
    channels[0].victim, channels[1].victim = channels[1], channels[0]
    for channel in channels:
        send_to(channel)
    asyncore.loop(timeout=1, count=1, use_poll=use_poll)
    (acted,) = [channel for channel in channels if channel.successor is not None]
    assert acted.victim.events == []
    assert acted.successor is not None
    assert acted.successor.events == []  # the pending event was the victim's
    send_to(acted.successor)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert acted.successor.events == [b"x"]
    acted.successor.close()
    acted.close()


@pytest.mark.parametrize("closing", ["close", "by hand"])
def test_event_of_the_old_socket_is_not_told_to_an_object_that_connects_anew_in_the_same_pass(
    pair: Pair, use_poll: bool, closing: str
) -> None:
    """Of old, it was taken for the end of the connect: connected, to nobody."""

    class Reconnecting(Recording):
        other: Recording

        def handle_read(self) -> None:
            super().handle_read()
            if self.other.events:
                return
            if closing == "close":
                self.other.close()
            else:
                self.other.socket.close()
            self.other.set_socket(pair()[0])
            self.other.connecting, self.other.connected = True, False

    channels = [Reconnecting(pair()[0]) for _ in range(2)]
    channels[0].other, channels[1].other = channels[1], channels[0]
    for channel in channels:
        send_to(channel)
    asyncore.loop(timeout=1, count=1, use_poll=use_poll)
    (idle,) = [channel for channel in channels if not channel.events]
    assert idle.connecting
    assert not idle.connected
    asyncore.close_all()


def test_descriptor_closed_behind_the_back_closes_its_object_alone(pair: Pair, use_poll: bool) -> None:
    broken, whole = Recording(pair()[0]), Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    os.close(broken.socket.fileno())
    send_to(whole)
    asyncore.loop(timeout=0.01, count=3, use_poll=use_poll)
    assert broken.events == ["close"]
    assert whole.events == [b"x"]
    assert list(asyncore.socket_map.values()) == [whole]
    whole.close()
    broken.socket.detach()


def test_descriptor_closed_behind_the_back_is_found_though_the_loop_is_never_idle(pair: Pair, use_poll: bool) -> None:
    broken, busy = Recording(pair()[0]), Recording(pair()[0])
    busy.handle_read = lambda: None  # type: ignore[method-assign]
    send_to(busy)
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    os.close(broken.socket.fileno())
    asyncore.loop(count=watching.CHECK_EVERY, use_poll=use_poll)
    assert broken.events == ["close"]
    busy.close()
    broken.socket.detach()


def test_file_that_was_put_under_a_socket_is_watched_in_its_place(pair: Pair, use_poll: bool) -> None:
    channel = Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    ours, theirs = pair()
    os.dup2(ours.fileno(), channel.socket.fileno())
    theirs.send(b"from another")
    run_until(lambda: channel.events, use_poll=use_poll)
    assert channel.events == [b"from another"]
    channel.close()


def test_descriptor_that_was_never_open_closes_its_object_alone(use_poll: bool) -> None:
    class Lost(Recording):
        def handle_close(self) -> None:
            self.events.append("close")
            asyncore.socket_map.clear()

    lost = Lost()
    asyncore.socket_map[900_000] = lost
    asyncore.loop(use_poll=use_poll)
    assert lost.events == ["close"]


def test_object_that_stays_though_its_descriptor_is_gone_does_not_make_the_loop_spin(use_poll: bool) -> None:
    told: list[str] = []
    stubborn = Recording()
    stubborn.handle_close = lambda: told.append("close")  # type: ignore[method-assign]
    asyncore.socket_map[900_000] = stubborn
    asyncore.loop(timeout=0, count=6, use_poll=use_poll)
    assert told == ["close"] * 3  # in every other pass it rests
    asyncore.socket_map.clear()


def test_object_that_gets_another_descriptor_when_its_own_is_gone_is_told_at_once(pair: Pair, use_poll: bool) -> None:
    class Renewing(Recording):
        def handle_close(self) -> None:
            self.events.append("close")
            self.set_socket(pair()[0])

    channel, bystander = Renewing(pair()[0]), Recording(pair()[0])
    number = channel.socket.fileno()
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    channel.socket.close()
    run_until(lambda: channel.events, use_poll=use_poll)
    assert channel.socket.fileno() == number
    send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert channel.events == ["close", b"x"]
    channel.close()
    bystander.close()


def test_pass_in_which_nothing_happens_costs_one_system_call(
    pair: Pair, use_poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    make = watching.make_pollster

    class Counting:
        def __init__(self) -> None:
            self.real = make()

        def __getattr__(self, name: str) -> Any:
            called.append(name)
            return getattr(self.real, name)

    monkeypatch.setattr(watching, "make_pollster", Counting)
    for _ in range(20):
        Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    assert called == ["register"] * 20 + ["poll"]
    called.clear()
    asyncore.loop(timeout=0, count=10, use_poll=use_poll)
    asyncore.loop(timeout=0.0001, count=5, use_poll=use_poll)
    assert called == ["poll"] * 15
    asyncore.close_all()


def test_what_is_watched_though_nobody_knows_is_found_out(pair: Pair, use_poll: bool) -> None:
    first, second = Recording(pair()[0]), Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    watcher = watching.get_watcher()
    del watcher._registered[second.socket.fileno()]
    for channel in (first, second):
        send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert first.events == second.events == [b"x"]
    asyncore.close_all()


def test_error_of_the_system_that_is_not_about_one_descriptor_ends_the_loop(
    pair: Pair, use_poll: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Refusing(watching.Poll):
        def __init__(self) -> None:
            super().__init__()
            self.register = raising(OSError(errno.ENOSPC, "too many watches"))

    channel = Recording(pair()[0])
    monkeypatch.setattr(watching, "make_pollster", Refusing)
    with pytest.raises(OSError, match="too many watches"):
        asyncore.loop(use_poll=use_poll)
    channel.close()


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "full"), AttributeError("epoll")], ids=repr)
def test_loop_goes_on_where_no_epoll_is_to_be_had(
    pair: Pair, use_poll: bool, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(select, "epoll", raising(error))
    channel = Recording(pair()[0])
    send_to(channel)
    asyncore.loop(timeout=5, count=1, use_poll=use_poll)
    assert channel.events == [b"x"]
    channel.close()


def test_one_map_leaves_the_objects_of_another_alone(pair: Pair, use_poll: bool) -> None:
    maps: list[Any] = [{}, {}, asyncore.socket_map]
    channels = [Recording(pair()[0], map) for map in maps]
    for channel in channels:
        send_to(channel)
    for turn in range(3):
        asyncore.loop(timeout=1, count=1, map=maps[turn], use_poll=use_poll)
        assert [len(channel.events) for channel in channels] == [1] * (turn + 1) + [0] * (2 - turn)
    for channel in channels:
        channel.close()
    assert maps == [{}, {}, {}]


def test_map_may_let_go_of_its_objects_by_itself(pair: Pair) -> None:
    map: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()
    channel = Recording(pair()[0], map)
    asyncore.loop(timeout=0, count=2, map=map)
    assert len(map) == 1
    del channel
    gc.collect()
    assert not map
    asyncore.poll(map=map)


def test_loop_holds_on_to_no_object_between_passes(pair: Pair, use_poll: bool) -> None:
    map: dict[Any, Any] = {}
    channel = Recording(pair()[0], map)
    asyncore.loop(timeout=0, count=2, map=map, use_poll=use_poll)
    alive = weakref.ref(channel)
    map.clear()
    del channel
    gc.collect()
    assert alive() is None
    watching.get_watcher().close()


def test_descriptor_that_stays_open_elsewhere_is_forgotten_all_the_same(pair: Pair, use_poll: bool) -> None:
    """An epoll goes on about a file that was closed here, as long as anybody has it: a child, a duplicate."""
    ours, _ = pair()
    gone, other = Recording(ours), Recording(pair()[0])
    asyncore.loop(timeout=0, count=1, use_poll=use_poll)
    duplicate = ours.dup()
    send_to(gone)
    number = ours.fileno()
    unregister_by_hand(gone)
    successor = Recording(pair()[0])
    assert successor.socket.fileno() == number
    send_to(other)
    asyncore.loop(timeout=0.01, count=3, use_poll=use_poll)
    assert (gone.events, successor.events, other.events) == ([], [], [b"x"])
    duplicate.close()
    asyncore.close_all()
