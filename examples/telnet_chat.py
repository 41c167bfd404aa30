"""A chat room for whoever has a telnet client: what one guest types, all the others see.

    python -m examples.telnet_chat
    telnet localhost 6023

A line that begins with a slash is a command: /who tells who is in the room, /quit leaves it, and so does the key that
interrupts a program. Anybody who can connect comes in, and everything goes over the network as it is. With
--certificate, everything is encrypted, and a client is needed that does so too:

    openssl s_client -quiet -connect localhost:6023
"""

from __future__ import annotations

import functools
import textwrap
import unicodedata

import reactor
from protocols.telnet import Command, Telnet

from ._command_line import add_tls_options, errors_on_one_line, make_parser, printable, serve, server_tls

QUESTION = "What is your name? "
LONGEST_NAME = 20
NARROWEST = 20
"""Columns. A window that says it has fewer is written to as if it had these."""
LIMITS = reactor.Limits(maximum_line=2000, maximum_output=1024 * 1024, idle_timeout=8 * 3600.0)
"""A guest who does not read is shown the door when so much waits for him; the others notice nothing."""

Room = dict[str, "Guest"]
"""Who is here, by what `likeness` makes of their names."""


class Guest(Telnet):
    """One terminal: in the room once its user has said a name."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.nickname = ""
        self.width = 80

    def handle_open(self) -> None:
        self.request_window_size()
        self.send_text(QUESTION)

    def handle_window_size(self, width: int, height: int) -> None:
        if width:
            self.width = max(width, NARROWEST)

    def handle_line(self, line: str) -> None:
        text = printable(line.strip())  # nobody gets at the terminals of the others
        match text:
            case "/quit":
                self.leave()
            case _ if not self.nickname:
                self.enter(text)
            case "/who":
                self.show("* here: " + self.names())
            case _ if text.startswith("/"):
                self.show("* there are the commands /who and /quit")
            case _ if text:
                self.tell_the_others(f"{self.nickname}: {text}")

    def handle_command(self, command: Command) -> None:
        if command is Command.INTERRUPT_PROCESS:
            self.leave()
        else:
            super().handle_command(command)

    def handle_error(self, error: Exception) -> None:
        if isinstance(error, reactor.LimitError) and error.limit == "maximum_line":
            self.show(f"* bye: a line may be {self.limits.maximum_line} bytes long, and yours is longer")
        super().handle_error(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        if self.nickname:
            del self.room[likeness(self.nickname)]
            self.tell_the_others(f"* {self.nickname} has left")

    def enter(self, name: str) -> None:
        key = likeness(name)
        if not 0 < len(name) <= LONGEST_NAME or key.startswith(("/", "*")) or ":" in key:
            self.send_text(f"A name has 1 to {LONGEST_NAME} characters, no colon, and no / or * in front. {QUESTION}")
        elif key in self.room:
            self.send_text(f"Somebody called {self.room[key].nickname} is here already. {QUESTION}")
        else:
            self.nickname = name
            self.room[key] = self
            self.show("* welcome; here: " + self.names())
            self.tell_the_others(f"* {name} has come in")

    def names(self) -> str:
        return ", ".join(guest.nickname for guest in self.room.values())

    def leave(self) -> None:
        self.show("* bye")
        self.close_when_done()

    def tell_the_others(self, text: str) -> None:
        for guest in self.room.values():
            if guest is not self:
                guest.show(text)

    def show(self, text: str) -> None:
        self.send_text(textwrap.fill(text, self.width) + "\n")


def likeness(name: str) -> str:
    """Return what `name` has in common with others that a reader takes for the same: AMY with amy, for one."""
    return unicodedata.normalize("NFKC", name).casefold()


def main() -> None:
    parser = make_parser(__doc__, port=6023, has_key=False)
    add_tls_options(parser, "encrypt with this")
    arguments = parser.parse_args()
    with errors_on_one_line(arguments):
        guest = functools.partial(Guest, {})
        serve(reactor.Listener((arguments.host, arguments.port), guest, limits=LIMITS, tls=server_tls(arguments)))


if __name__ == "__main__":
    main()
