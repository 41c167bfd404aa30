"""The objects that wait, without a server: what they answer, to whom, in which order."""

from __future__ import annotations

import pickle
import queue
import sys
import threading
from collections.abc import Callable
from decimal import Decimal
from threading import BrokenBarrierError
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reactor import managers
from reactor.managers.lines import Shared
from tests.reactor.managers.callers import Answer, Caller

KINDS = ["Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Queue", "RLock", "Semaphore"]
ARGUMENTS = {"Barrier": (2,)}


def callers(count: int) -> list[Caller]:
    return [Caller() for _ in range(count)]


def answered(*answers: Answer) -> list[Any]:
    """Return what the answers are: results, types of errors, or "waiting"."""
    return [
        answer.result if answer.state == "returned" else answer.state if answer.is_waiting else answer.error
        for answer in answers
    ]


# What they have in common


@pytest.mark.parametrize("name", KINDS)
def test_types_have_the_methods_that_clients_call(name: str) -> None:
    ours = getattr(managers, name)(*ARGUMENTS.get(name, ()))
    theirs = getattr(queue if name == "Queue" else threading, name)(*ARGUMENTS.get(name, ()))
    left_out = {"wait_for", "notifyAll", "isSet", "acquire_lock", "release_lock", "locked_lock"}
    added = {"locked"} if name == "RLock" else set()  # which locks of both kinds have from Python 3.14 on
    assert set(public_methods(ours)) == set(public_methods(theirs)) - left_out | added


def public_methods(obj: Any) -> list[str]:
    return [name for name in dir(obj) if name[0] != "_" and callable(getattr(obj, name))]


ACQUIRING: list[tuple[Callable[[], Shared], str, tuple[Any, ...], str, Any]] = [
    (lambda: managers.Lock(), "acquire", (), "release", True),
    (lambda: managers.RLock(), "acquire", (), "release", True),
    (lambda: managers.Semaphore(1), "acquire", (), "release", True),
    (lambda: managers.BoundedSemaphore(1), "acquire", (), "release", True),
]
"""What makes an object, the call that waits for it, and the call that ends the wait."""


@pytest.mark.parametrize("make", [entry[0] for entry in ACQUIRING])
def test_lock_goes_to_those_who_wait_in_the_order_in_which_they_came(make: Callable[[], Shared]) -> None:
    lock = make()
    clients = callers(4)
    answers = [client.call(lock, "acquire") for client in clients]
    assert answered(*answers) == [True, "waiting", "waiting", "waiting"]
    for number, client in enumerate(clients):
        assert [answer.is_waiting for answer in answers] == [False] * (number + 1) + [True] * (3 - number)
        assert client.call(lock, "release").result is None
    assert answered(*answers) == [True] * 4


@pytest.mark.parametrize("make", [entry[0] for entry in ACQUIRING])
def test_who_leaves_the_line_for_a_lock_is_passed_over(make: Callable[[], Shared]) -> None:
    lock = make()
    first, leaving, gone, last = callers(4)
    for client in (first, leaving, gone):
        client.call(lock, "acquire")
    answer = last.call(lock, "acquire")
    leaving.leave()
    gone.has_left = True  # and nobody has said so yet
    first.call(lock, "release")
    assert answered(answer) == [True]


@pytest.mark.parametrize("make", [entry[0] for entry in ACQUIRING])
def test_who_does_not_want_to_wait_for_a_lock_gets_an_answer_at_once(make: Callable[[], Shared]) -> None:
    lock = make()
    owner, other = callers(2)
    owner.call(lock, "acquire")
    assert answered(other.call(lock, "acquire", False), other.call(lock, "acquire", True, 0)) == [False, False]
    owner.call(lock, "release")
    assert answered(other.call(lock, "acquire", False)) == [True]


