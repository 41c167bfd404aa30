"""``python -m reactor states``: the states of a channel, as a diagram."""

from __future__ import annotations

import argparse

from ..states import MEANINGS, draw
from .console import ExitCode, Parser


def add_options(parser: Parser) -> None:
    """Describe the command line."""
    parser.add_argument("--meanings", action="store_true", help="say in words what each state means, in place of that")


def run(options: argparse.Namespace) -> int:
    """Print the diagram."""
    if options.meanings:
        width = max(map(len, MEANINGS))
        print("\n".join(f"{name:{width}}  {meaning}" for name, meaning in MEANINGS.items()))
    else:
        print(draw())
    return ExitCode.DONE
