"""Timers: against a sorted list, and through a reactor whose clock the test moves."""

from __future__ import annotations

import gc
import math
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import reactor
from reactor.errors import LocalError
from reactor.timers import DeadlineGroup, Deadlines, Timer, TimerQueue
from tests.properties import steady


def run_due(queue: TimerQueue, now: float) -> None:
    """Run what is due at `now`, as one turn of the loop does."""
    latest = queue.latest
    while (due := queue.pop_due(now, latest)) is not None:
        callback, args = due
        callback(*args)


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Model:
    """What a timer queue does, in the plainest way: a list, sorted again for each turn."""

    def __init__(self) -> None:
        self.waiting: list[tuple[float, int, int, float | None]] = []
        self.sequence = 0

    def add(self, name: int, deadline: float, interval: float | None) -> None:
        self.sequence += 1
        self.waiting.append((deadline, self.sequence, name, interval))

    def cancel(self, name: int) -> None:
        self.waiting = [entry for entry in self.waiting if entry[2] != name]

    def run(self, now: float) -> list[int]:
        due = sorted(entry for entry in self.waiting if entry[0] <= now)
        self.waiting = [entry for entry in self.waiting if entry[0] > now]
        for deadline, _, name, interval in due:
            if interval is not None:
                missed = (now - deadline) // interval
                self.add(name, deadline + (missed + 1) * interval, interval)
        return [name for _, _, name, _ in due]


times = st.integers(-20, 200).map(float)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("add"), times, st.none()),
        st.tuples(st.just("add"), times, st.integers(1, 30).map(float)),
        st.tuples(st.just("cancel"), st.integers(0, 1000), st.none()),
        st.tuples(st.just("cancel many"), st.integers(1, 7), st.none()),
        st.tuples(st.just("add many"), times, st.none()),
        st.tuples(st.just("run"), st.integers(0, 40).map(float), st.none()),
        st.tuples(st.just("clear"), st.none(), st.none()),
    ),
    max_size=60,
)


@steady
@given(operations)
def test_timers_run_as_a_sorted_list_says(operations) -> None:  # type: ignore[no-untyped-def]
    queue, model = TimerQueue(), Model()
    timers: list[Timer] = []
    ran: list[int] = []
    now = 0.0

    def add(deadline: float, interval: float | None) -> None:
        model.add(len(timers), deadline, interval)
        timers.append(queue.add(deadline, ran.append, (len(timers),), interval))

    for operation, value, interval in operations:
        if operation == "add":
            add(value, interval)
        elif operation == "add many":
            for step in range(100):
                add(value + step % 10, None)
        elif operation == "cancel" and timers:
            timers[value % len(timers)].cancel()
            model.cancel(value % len(timers))
        elif operation == "cancel many":
            for name in range(0, len(timers), value):
                timers[name].cancel()
                model.cancel(name)
        elif operation == "clear":
            queue.clear()
            model.waiting.clear()
        elif operation == "run":
            now += value
            run_due(queue, now)
            assert ran == model.run(now)
            ran.clear()
        assert len(queue) == len(model.waiting)
        assert queue.next_due == min((entry[0] for entry in model.waiting), default=math.inf)


def test_timers_of_one_deadline_run_in_the_order_in_which_they_were_set() -> None:
    queue, ran = TimerQueue(), []
    for name in range(100):
        queue.add(5.0, ran.append, (name,))
    run_due(queue, 5.0)
    assert ran == list(range(100))


def test_timer_is_due_at_its_deadline_and_not_before() -> None:
    queue, ran = TimerQueue(), []
    queue.add(5.0, ran.append, ("due",))
    run_due(queue, math.nextafter(5.0, 0))
    assert ran == []
    run_due(queue, 5.0)
    assert ran == ["due"]
    run_due(queue, 6.0)
    assert ran == ["due"]
    assert len(queue) == 0


def test_timer_that_sets_itself_anew_with_no_delay_runs_once_a_turn() -> None:
    queue, runs = TimerQueue(), []

    def again() -> None:
        runs.append(1)
        queue.add(0.0, again)

    queue.add(0.0, again)
    for turn in range(1, 4):
        run_due(queue, 10.0)
        assert len(runs) == turn