@pytest.mark.parametrize("make", [entry[0] for entry in ACQUIRING])
def test_who_has_waited_long_enough_for_a_lock_is_told_and_takes_nothing(make: Callable[[], Shared]) -> None:
    lock = make()
    owner, impatient, patient = callers(3)
    owner.call(lock, "acquire")
    first, second = impatient.call(lock, "acquire", True, 5), patient.call(lock, "acquire", True, 10)
    impatient.run_out_of_time()
    assert answered(first, second) == [False, "waiting"]
    owner.call(lock, "release")
    assert answered(second) == [True]


@pytest.mark.parametrize("timeout", [1e300, float("inf"), float("nan")])
def test_timeouts_that_no_clock_counts_are_refused_and_leave_nobody_in_line(timeout: float) -> None:
    client = Caller()
    event, full = managers.Event(), managers.Queue()
    assert client.call(event, "wait", timeout).error is OverflowError
    assert client.call(full, "get", True, timeout).error is OverflowError
    assert not any(line for obj in (event, full) for line in obj.lines)


def test_timeout_that_cannot_be_added_to_a_time_is_refused() -> None:
    client = Caller()
    assert client.call(managers.Event(), "wait", Decimal(1)).error is TypeError
    assert client.call(managers.Queue(), "get", True, Decimal(1)).error is TypeError


WAITING = [
    ("Barrier", "wait"), ("Condition", "acquire"), ("Event", "wait"), ("Lock", "acquire"), ("Queue", "get"),
    ("RLock", "acquire"), ("Semaphore", "acquire"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "method"), WAITING)
def test_call_that_comes_through_no_proxy_is_refused_and_nobody_suffers(name: str, method: str) -> None:
    thing = getattr(managers, name)(*ARGUMENTS.get(name, ()))
    with pytest.raises(RuntimeError, match="serves proxies alone"):
        getattr(thing, method)()
    assert not any(thing.lines)


@pytest.mark.parametrize("name", KINDS)
def test_no_copy_of_what_is_shared_is_sent(name: str) -> None:
    with pytest.raises(TypeError, match=f"cannot pickle '{name}' object"):
        pickle.dumps(getattr(managers, name)(*ARGUMENTS.get(name, ())))


@pytest.mark.parametrize("end", ["answer", "time", "leave"])
def test_what_works_for_a_call_while_it_waits_is_called_off_at_its_end(end: str) -> None:
    class Helper:
        calls = 0

        def cancel(self) -> None:
            self.calls += 1

    event = managers.Event()
    client, setter = callers(2)
    client.call(event, "wait", 5)
    helper = Helper()
    client.waits[-1].helpers.append(helper)
    assert helper.calls == 0
    {"answer": lambda: setter.call(event, "set"), "time": client.run_out_of_time, "leave": client.leave}[end]()
    assert helper.calls == 1


def test_nobody_calls_between_the_calls() -> None:
    client = Caller()
    client.call(managers.Event(), "wait", "long")
    client.call(managers.Lock(), "acquire")
    assert Shared.caller is None


# Locks


def test_lock_is_released_by_anybody() -> None:
    owner, other = callers(2)
    lock = managers.Lock()
    owner.call(lock, "acquire")
    assert owner.call(lock, "locked").result is True
    assert owner.call(lock, "acquire").is_waiting
    assert other.call(lock, "release").result is None
    assert answered(other.call(lock, "acquire", False)) == [False]  # it went to the owner, who waited for it


def test_lock_of_one_client_can_be_acquired_again_by_that_client_alone_even_if_others_wait() -> None:
    owner, other = callers(2)
    lock = managers.RLock()
    for _ in range(3):
        assert owner.call(lock, "acquire").result is True
    waiting = other.call(lock, "acquire")
    assert owner.call(lock, "acquire", True, 3).result is True
    for _ in range(4):
        assert other.call(lock, "release").error is RuntimeError
        assert waiting.is_waiting
        owner.call(lock, "release")
    assert waiting.result is True
    assert owner.call(lock, "release").error is RuntimeError


# Conditions


