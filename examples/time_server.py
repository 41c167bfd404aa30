"""The time, for whoever asks with a datagram: over UDP, IPv4 or IPv6, or over a Unix socket.

    python -m examples.time_server
    python -m examples.time_server --ask localhost:6037

The answer is a number, the seconds since 1900 in four bytes (RFC 868), or with --text a line (RFC 867). Anybody can ask
in the name of somebody else, to have him flooded: with answers of 25 bytes at the most nothing is gained by that. And
what is as long as an answer gets none, or two such servers, once set upon one another, would never stop.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

import reactor

from ._command_line import Mistake, errors_on_one_line, make_parser, printable, seconds, serve

FROM_1900_TO_1970 = 2_208_988_800
SHORTEST_ANSWER = 4


def as_line(now: datetime) -> bytes:
    """Return the time `now` in words."""
    return f"{now:%Y-%m-%d %H:%M:%S} UTC\r\n".encode()


def as_number(now: datetime) -> bytes:
    """Return the time `now` in four bytes. In 2036 they begin again at 0."""
    return ((int(now.timestamp()) + FROM_1900_TO_1970) % (1 << 32)).to_bytes(SHORTEST_ANSWER)


class TimeServer(reactor.Datagram):
    """Answers questions, which are short: an empty datagram, or the end of a line."""

    in_words = False

    def handle_datagram(self, data: bytes, address: object) -> None:
        if len(data) < SHORTEST_ANSWER:
            self.send_to((as_line if self.in_words else as_number)(datetime.now(UTC)), address)

    def handle_error(self, error: Exception) -> None:
        if not isinstance(error, reactor.DatagramError):  # who has gone, or has no address, does not fill the log
            super().handle_error(error)


class Asker(reactor.Datagram):
    """Asks twice a second until an answer comes, since each datagram may be lost."""

    answer = b""
    complaint = ""

    def handle_open(self) -> None:
        self.push(b"")
        self.reactor.call_every(0.5, self.push, b"")

    def handle_datagram(self, data: bytes, address: object) -> None:
        self.answer = data
        self.close()

    def handle_error(self, error: Exception) -> None:
        """Nobody listens there, perhaps; the next question may find somebody."""
        # Without who and where: whoever has typed the address knows that.
        causes = getattr(error, "causes", None) or [str(error).rpartition(": ")[2]]
        self.complaint = ": " + "; ".join(causes).removeprefix(f"{reactor.format_address(self.peer)}: ")

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reactor.stop()


def ask(place: str, timeout: float) -> str:
    """Return what the server at `place` says within so many seconds."""
    is_path = "/" in place or (":" not in place and os.path.exists(place))
    try:
        asker = Asker.connect(place if is_path else f"udp://{place}")
    except reactor.AddressError:
        raise Mistake(f"{place!r} is no address; give HOST:PORT, or the path of a socket") from None
    reactor.call_later(timeout, asker.close)
    reactor.loop()
    answer = asker.answer[:100]
    if not answer:
        raise Mistake(f"nobody answers at {place}{asker.complaint}")
    if len(answer) == SHORTEST_ANSWER:
        seconds = int.from_bytes(answer) - FROM_1900_TO_1970
        answer = as_line(datetime.fromtimestamp(seconds % (1 << 32), UTC))  # which is right from 1970 to 2106
    return printable(answer.decode(errors="replace").rstrip())


def main() -> None:
    parser = make_parser(__doc__, port=6037, has_key=False)
    parser.add_argument("--path", help="listen on a Unix socket at this path instead")
    parser.add_argument("--text", action="store_true", help="answer with a line, and not with a number")
    parser.add_argument("--ask", metavar="ADDRESS", help="ask the server at HOST:PORT, or at the path of its socket")
    parser.add_argument("--timeout", type=seconds, default=5.0, help="seconds for an answer to come (default: 5)")
    arguments = parser.parse_args()
    with errors_on_one_line(arguments):
        if arguments.ask is None:
            server = TimeServer.bind(arguments.path or (arguments.host, arguments.port))
            server.in_words = arguments.text
            serve(server)
        else:
            print(ask(arguments.ask, arguments.timeout))


if __name__ == "__main__":
    main()
