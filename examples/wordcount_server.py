"""Counts lines, words and bytes for whoever sends text, as `wc` does: a handler of the old kind, on a pool of threads.

    python -m examples.wordcount_server
    python -m examples.wordcount_server --count README.md pyproject.toml
    python -m examples.wordcount_server --count - < README.md

A client sends its text and ends its direction of the connection; the answer is one line. So this will do as well:

    nc -N localhost 6040 < README.md

Who has sent nothing yet takes no thread; who stops in the middle loses his after --timeout.
"""

from __future__ import annotations

import dataclasses
import logging
import signal
import socket
import sys
from typing import Any, BinaryIO

import reactor
from reactor import servers

from ._command_line import GRACE, Mistake, count, errors_on_one_line, make_parser, printable, seconds

log = logging.getLogger("wordcount")

CHUNK = 64 * 1024
LONGEST_ANSWER = 100


@dataclasses.dataclass
class Counts:
    """What has been counted of a text that comes in pieces."""

    lines: int = 0
    words: int = 0
    size: int = 0
    _is_in_word: bool = False

    def add(self, data: bytes) -> None:
        """Count one more piece, which is not empty."""
        self.lines += data.count(b"\n")
        self.words += len(data.split()) - (self._is_in_word and not data[:1].isspace())
        self.size += len(data)
        self._is_in_word = not data[-1:].isspace()

    def __str__(self) -> str:
        return f"{self.lines} {self.words} {self.size}"


class WordCounter(servers.StreamRequestHandler):
    """Counts what one client sends."""

    server: WordCountServer

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(self.server.patience)

    def handle(self) -> None:
        counts = Counts()
        while data := self.rfile.read1(CHUNK):
            counts.add(data)
        self.wfile.write(f"{counts}\n".encode())


class WordCountServer(servers.ThreadingTCPServer):
    """Has `WordCounter` count on its threads.

    Arguments:
        patience: seconds for which a client may stop in the middle.
    """

    allow_reuse_address = True
    client_speaks_first = True

    def __init__(self, address: tuple[str, int], patience: float, **options: Any) -> None:
        self.patience = patience
        # As a listener does: IPv4 first, which is what most clients mean by localhost.
        found = socket.getaddrinfo(*address, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, *_, location = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        super().__init__(location, WordCounter, **options)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whatever the network does takes one line; a mistake in the program above takes more."""
        error = sys.exception()
        log.warning(
            "%s: %s",
            reactor.format_address(client_address),
            error or "",
            exc_info=None if isinstance(error, OSError) else error,
        )


def ask(address: tuple[str, int], file: BinaryIO) -> str:
    """Return what the server at `address` counts in `file`."""
    with socket.create_connection(address, timeout=60) as sock:
        while data := file.read(CHUNK):
            sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        with sock.makefile("rb") as answers:
            answer = answers.readline(LONGEST_ANSWER)
    if not answer.endswith(b"\n"):
        raise Mistake(f"{address[0]}:{address[1]} has not answered")
    return printable(answer.decode(errors="replace").strip())


def main() -> None:
    parser = make_parser(__doc__, port=6040, has_key=False)
    parser.add_argument("--threads", type=count, default=16, help="of handlers, at the most (default: %(default)s)")
    parser.add_argument(
        "--timeout", type=seconds, default=30.0, help="seconds for which a client may stop (default: 30)"
    )
    parser.add_argument("--count", nargs="+", metavar="FILE", help="have the server count; - is the standard input")
    arguments = parser.parse_args()
    address = arguments.host, arguments.port
    with errors_on_one_line(arguments):
        for name in arguments.count or ():
            with sys.stdin.buffer if name == "-" else open(name, "rb") as file:
                print(ask(address, file), name)
        if arguments.count is None:
            serve(address, arguments.timeout, arguments.threads)


def serve(address: tuple[str, int], timeout: float, threads: int) -> None:
    """Serve until SIGTERM or Ctrl-C; who is being served then has a moment to come to an end."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    with WordCountServer(address, timeout, reactor=reactor.get_reactor()) as server:
        server.max_threads = max(threads, 1)
        reactor.shutdown_on_signal(signal.SIGTERM, signal.SIGINT, grace=GRACE)
        print(f"listening on {reactor.format_address(server.server_address)}", flush=True)
        reactor.loop()


if __name__ == "__main__":
    main()