@pytest.fixture(params=[managers.RLock, managers.Lock])
def condition(request: pytest.FixtureRequest) -> managers.Condition:
    return managers.Condition(request.param())


def asleep(condition: managers.Condition, *clients: Caller, timeout: float | None = None) -> list[Answer]:
    """Have clients wait for `condition`, one after the other."""
    answers = []
    for client in clients:
        assert client.call(condition, "acquire").result is True
        answers.append(client.call(condition, "wait", timeout))
        assert answers[-1].is_waiting
    return answers


def test_notified_clients_wake_one_after_the_other_in_the_order_in_which_they_came(
    condition: managers.Condition,
) -> None:
    *sleepers, waker = callers(4)
    answers = asleep(condition, *sleepers)
    waker.call(condition, "acquire")
    waker.call(condition, "notify", 2)
    assert answered(*answers) == ["waiting"] * 3
    waker.call(condition, "release")
    assert answered(*answers) == [True, "waiting", "waiting"]
    sleepers[0].call(condition, "release")
    assert answered(*answers) == [True, True, "waiting"]
    sleepers[1].call(condition, "notify_all")
    sleepers[1].call(condition, "release")
    assert answered(*answers) == [True, True, True]


def test_who_waits_for_a_condition_has_released_its_lock_and_has_it_again_afterwards() -> None:
    condition = managers.Condition()
    sleeper, waker = callers(2)
    for _ in range(3):
        sleeper.call(condition, "acquire")
    answer = sleeper.call(condition, "wait")
    assert waker.call(condition, "acquire").result is True
    waker.call(condition, "notify")
    waker.call(condition, "release")
    assert answer.result is True
    for _ in range(3):
        assert waker.call(condition, "acquire", False).result is False
        sleeper.call(condition, "release")
    assert waker.call(condition, "acquire", False).result is True


def test_condition_is_not_to_be_used_without_its_lock(condition: managers.Condition) -> None:
    client = Caller()
    for name in ("wait", "notify", "notify_all", "release"):
        assert client.call(condition, name).error is RuntimeError


def test_condition_takes_no_lock_of_another_kind() -> None:
    for lock in (threading.Lock(), managers.Semaphore(), object()):
        with pytest.raises(TypeError, match="needs a Lock or an RLock"):
            managers.Condition(lock)  # type: ignore[arg-type]


@pytest.mark.parametrize("n", [0, -1, -5])
def test_none_is_woken_by_a_notify_for_none(condition: managers.Condition, n: int) -> None:
    *sleepers, waker = callers(4)
    answers = asleep(condition, *sleepers)
    waker.call(condition, "acquire")
    waker.call(condition, "notify", n)
    waker.call(condition, "release")
    assert answered(*answers) == ["waiting"] * 3


def test_who_was_not_notified_in_time_waits_for_the_lock_and_says_so_then(condition: managers.Condition) -> None:
    sleeper, owner = callers(2)
    (answer,) = asleep(condition, sleeper, timeout=5)
    owner.call(condition, "acquire")
    sleeper.run_out_of_time()
    owner.call(condition, "notify")  # too late
    assert answer.is_waiting
    owner.call(condition, "release")
    assert answer.result is False
    assert owner.call(condition, "acquire", False).result is False


def test_who_was_notified_in_time_says_so_however_long_the_lock_takes(condition: managers.Condition) -> None:
    sleeper, owner = callers(2)
    (answer,) = asleep(condition, sleeper, timeout=5)
    owner.call(condition, "acquire")
    owner.call(condition, "notify")
    sleeper.run_out_of_time()
    assert answer.is_waiting
    owner.call(condition, "release")
    assert answer.result is True


@pytest.mark.parametrize("timeout", [0, -1])
def test_who_does_not_want_to_wait_for_a_condition_lets_others_have_the_lock_all_the_same(
    condition: managers.Condition, timeout: float
) -> None:
    client, other = callers(2)
    client.call(condition, "acquire")
    waiting = other.call(condition, "acquire")
    answer = client.call(condition, "wait", timeout)
    assert answered(answer, waiting) == ["waiting", True]
    other.call(condition, "notify")  # too late
    other.call(condition, "release")
    assert answer.result is False


