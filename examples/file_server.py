"""Serves the files below a directory to any Python process.

    python -m examples.file_server --directory /srv/files
    python -m examples.file_server --list photographs
    python -m examples.file_server --get photographs/cat.jpeg > cat.jpeg

Requests are pairs, and are answered ("ok", number) or ("error", text):

    ("get", name)   the number is the size; one frame follows, for recv_bytes(): the file
    ("list", name)  the number is 0; frames follow, one for each entry of the directory, the last one empty

Names are relative to the directory. What lies outside of it is refused, whatever way leads there.
"""

from __future__ import annotations

import functools
import os
import stat
import sys
from collections.abc import Iterator
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any, BinaryIO

import reactor

from ._command_line import Mistake, errors_on_one_line, make_parser, read_key, read_or_make_key, serve

LIMITS = reactor.Limits(maximum_frame=16 * 1024)
"""Requests are small."""


class Refusal(Exception):
    """A request that is answered with an error."""


class FileServer(reactor.Connection):
    """Serves one client, one request after the other."""

    codec = reactor.RestrictedPickle()

    def __init__(self, root: Path) -> None:
        self.root = root

    def handle_message(self, message: Any) -> None:
        try:
            match message:
                case ("get", str(name)):
                    file = open_file(locate(self.root, name), name)
                    self.send(("ok", os.fstat(file.fileno()).st_size))
                    self.push(file)
                case ("list", str(name)):
                    directory = locate(self.root, name)
                    if not directory.is_dir():
                        raise Refusal(f"{name!r} is no directory")
                    self.send(("ok", 0))
                    self.push(entries(self.root, directory))
                    self.send_bytes(b"")
                case _:
                    raise Refusal("this is no request of the file server")
        except Refusal as refusal:
            self.send(("error", str(refusal)))
        # Each file that waits takes a descriptor: the next request may wait with the client instead.
        self.pause_reading()

    def handle_drained(self) -> None:
        self.resume_reading()


def locate(root: Path, name: str) -> Path:
    """Return the path that `name` means below `root`, free of symbolic links.

    Raises:
        Refusal: it leads out of `root`.
    """
    try:
        path = Path(os.path.realpath(root / name))
    except ValueError:  # a NUL byte
        raise Refusal(f"{name!r} is no name") from None
    if not path.is_relative_to(root):
        raise Refusal(f"{name!r} lies outside of what is served here")
    return path


def open_file(path: Path, name: str) -> BinaryIO:
    """Open a regular file, and wait for nothing: neither for the other end of a pipe nor for a device.

    Raises:
        Refusal: there is none, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError as error:
        raise Refusal(f"{name!r}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Refusal(f"{name!r} is no file")
    return open(descriptor, "rb")


def entries(root: Path, directory: Path) -> Iterator[bytes]:
    """Produce the names of what can be had from `directory`, with a slash behind those of directories."""
    with os.scandir(directory) as found:
        for entry in found:
            path = Path(os.path.realpath(entry))
            if not path.is_relative_to(root):
                continue
            if os.path.isdir(path):
                yield os.fsencode(entry.name) + b"/"
            elif os.path.isfile(path):
                yield os.fsencode(entry.name)


def ask(connection: Connection, *request: str) -> None:
    """Send a request, and take the first part of its answer."""
    connection.send(request)
    word, value = connection.recv()
    if word == "error":
        raise Mistake(value)


def main() -> None:
    parser = make_parser(__doc__, port=6003)
    roles = parser.add_mutually_exclusive_group()
    roles.add_argument("--directory", type=Path, default=".", help="what to serve (default: where you are)")
    roles.add_argument("--get", metavar="NAME", help="write this file to the standard output")
    roles.add_argument("--list", nargs="?", const=".", metavar="NAME", help="print what is in this directory")
    arguments = parser.parse_args()
    address, key_file = (arguments.host, arguments.port), arguments.authkey_file
    with errors_on_one_line(arguments):
        if arguments.get is not None:
            with Client(address, authkey=read_key(key_file)) as connection:
                ask(connection, "get", arguments.get)
                sys.stdout.buffer.write(connection.recv_bytes())
        elif arguments.list is not None:
            with Client(address, authkey=read_key(key_file)) as connection:
                ask(connection, "list", arguments.list)
                for name in sorted(iter(connection.recv_bytes, b"")):
                    print(os.fsdecode(name))
        else:
            root = Path(os.path.realpath(arguments.directory))
            if not root.is_dir():
                raise Mistake(f"{arguments.directory} is no directory")
            server = functools.partial(FileServer, root)
            listener = reactor.Listener(address, server, authkey=read_or_make_key(key_file), limits=LIMITS)
            serve(listener, key_file)


if __name__ == "__main__":
    main()
