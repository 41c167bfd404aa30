"""Every call of every conversation fails once, with every errno that it can give; and in a handshake any two do.

This is a fixed part of it. All of it takes minutes: ``python -m tests.conversations``, with and without ``--pairs``.
"""

from __future__ import annotations

import pytest

from reactor.simulation import torture
from reactor.simulation.running import Scenario

from . import HANDSHAKES, SCENARIOS, name_of

ONE_IN = 61
FIRST_OF_PAIRS = 997


@pytest.mark.parametrize("conversation", SCENARIOS, ids=name_of)
def test_conversation_survives_the_failure_of_any_call(conversation: Scenario) -> None:
    report = torture(conversation, every=5 if conversation in HANDSHAKES else ONE_IN)
    assert report.runs > 1


@pytest.mark.parametrize("conversation", HANDSHAKES, ids=name_of)
def test_handshake_survives_the_failure_of_any_two_calls(conversation: Scenario) -> None:
    report = torture(conversation, pairs=True, every=FIRST_OF_PAIRS)
    assert report.runs > 1