@pytest.mark.parametrize("when", ["before its lock is free", "after its time", "unnoticed"])
def test_notify_for_a_client_that_has_gone_goes_to_the_next_one(condition: managers.Condition, when: str) -> None:
    gone, heir, waker = callers(3)
    asleep(condition, gone, timeout=5)
    (answer,) = asleep(condition, heir)
    waker.call(condition, "acquire")
    waker.call(condition, "notify")
    if when == "after its time":
        gone.run_out_of_time()
    if when == "unnoticed":
        gone.has_left = True
    else:
        gone.leave()
    assert answer.is_waiting
    waker.call(condition, "release")
    assert answer.result is True


def test_notify_for_a_client_that_has_gone_goes_to_none_that_came_after_it(condition: managers.Condition) -> None:
    gone, owner, waker = callers(3)
    asleep(condition, gone)
    waker.call(condition, "acquire")
    owner.call(condition, "acquire")  # has the lock before the one who is notified
    waker.call(condition, "notify")
    answer = waker.call(condition, "wait")
    gone.leave()
    owner.call(condition, "release")
    assert answer.is_waiting
    owner.call(condition, "acquire")
    owner.call(condition, "notify")
    owner.call(condition, "release")
    assert answer.result is True


def test_client_that_goes_before_it_is_notified_is_passed_over(condition: managers.Condition) -> None:
    gone, other, waker = callers(3)
    asleep(condition, gone)
    (answer,) = asleep(condition, other)
    gone.leave()
    waker.call(condition, "acquire")
    waker.call(condition, "notify")
    waker.call(condition, "release")
    assert answer.result is True


def test_conditions_on_one_lock_share_it() -> None:
    lock = managers.RLock()
    first, second = managers.Condition(lock), managers.Condition(lock)
    sleeper, other, waker = callers(3)
    (one,), (two,) = asleep(first, sleeper), asleep(second, other)
    waker.call(lock, "acquire")
    waker.call(first, "notify")
    waker.call(second, "notify")
    waker.call(lock, "release")
    assert answered(one, two) == [True, "waiting"]
    sleeper.call(second, "release")
    assert answered(two) == [True]


# Semaphores and events


def test_semaphore_admits_as_many_as_it_counts() -> None:
    semaphore = managers.Semaphore(2)
    clients = callers(5)
    answers = [client.call(semaphore, "acquire") for client in clients]
    assert answered(*answers) == [True, True, "waiting", "waiting", "waiting"]
    clients[0].call(semaphore, "release", 2)
    assert answered(*answers) == [True] * 4 + ["waiting"]


def test_semaphore_with_a_bound_is_released_as_often_as_acquired() -> None:
    semaphore = managers.BoundedSemaphore(2)
    client = Caller()
    assert client.call(semaphore, "release").error is ValueError
    client.call(semaphore, "acquire")
    assert client.call(semaphore, "release", 2).error is ValueError
    assert client.call(semaphore, "release").result is None


def test_event_lets_all_go_who_wait_when_it_is_set_even_if_it_is_cleared_then() -> None:
    event = managers.Event()
    *clients, setter = callers(4)
    answers = [client.call(event, "wait", timeout) for client, timeout in zip(clients, [None, 5, 5], strict=True)]
    clients[2].run_out_of_time()
    setter.call(event, "set")
    setter.call(event, "clear")
    assert answered(*answers) == [True, True, False]
    assert answered(setter.call(event, "wait", 0), setter.call(event, "is_set")) == [False, False]


# Barriers


