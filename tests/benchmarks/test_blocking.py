"""The measurements of blocking connections run; what they say is for people."""

from __future__ import annotations

import multiprocessing.connection as standard
from typing import Any

import pytest

from reactor import blocking

from .blocking import ADDRESSES, IN_FLIGHT, cost, main, time_to_accept


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("in_flight", IN_FLIGHT)
@pytest.mark.parametrize("module", [blocking, standard], ids=["ours", "theirs"])
@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
def test_every_message_is_answered_and_counted(address: Any, module: Any, in_flight: int) -> None:
    assert cost(module, address, 64, in_flight) > 0


def test_good_peer_is_accepted_among_silent_ones() -> None:
    assert 0 < time_to_accept(10) < 10_000


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_command_prints_a_line_for_each_case(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--rounds", "1", "--messages", "64", "--silent", "10"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + len(ADDRESSES) * len(IN_FLIGHT) + 1
    assert "accept among 10 silent peers" in lines[-1]
