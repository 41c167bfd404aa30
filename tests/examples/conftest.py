"""What the tests of the examples stand on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.examples.running import Program, Start


@pytest.fixture
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Starts the example that the test file is named after; whatever still runs at the end is killed."""
    name = request.module.__name__.rpartition(".test_")[2]
    programs: list[Program] = []
    directory = tmp_path / "programs"
    directory.mkdir()

    def run(*arguments: object, **options: Any) -> Program:
        programs.append(Program(directory, name, *map(str, arguments), **options))
        return programs[-1]

    yield run
    for program in programs:
        program.close()