def test_barrier_lets_all_go_when_the_last_one_comes_and_gives_each_its_number() -> None:
    barrier = managers.Barrier(3)
    clients = callers(3)
    for _ in range(3):  # rounds
        answers = []
        for number, client in enumerate(clients):
            assert barrier.n_waiting == number
            answers.append(client.call(barrier, "wait"))
        assert answered(*answers) == [0, 1, 2]
        assert (barrier.n_waiting, barrier.broken, barrier.parties) == (0, False, 3)


def test_barrier_for_one_holds_nobody() -> None:
    assert Caller().call(managers.Barrier(1), "wait").result == 0


@pytest.mark.parametrize("how", ["abort", "reset", "time", "no time"])
def test_barrier_that_breaks_tells_those_who_wait(how: str) -> None:
    barrier = managers.Barrier(4)
    first, second, other = callers(3)
    answers = [first.call(barrier, "wait"), second.call(barrier, "wait", 5)]
    if how == "time":
        second.run_out_of_time()
    elif how == "no time":
        assert other.call(barrier, "wait", 0).error is BrokenBarrierError
    else:
        other.call(barrier, how)
    assert answered(*answers) == [BrokenBarrierError] * 2
    assert (barrier.broken, barrier.n_waiting) == (how != "reset", 0)
    if barrier.broken:
        assert other.call(barrier, "wait").error is BrokenBarrierError
        other.call(barrier, "reset")
    answers = [client.call(barrier, "wait") for client in callers(4)]
    assert answered(*answers) == [0, 1, 2, 3]


def test_barrier_has_a_timeout_of_its_own_which_a_caller_may_replace() -> None:
    barrier = managers.Barrier(3, timeout=7)
    first, second = callers(2)
    first.call(barrier, "wait")
    second.call(barrier, "wait", 3)
    assert [client.waits[-1].timeout for client in (first, second)] == [7, 3]


def test_client_that_goes_leaves_its_place_at_a_barrier_to_another_one() -> None:
    barrier = managers.Barrier(3)
    first, gone, third, fourth = callers(4)
    one = first.call(barrier, "wait")
    gone.call(barrier, "wait")
    gone.leave()
    assert barrier.n_waiting == 1
    two, three = third.call(barrier, "wait"), fourth.call(barrier, "wait")
    assert answered(one, two, three) == [0, 1, 2]


def test_numbers_at_a_barrier_are_given_once_even_if_the_first_one_goes() -> None:
    barrier = managers.Barrier(3)
    gone, *others = callers(4)
    gone.call(barrier, "wait")
    answers = [others[0].call(barrier, "wait")]
    gone.leave()
    answers += [client.call(barrier, "wait") for client in others[1:]]
    assert sorted(answered(*answers)) == [0, 1, 2]


def test_action_of_a_barrier_runs_once_before_anybody_goes_on() -> None:
    done: list[int] = []
    barrier = managers.Barrier(2, lambda: done.append(1))
    first, last, early = callers(3)
    answers = [first.call(barrier, "wait", 5), last.call(barrier, "wait", 5)]
    assert answered(*answers) == ["waiting"] * 2
    assert (barrier.n_waiting, barrier.broken) == (2, False)
    first.run_out_of_time()  # all were here in time
    next_round = early.call(barrier, "wait")
    assert answered(*answers) == ["waiting"] * 2
    last.act()
    assert (answered(*answers), done) == ([0, 1], [1])
    assert (next_round.state, barrier.n_waiting) == ("waiting", 1)
    first.call(barrier, "wait")
    first.act()
    assert (next_round.result, done) == (0, [1, 1])


@pytest.mark.parametrize("error", [KeyError("gone"), SystemExit(3)])
def test_action_that_raises_breaks_the_barrier_and_tells_the_last_one_why(error: BaseException) -> None:
    def fail() -> None:
        raise error

    barrier = managers.Barrier(2, fail)
    first, last = callers(2)
    answers = [first.call(barrier, "wait"), last.call(barrier, "wait")]
    last.act()
    expected = KeyError if isinstance(error, Exception) else BrokenBarrierError
    assert answered(*answers) == [BrokenBarrierError, expected]
    assert barrier.broken


