"""The server with clients of the standard library: what they are answered, and when it ends."""

from __future__ import annotations

import array
import contextlib
import dataclasses
import functools
import logging
import multiprocessing
import queue
import signal
import sys
import threading
import time
import types
from multiprocessing import managers as standard
from multiprocessing.connection import Client
from typing import Any

import pytest

from reactor import Reactor, managers
from reactor.errors import AddressInUseError, LocalError
from reactor.managers import Server, SyncManager
from reactor.managers.sessions import REQUESTS_WAITING
from tests.conftest import KEY
from tests.reactor.managers.serving import (
    Gate,
    Remote,
    Remotes,
    ask,
    connected,
    held,
    make,
    objects_of,
    on_the_loop,
    registry,
    serving,
    wait_until,
    waiting,
)

# Clients connect, create, call, iterate and release


def test_objects_are_made_called_and_released(sync: Server) -> None:
    manager = connected(sync, standard.SyncManager)
    numbers, words = manager.list(range(3)), manager.dict(one=1, two=2)
    numbers.append(3)
    assert (list(numbers), numbers[-1], len(numbers), words["two"]) == ([0, 1, 2, 3], 3, 4, 2)
    assert sorted(words) == ["one", "two"]
    assert (str(numbers), words._getvalue()) == ("[0, 1, 2, 3]", {"one": 1, "two": 2})
    assert objects_of(sync) == 2
    more = standard.ListProxy(numbers._token, "pickle", authkey=KEY)  # type: ignore[attr-defined]
    expected = sorted([(numbers._id, 2, str(list(numbers))), (words._id, 1, str(dict(words)))])
    assert manager._debug_info() == "\n".join(
        f"  {ident}:       refcount={count}\n    {text}" for ident, count, text in expected
    )
    del numbers
    assert list(more) == [0, 1, 2, 3]
    del more, words
    assert objects_of(sync) == 0


def test_values_namespaces_and_arrays_are_shared(sync: Server) -> None:
    manager = connected(sync, standard.SyncManager)
    value, space, numbers = manager.Value("i", 1), manager.Namespace(one=1), manager.Array("i", [1, 2])
    value.value += 41
    space.two = 2
    del space.one
    numbers[0] = 7
    assert (value.value, space.two, numbers[:], str(space)) == (42, 2, array.array("i", [7, 2]), "Namespace(two=2)")
    with pytest.raises(AttributeError):
        space.one  # noqa: B018


def test_locks_and_queues_are_used_through_proxies(sync: Server) -> None:
    manager = connected(sync, standard.SyncManager)
    lock, condition, items = manager.RLock(), manager.Condition(), manager.Queue(1)
    with lock, condition:
        condition.notify_all()
        assert not condition.wait(0)
        assert condition.wait_for(lambda: True)
    items.put("item")
    with pytest.raises(queue.Full):
        items.put("another one", timeout=0.001)
    assert (items.get(), items.qsize()) == ("item", 0)
    with pytest.raises(queue.Empty):
        items.get_nowait()
    with pytest.raises(RuntimeError, match="cannot release un-acquired lock"):
        lock.release()
    barrier = manager.Barrier(1)
    assert (barrier.wait(), barrier.parties, barrier.n_waiting, barrier.broken) == (0, 1, 0, False)


def test_condition_takes_a_lock_of_its_manager_and_shares_it(at_home: Server, remote: Remotes) -> None:
    manager = connected(at_home, standard.SyncManager)
    lock = manager.RLock()
    for condition in (manager.Condition(lock), manager.Condition(lock=lock)):
        with lock:
            other = remote(at_home, condition._id)
            assert other.call("acquire", False) is False
        assert other.call("acquire", False) is True
        other.call("release")
    with pytest.raises(standard.RemoteError, match="needs a Lock or an RLock of the same manager"):
        manager.Condition(manager.Semaphore())


