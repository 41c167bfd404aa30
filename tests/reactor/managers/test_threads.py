"""What may wait runs on threads, of which there are few; the loop goes on."""

from __future__ import annotations

import contextlib
import functools
import queue
import sys
import threading
import types
from collections.abc import Callable, Iterator
from multiprocessing import managers as standard
from multiprocessing.connection import Client, wait
from typing import Any

import pytest

from reactor import managers
from reactor.managers import SyncManager
from tests.conftest import KEY
from tests.reactor.managers.serving import (
    Gate,
    Remote,
    Remotes,
    ask,
    held,
    make,
    objects_of,
    on_the_loop,
    registry,
    serving,
    wait_until,
    waiting,
)


class Slow(list[int]):
    """A built-in type with something of the user's."""

    gate: Gate

    def append(self, number: int) -> None:
        self.gate()


class SlowQueue(queue.Queue[int]):
    gate: Gate

    def get(self, *args: Any, **kwargs: Any) -> int:
        self.gate()
        return 1


def slow_module(gate: Gate) -> types.ModuleType:
    module = types.ModuleType("slow")
    module.__dict__["wait"] = gate.wait
    return module


def generator(gate: Gate) -> Iterator[Any]:
    yield gate()


THINGS: dict[str, tuple[Callable[[Gate], Any], str, tuple[Any, ...]]] = {
    "object": (lambda gate: gate, "wait", ()),
    "callable object": (lambda gate: gate, "__call__", ()),
    "function": (lambda gate: lambda: gate(), "__call__", ()),
    "method": (lambda gate: gate.wait, "__call__", ()),
    "partial": (functools.partial, "__call__", ()),
    "module": (slow_module, "wait", ()),
    "generator": (generator, "__next__", ()),
    "map": (lambda gate: map(gate, [1]), "__next__", ()),
    "iterator": (lambda gate: iter(gate, 1), "__next__", ()),
    "subclass of list": (lambda gate: type("Slow", (Slow,), {"gate": gate})(), "append", (1,)),
    "subclass of queue": (lambda gate: type("SlowQueue", (SlowQueue,), {"gate": gate})(), "get", ()),
    "attribute": (lambda gate: type("Lazy", (), {"find": property(lambda self: (gate(), list)[1])})(), "find", ()),
    "its text": (lambda gate: type("Text", (), {"__str__": lambda self: str(gate())})(), "__str__", ()),
    "its end": (lambda gate: type("Text", (), {"__del__": lambda self: gate()})(), "", ()),
}


@pytest.mark.parametrize("name", THINGS)
def test_call_that_may_wait_holds_up_nobody(name: str, gate: Gate, remote: Remotes) -> None:
    made, method, args = THINGS[name]
    exposed = {"callable": lambda: made(gate), "exposed": (method,)}
    with serving(registry(SyncManager, Thing=exposed)) as server:
        ident = make(server, "Thing")
        if method:
            thing = remote(server, ident)
            thing.begin(method, *args)
            connection = thing.connection
        else:
            connection = Client(server.address, authkey=KEY)
            connection.send((None, "decref", (ident,), {}))
        assert gate.inside.acquire(timeout=20)
        numbers = remote(server, make(server, "list", [1]))
        assert numbers.call("pop") == 1
        gate.opened.set()
        assert connection.recv()[0] == "#RETURN"
        connection.close()


def test_object_that_takes_long_to_be_made_holds_up_nobody(gate: Gate, remote: Remotes) -> None:
    with serving(registry(SyncManager, Slow=gate)) as server, Client(server.address, authkey=KEY) as connection:
        connection.send((None, "create", ("Slow", 1), {}))
        assert gate.inside.acquire(timeout=20)
        ident = make(server, "list", [1])
        ask(server.address, "incref", ident)
        assert remote(server, ident).call("pop") == 1
        assert objects_of(server) == 1
        gate.opened.set()
        assert connection.recv()[0] == "#RETURN"


the_gate: list[Gate] = []


def slow_key(number: int) -> int:
    the_gate[0]()
    return -number


def slow_maker(numbers: list[int]) -> list[int]:
    the_gate[0]()
    return numbers