@pytest.mark.parametrize("name", ["reset", "abort"])
def test_barrier_whose_action_runs_is_changed_after_it(name: str) -> None:
    barrier = managers.Barrier(2, lambda: None)
    first, last, *others = callers(500)
    answers = [first.call(barrier, "wait"), last.call(barrier, "wait")]
    change = first.call(barrier, name)
    more = [client.call(barrier, "wait") for client in others]
    assert answered(change, *answers) == ["waiting"] * 3
    last.act()
    assert answered(change, *answers) == [None, 0, 1]
    assert barrier.broken == (name == "abort")
    assert answered(*more) == ([BrokenBarrierError] * 498 if barrier.broken else ["waiting"] * 498)


def test_last_one_at_a_barrier_may_go_while_its_action_runs() -> None:
    barrier = managers.Barrier(2, lambda: None)
    first, last = callers(2)
    answer = first.call(barrier, "wait")
    last.call(barrier, "wait")
    last.leave()
    last.act()
    assert answer.result == 0


def test_barrier_for_nobody_is_refused() -> None:
    with pytest.raises(ValueError, match="parties must be > 0"):
        managers.Barrier(0)


# Queues


def test_queue_gives_items_to_those_who_wait_in_the_order_in_which_they_came() -> None:
    items = managers.Queue()
    *getters, putter = callers(4)
    answers = [client.call(items, "get") for client in getters]
    for number in range(4):
        assert putter.call(items, "put", number).result is None
    assert answered(*answers, putter.call(items, "get")) == [0, 1, 2, 3]


def test_full_queue_takes_items_in_the_order_in_which_they_came() -> None:
    items = managers.Queue(2)
    *putters, getter = callers(6)
    answers = [client.call(items, "put", number) for number, client in enumerate(putters)]
    assert answered(*answers) == [None, None, "waiting", "waiting", "waiting"]
    assert getter.call(items, "full").result is True
    assert [getter.call(items, "get").result for _ in range(5)] == list(range(5))
    assert answered(*answers) == [None] * 5
    assert answered(getter.call(items, "empty"), getter.call(items, "qsize")) == [True, 0]


def test_queue_says_that_it_is_empty_or_full_to_those_who_do_not_wait_or_no_longer() -> None:
    items = managers.Queue(1)
    client, other = callers(2)
    waiting = other.call(items, "get", True, 5)
    assert answered(client.call(items, "get", False), client.call(items, "get_nowait")) == [queue.Empty] * 2
    assert client.call(items, "get", True, 0).error is queue.Empty
    other.run_out_of_time()
    assert waiting.error is queue.Empty
    client.call(items, "put", 1)
    waiting = other.call(items, "put", 2, True, 5)
    assert answered(client.call(items, "put", 2, False), client.call(items, "put_nowait", 2)) == [queue.Full] * 2
    other.run_out_of_time()
    assert waiting.error is queue.Full
    assert client.call(items, "get").result == 1
    assert client.call(items, "qsize").result == 0


def test_client_that_goes_takes_no_item_and_leaves_none() -> None:
    items = managers.Queue(1)
    gone, unnoticed, getter, putter = callers(4)
    gone.call(items, "get")
    unnoticed.call(items, "get")
    answer = getter.call(items, "get")
    gone.leave()
    unnoticed.has_left = True
    putter.call(items, "put", "one")
    assert answer.result == "one"
    putter.call(items, "put", "two")
    gone.has_left = False
    gone.call(items, "put", "never seen")
    gone.leave()
    assert getter.call(items, "get").result == "two"
    assert getter.call(items, "qsize").result == 0