def test_timer_cancelled_by_another_one_in_the_same_turn_does_not_run() -> None:
    queue, ran = TimerQueue(), []
    queue.add(1.0, lambda: victim.cancel())
    victim = queue.add(1.0, ran.append, ("victim",))
    run_due(queue, 2.0)
    assert ran == []
    assert len(queue) == 0


def test_cancelling_twice_or_after_the_run_does_nothing() -> None:
    queue, ran = TimerQueue(), []
    first, second, third = (queue.add(float(due), ran.append, (due,)) for due in (1, 2, 3))
    run_due(queue, 1.0)
    first.cancel()
    second.cancel()
    second.cancel()
    assert len(queue) == 1
    assert queue.next_due == 3.0
    run_due(queue, 3.0)
    third.cancel()
    assert ran == [1, 3]
    assert len(queue) == 0
    assert queue.next_due == math.inf


def test_cancelling_after_everything_was_cleared_does_nothing() -> None:
    queue = TimerQueue()
    timer = queue.add(1.0, print)
    queue.clear()
    timer.cancel()
    assert len(queue) == 0
    queue.add(2.0, print)
    assert (len(queue), queue.next_due) == (1, 2.0)


def test_cancelled_timer_lets_go_of_what_it_would_have_called_with() -> None:
    queue = TimerQueue()
    timer = queue.add(1.0, print, ("argument",))
    timer.cancel()
    assert timer.callback is None
    assert timer.args == ()


def test_repeating_timer_can_cancel_itself_while_it_runs() -> None:
    queue, runs = TimerQueue(), []

    def once() -> None:
        runs.append(1)
        timer.cancel()

    timer = queue.add(1.0, once, (), 1.0)
    run_due(queue, 1.0)
    run_due(queue, 100.0)
    assert runs == [1]
    assert len(queue) == 0


def count_timers() -> int:
    gc.collect()
    return sum(type(found) is Timer for found in gc.get_objects())


@pytest.mark.parametrize("order", ["each at once", "all at the end, first to last", "all at the end, last to first"])
def test_a_million_timers_set_and_cancelled_leave_nothing(order: str) -> None:
    queue = TimerQueue()
    before = count_timers()
    kept = queue.add(0.5, print)
    if order == "each at once":
        count = 100_000 if sys.gettrace() else 1_000_000  # a million takes long under coverage
        for number in range(count):
            queue.add(1.0 + number, print).cancel()
    else:
        timers = [queue.add(1.0 + number, print) for number in range(100_000)]
        if order.endswith("last to first"):
            timers.reverse()
        for timer in timers:
            timer.cancel()
        del timers, timer
    assert len(queue) == 1
    assert queue.next_due == kept.deadline
    assert count_timers() - before < 200


def test_half_of_many_timers_cancelled_leaves_the_others_in_order() -> None:
    queue, ran = TimerQueue(), []
    timers = [queue.add(float(number % 97), ran.append, (number,)) for number in range(1000)]
    for number, timer in enumerate(timers):
        if number % 3:
            timer.cancel()
    run_due(queue, 100.0)
    assert ran == sorted(
        (number for number in range(1000) if number % 3 == 0), key=lambda number: (number % 97, number)
    )


@pytest.mark.parametrize("deadline", [math.inf, -math.inf, math.nan])
def test_deadline_that_is_infinite_or_no_number_is_refused(deadline: float) -> None:
    queue = TimerQueue()
    with pytest.raises(LocalError, match="give a finite number"):
        queue.add(deadline, print)
    assert len(queue) == 0


@pytest.mark.parametrize("interval", [0.0, -1.0, math.inf, math.nan])
def test_interval_that_is_not_above_0_or_not_finite_is_refused(interval: float) -> None:
    queue = TimerQueue()
    with pytest.raises(LocalError, match="give a number above 0"):
        queue.add(1.0, print, (), interval)
    assert len(queue) == 0


@pytest.mark.parametrize("interval", [5e-324, 1e-310, 1e-15, 1e-9])
def test_tiny_interval_runs_once_a_turn_and_comes_back_in_the_future(interval: float) -> None:
    queue, runs = TimerQueue(), []
    queue.add(1e6, runs.append, (1,), interval)
    for turn in range(1, 4):
        now = 1e6 + turn
        run_due(queue, now)
        assert len(runs) == turn
        assert now <= queue.next_due <= now + 1


