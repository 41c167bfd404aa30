"""Each known way to fail, planted in the engine, is caught; what catches it finds no fault with the engine as it is.

The tests of the rows are not run without a defect here: they are tests of the suite.
"""

from __future__ import annotations

import re

import pytest

from tests.zoo.catching import Catcher, RowTest
from tests.zoo.defects import BY_ROW, DEFECTS, ROWS
from tests.zoo.planting import planted

SIMULATIONS = dict.fromkeys(each.catcher for each in DEFECTS.values() if not isinstance(each.catcher, RowTest))


@pytest.mark.parametrize("name", DEFECTS)
def test_defect_is_caught(name: str) -> None:
    defect = DEFECTS[name]
    with planted(defect.changes):
        seen = defect.catcher.look(name)
    assert seen is not None, f"{defect.catcher} noticed nothing, although {defect.story}"
    assert re.search(defect.seen, seen, re.DOTALL), f"something else was noticed than that {defect.story}: {seen}"


@pytest.mark.parametrize("catcher", SIMULATIONS, ids=str)
def test_engine_without_a_defect_passes(catcher: Catcher) -> None:
    assert catcher.look("") is None


@pytest.mark.parametrize("row", ROWS)
def test_row_of_the_table_has_a_defect(row: str) -> None:
    assert BY_ROW[row]


def test_every_defect_has_a_name_of_its_own_and_belongs_to_a_row_of_the_table() -> None:
    assert set(BY_ROW) == set(ROWS)
    assert len(DEFECTS) == sum(map(len, BY_ROW.values()))
