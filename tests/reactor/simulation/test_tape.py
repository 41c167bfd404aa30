"""The tape: written and read back, drawn from independent streams, and shrunk."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactor import LocalError
from reactor.simulation import ALL, SimulationFailure, Violation, World, simulate
from reactor.simulation.faults import CALLS, KIND_BITS, PARAMETERS, RECEIVE, SEND
from reactor.simulation.running import SHRINKING_RUNS, run_once, shrunk
from reactor.simulation.tape import Draws, Tape, format_draws, parse_draws
from tests.properties import steady
from tests.reactor.simulation.test_running import calculation, calculation_with_patience, hasty_addition

names = st.from_regex(r"[A-Za-z][A-Za-z0-9_-]{0,8}(\.[0-9]{1,3})?", fullmatch=True)
values = st.integers(1, (PARAMETERS << KIND_BITS) - 1)
streams = st.dictionaries(st.integers(0, 10_000), values, min_size=1, max_size=5)
entities = st.sampled_from(["world", "server", "client", *(f"client.{number}" for number in range(1, 5))])
tapes = st.dictionaries(names, streams, max_size=5)


def size(draws: Draws) -> int:
    return sum(map(len, draws.values()))


# As text


@settings(steady)
@given(tapes)
def test_tape_that_was_written_is_read_back(draws: Draws) -> None:
    text = format_draws(draws)
    assert parse_draws(text) == draws
    assert parse_draws(f" {text};\n") == draws
    assert format_draws(parse_draws(text)) == text


def test_tape_is_written_in_order_and_without_streams_that_are_benign() -> None:
    assert format_draws({"server": {7: 2, 3: 9}, "client.1": {}, "client": {0: 4}}) == "client:0=4;server:3=9,7=2"
    assert format_draws({}) == ""
    assert parse_draws("") == {}


@pytest.mark.parametrize(
    "text",
    ["nonsense", "client", "client:", "client:3", "client:3=", "client:=4", "client:3=4=5", "client:3=4,", "client:x=4",
     "client:3=4 server:0=1", ":3=4", "client:-1=4", "client:3=-4", "client:3=4;client:5=6"],
)  # fmt: skip
def test_what_is_no_tape_is_refused_and_told_what_one_looks_like(text: str) -> None:
    with pytest.raises(LocalError, match=r"no part of a tape; one looks like 'client.1:3=9,7=2;server:0=4'"):
        parse_draws(text)
    with pytest.raises(LocalError, match="no part of a tape"):
        simulate(calculation, tape=text)


@settings(steady, max_examples=60)
@given(st.dictionaries(entities, st.dictionaries(st.integers(0, 20), st.integers(0, 1 << 17), max_size=8)))
def test_any_tape_can_be_replayed(draws: Draws) -> None:
    assert run_once(calculation_with_patience, draws=draws).failure is None


@pytest.mark.parametrize("seed", range(20))
def test_run_that_is_replayed_from_its_written_tape_has_the_same_trace(seed: int) -> None:
    first = run_once(calculation_with_patience, seed, faults=ALL, tracing=True)
    again = run_once(calculation_with_patience, seed, draws=parse_draws(format_draws(first.draws)), tracing=True)
    assert again.trace == first.trace
    assert again.draws == first.draws
    assert again.report == first.report


def test_empty_tape_is_a_run_in_which_nothing_goes_wrong() -> None:
    outcome = run_once(calculation_with_patience, draws={})
    assert outcome.failure is None
    assert outcome.report.faults == {}


# Streams


def drawn(tape: Tape, name: str, count: int = 200) -> list[int]:
    stream = tape.stream(name)
    return [stream.draw(CALLS[number % len(CALLS)]) for number in range(count)]


def test_stream_depends_on_its_name_and_the_seed_and_on_no_other_stream() -> None:
    alone = drawn(Tape(1, ALL), "client.1")
    tape = Tape(1, ALL)
    other, stream = tape.stream("server"), tape.stream("client.1")
    mixed = []
    for number in range(200):
        other.draw(SEND)
        mixed.append(stream.draw(CALLS[number % len(CALLS)]))
        other.pick(5)
    assert mixed == alone
    assert drawn(Tape(1, ALL), "client.2") != alone
    assert drawn(Tape(2, ALL), "client.1") != alone


def test_stream_of_a_planned_tape_has_its_own_draws_whatever_others_have() -> None:
    plan = {"client": {3: 1, 5: 2}, "server": {0: 2, 4: 3}}
    expected = [0, 0, 0, 1, 0, 2, 0, 0]
    assert [drawn(Tape(0, ALL, plan), "client", 8)[number] for number in range(8)] == expected
    del plan["server"]
    assert drawn(Tape(0, ALL, plan), "client", 8) == expected
    assert drawn(Tape(0, ALL, plan), "server", 8) == [0] * 8


def test_draws_are_of_the_faults_that_are_wanted() -> None:
    wanted = {"recv short", "accept EMFILE", "select EINTR"}
    seen = set()
    for seed in range(40):
        stream = Tape(seed, wanted).stream("client")
        for _ in range(50):
            for call in CALLS:
                fault, parameter = call.decode(stream.draw(call))
                if fault is not None:
                    seen.add(f"{call.name} {fault.name}")
                    assert 0 <= parameter < PARAMETERS
    assert seen == wanted


def test_some_seeds_spare_a_call_that_others_let_fail_often() -> None:
    counts = []
    for seed in range(60):
        stream = Tape(seed, {"recv short"}).stream("client")
        counts.append(sum(stream.draw(RECEIVE) != 0 for _ in range(100)))
    assert min(counts) == 0
    assert max(counts) > 40


def test_faults_that_break_something_are_rare_beside_harmless_ones() -> None:
    harmless = breaking = 0
    for seed in range(60):
        stream = Tape(seed, ALL).stream("client")
        for _ in range(100):
            fault, _ = SEND.decode(stream.draw(SEND))
            harmless += fault is not None and not fault.breaks
            breaking += fault is not None and fault.breaks
    assert 0 < breaking < harmless / 5


def test_nothing_is_drawn_while_all_is_calm() -> None:
    tape = Tape(3, ALL)
    stream = tape.stream("client")
    before = [stream.draw(RECEIVE) for _ in range(50)]
    with tape.calm(), tape.calm():
        assert [stream.draw(RECEIVE) for _ in range(50)] == [0] * 50
        assert tape.is_calm
    assert not tape.is_calm
    after = [stream.draw(RECEIVE) for _ in range(50)]
    whole = Tape(3, ALL).stream("client")
    assert [whole.draw(RECEIVE) for _ in range(100)] == before + after


def test_picks_are_written_down_and_never_reach_past_the_end() -> None:
    tape = Tape(0, ALL)
    stream = tape.stream("world")
    picks = [stream.pick(4) for _ in range(50)]
    assert set(picks) == {0, 1, 2, 3}
    assert tape.draws["world"] == {number: pick for number, pick in enumerate(picks) if pick}
    again = Tape(0, ALL, tape.draws).stream("world")
    assert [again.pick(4) for _ in range(50)] == picks
    narrow = Tape(0, ALL, tape.draws).stream("world")
    assert [narrow.pick(2) for _ in range(50)] == [min(pick, 1) for pick in picks]


def test_random_bytes_are_the_same_for_every_run_of_a_seed() -> None:
    first, again, other = (Tape(seed, ALL).random_bytes("client") for seed in (1, 1, 2))
    pieces = [first(size) for size in (0, 1, 20, 4)]
    assert list(map(len, pieces)) == [0, 1, 20, 4]
    assert [again(size) for size in (0, 1, 20, 4)] == pieces
    assert other(20) != pieces[2]


# Shrinking


def test_shrinking_leaves_a_tape_that_fails_in_the_same_way_and_needs_all_of_its_draws() -> None:
    outcomes = ((seed, run_once(hasty_addition, seed)) for seed in range(1000))
    failures = ((seed, outcome) for seed, outcome in outcomes if outcome.failure is not None)
    for seed, found in itertools.islice(failures, 5):
        draws = shrunk(hasty_addition, seed, found)
        assert run_once(hasty_addition, seed, draws=draws).is_like(found)
        assert 0 < size(draws) <= size(found.draws)
        for name, stream in draws.items():
            for number, value in stream.items():
                assert value <= found.draws[name][number]
                fewer = {**draws, name: {n: v for n, v in stream.items() if n != number}}
                assert run_once(hasty_addition, seed, draws=fewer).failure is None


class Fussy:
    """A scenario that counts its runs, and fails if its draws are what `fails` says."""

    def __init__(self, fails: Any) -> None:
        self.runs = 0
        self._fails = fails

    def __call__(self, world: World) -> None:
        self.runs += 1
        self._fails([world.choose(list(range(1000))) for _ in range(300)])


def test_shrinking_ends_however_much_there_is_to_shrink() -> None:
    def fails(choices: list[int]) -> None:
        assert sum(choices) < 1000  # however few are left, each of them counts

    scenario = Fussy(fails)
    with pytest.raises(SimulationFailure) as caught:
        simulate(scenario, [0])
    assert scenario.runs <= SHRINKING_RUNS + 2
    kept = parse_draws(caught.value.tape)
    assert 0 < size(kept) < 300


def test_scenario_that_fails_by_itself_shrinks_to_an_empty_tape() -> None:
    def fails(choices: list[int]) -> None:
        raise ValueError("always")

    with pytest.raises(SimulationFailure) as caught:
        simulate(Fussy(fails), [0])
    assert caught.value.tape == ""
    assert isinstance(caught.value.cause, ValueError)


def raise_one_of_two(found: bool) -> None:
    raise KeyError("the failure that was found") if found else ValueError("another one")


def violate_one_of_two(found: bool) -> None:
    raise Violation("the failure that was found" if found else "another one", "")


@pytest.mark.parametrize("fail", [raise_one_of_two, violate_one_of_two])
def test_shrinking_does_not_wander_off_to_another_failure(fail: Callable[[bool], None]) -> None:
    with pytest.raises(SimulationFailure) as caught:
        simulate(Fussy(lambda choices: fail(choices[7] > 0)), [0])
    assert "the failure that was found" in str(caught.value.cause)
    assert list(parse_draws(caught.value.tape)) == ["world"]
    assert list(parse_draws(caught.value.tape)["world"]) == [7]


def test_failure_that_cannot_be_repeated_is_said_to_be_one() -> None:
    runs = []

    def scenario(world: World) -> None:
        runs.append(world)
        assert len(runs) > 1, "only the first time"

    with pytest.raises(SimulationFailure, match="the run does not repeat itself") as caught:
        simulate(scenario, [0])
    assert "only the first time" in str(caught.value)
