"""What the commands have in common: exit codes, complaints on one line, and colours where somebody sees them."""

from __future__ import annotations

import argparse
import enum
import errno
import os
import sys
from collections.abc import Iterable
from typing import IO, NoReturn

from ..settings import SETTINGS, Problem, Settings, gather


class ExitCode(enum.IntEnum):
    """How a command has ended."""

    DONE = 0, "all is well"
    FAILED = 1, "it could not be done: an address is taken, nobody answers, the key is another one"
    MISTAKE = 2, "a mistake in the command or in the settings"
    RUNS_ALREADY = 3, "the server runs already, as its pid file says"
    INTERRUPTED = 130, "ended with Ctrl-C"

    def __new__(cls, number: int, meaning: str) -> ExitCode:
        self = int.__new__(cls, number)
        self._value_ = number
        self.meaning = meaning
        return self

    meaning: str


EXIT_CODES = "exit codes:\n" + "\n".join(f"  {code:<5} {code.meaning}" for code in ExitCode)


class Failure(Exception):
    """The end of a command, with what is to be said of it.

    Arguments:
        message: for a person, on one line.
        code: the exit code.
    """

    def __init__(self, message: str, code: int = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Describe the settings of a server to `parser`."""
    for setting in SETTINGS:
        if setting.name == "handler":
            parser.add_argument("handler", nargs="?", metavar=setting.metavar, help=setting.help)
        elif setting.metavar is None:
            parser.add_argument(f"--{setting.name}", action="store_true", default=None, help=setting.help)
        else:
            action = "append" if setting.is_list else "store"
            parser.add_argument(f"--{setting.name}", action=action, metavar=setting.metavar, help=setting.help)
    parser.add_argument(
        "--config", metavar="FILE", help="take settings from this TOML file, where they have the same names; paths in "
        "it begin at its directory, and what the command line says wins",
    )  # fmt: skip


def settings_of(options: argparse.Namespace) -> tuple[Settings, list[Problem]]:
    """Return the settings that were given, and what is wrong with them."""
    return gather({setting.name: getattr(options, setting.attribute) for setting in SETTINGS}, options.config)


class Parser(argparse.ArgumentParser):
    """A parser that complains on one line, and says where to read more."""

    def error(self, message: str) -> NoReturn:
        complain(f"{message} (see {self.prog} --help)")
        sys.exit(ExitCode.MISTAKE)


def is_colourful(stream: IO[str]) -> bool:
    """Whether somebody sees colours there, and wants them (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: int, stream: IO[str]) -> str:
    """Return `text` in a colour of a terminal, where `stream` is one."""
    return f"\033[{colour}m{text}\033[0m" if is_colourful(stream) else text


RED, GREEN, YELLOW, GREY = 31, 32, 33, 90


def complain(message: object, is_warning: bool = False) -> None:
    """Say on standard error what is wrong, on one line."""
    word = coloured("warning:", YELLOW, sys.stderr) if is_warning else coloured("error:", RED, sys.stderr)
    print(word, printable(str(message)), file=sys.stderr, flush=True)


def tell_problems(problems: Iterable[Problem]) -> bool:
    """Say what is wrong, each problem on one line; return whether it is more than warnings."""
    found = list(problems)
    for problem in found:
        complain(problem, problem.is_warning)
    return any(not problem.is_warning for problem in found)


def in_words(error: Exception) -> str:
    """Return what `error` says, without the number of the operating system, and the way out where there is one."""
    if isinstance(error, PermissionError):
        return f"{error.strerror}; root may do that, and --user says whom it becomes then"
    if isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return str(getattr(error, "strerror", None) or error)


def printable(text: str, kept: str = "") -> str:
    """Return `text`, which somebody else chose, without what could take control of a terminal.

    Arguments:
        kept: characters that are left as they are all the same.
    """
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in kept else character.encode("unicode_escape").decode()
        for character in text
    )
