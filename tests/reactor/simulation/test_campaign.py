"""The command for campaigns, and what it stands on."""

from __future__ import annotations

import re
import shlex
import sys
from concurrent.futures import Executor, Future
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest

from reactor import LocalError
from reactor.simulation.__main__ import main
from reactor.simulation.campaign import Place, Result, find_scenarios, run_batch, run_campaign

MODULE = "scenarios_of_a_user"
SOURCE = """
import reactor


class Echo(reactor.Stream):
    def handle_data(self, data):
        self.push(data)


class Asker(reactor.Stream):
    received = b""

    def handle_open(self):
        self.push(b"a question")

    def handle_data(self, data):
        self.received += data


def right(world):
    world.listen(("server", 6000), Echo)
    asker = world.connect(("server", 6000), Asker)
    world.run(until=lambda: asker.received == b"a question")


def wrong(world):
    world.listen(("server", 6000), Echo)
    asker = world.connect(("server", 6000), Asker)
    world.run(until=lambda: asker.received)
    assert asker.received == b"a question"


def tolerant(world):
    world.listen(("server", 6000), Echo)
    world.connect(("server", 6000), Asker)
    world.run(timeout=10)


number = 5
SCENARIOS = [tolerant]
STRICT = [right]
"""


@pytest.fixture(scope="module", autouse=True)
def tracker_runs_already() -> None:
    """The process that multiprocessing starts with its first child stays, and is no leak."""
    resource_tracker.ensure_running()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's, where the command is started; the processes of a campaign find it too."""
    (tmp_path / f"{MODULE}.py").write_text(SOURCE)
    (tmp_path / "empty_scenarios.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in (MODULE, "empty_scenarios"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return MODULE


def test_module_says_which_faults_its_scenarios_stand(module: str) -> None:
    assert find_scenarios(module) == [Place(module, "tolerant", "all"), Place(module, "right", "harmless")]
    assert {place.faults for place in find_scenarios(module, "harmless")} == {"harmless"}
    assert find_scenarios(f"{module}:wrong") == [Place(module, "wrong", "harmless")]
    assert find_scenarios(f"{module}:wrong", "all") == [Place(module, "wrong", "all")]
    assert str(Place(module, "wrong", "all")) == f"{module}:wrong"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module", "No module named 'no_such_module'; give it as package.module or package.module:function"),
        (f"{MODULE}:missing", f"{MODULE} has no function 'missing'"),
        (f"{MODULE}:number", f"{MODULE} has no function 'number'"),
        ("empty_scenarios", "has no list SCENARIOS or STRICT; name a function of it, as empty_scenarios:function"),
    ],
)
def test_mistake_in_the_command_is_told_and_ends_with_2(
    target: str, message: str, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LocalError) as caught:
        find_scenarios(target)
    assert message in str(caught.value)
    assert main([target]) == 2
    assert capsys.readouterr().err == f"error: {caught.value}\n"


@pytest.mark.parametrize("options", [["--cores", "0"], ["--seconds", "0"], ["--seconds", "nan"], ["--tape", "a:0=1"]])
def test_options_that_make_no_sense_end_with_2(
    options: list[str], module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([f"{module}:right", *options])
    assert caught.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_scenario_that_other_processes_cannot_find_is_refused(module: str) -> None:
    (right,) = (place.find() for place in find_scenarios(f"{module}:right"))
    sys.modules[module].SCENARIOS = [right, lambda world: None]  # type: ignore[attr-defined]
    with pytest.raises(LocalError, match="make it a function of a module"):
        find_scenarios(module)


def test_batch_goes_on_where_the_one_before_it_ended(module: str) -> None:
    (place,) = find_scenarios(f"{module}:right")
    first, following = run_batch(place, 100, 0.02)
    second, end = run_batch(place, following, 0.02)
    assert first.report.runs == following - 100 > 0
    assert second.report.runs == end - following > 0
    assert first.seconds >= 0.02
    assert first.failures == []
    total = Result()
    total.add(first)
    total.add(second)
    assert total.report.runs == end - 100
    assert str(total).split()[:2] == [f"{total.report.runs:,}", "seeds"]
    assert str(Result()).endswith("0 violations")


def test_batch_ends_with_the_first_failure(module: str) -> None:
    (place,) = find_scenarios(f"{module}:wrong")
    result, following = run_batch(place, 0, 60)
    assert len(result.failures) == 1
    assert f"python -m reactor.simulation {module}:wrong --seed {following - 1} --tape '" in result.failures[0]


class InThisProcess(Executor):
    """Runs what is submitted at once."""

    def __init__(self, cores: int, context: Any) -> None:
        assert cores == 2

    def submit(self, function: Any, /, *args: Any, **_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args))
        return future


class EveryLookTakesAMoment:
    """Clocks that move when they are looked at, and not otherwise."""

    def __init__(self, moment: float = 0.01) -> None:
        self.now = 0.0
        self.moment = moment

    def monotonic(self) -> float:
        self.now += self.moment
        return self.now

    process_time = monotonic


def test_campaign_runs_every_scenario_in_turn_and_none_again_that_has_failed(
    module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reactor.simulation.campaign.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr("reactor.simulation.campaign.time", EveryLookTakesAMoment())
    told: list[dict[Place, int]] = []
    places = [*find_scenarios(module), *find_scenarios(f"{module}:wrong")]

    def progress(results: dict[Place, Result]) -> None:
        told.append({place: result.report.runs for place, result in results.items()})

    results = run_campaign(places, 1.0, 2, first_seed=0, progress=progress)
    assert [len(results[place].failures) for place in places] == [0, 0, 1]
    assert len({counts[places[2]] for counts in told} - {0}) == 1
    assert all(len({counts[place] for counts in told} - {0}) > 1 for place in places[:2])


def test_command_runs_a_campaign_and_says_what_came_of_it(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{module}:right", "--seconds", "0.05", "--first-seed", "7", "--each"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 scenarios, 0.05 s on 1 cores, seeds from 7"
    assert lines[-2].startswith("right harmless")
    assert lines[-1].startswith("all")
    assert lines[-1].endswith("0 violations")


def test_command_prints_failures_with_the_command_that_replays_them(
    module: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reactor.simulation.campaign.ProcessPoolExecutor", InThisProcess)
    monkeypatch.setattr("reactor.simulation.campaign.time", EveryLookTakesAMoment())
    monkeypatch.setattr("reactor.simulation.__main__.time", EveryLookTakesAMoment(10))
    assert main([f"{module}:wrong", "--seconds", "10", "--cores", "2"]) == 1
    output = capsys.readouterr().out
    assert re.search(r"^ +20 s +\d+ seeds", output, re.MULTILINE)
    (command,) = {line.strip() for line in output.splitlines() if "--tape" in line}
    assert main(shlex.split(command)[3:]) == 1
    assert "draws that were not benign" in capsys.readouterr().out


def test_command_runs_one_seed(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"{module}:right", "--seed", "3"]) == 0
    assert capsys.readouterr().out.startswith(f"{module}:right: seed 3 holds; 1 runs, ")
    assert main([module, "--seed", "3"]) == 2
    assert "--seed is for one scenario: name it as module:function" in capsys.readouterr().err
    assert main([f"{module}:right", "--seed", "3", "--tape", "nonsense"]) == 2
    assert "no part of a tape" in capsys.readouterr().err