@pytest.mark.parametrize("how", ["key", "result"])
def test_code_that_is_given_to_a_built_in_type_holds_up_nobody(how: str, gate: Gate, remote: Remotes) -> None:
    the_gate[:] = [gate]
    kind = registry(
        SyncManager, Numbers={"callable": list, "method_to_typeid": {"copy": "Slow"}}, Slow={"callable": slow_maker}
    )
    with serving(kind) as server:
        numbers, other = remote(server, make(server, "Numbers", [1, 2])), remote(server, make(server, "list", [1]))
        numbers.begin("sort", key=slow_key) if how == "key" else numbers.begin("copy")
        assert gate.inside.acquire(timeout=20)
        assert other.call("pop") == 1
        gate.opened.set()
        assert numbers.receive()[0] == ("#RETURN" if how == "key" else "#PROXY")


def test_never_more_threads_than_were_granted(gate: Gate) -> None:
    threads = 3
    before = threading.active_count()
    with serving(registry(Gate=lambda: gate), threads=threads) as server, contextlib.ExitStack() as stack:
        ident = make(server, "Gate")
        clients = [stack.enter_context(Remote(server.address, ident)) for _ in range(10)]
        for number, client in enumerate(clients):
            client.begin("wait", number)
        for _ in range(threads):
            assert gate.inside.acquire(timeout=20)
        assert objects_of(server) == 1
        assert threading.active_count() == before + 1 + threads
        assert not gate.inside.acquire(blocking=False)
        gate.opened.set()
        assert [client.end() for client in clients] == [(number,) for number in range(10)]


# Types of the standard library that the user registered

BLOCKING: dict[str, tuple[Callable[[], Any], str, str, tuple[Any, ...]]] = {
    "Queue": (queue.Queue, "get", "put", ("item",)),
    "SimpleQueue": (queue.SimpleQueue, "get", "put", ("item",)),
    "PriorityQueue": (queue.PriorityQueue, "get", "put", ("item",)),
    "full Queue": (lambda: filled(queue.Queue(1)), "put", "get", ()),
    "joined Queue": (lambda: filled(queue.Queue()), "join", "task_done", ()),
    "Lock": (lambda: acquired(threading.Lock()), "acquire", "release", ()),
    "Semaphore": (lambda: threading.Semaphore(0), "acquire", "release", ()),
    "BoundedSemaphore": (lambda: acquired(threading.BoundedSemaphore(1)), "acquire", "release", ()),
    "Event": (threading.Event, "wait", "set", ()),
}
"""What makes an object, the call that waits, and the call that ends the wait of one, or of all."""


def filled(items: queue.Queue[Any]) -> queue.Queue[Any]:
    items.put("item")
    return items


def acquired(lock: Any) -> Any:
    lock.acquire()
    return lock