@steady
@example(1.0, 0.001, [1.05])
@given(st.floats(0.0, 1e7), st.floats(1e-3, 1e5), st.lists(st.floats(0.0, 1e4), min_size=1, max_size=30))
def test_repeating_timer_never_runs_twice_for_one_time_and_never_drifts(
    start: float, interval: float, steps: list[float]
) -> None:
    queue, runs = TimerQueue(), []
    timer = queue.add(start, runs.append, (1,), interval)
    now = start
    for step in steps:
        now += step
        before = len(runs)
        run_due(queue, now)
        run_due(queue, now)
        assert len(runs) - before <= 1
        assert now < timer.deadline <= now + interval * (1 + 1e-6)
        beats = (timer.deadline - start) / interval
        assert abs(beats - round(beats)) < 1e-3


def test_timer_says_when_it_is_due_and_what_it_calls() -> None:
    queue = TimerQueue()
    timer = queue.add(12.5, print)
    assert repr(timer) == "<Timer due at 12.500000 calls <built-in function print>>"


# Deadlines that share their timers


class Owner:
    """Something with a deadline; writes down when it passed."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._deadline_group: DeadlineGroup | None = None
        self.expired: list[float] = []

    def _expire(self) -> None:
        self.expired.append(self.clock.now)


@steady
@given(
    st.floats(0, 1e7),
    st.lists(
        st.tuples(st.integers(0, 7), st.none() | st.floats(1e-3, 1e6), st.floats(0, 1e6) | st.floats(0, 1)), max_size=60
    ),
)
def test_each_owner_expires_once_and_within_a_thousandth_of_its_timeout(
    start: float, operations: list[tuple[int, float | None, float]]
) -> None:
    clock, timers = Clock(start), TimerQueue()
    deadlines = Deadlines(timers, clock)
    owners = [Owner(clock) for _ in range(8)]
    waiting: dict[Owner, tuple[float, float]] = {}
    for number, timeout, pause in operations:
        owner = owners[number]
        deadlines.set(owner, timeout)
        waiting.pop(owner, None)
        if timeout is not None:
            grain = 1e-9 * (clock.now + timeout)  # what the numbers of the clock cannot tell apart
            waiting[owner] = (clock.now + timeout - grain, clock.now + timeout * (1 + 1 / Deadlines.GRAINS) + grain)
        clock.now += pause
        run_due(timers, clock.now)
        for owner in owners:
            if owner.expired:
                assert owner.expired == [clock.now]
                assert waiting.pop(owner)[0] <= clock.now
                assert owner._deadline_group is None
                owner.expired.clear()
        assert all(clock.now < latest for _, latest in waiting.values())
        assert len(timers) == len({id(owner._deadline_group) for owner in waiting}) <= len(waiting)
    for owner in owners:
        deadlines.set(owner, None)
    assert len(timers) == 0


def test_ten_thousand_deadlines_in_one_moment_share_a_few_timers() -> None:
    clock, timers = Clock(), TimerQueue()
    deadlines = Deadlines(timers, clock)
    owners = [Owner(clock) for _ in range(10_000)]
    for owner in owners:
        deadlines.set(owner, 60.0)
        clock.now += 1e-5
    assert len(timers) <= 4
    clock.now += 61.0
    run_due(timers, clock.now)
    assert all(len(owner.expired) == 1 for owner in owners)
    assert len(timers) == 0


def test_owner_that_takes_others_out_as_it_expires_keeps_them_from_expiring() -> None:
    clock, timers = Clock(), TimerQueue()
    deadlines = Deadlines(timers, clock)
    victim, moved = Owner(clock), Owner(clock)

    class Killer(Owner):
        def _expire(self) -> None:
            super()._expire()
            deadlines.set(victim, None)
            deadlines.set(moved, 100.0)
            deadlines.set(self, 100.0)

    killer = Killer(clock)
    for owner in (killer, victim, moved):
        deadlines.set(owner, 10.0)
    clock.now += 11.0
    run_due(timers, clock.now)
    assert [len(owner.expired) for owner in (killer, victim, moved)] == [1, 0, 0]
    clock.now += 101.0
    run_due(timers, clock.now)
    assert [len(owner.expired) for owner in (killer, victim, moved)] == [2, 0, 1]


def test_owner_that_fails_as_it_expires_takes_no_deadline_from_the_others() -> None:
    clock, timers = Clock(), TimerQueue()
    deadlines = Deadlines(timers, clock)

    class Failing(Owner):
        def _expire(self) -> None:
            super()._expire()
            raise KeyboardInterrupt

    owners = [Failing(clock), Owner(clock), Failing(clock), Owner(clock)]
    for owner in owners:
        deadlines.set(owner, 10.0)
    clock.now += 11.0
    for _ in owners:
        try:
            run_due(timers, clock.now)
        except KeyboardInterrupt:
            pass
        clock.now += 11.0
    assert [len(owner.expired) for owner in owners] == [1, 1, 1, 1]


# Through a reactor


def test_timer_that_sets_itself_anew_in_the_past_does_not_starve_the_others() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[str] = []

        def again() -> None:
            ran.append("again")
            loop.call_at(0.0, again)

        loop.call_at(0.0, again)
        loop.call_at(1005.0, ran.append, "other")
        clock.now = 1010.0
        for _ in range(3):
            loop.poll(0)
        assert "other" in ran


def test_call_every_keeps_its_rhythm_when_a_slow_handler_makes_it_late() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[float] = []
        loop.call_every(10.0, lambda: ran.append(clock.now))
        for now in (1009.5, 1010.0, 1012.0, 1020.5, 1055.0, 1059.9, 1060.0):
            clock.now = now
            loop.poll(0)
        assert ran == [1010.0, 1020.5, 1055.0, 1060.0]


def test_timers_and_delays_count_from_the_clock_of_the_reactor() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[Any] = []
        loop.call_later(5.0, ran.append, "later")
        loop.call_at(1003.0, ran.append, "at")
        loop.call_at(-1e300, ran.append, "passed")
        loop.call_later(-1.0, ran.append, "negative").cancel()
        loop.poll(0)
        assert ran == ["passed"]
        clock.now = 1004.0
        loop.poll(0)
        assert ran == ["passed", "at"]
        clock.now = 1005.0
        loop.poll(0)
        assert ran == ["passed", "at", "later"]
        assert loop.is_idle()


def test_timer_far_beyond_what_a_selector_can_wait_does_no_harm() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[Any] = []
        loop.call_later(1e300, ran.append, "huge")
        wait = loop.next_timeout()
        assert wait is not None
        assert 0 < wait <= 1e6
        loop.call_soon(ran.append, "soon")
        loop.poll(None)
        assert ran == ["soon"]
        clock.now = 2e300
        loop.poll(0)
        assert ran == ["soon", "huge"]


@pytest.mark.parametrize("delay", [math.inf, -math.inf, math.nan])
def test_reactor_refuses_delay_that_is_infinite_or_no_number(loop: reactor.Reactor, delay: float) -> None:
    for call in (loop.call_later, loop.call_at, loop.call_every):
        with pytest.raises(LocalError):
            call(delay, print)
    assert loop.is_idle()


def test_tiny_interval_does_not_stop_the_loop() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[Any] = []
        timer = loop.call_every(1e-310, ran.append, "tiny")
        loop.call_later(1.0, ran.append, "other")
        clock.now += 2.0
        loop.poll(0)
        timer.cancel()
        loop.poll(0)
        assert ran.count("other") == 1
        assert "tiny" in ran


def test_clock_that_jumps_ten_years_runs_every_timer_once_and_keeps_the_rhythm() -> None:
    clock = Clock()
    with reactor.Reactor(clock=clock) as loop:
        ran: list[Any] = []
        loop.call_later(5.0, ran.append, "once")
        timer = loop.call_every(60.0, ran.append, "minute")
        clock.now += 10 * 365 * 86400.0
        loop.poll(0)
        loop.poll(0)
        assert ran == ["once", "minute"]
        assert clock.now < timer.deadline <= clock.now + 60.0
