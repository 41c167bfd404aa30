"""Managers in processes of their own, as programs use them.

``python -m tests.reactor.managers.programs ours NAME`` runs one of the functions with our managers, and prints what it
returns as JSON; with ``theirs`` in place of ``ours``, with those of the standard library.
"""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import managers, process
from typing import Any

KEY = b"a long secret key"
PATIENCE = 40
"""Seconds until a program fails that waits for something."""

context: Any = multiprocessing.get_context("fork")
WHICH = sys.argv[1]
if WHICH == "ours":
    from reactor import managers as tested
else:
    tested = managers  # type: ignore[assignment]


def refused(function: Callable[..., Any], *args: Any) -> str:
    """Return the name of the error that a call raises."""
    try:
        function(*args)
    except Exception as error:
        return type(error).__name__
    raise AssertionError(f"{function} was not refused")


def in_another_process(function: Callable[..., Any], *args: Any) -> None:
    """Run `function` in a process, to its end."""
    child = context.Process(target=function, args=args)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0, child.exitcode


# The same on both


class Robot:
    """Something of the user's."""

    def __init__(self, name: str) -> None:
        self.name = name

    def greet(self, whom: str = "you") -> str:
        return f"{self.name} greets {whom}"

    def fail(self) -> None:
        raise KeyError(self.name)

    def steps(self) -> Iterator[int]:
        yield from range(3)

    def _secret(self) -> None:
        """Not exposed."""


class EverydayManager(tested.SyncManager):
    """With types of the user's."""


