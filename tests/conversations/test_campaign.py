"""Every conversation with a few seeds; ``python -m reactor.simulation tests.conversations`` goes on from there."""

from __future__ import annotations

import pytest

from reactor.simulation import ALL, HARMLESS, simulate
from reactor.simulation.running import Scenario

from . import SCENARIOS, STRICT, name_of

SEEDS = 4


@pytest.mark.parametrize("conversation", SCENARIOS, ids=name_of)
def test_conversation_holds_whatever_breaks(conversation: Scenario) -> None:
    assert simulate(conversation, SEEDS, faults=ALL).runs == SEEDS


@pytest.mark.parametrize("conversation", STRICT, ids=name_of)
def test_conversation_does_not_notice_what_is_harmless(conversation: Scenario) -> None:
    assert simulate(conversation, SEEDS, faults=HARMLESS).runs == SEEDS
