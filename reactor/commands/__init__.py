"""The command ``python -m reactor``: Run a server of this package, talk to one, or look whether one would run."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from ..daemons import open_standard_streams
from ..errors import LocalError
from .console import EXIT_CODES, ExitCode, Failure, Parser, complain

COMMANDS = {
    "serve": "run a server",
    "connect": "talk to a server",
    "check": "look whether a server would run with these settings",
    "states": "draw the states of a connection",
}


def make_parser(prog: str = "python -m reactor") -> Parser:
    """Return the parser of the whole command line."""
    parser = Parser(
        prog=prog,
        description=str(__doc__).partition(": ")[2],
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(metavar="COMMAND", dest="command", title="commands", parser_class=Parser)
    for name, meaning in COMMANDS.items():
        module = import_module(f".{name}", __name__)
        command = commands.add_parser(
            name,
            help=meaning,
            description=str(module.__doc__).partition(": ")[2],
            epilog=getattr(module, "EXAMPLES", "") + EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        module.add_options(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code."""
    open_standard_streams()
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        *others, last = COMMANDS
        parser.error(f"say what to do: {', '.join(others)} or {last}")
    try:
        return int(options.run(options))
    except Failure as failure:
        complain(failure)
        return failure.code
    except LocalError as error:
        complain(error)
        return ExitCode.MISTAKE
    except BrokenPipeError:  # whoever read our output has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python would complain of that
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