def test_iterators_are_shared_one_for_each_loop(sync: Server) -> None:
    words = connected(sync, standard.SyncManager).dict(a=1, b=2)
    first, second = iter(words), iter(words)
    assert (next(first), list(second), next(first)) == ("a", ["a", "b"], "b")
    with pytest.raises(StopIteration):
        next(first)


def test_serializer_xmlrpclib_serves_what_it_can() -> None:
    kind = registry(numbers=list, number={"callable": lambda: 2**40, "exposed": ("bit_length", "__abs__")})
    with serving(kind, serializer="xmlrpclib") as server:
        manager = kind(address=server.address, authkey=KEY, serializer="xmlrpclib")
        manager.connect()
        numbers, number = manager.numbers([1, 2]), manager.number()
        numbers.append(3)
        assert (numbers.pop(0), number.bit_length()) == (1, 41)
        with pytest.raises(standard.RemoteError, match="(?s)Unserializable message.*int exceeds XML-RPC limits"):
            number.__abs__()
        del numbers, number


@pytest.mark.parametrize("host", ["", "localhost"])
def test_clients_can_connect_to_the_address_that_the_server_says_it_has(host: str) -> None:
    with serving(SyncManager, (host, 0)) as server:
        assert connected(server, standard.SyncManager).list([1])[0] == 1


# Errors


class Odd:
    """Its calls return and raise what cannot be sent."""

    def unpicklable(self) -> Any:
        return lambda: None

    def fail(self) -> None:
        error = ValueError("odd")
        error.odd = lambda: None  # type: ignore[attr-defined]
        raise error

    def exit(self) -> None:
        sys.exit(3)


@pytest.mark.parametrize("name", ["unpicklable", "fail"])
def test_what_cannot_be_sent_is_answered_with_the_reason(name: str, remote: Remotes) -> None:
    with serving(registry(Odd=Odd)) as server:
        odd = remote(server, make(server, "Odd"))
        with pytest.raises(standard.RemoteError, match=r"(?s)Unserializable message: Traceback.*lambda"):
            odd.call(name)
        assert "Odd object" in odd.call("__str__")


def test_call_that_exits_ends_the_connection_and_not_the_server(remote: Remotes) -> None:
    with serving(registry(Odd=Odd)) as server:
        odd = remote(server, make(server, "Odd"))
        with pytest.raises(EOFError):
            odd.call("exit")
        assert objects_of(server) == 1


class Exits:
    """Whatever is done with it exits; it can be sent by whoever asks for nothing else."""

    def __eq__(self, other: object) -> bool:
        sys.exit(3)

    __hash__ = None  # type: ignore[assignment]


class ExitsWhenRead:
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class Ends(BaseException):
    """Neither an Exception nor a SystemExit."""


class EndsWhenUsed:
    def __eq__(self, other: object) -> bool:
        raise Ends

    __hash__ = None  # type: ignore[assignment]


class ExitsWhenSent:
    def __reduce__(self) -> Any:
        sys.exit(3)


@pytest.mark.parametrize(
    ("name", "args"),
    [("append", (ExitsWhenRead(),)), ("count", (Exits(),)), ("count", (EndsWhenUsed(),)), ("pop", ())],
    ids=["read", "used", "used, otherwise", "sent"],
)
def test_what_exits_in_a_call_of_a_built_in_type_ends_the_connection_and_not_the_server(
    name: str, args: Any, remote: Remotes
) -> None:
    with serving(registry(Things={"callable": lambda: [ExitsWhenSent()], "proxytype": standard.ListProxy})) as server:
        things = remote(server, make(server, "Things"))
        with pytest.raises(EOFError):
            things.call(name, *args)
        assert objects_of(server) == 1


class Signalling:
    """Is compared only with the help of a signal."""

    def __eq__(self, other: object) -> bool:
        signal.raise_signal(signal.SIGUSR1)
        return True

    __hash__ = None  # type: ignore[assignment]