@pytest.mark.parametrize("threads", [2, 16])
@pytest.mark.parametrize("name", BLOCKING)
def test_objects_of_the_standard_library_serve_more_clients_than_there_are_threads(name: str, threads: int) -> None:
    made, waits, ends, args = BLOCKING[name]
    with serving(registry(Thing=made), threads=threads) as server, contextlib.ExitStack() as stack:
        ident = make(server, "Thing")
        clients = [stack.enter_context(Remote(server.address, ident)) for _ in range(8)]
        needed = ("item",) if waits == "put" else ()
        for client in clients:
            client.begin(waits, *needed)
        wait_until(lambda: waiting(server) == 8 - threads // 2)
        ask(server.address, "create", "Thing")  # which takes a thread, too
        ending = stack.enter_context(Remote(server.address, ident))
        for turn in range(8):
            if turn == 0 or ends not in ("set", "task_done"):
                ending.call(ends, *args)
            (answered, *_) = wait([client.connection for client in clients], 20)
            client = next(client for client in clients if client.connection is answered)
            clients.remove(client)
            assert client.end() == {"get": "item", "put": None, "join": None}.get(waits, True)


def test_calls_of_the_standard_library_that_need_not_wait_or_make_no_sense_are_answered_at_once(
    remote: Remotes,
) -> None:
    with serving(registry(Queue=queue.Queue, Lock=threading.Lock, Event=threading.Event)) as server:
        items, lock, event = (remote(server, make(server, name)) for name in ("Queue", "Lock", "Event"))
        assert [items.call("join"), items.call("put", 1), items.call("get"), items.call("task_done")] == [
            None,
            None,
            1,
            None,
        ]
        assert [lock.call("acquire", True, 0), lock.call("acquire", False), lock.call("locked")] == [True, False, True]
        assert [lock.call("release"), lock.call("acquire")] == [None, True]
        assert [event.call("wait", 0), event.call("wait", -1), event.call("set"), event.call("wait")] == [
            False, False, None, True,
        ]  # fmt: skip
        assert [items.call("put", 2, True, -1), items.call("get", True, 0)] == [None, 2]  # where nobody ever waits
        wrong: list[tuple[Remote, str, tuple[Any, ...], type[Exception]]] = [
            (items, "get", (True, -1), ValueError),
            (items, "get", (False,), queue.Empty),
            (items, "get", (1, 2, 3), TypeError),
            (lock, "acquire", (False, 1), ValueError),
            (lock, "acquire", (True, None), TypeError),
            (event, "wait", ("long",), TypeError),
            (items, "get", (True, 1e300), OverflowError),
            (items, "put", (), TypeError),
        ]
        for thing, name, args, error in wrong:
            with pytest.raises(error):
                thing.call(name, *args)


def test_timeouts_are_kept_by_those_for_whom_there_is_no_thread(remote: Remotes) -> None:
    with serving(registry(Queue=queue.Queue), threads=2) as server:
        ident = make(server, "Queue")
        clients = [remote(server, ident) for _ in range(6)]
        for client in clients:
            client.begin("get", True, 0.05)
        for client in clients:
            with pytest.raises(queue.Empty):
                client.end()
        assert on_the_loop(server, lambda: len(server.crew._waiting)) == 0
        full = remote(server, make(server, "Queue", 1))
        full.call("put", 1)
        for client in clients:
            client.ident = full.ident
            client.begin("put", 2, True, 0.05)
        for client in clients:
            with pytest.raises(queue.Full):
                client.end()


@pytest.mark.parametrize("name", ["SimpleQueue", "Lock", "Semaphore", "Event"])
def test_those_for_whom_there_is_no_thread_are_served_when_another_call_makes_it_possible(
    name: str, remote: Remotes
) -> None:
    made, waits, ends, args = BLOCKING[name]
    with serving(registry(Thing=made, Queue=queue.Queue), threads=2) as server:
        holding, ident = remote(server, make(server, "Queue")), make(server, "Thing")
        client, other = remote(server, ident), remote(server, ident)
        client.begin(waits)
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        other.call(ends, *args)
        assert client.end() == ("item" if waits == "get" else True)
        holding.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        if name == "Event":
            other.call("clear")
        client.begin(waits)
        wait_until(lambda: waiting(server) == 1)
        other.call(ends, *args)
        assert client.end() == ("item" if waits == "get" else True)
        remote(server, holding.ident).call("put", "end")
        assert holding.end() == "end"


def test_those_behind_one_who_waits_on_a_thread_are_served_when_it_has_been(remote: Remotes) -> None:
    with serving(registry(Queue=queue.Queue), threads=2) as server:
        ident, other = make(server, "Queue"), make(server, "Queue")
        first, last, *putters = (remote(server, ident) for _ in range(4))
        elsewhere = remote(server, other)
        first.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        elsewhere.begin("get")  # is the next one for whom there is a thread
        wait_until(lambda: waiting(server) == 1)
        last.begin("get")
        wait_until(lambda: waiting(server) == 2)
        with held(server):  # both items are there before the thread has taken one
            for number, putter in enumerate(putters):
                putter.begin("put", number)
        assert {first.end(), last.end()} == {0, 1}
        remote(server, other).call("put", 2)
        assert elsewhere.end() == 2


def test_nobody_passes_those_who_wait_on_threads(remote: Remotes) -> None:
    with serving(registry(Queue=queue.Queue), threads=2) as server:
        ident = make(server, "Queue")
        first, second, third, other = (remote(server, ident) for _ in range(4))
        for number, client in enumerate((first, second, third)):
            client.begin("get")
            wait_until(functools.partial(lambda count: waiting(server) == count, number))
        for number in range(3):
            other.call("put", number)
        assert [client.end() for client in (first, second, third)] == [0, 1, 2]


def test_change_made_in_the_server_itself_is_seen_by_those_who_wait(remote: Remotes) -> None:
    items: queue.Queue[str] = queue.Queue()
    with serving(registry(Queue=lambda: items)) as server:
        client = remote(server, make(server, "Queue"))
        client.begin("get")
        items.put("from the server")
        assert client.end() == "from the server"


def test_timeouts_and_jobs_of_calls_that_have_been_answered_are_called_off(remote: Remotes) -> None:
    with serving(registry(SyncManager, Thing=queue.Queue), threads=2) as server:
        for ident in (make(server, "Queue"), make(server, "Thing")):
            first, second, other = (remote(server, ident) for _ in range(3))
            for client in (first, second):
                client.begin("get", True, 1000)
            wait_until(lambda: waiting(server) > 0)
            for number in range(2):
                other.call("put", number)
            assert {first.end(), second.end()} == {0, 1}
        assert on_the_loop(server, lambda: (len(server.reactor._timers), len(server.crew._waiting))) == (0, 0)


def test_client_that_goes_before_there_is_a_thread_for_it_takes_nothing(remote: Remotes) -> None:
    with serving(registry(Queue=queue.Queue), threads=2) as server:
        ident, other = make(server, "Queue"), make(server, "Queue")
        holding, gone, getter = remote(server, ident), remote(server, other), remote(server, other)
        holding.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        gone.begin("get")
        wait_until(lambda: waiting(server) == 1)
        gone.connection.close()
        wait_until(lambda: waiting(server) == 0)
        getter.call("put", "item")
        assert getter.call("get") == "item"
        remote(server, ident).call("put", "end")
        assert holding.end() == "end"


def test_call_on_a_thread_lets_those_go_on_who_began_to_wait_meanwhile(gate: Gate, remote: Remotes) -> None:
    class Filled(queue.Queue[int]):
        def fill(self) -> None:
            gate()
            self.put(7)

    with serving(registry(Filled=Filled, Queue=queue.Queue), threads=2) as server:
        ident = make(server, "Filled")
        filler, getter, other = remote(server, ident), remote(server, ident), remote(server, make(server, "Queue"))
        filler.begin("fill")
        assert gate.inside.acquire(timeout=20)
        other.begin("get")  # on the only other thread
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free) == 0)
        getter.begin("get")
        wait_until(lambda: waiting(server) == 1)
        gate.opened.set()
        assert (filler.end(), getter.end()) == (None, 7)
        remote(server, other.ident).call("put", 8)
        assert other.end() == 8