def test_queue_is_joined_when_all_tasks_are_done() -> None:
    items = managers.Queue()
    client, joiner = callers(2)
    assert joiner.call(items, "join").result is None
    assert client.call(items, "task_done").error is ValueError
    for number in range(2):
        client.call(items, "put", number)
    answer = joiner.call(items, "join")
    for number in range(2):
        assert client.call(items, "get").result == number
    client.call(items, "task_done")
    assert answer.is_waiting
    client.call(items, "task_done")
    assert answer.result is None


@pytest.mark.skipif(sys.version_info < (3, 13), reason="queues of this Python cannot be shut down")
@pytest.mark.parametrize("immediate", [False, True])
def test_queue_that_is_shut_down_gives_what_it_has_and_takes_no_more(immediate: bool) -> None:
    items = managers.Queue(2)
    getter, putter, joiner, other = callers(4)
    for number in range(2):
        other.call(items, "put", number)
    put, join = putter.call(items, "put", 2), joiner.call(items, "join")
    other.call(items, "shutdown", immediate)
    assert put.error is queue.ShutDown  # type: ignore[attr-defined]
    assert answered(join) == [None if immediate else "waiting"]
    for number in range(0 if immediate else 2):
        assert other.call(items, "get").result == number
    waiting = managers.Queue()
    get = getter.call(waiting, "get")
    other.call(waiting, "shutdown")
    refused = [get, other.call(items, "get"), other.call(items, "get", False), other.call(items, "put_nowait", 2)]
    assert answered(*refused) == [queue.ShutDown] * 4  # type: ignore[attr-defined]


# As `threading` and `queue` do it: whatever one thread can say to both, with the same answers

TIMEOUTS = st.sampled_from([None, -5, -1, -0.5, 0, 0.001, 1])
FLAGS = st.sampled_from([True, False, 1, 0])
NUMBERS = st.integers(-1, 3)