def test_handler_of_a_signal_that_exits_ends_the_server_whatever_is_called_at_that_moment() -> None:
    server = SyncManager(authkey=KEY).get_server()

    def call() -> None:
        with Remote(server.address, make(server, "list", [1])) as numbers, contextlib.suppress(EOFError):
            numbers.call("count", Signalling())

    client = threading.Thread(target=call)
    before = signal.signal(signal.SIGUSR1, lambda signum, frame: sys.exit(7))
    try:
        client.start()
        with pytest.raises(SystemExit) as ended:
            server.reactor.loop()
    finally:
        signal.signal(signal.SIGUSR1, before)
        server.reactor.close()
        client.join()
    assert ended.value.code == 7


def test_method_that_is_exposed_and_missing_is_answered_with_the_reason(remote: Remotes) -> None:
    exposed = {"exposed": ("nothing",)}
    kind = registry(Ours={"callable": managers.Lock, **exposed}, Theirs={"callable": Odd, **exposed})
    with serving(kind) as server:
        for typeid in ("Ours", "Theirs"):
            with pytest.raises(standard.RemoteError, match="has no attribute 'nothing'"):
                remote(server, make(server, typeid)).call("nothing")


@dataclasses.dataclass
class Unhashable:
    """A method like any other one."""

    def __call__(self) -> str:
        return "called"


def test_methods_need_not_be_functions(remote: Remotes) -> None:
    kind = registry(Thing={"callable": type("Thing", (), {"method": Unhashable()}), "exposed": ("method",)})
    with serving(kind) as server:
        assert remote(server, make(server, "Thing")).call("method") == "called"


UNREADABLE = b"cno_such_module\nThing\n."


def test_message_that_cannot_be_read_is_answered_with_the_reason(sync: Server, remote: Remotes) -> None:
    numbers = remote(sync, make(sync, "list", [1]))
    numbers.connection.send_bytes(UNREADABLE)
    with pytest.raises(standard.RemoteError, match="No module named 'no_such_module'"):
        numbers.end()
    assert numbers.call("pop") == 1
    with Client(sync.address, authkey=KEY) as connection:
        connection.send_bytes(UNREADABLE)
        assert connection.recv()[0] == "#TRACEBACK"
        with pytest.raises(EOFError):
            connection.recv()


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (5, "cannot unpack"),
        ((1, 2, 3), "not enough values"),
        (("nobody", "pop", (), {}), "KeyError: 'nobody'"),
        (("0", "pop", (), {}), "not enough values"),
        (([], "pop", (), {}), "unhashable"),
        (("{}", "no_method", (), {}), "not in exposed="),
        (("{}", "__class__", (), {}), "not in exposed="),
        (("{}", [], (), {}), "unhashable"),
        (("{}", "#GETVALUE", (1,), {}), "fallback_getvalue"),
    ],
)
def test_request_that_makes_no_sense_is_answered_with_the_reason(
    sync: Server, remote: Remotes, request_: Any, error: str
) -> None:
    numbers = remote(sync, make(sync, "list", [1]))
    if isinstance(request_, tuple) and request_[0] == "{}":
        request_ = (numbers.ident, *request_[1:])
    numbers.connection.send(request_)
    with pytest.raises(standard.RemoteError, match=error):
        numbers.end()
    assert numbers.call("pop") == 1


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (5, "cannot unpack"),
        ((None, "serve_forever", (), {}), "'serve_forever' unrecognized"),
        ((None, "create", (), {}), "positional argument"),
        ((None, "create", ("nothing",), {}), "KeyError: 'nothing'"),
        ((None, "create", ("list", 5), {}), "not iterable"),
        ((None, "create", ("Iterator",), {}), "must have one non-keyword argument"),
        ((None, "incref", ("nobody",), {}), "KeyError: 'nobody'"),
        ((None, "decref", ("nobody",), {}), "KeyError: 'nobody'"),
        ((None, "create", ("Barrier", 0), {}), "parties must be > 0"),
    ],
)
def test_request_for_the_server_that_makes_no_sense_is_answered_with_the_reason(
    sync: Server, request_: Any, error: str
) -> None:
    with Client(sync.address, authkey=KEY) as connection:
        connection.send(request_)
        kind, text = connection.recv()
    assert kind == "#TRACEBACK"
    assert error in text
    assert objects_of(sync) == 0


