"""A chat room: what one guest says goes to everybody who is in the room.

    python -m examples.chat_room
    python -m examples.chat_room --join anna

A client sends its name, then a string for each thing that it says, and None to leave. It is sent pairs
(name, text); the name is empty where the room itself speaks. Only holders of the key come in, and even
of them the room takes nothing but plain values, so nobody can make it run code.
"""

from __future__ import annotations

import functools
import sys
from multiprocessing.connection import Client, wait
from pathlib import Path
from typing import Any

import reactor

from ._command_line import errors_on_one_line, make_parser, printable, read_key, read_or_make_key, serve

LONGEST_NAME = 20
LIMITS = reactor.Limits(maximum_frame=16 * 1024, maximum_output=1024 * 1024)
"""A guest who does not read is shown the door when so much waits for him; the others notice nothing."""

Room = dict[str, "Guest"]


class Guest(reactor.Connection):
    """One client: in the room once it has said its name."""

    codec = reactor.RestrictedPickle()

    def __init__(self, room: Room) -> None:
        self.room = room
        self.nickname = ""

    def handle_message(self, message: Any) -> None:
        if message is None:
            self.close_when_done()
        elif not isinstance(message, str):
            self.send(("", "say something in a string, or None to leave"))
        elif self.nickname:
            self.broadcast(self.nickname, message)
        else:
            self.enter(message)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        if self.nickname:
            del self.room[self.nickname]
            self.broadcast("", f"{self.nickname} has left")

    def enter(self, name: str) -> None:
        if not name.isprintable() or not 0 < len(name) <= LONGEST_NAME:
            self.send(("", f"a name has 1 to {LONGEST_NAME} characters, all of them printable"))
            self.close_when_done()
        elif name in self.room:
            self.send(("", f"somebody called {name} is here already; choose another name"))
            self.close_when_done()
        else:
            self.nickname = name
            self.room[name] = self
            self.broadcast("", f"{name} has come in")

    def broadcast(self, name: str, text: str) -> None:
        for guest in self.room.values():
            guest.send((name, text))


def chat(host: str, port: int, key_file: Path, name: str) -> None:
    """Say what is typed and print what is said, until the end of the input and the last answer to it."""
    with (
        Client((host, port), authkey=read_key(key_file)) as connection,
        # Without a buffer of its own: a line that waited in it would not be seen by wait().
        open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) as keyboard,
    ):
        connection.send(name)
        sources: list[Any] = [connection, keyboard]
        while True:
            ready: list[Any] = wait(sources)
            if keyboard in ready:
                line = keyboard.readline()
                connection.send(line.decode(errors="replace").rstrip("\n") if line else None)
                if not line:
                    sources.remove(keyboard)
            if connection in ready:
                try:
                    speaker, text = connection.recv()
                except EOFError:
                    if keyboard in sources:
                        raise
                    return
                print(printable(f"{speaker}: {text}" if speaker else f"* {text}"), flush=True)


def main() -> None:
    parser = make_parser(__doc__, port=6001)
    parser.add_argument("--join", metavar="NAME", help="come in under this name; what you type is said")
    arguments = parser.parse_args()
    host, port, key_file = arguments.host, arguments.port, arguments.authkey_file
    with errors_on_one_line(arguments):
        if arguments.join is not None:
            chat(host, port, key_file, arguments.join)
        else:
            guest = functools.partial(Guest, {})
            listener = reactor.Listener((host, port), guest, authkey=read_or_make_key(key_file), limits=LIMITS)
            serve(listener, key_file)


if __name__ == "__main__":
    main()
