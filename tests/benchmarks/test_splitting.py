"""The measurements of the splitter run; what they say is for people."""

from __future__ import annotations

import pytest

from .splitting import CASES, cost_of_cutting, growth_of, main


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_measured(name: str) -> None:
    assert all(cost > 0 for cost in growth_of(name, [4096, 8192]))


def test_cost_is_that_of_cutting_everything() -> None:
    assert cost_of_cutting(b"one\ntwo;" * 100, 3, iter([b"\n", b";"] * 101)) > 0
    with pytest.raises(StopIteration):  # it asks for as many terminators as there are pieces
        cost_of_cutting(b"one\ntwo;" * 100, 3, iter([b"\n", b";"] * 99))


def test_command_prints_a_row_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--largest", "0"])
    lines = capsys.readouterr().out.splitlines()
    assert "asynchat" in lines[0]
    assert [line.strip() for line in lines[3:]] == list(CASES)