def test_errors_of_calls_come_as_they_are(sync: Server, remote: Remotes) -> None:
    numbers = remote(sync, make(sync, "list"))
    for name, args, error in [("pop", (), IndexError), ("pop", (1, 2), TypeError), ("remove", (3,), ValueError)]:
        with pytest.raises(error):
            numbers.call(name, *args)
    items = remote(sync, make(sync, "Queue"))
    for args, error in [((True, -1), ValueError), ((1, 2, 3, 4), TypeError), ((False,), queue.Empty)]:
        with pytest.raises(error):
            items.call("get", *args)


def test_client_with_another_key_is_refused_and_the_others_are_served(
    sync: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), pytest.raises(multiprocessing.AuthenticationError):
        standard.SyncManager(address=sync.address, authkey=b"another key of some length").connect()
    assert ask(sync.address, "dummy") is None


def test_result_of_a_request_that_cannot_be_sent_is_answered_with_the_reason() -> None:
    class Talking(Server):
        public = [*Server.public, "talk"]

        def talk(self, session: Any) -> Any:
            return lambda: None

    kind = types.SimpleNamespace(_Server=Talking, _registry={})
    with serving(kind) as server, Client(server.address, authkey=KEY) as connection:
        connection.send((None, "talk", (), {}))
        answer, text = connection.recv()
    assert answer == "#TRACEBACK"
    assert "lambda" in text


def test_types_may_be_shared_with_proxies_of_their_results_alone() -> None:
    kind = registry(
        Numbers={"callable": lambda: [[1], 5], "exposed": ("__len__",), "method_to_typeid": {"__getitem__": "List"}},
        List={"proxytype": standard.ListProxy, "create_method": False},
        Broken={"callable": list, "method_to_typeid": {"copy": "Nothing"}},
        Upside={"callable": list},
    )
    kind._registry["Upside"] = (list, None, [1], standard.AutoProxy)  # type: ignore[attr-defined]
    with serving(kind) as server:
        manager = connected(server, kind)
        numbers = manager.Numbers()
        inner = numbers[0]
        inner.append(2)
        assert (list(numbers[0]), len(numbers)) == ([1, 2], 2)
        with pytest.raises(standard.RemoteError, match="KeyError: 'Nothing'"):
            manager.Broken().copy()
        with pytest.raises(standard.RemoteError, match="Method_to_typeid"):
            manager.Upside()
        del numbers, inner


# Requests of one client


def test_requests_that_come_before_the_answers_are_served_in_order(sync: Server, remote: Remotes) -> None:
    items = remote(sync, make(sync, "Queue"))
    other = remote(sync, items.ident)
    count = 4 * REQUESTS_WAITING
    items.begin("get")
    for number in range(count):
        items.begin("put", number)
    wait_until(lambda: waiting(sync) == 1)
    assert other.call("qsize") == 0
    other.call("put", "first")
    assert [items.end() for _ in range(count + 1)] == ["first", *[None] * count]
    assert [other.call("get") for _ in range(count)] == list(range(count))


def test_client_that_sends_ahead_is_held_back_before_much_waits(sync: Server, remote: Remotes) -> None:
    items = remote(sync, make(sync, "Queue"))
    for _ in range(10 * REQUESTS_WAITING):
        items.begin("get")

    def ahead() -> list[int]:
        return [len(channel._requests) for channel in sync.reactor.channels if hasattr(channel, "_requests")]

    wait_until(lambda: sum(on_the_loop(sync, ahead)) > REQUESTS_WAITING)
    assert sum(on_the_loop(sync, ahead)) == REQUESTS_WAITING + 1
    other = remote(sync, items.ident)
    for number in range(10 * REQUESTS_WAITING):
        other.call("put", number)
    assert [items.end() for _ in range(10 * REQUESTS_WAITING)] == list(range(10 * REQUESTS_WAITING))