EverydayManager.register("Robot", Robot, method_to_typeid={"steps": "Iterator"})
EverydayManager.register("Quiet", Robot, exposed=("greet",))
EverydayManager.register("fails", lambda: 1 // 0)


def fill(words: Any, numbers: Any, items: Any, value: Any, lock: Any, robot: Any, done: Any) -> None:
    """Use proxies in another process."""
    words["child"] = os.getpid() != 0
    numbers.append(robot.greet("child"))
    for number in range(3):
        items.put(number)
    for _ in range(100):
        with lock:
            value.value += 1
    items.join()
    done.set()


def double(number: int) -> int:
    return 2 * number


def everyday() -> Any:
    """Use every type, from several processes, and count what is left."""
    with EverydayManager(ctx=context) as manager:
        words, numbers, items, value = manager.dict(), manager.list(), manager.JoinableQueue(2), manager.Value("i", 0)
        lock, robot, done, space = manager.RLock(), manager.Robot("R2"), manager.Event(), manager.Namespace(a=1)
        arguments = (words, numbers, items, value, lock, robot, done)
        children = [context.Process(target=fill, args=arguments) for _ in range(2)]
        for child in children:
            child.start()
        got = []
        for _ in range(6):
            got.append(items.get())
            items.task_done()
        for child in children:
            child.join(PATIENCE)
        space.b = [1, 2]
        words["inner"] = numbers
        words["inner"].append("through the outer one")
        report: dict[str, Any] = {
            "exit codes": [child.exitcode for child in children],
            "got": sorted(got),
            "value": value.value,
            "done": done.wait(PATIENCE),
            "numbers": sorted(map(str, numbers)),
            "words": sorted(words.keys()),
            "iterated": [sorted(words), list(robot.steps())],
            "space": str(space),
            "array": list(manager.Array("d", [1.5, 2])),
            "locked out": acquire_elsewhere(lock),
            "refused": [
                refused(robot.fail), refused(manager.fails), refused(lock.release), refused(items.get, False),
                refused(manager.Quiet, "one", "two"), refused(manager.Robot("x")._callmethod, "_secret"),
                refused(numbers.pop, 100), refused(numbers.append, lambda: None),
            ],
            "methods": sorted(name for name in dir(robot) if name[0] != "_"),
            "semaphore": [manager.BoundedSemaphore(1).acquire(), refused(manager.Semaphore, -1)],
        }  # fmt: skip
        with manager.Pool(2) as pool:
            report["pool"] = [
                pool.map(double, range(4)),
                pool.apply_async(double, (21,)).get(PATIENCE),
                list(pool.imap(double, range(3))),
                refused(pool.apply, int, ("x",)),
            ]
        gc.collect()  # until Python 3.12 errors of calls hold their proxies in cycles
        report["objects"] = manager._number_of_objects()
        del words, numbers, items, value, lock, robot, done, space, arguments, pool
        report["objects left"] = manager._number_of_objects()
    report["exit code"] = manager._process.exitcode
    report["children"] = len(multiprocessing.active_children())
    return report


def acquire_elsewhere(lock: Any) -> list[bool]:
    """Return what a thread of its own gets of a lock that this one has, and has no more."""
    got = []
    with lock:
        thread = threading.Thread(target=lambda: got.append(lock.acquire(False)))
        thread.start()
        thread.join()
    thread = threading.Thread(target=lambda: got.append(lock.acquire(False)))
    thread.start()
    thread.join()
    return got


def start_methods() -> Any:
    """Start servers in every way that there is."""
    report = {}
    for method in ("spawn", "forkserver"):
        with tested.SyncManager(ctx=multiprocessing.get_context(method)) as manager:
            items = manager.Queue()
            items.put(method)
            report[method] = items.get()
    return report


def shared_memory() -> Any:
    """Share memory, and have it removed with the server."""
    with tested.SharedMemoryManager(ctx=context) as manager:
        block = manager.SharedMemory(size=100)
        words = manager.ShareableList(["one", 2])
        block.buf[:3] = b"abc"
        names = [block.name, words.shm.name]
        there = [os.path.exists(f"/dev/shm/{name}") for name in names]
        report = [bytes(block.buf[:3]), list(words)]
        block.close()
        words.shm.close()
    gone = [not os.path.exists(f"/dev/shm/{name}") for name in names]
    return [str(report), there, gone, manager._process.exitcode]


# What is better here


class Rooms(tested.SyncManager):
    """What many clients meet in."""


def facts() -> dict[str, Any]:
    """Return what can be said about the process of the server."""
    server: Any = process.current_process()._manager_server  # type: ignore[attr-defined]
    with open("/proc/self/status", encoding="ascii") as status:
        threads = next(int(line.split()[1]) for line in status if line.startswith("Threads:"))
    return {"threads": threads, "connections": server.listener.connections}


CLIENTS = 200
ROUNDS = 5
if WHICH == "ours":
    meeting, parting, jobs, results, lock = (
        tested.Barrier(CLIENTS + 1), tested.Barrier(CLIENTS + 1), tested.Queue(10), tested.Queue(), tested.Lock(),
    )  # fmt: skip
    Rooms.register("meeting", lambda: meeting, managers.BarrierProxy)  # type: ignore[attr-defined]
    Rooms.register("parting", lambda: parting, managers.BarrierProxy)  # type: ignore[attr-defined]
    Rooms.register("jobs", lambda: jobs)
    Rooms.register("results", lambda: results)
    Rooms.register("mutex", lambda: lock, managers.AcquirerProxy)  # type: ignore[attr-defined]
    Rooms.register("facts", facts, managers.DictProxy)


def clients(address: Any, first: int, count: int) -> None:
    """Be so many clients, of the standard library, each with a connection of its own."""

    class Visitor(managers.BaseManager):
        pass

    for typeid in ("meeting", "parting", "jobs", "results", "mutex"):
        Visitor.register(typeid, proxytype=Rooms._registry[typeid][3])  # type: ignore[attr-defined]

    def visit(number: int) -> None:
        manager: Any = Visitor(address=address, authkey=KEY)
        manager.connect()
        jobs, results, mutex = manager.jobs(), manager.results(), manager.mutex()
        manager.meeting().wait()
        for _ in range(ROUNDS):
            with mutex:
                pass
            results.put((number, jobs.get()))
        manager.parting().wait()

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(first, first + count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def many() -> Any:
    """Have many clients at one server, all at once."""
    with Rooms(authkey=KEY, ctx=context) as manager:
        processes = 4
        children = [
            context.Process(target=clients, args=(manager.address, number * CLIENTS // processes, CLIENTS // processes))
            for number in range(processes)
        ]
        for child in children:
            child.start()
        meeting, parting = manager.meeting(), manager.parting()
        report: dict[str, Any] = {}
        for name, barrier in (("at the meeting", meeting), ("at the parting", parting)):
            if barrier is parting:
                jobs, results = manager.jobs(), manager.results()
                for number in range(CLIENTS * ROUNDS):
                    jobs.put(number)
                got = [results.get() for _ in range(CLIENTS * ROUNDS)]
                report["served"] = sorted({number for number, _ in got}) == list(range(CLIENTS))
                report["done"] = sorted(job for _, job in got) == list(range(CLIENTS * ROUNDS))
            deadline = time.monotonic() + PATIENCE
            while barrier.n_waiting < CLIENTS:
                assert time.monotonic() < deadline, "not all have come"
                time.sleep(0.01)
            report[name] = manager.facts().copy()
            barrier.wait()
        for child in children:
            child.join(PATIENCE)
        report["exit codes"] = [child.exitcode for child in children]
        del meeting, parting, barrier, jobs, results
    report["exit code"] = manager._process.exitcode
    return report


class Waiting(tested.SyncManager):
    """With something that waits on threads."""


Waiting.register("Thread_queue", queue.Queue)
Waiting.register("clock", lambda: time, exposed=("sleep",))


def end_while_busy() -> Any:
    """Shut a server down while clients wait in every way, and every thread is taken."""
    manager = Waiting(ctx=context)
    manager.start()
    ours, theirs, clock = manager.Queue(), manager.Thread_queue(), manager.clock()
    calls = [ours.get] * 3 + [theirs.get] * 20 + [lambda: clock.sleep(1000)] * 20
    ended: queue.Queue[str] = queue.Queue()
    threads = [threading.Thread(target=lambda call=call: ended.put(refused(call)), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    idle = manager.list([1, 2])
    deadline = time.monotonic() + PATIENCE
    while len(os.listdir(f"/proc/{manager._process.pid}/fd")) < len(calls):  # each has a connection
        assert time.monotonic() < deadline, "not all have called"
    manager.shutdown()
    return {
        "exit code": manager._process.exitcode,
        "ended": sorted({ended.get(timeout=PATIENCE) for _ in calls}),
        "afterwards": refused(idle.append, 1),
    }


def other_names() -> Any:
    """Nest proxies that know their server under another name than it has itself."""
    multiprocessing.current_process().authkey = KEY
    with tested.SyncManager(address=("", 0), ctx=context) as manager:
        port = manager.address[1]
        other = managers.SyncManager(address=("127.0.0.1", port), authkey=KEY)
        other.connect()
        outer, inner = other.list(), other.list([1])
        outer.append(inner)
        outer[0].append(2)
        report: dict[str, Any] = {"inner": list(inner), "as one": list(outer[0])}
        outer.extend(inner)
        outer.pop(0)
        report["outer"] = list(outer)
        del outer, inner
    return report


def strangers() -> Any:
    """Nest proxies in a server that cannot authenticate at its own door."""
    with tested.SyncManager(address=("127.0.0.1", 0), authkey=KEY, ctx=context) as manager:
        other = managers.SyncManager(address=("localhost", manager.address[1]), authkey=KEY)
        other.connect()
        outer, inner = other.list(), other.list([1])
        report = [refused(outer.append, inner), list(outer)]
        del outer, inner
    return report


def each_other() -> Any:
    """Have two servers hold proxies of one another's objects, at the same time."""
    multiprocessing.current_process().authkey = KEY
    with tested.SyncManager(ctx=context) as first, tested.SyncManager(ctx=context) as second:
        ones, twos = first.list(), second.list()

        def swap(outer: Any, inner: Any) -> None:
            for _ in range(30):
                outer.append(inner)
                outer.pop()

        threads = [threading.Thread(target=swap, args=pair) for pair in ((ones, twos), (twos, ones))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        report = [thread.is_alive() for thread in threads] + [len(ones), len(twos)]
        twos.append(ones)
        ident = ones._id
        del ones, swap, threads
        gc.collect()
        deadline = time.monotonic() + PATIENCE
        while f"{ident}:       refcount=1\n" not in first._debug_info():  # the second server's
            assert time.monotonic() < deadline
        second.shutdown()
        report.append(first._number_of_objects())
    return report


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[2]](), sort_keys=True))
