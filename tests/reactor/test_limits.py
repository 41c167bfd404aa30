"""Limits: the defaults are sane and documented, and a value that makes no sense is refused."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
from typing import Any

import pytest

from reactor import limits
from reactor.errors import LocalError
from reactor.limits import DEFAULT_LIMITS, Limits

FIELDS = [field.name for field in dataclasses.fields(Limits)]
TIMEOUTS = [name for name in FIELDS if name.endswith("_timeout")]
COUNTS = [name for name in FIELDS if not name.endswith("_timeout")]


def test_there_are_timeouts_and_counts() -> None:
    assert len(TIMEOUTS) >= 5
    assert len(COUNTS) >= 7


def test_every_limit_has_a_bound_by_default() -> None:
    """Nothing is unbounded: no timeout is switched off unless somebody says so."""
    for name in FIELDS:
        assert getattr(DEFAULT_LIMITS, name) is not None
    assert Limits() == DEFAULT_LIMITS


def test_every_limit_says_what_it_means() -> None:
    (tree,) = (
        node
        for node in ast.walk(ast.parse(inspect.getsource(limits)))
        if isinstance(node, ast.ClassDef) and node.name == "Limits"
    )
    documented = [
        before.target.id
        for before, after in zip(tree.body, tree.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(before.target, ast.Name)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
        and isinstance(after.value.value, str)
    ]
    assert documented == FIELDS


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.5, math.inf, -math.inf, math.nan, "5", b"5", [1]])
def test_timeout_that_is_not_above_0_or_no_finite_number_is_refused(value: Any) -> None:
    for name in TIMEOUTS:
        with pytest.raises(LocalError, match=rf"Limits\.{name} is .*; give seconds above 0, or None for no limit"):
            Limits(**{name: value})


def test_timeout_of_any_number_of_seconds_or_none_is_taken() -> None:
    for name in TIMEOUTS:
        for value in (None, 1, 0.001, 1e9):
            assert getattr(Limits(**{name: value}), name) == value


@pytest.mark.parametrize("value", [0, -1, None, 1.5, math.inf, math.nan, "5"])
def test_count_that_is_no_whole_number_above_0_is_refused(value: Any) -> None:
    for name in COUNTS:
        with pytest.raises(LocalError, match=rf"Limits\.{name} is .*; give a whole number of at least 1"):
            Limits(**{name: value})


@pytest.mark.parametrize(
    ("low", "high", "maximum", "fits"),
    [
        (1, 1, 1, True), (10, 20, 30, True), (10, 10, 30, True), (10, 30, 30, True),
        (11, 10, 30, False), (10, 31, 30, False), (40, 20, 30, False),
    ],
)  # fmt: skip
def test_marks_must_stand_in_order(low: int, high: int, maximum: int, fits: bool) -> None:
    values = {"low_water": low, "high_water": high, "maximum_output": maximum}
    if fits:
        assert Limits(**values).high_water == high
    else:
        with pytest.raises(LocalError, match=f"they are {low}, {high} and {maximum}"):
            Limits(**values)


def test_limits_cannot_be_changed_and_a_changed_copy_is_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        DEFAULT_LIMITS.maximum_frame = 1  # type: ignore[misc]
    assert dataclasses.replace(DEFAULT_LIMITS, maximum_frame=1 << 32).maximum_frame == 1 << 32
    with pytest.raises(LocalError):
        dataclasses.replace(DEFAULT_LIMITS, high_water=1)