# Clients that go while they wait


@pytest.mark.parametrize("noticed", [True, False], ids=["noticed", "at the same moment"])
def test_client_that_goes_while_it_waits_swallows_no_item(sync: Server, remote: Remotes, noticed: bool) -> None:
    ident = make(sync, "Queue")
    gone, getter, putter = (remote(sync, ident) for _ in range(3))
    gone.begin("get")
    wait_until(lambda: waiting(sync) == 1)
    getter.begin("get")
    wait_until(lambda: waiting(sync) == 2)
    with contextlib.nullcontext() if noticed else held(sync):
        putter.begin("put", "item") if not noticed else None
        gone.connection.close()
    if noticed:
        wait_until(lambda: waiting(sync) == 1)
        putter.begin("put", "item")
    putter.end()
    assert getter.end() == "item"


def test_client_that_goes_while_it_waits_swallows_no_notify(sync: Server, remote: Remotes) -> None:
    ident = make(sync, "Condition")
    gone, sleeper, waker = (remote(sync, ident) for _ in range(3))
    for number, client in enumerate((gone, sleeper), start=1):
        client.call("acquire")
        client.begin("wait")
        wait_until(functools.partial(lambda count: waiting(sync) == count, number))
    waker.call("acquire")
    waker.call("notify")
    gone.connection.close()
    wait_until(lambda: waiting(sync) == 1)
    waker.call("release")
    assert sleeper.end() is True


def test_client_that_goes_while_it_waits_leaves_its_place_at_a_barrier(sync: Server, remote: Remotes) -> None:
    ident = make(sync, "Barrier", 3)
    first, gone, other = (remote(sync, ident) for _ in range(3))
    for number, client in enumerate((first, gone), start=1):
        client.begin("wait")
        wait_until(functools.partial(lambda count: waiting(sync) == count, number))
    gone.connection.close()
    wait_until(lambda: other.call("__getattribute__", "n_waiting") == 1)


def test_lock_of_a_client_that_has_gone_stays_locked_as_in_the_original(sync: Server, remote: Remotes) -> None:
    ident = make(sync, "RLock")
    with Remote(sync.address, ident) as gone:
        gone.call("acquire")
    wait_until(lambda: on_the_loop(sync, lambda: len(sync.reactor.channels)) == 1)
    assert remote(sync, ident).call("acquire", True, 0.001) is False


def test_client_that_is_stopped_while_it_has_an_answer_to_take_is_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    passed = [0.0]
    clock = functools.partial(Reactor, clock=lambda: time.monotonic() + passed[0])
    monkeypatch.setattr("reactor.managers.server.Reactor", clock)
    with serving(SyncManager) as server, Remote(server.address, make(server, "Value", "s", b"x" * 5_000_000)) as reader:
        reader.begin("get")
        wait_until(lambda: on_the_loop(server, lambda: any(channel.output_size for channel in server.reactor.channels)))
        passed[0] = 1_000_000
        assert ask(server.address, "dummy") is None
        assert reader.end() == b"x" * 5_000_000


# The end


def test_clients_that_are_connected_hear_of_the_end_and_it_waits_for_none(
    monkeypatch: pytest.MonkeyPatch, gate: Gate
) -> None:
    monkeypatch.setattr("reactor.managers.server.GRACE", 1000)
    limits = dataclasses.replace(managers.MANAGER_LIMITS, linger_timeout=None)
    kind = registry(SyncManager, Gate=lambda: gate)
    server = Server(kind._registry, None, KEY, "pickle", threads=2, limits=limits)
    ended = threading.Event()

    def serve() -> None:
        server.reactor.loop()
        ended.set()

    thread = threading.Thread(target=serve)
    thread.start()
    idle = Remote(server.address, make(server, "list"))
    waits = Remote(server.address, make(server, "Queue"))
    waits.begin("get")
    ident = make(server, "Gate")
    busy = [Remote(server.address, ident) for _ in range(4)]
    for client in busy:
        client.begin("wait")
    for _ in range(2):
        assert gate.inside.acquire(timeout=20)
    assert not server.stop_event.is_set()
    assert ask(server.address, "shutdown") is None
    assert server.stop_event.is_set()
    for client in (idle, waits, *busy):
        with pytest.raises(EOFError):
            client.end()
    assert ended.wait(20)
    for client in (idle, waits, *busy):
        client.connection.close()
    thread.join()
    server.stop_event.set()
    server.reactor.close()
    server.stop_event.set()


