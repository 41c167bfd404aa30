"""A program and its own loop: timers, calls and threads, many at once."""

from __future__ import annotations

from collections.abc import Callable

from reactor.simulation import World


def timers_storm(world: World) -> None:
    loop = world.host("only").reactor
    due: list[float] = []
    rounds: list[float] = []

    def ran(deadline: float, again: int) -> None:
        assert loop.clock() >= deadline
        due.append(deadline)
        if again:
            loop.call_at(deadline - 1, ran, deadline - 1, again - 1)  # which has passed already

    def tick() -> None:
        rounds.append(loop.clock())
        if len(rounds) == 10:
            every.cancel()

    timers = [
        loop.call_at(deadline, ran, deadline, number % 3)
        for number in range(300)
        for deadline in [world.now + number * 7919 % 31 / 15]
    ]
    for timer in timers[::4]:
        timer.cancel()
    every = loop.call_every(0.3, tick)
    world.run(timeout=100)
    kept = [number for number in range(300) if number % 4]
    assert len(due) == sum(1 + number % 3 for number in kept)
    assert len(rounds) == 10
    assert loop.is_idle()


def calls_storm(world: World) -> None:
    loop = world.host("only").reactor
    calls: list[int] = []

    def again(left: int) -> None:
        calls.append(left)
        if left:
            loop.call_soon(again, left - 1)
            loop.call_soon(never).cancel()

    def never() -> None:
        raise AssertionError("a call that was cancelled")

    for number in range(50):
        loop.call_soon(again, 20)
        loop.call_threadsafe(again, number % 3)
    world.run(timeout=100)
    assert sorted(calls) == sorted([*range(21)] * 50 + [left for n in range(50) for left in range(n % 3 + 1)])
    assert loop.is_idle()


def threads_bring_results(world: World) -> None:
    loop = world.host("only").reactor
    results: list[object] = []
    jobs: list[Callable[[], object]] = [lambda number=number: number * number for number in range(20)]  # type: ignore[misc]
    for job in jobs:
        loop.run_in_thread(job, on_result=results.append)
    loop.run_in_thread(int, "no number", on_error=lambda error: results.append(type(error)))
    loop.run_in_thread(results.append, "ran", on_result=results.append).cancel()
    loop.run_in_thread(loop.call_threadsafe, results.append, "called")
    world.run(timeout=100)
    assert sorted(map(str, results)) == sorted(map(str, [*(n * n for n in range(20)), ValueError, "ran", "called"]))
    assert loop.is_idle()
