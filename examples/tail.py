"""Follow a file and a program together: what is appended to the one, and what the other prints.

    python -m examples.tail /var/log/syslog
    python -m examples.tail access.log --lines 0 -- ping localhost

The file may grow, be cut off, and be replaced by a new one of its name, as log files are; it need not be there yet.
With a program all ends when the program does, and with its exit code; without one, at Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import reactor

from ._command_line import GRACE, Mistake, count, errors_on_one_line, printable, user_path

INTERVAL = 0.1
"""Seconds between two looks at the file: one on a disk is always ready, so nothing can wait for it."""
PIECE = 256 * 1024
"""Bytes read at once. A line that is longer comes in pieces, and no farther back the last lines are looked for."""


class Voice:
    """Cuts what somebody says into lines, and prints each with his name in front."""

    def __init__(self, name: str) -> None:
        self.name, self.rest = name, b""

    def say(self, data: bytes) -> None:
        *lines, self.rest = (self.rest + data).split(b"\n")
        if len(self.rest) >= PIECE:
            lines, self.rest = [*lines, self.rest], b""
        show(f"{self.name}: {line.decode(errors='replace')}" for line in lines)

    def end(self, *notes: str) -> None:
        """Print the line that was not ended, and then what has become of him."""
        self.say(b"\n" if self.rest else b"")
        show(f"* {self.name}: {note}" for note in notes)


class Output(Voice, reactor.Stream):
    """Says what a program prints."""

    handle_data = Voice.say


class Program(reactor.Child):
    """A program. When it has ended, and has said all, it is told with which exit code everything may end."""

    exit_code: int | None = None

    def handle_exit(self, returncode: int) -> None:
        """Nothing: what it has said may still be on its way."""

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.stdout.end(str(reason))
        if self.returncode is not None and not self.reactor.is_shutting_down:
            self.exit_code = self.returncode if self.returncode >= 0 else 128 - self.returncode


def show(lines: Iterable[str]) -> None:
    """Print `lines`; when nobody reads them any more, come to an end."""
    try:
        print("".join(f"{printable(line.expandtabs().rstrip())}\n" for line in lines), end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        reactor.shutdown(GRACE)


def follow(path: Path, count: int) -> Iterator[bytes | str]:
    """Give the last lines of a file, what is appended, notes on what becomes of it, and b"" when there is nothing."""
    file, trouble = open_file(path) if path.exists() else os.open(os.devnull, os.O_RDONLY), ""
    try:
        os.lseek(file, max(os.fstat(file).st_size - PIECE, 0), os.SEEK_SET)
        lines = os.read(file, PIECE).splitlines(keepends=True)
        os.lseek(file, -sum(map(len, lines[max(len(lines) - count, 0) :])), os.SEEK_CUR)
        yield b""
        while True:
            try:
                yield from rest_of(file)
                if os.fstat(file).st_size < os.lseek(file, 0, os.SEEK_CUR):
                    os.lseek(file, 0, os.SEEK_SET)
                    yield "it was cut off"
                elif not os.path.samestat(os.fstat(file), os.stat(path)):
                    newest = open_file(path)
                    yield from rest_of(file)  # what was still written to it while it had the name
                    os.close(file)
                    file, trouble = newest, ""
                    yield "it is a new file"
                else:
                    trouble = ""
                    yield b""
            except (Mistake, OSError) as error:
                if trouble != str(error):
                    trouble = str(error)
                    yield getattr(error, "strerror", trouble)
                yield b""
    finally:
        os.close(file)


def rest_of(file: int) -> Iterator[bytes]:
    return iter(lambda: os.read(file, PIECE), b"")


def open_file(path: Path) -> int:
    """Open `path`, unless that could wait for somebody, or never end."""
    if path.exists() and not path.is_file():
        raise Mistake(f"{path} is no file that could grow")
    return os.open(path, os.O_RDONLY)


def look(voice: Voice, growth: Iterator[bytes | str], program: Program | None) -> None:
    """Have `voice` say what there is, and look again: at once, if there may be more."""
    news = next(growth)
    if isinstance(news, bytes):
        voice.say(news)
    else:
        voice.end(news)
    if news or program is None or program.exit_code is None:
        reactor.call_later(0 if news else INTERVAL, look, voice, growth, program)
    else:
        reactor.stop()


def main() -> None:
    words, command = sys.argv[1:], None
    if "--" in words:
        words, command = words[: words.index("--")], words[words.index("--") + 1 :]
    parser = argparse.ArgumentParser(
        prog="python -m examples.tail",
        usage="%(prog)s [-h] [--lines N] FILE [-- PROGRAM [ARGUMENT ...]]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=user_path, metavar="FILE")
    parser.add_argument(
        "--lines", type=count, default=10, metavar="N", help="begin with the last N (default: %(default)s)"
    )
    arguments = parser.parse_args(words)
    if command is not None and not any(command[:1]):
        parser.error("give a PROGRAM behind --")
    sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
    voice, program = Voice(arguments.path.name), None
    with errors_on_one_line(arguments):
        reactor.shutdown_on_signal(signal.SIGTERM, signal.SIGINT, grace=GRACE)
        growth = follow(arguments.path, arguments.lines)
        next(growth)  # before a program is started for nothing: can the file be opened?
        if command is not None:
            program = reactor.spawn(
                command,
                Program,
                stdin=subprocess.DEVNULL,
                stdout=lambda: Output(os.path.basename(command[0])),
                stderr=subprocess.STDOUT,
            )
        reactor.call_soon(look, voice, growth, program)
        reactor.loop()
        voice.end()
    sys.exit(0 if program is None else program.exit_code)


if __name__ == "__main__":
    main()