def test_answer_under_way_is_taken_before_the_end(sync: Server) -> None:
    with Remote(sync.address, make(sync, "Value", "s", b"x" * 5_000_000)) as reader:
        with held(sync):
            reader.begin("get")
        wait_until(
            lambda: any(channel.output_size for channel in on_the_loop(sync, lambda: list(sync.reactor.channels)))
        )
        sync.stop_event.set()
        assert reader.end() == b"x" * 5_000_000


def test_server_that_serves_for_ever_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    monkeypatch.setattr(multiprocessing.current_process(), "_manager_server", None, raising=False)
    server = SyncManager(authkey=KEY).get_server()
    server.reactor.call_soon(server.stop_event.set)
    with pytest.raises(SystemExit) as ended:
        server.serve_forever()
    assert ended.value.code == 0
    assert multiprocessing.current_process()._manager_server is server  # type: ignore[attr-defined]
    assert server.reactor.is_closed
    server = SyncManager(authkey=KEY).get_server()

    def interrupt() -> None:
        raise KeyboardInterrupt

    server.reactor.call_soon(interrupt)
    with pytest.raises(SystemExit):
        server.serve_forever()


def test_server_of_a_manager_class_may_be_made_by_a_function() -> None:
    class Small(SyncManager):
        def _Server(*args: Any) -> Server:
            return Server(*args, threads=1)

    server = Small(authkey=KEY).get_server()
    assert type(server) is Server
    server.reactor.close()


def test_manager_that_is_connected_to_a_server_makes_no_other_one(sync: Server) -> None:
    manager = connected(sync, managers.SyncManager)
    with pytest.raises(multiprocessing.ProcessError, match="started, connected or shut down"):
        manager.get_server()


def test_server_of_shared_memory_keeps_its_names_and_removes_it_at_the_end() -> None:
    class Tracking(standard.BaseProxy):
        _shared_memory_proxy = True

    kind = registry(
        managers.SharedMemoryManager,
        Tracked={"callable": lambda shared_memory_context: [shared_memory_context], "proxytype": Tracking},
        Plain=list,
    )
    with serving(kind) as server:
        ident, _ = ask(server.address, "create", "Tracked")
        assert server.id_to_obj[ident][0] == [server.shared_memory_context]  # type: ignore[attr-defined]
        ask(server.address, "create", "Plain")
        for name in ("one", "two"):
            ask(server.address, "track_segment", name)
        assert ask(server.address, "list_segments") == ["one", "two"]
        removed: list[str] = []
        context = server.shared_memory_context  # type: ignore[attr-defined]
        context.destroy_segment = lambda name: (removed.append(name), context.segment_names.remove(name))
        ask(server.address, "release_segment", "one")
        ask(server.address, "shutdown")
        assert removed == ["one", "two"]


def test_servers_that_cannot_be_made_leave_nothing(socket_path: str) -> None:
    with pytest.raises(TypeError, match="is type <class 'str'>, not bytes"):
        Server({}, None, "text", "pickle")  # type: ignore[arg-type]
    with pytest.raises(LocalError):
        Server({}, None, b"", "pickle")
    with serving(SyncManager, socket_path), pytest.raises(AddressInUseError):
        Server({}, socket_path, KEY, "pickle")
    with pytest.raises(KeyError):
        Server({}, None, KEY, "marshal")