def arguments(*kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    """Return a strategy for arguments of these kinds, of which the last ones may be left out."""
    return st.one_of(*(st.tuples(*kinds[:count]) for count in range(len(kinds) + 1)))


ACQUIRE = ("acquire", arguments(FLAGS, TIMEOUTS))
CALLS: dict[str, list[tuple[str, st.SearchStrategy[tuple[Any, ...]]]]] = {
    "Lock": [ACQUIRE, ("release", st.just(())), ("locked", st.just(()))],
    "RLock": [ACQUIRE, ("release", st.just(()))],
    "Semaphore": [ACQUIRE, ("release", arguments(NUMBERS))],
    "BoundedSemaphore": [ACQUIRE, ("release", arguments(NUMBERS))],
    "Event": [("wait", arguments(TIMEOUTS)), *((name, st.just(())) for name in ("set", "clear", "is_set"))],
    "Condition": [
        ("acquire", arguments(FLAGS)),
        ("release", st.just(())),
        ("wait", arguments(TIMEOUTS)),
        ("notify", arguments(NUMBERS)),
        ("notify_all", st.just(())),
    ],
    "Barrier": [("wait", arguments(TIMEOUTS)), ("reset", st.just(())), ("abort", st.just(()))],
    "Queue": [
        ("put", arguments(NUMBERS, FLAGS, TIMEOUTS)),
        ("get", arguments(FLAGS, TIMEOUTS)),
        ("put_nowait", arguments(NUMBERS)),
        *((name, st.just(())) for name in ("get_nowait", "qsize", "empty", "full", "join", "task_done")),
    ],
}
MADE_WITH = {
    "Semaphore": st.tuples(NUMBERS), "BoundedSemaphore": st.tuples(NUMBERS), "Barrier": st.tuples(st.integers(1, 2)),
    "Queue": st.tuples(NUMBERS),
}  # fmt: skip


def said(error: Exception) -> Any:
    """Return what an error says. Those about arguments of a wrong type name the function: another one here."""
    if isinstance(error, TypeError):
        return None
    return str(error).replace("must be positive", "must be a non-negative number")  # until Python 3.12


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a call returns or raises, so that it can be compared."""
    try:
        return "returned", function(*args)
    except Exception as error:
        return "raised", type(error), said(error)


def outcome_of(answer: Answer) -> Any:
    if answer.state == "returned":
        return "returned", answer.value
    return "raised", answer.error, said(answer.value)


class Forever(Exception):
    """The real object would wait for ever."""


def outcome_with_little_time(real: Any, name: str, args: tuple[Any, ...]) -> Any:
    """Return the outcome of a call that waits, which is given hardly any time."""
    places = {"put": 2, "get": 1, "acquire": 1, "wait": 0, "join": 0}
    place = places[name]
    if name == "join" or len(args) <= place or args[place] is None or (name == "acquire" and args[place] == -1):
        raise Forever
    return outcome(getattr(real, name), *args[:place], 0.001)


@pytest.mark.parametrize("name", KINDS)
def test_one_caller_gets_the_answers_that_one_thread_gets(name: str) -> None:
    @given(MADE_WITH.get(name, st.just(())), st.data())
    def compare(made_with: tuple[Any, ...], data: st.DataObject) -> None:
        made = outcome(getattr(managers, name), *made_with)
        real_made = outcome(getattr(queue if name == "Queue" else threading, name), *made_with)
        assert made[0] == real_made[0]
        if made[0] == "raised":
            assert made == real_made
            return
        ours, real = made[1], real_made[1]
        caller = Caller()
        for _ in range(data.draw(st.integers(1, 12))):
            method, strategy = data.draw(st.sampled_from(CALLS[name]))
            args = data.draw(strategy)
            answer = caller.call(ours, method, *args)
            if not answer.is_waiting:
                assert outcome_of(answer) == outcome(getattr(real, method), *args), (method, args)
                continue
            try:
                expected = outcome_with_little_time(real, method, args)
            except Forever:
                return
            caller.run_out_of_time()
            assert outcome_of(answer) == expected, (method, args)

    compare()


# Whatever many do: nothing is lost, nobody is forgotten, and who came first is served first


@given(st.integers(0, 3), st.data())
def test_queue_loses_no_item_and_forgets_nobody(maxsize: int, data: st.DataObject) -> None:
    items = managers.Queue(maxsize)
    free = callers(6)
    putting: dict[Caller, tuple[int, Answer]] = {}
    getting: dict[Caller, Answer] = {}
    put: list[int] = []
    got: list[int] = []
    given_up: set[int] = set()
    for number in range(data.draw(st.integers(1, 40))):
        waiting = [*putting, *getting]
        act = data.draw(st.sampled_from(["put", "get", *(["time", "leave"] if waiting else [])]))
        if act in ("put", "get") and free:
            caller = free.pop(data.draw(st.integers(0, len(free) - 1)))
            if act == "put":
                putting[caller] = number, caller.call(items, "put", number, True, 9)
                put.append(number)
            else:
                getting[caller] = caller.call(items, "get", True, 9)
        elif waiting:
            caller = data.draw(st.sampled_from(waiting))
            if act == "leave":
                caller.has_left = True  # it is noticed later, or when its turn comes
                if data.draw(st.booleans()):
                    caller.leave()
            else:
                caller.run_out_of_time()
        for caller, answer in list(getting.items()):
            if caller.has_left or not answer.is_waiting:
                del getting[caller]
                free += [Caller()] if caller.has_left else [caller]
                if answer.state == "returned":
                    got.append(answer.result)
        for caller, (item, answer) in list(putting.items()):
            if caller.has_left or not answer.is_waiting:
                del putting[caller]
                free += [Caller()] if caller.has_left else [caller]
                if answer.state != "returned":
                    given_up.add(item)
        assert not (getting and items.qsize()), "somebody waits for an item that is there"
        assert not (putting and not items.full()), "somebody waits for room that is there"
    rest = [Caller().call(items, "get") for _ in range(len(put))]
    got += [answer.result for answer in rest if not answer.is_waiting]
    assert sorted(got) == sorted(set(put) - given_up)
    assert not maxsize or len(got) <= len(put)