def test_call_that_waits_and_exits_ends_the_connection_and_lets_the_next_one_pass(remote: Remotes) -> None:
    class Exiting(queue.Queue[str]):
        def _get(self) -> str:
            if super()._get() == "exit":
                sys.exit(3)
            return "stay"

    with serving(registry(Exiting=Exiting), threads=2) as server:
        ident = make(server, "Exiting")
        leaving, staying, other = (remote(server, ident) for _ in range(3))
        leaving.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        staying.begin("get")
        wait_until(lambda: waiting(server) == 1)
        other.call("put", "exit")
        other.call("put", "stay")
        with pytest.raises(EOFError):
            leaving.end()
        assert staying.end() == "stay"


def test_call_that_exits_when_another_one_makes_it_possible_ends_its_own_connection(remote: Remotes) -> None:
    class Exiting(queue.Queue[str]):
        def _get(self) -> str:
            sys.exit(super()._get())

    with serving(registry(Exiting=Exiting, Queue=queue.Queue), threads=2) as server:
        ident = make(server, "Exiting")
        holding, leaving, other = remote(server, make(server, "Queue")), remote(server, ident), remote(server, ident)
        holding.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: server.crew._free_to_wait) == 0)
        leaving.begin("get")
        wait_until(lambda: waiting(server) == 1)
        other.call("put", "exit")
        with pytest.raises(EOFError):
            leaving.end()
        remote(server, holding.ident).call("put", "end")
        assert holding.end() == "end"


@pytest.mark.parametrize("made", [threading.RLock, threading.Condition, lambda: threading.Barrier(2)])
def test_objects_that_need_a_thread_for_each_caller_are_refused(made: Callable[[], Any]) -> None:
    with serving(registry(Thing=made)) as server:
        with pytest.raises(standard.RemoteError, match=r"TypeError: a \w+ of threading needs a thread for each caller"):
            ask(server.address, "create", "Thing")
        assert objects_of(server) == 0


def test_action_of_a_barrier_may_take_its_time(gate: Gate, remote: Remotes) -> None:
    the_gate[:] = [gate]
    kind = registry(SyncManager, Slow=lambda: managers.Barrier(2, gate))
    with serving(kind) as server:
        ident = make(server, "Slow")
        first, last, other = remote(server, ident), remote(server, ident), remote(server, make(server, "list", [1]))
        first.begin("wait")
        wait_until(lambda: waiting(server) == 1)
        last.begin("wait")
        assert gate.inside.acquire(timeout=20)
        assert other.call("pop") == 1
        gate.opened.set()
        assert [first.end(), last.end()] == [0, 1]
