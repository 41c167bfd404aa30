"""An echo server that runs in several processes: a worker for each processor, unless you say otherwise.

    python -m examples.prefork_echo
    python -m examples.prefork_echo --workers 4 --handover /run/user/1000/echo --verbose

Kill a worker, and there is another one; those whom the others serve do not notice. SIGHUP replaces all workers, one
after the other. Started once more with the same --handover, the new program takes the sockets from the old one, which
ends when its connections do: that is how a new version gets to work without anybody being refused. SIGTERM or Ctrl-C:
the connections have --grace seconds to come to their end; the second time they are closed.

With systemd use examples/prefork_echo.service and prefork_echo.socket. Then the socket is there before the program is,
and whoever comes while it restarts just waits.
"""

from __future__ import annotations

import logging
from typing import Any

import reactor
from reactor.inheriting import inheritance

from ._command_line import at_least_one, errors_on_one_line, make_parser, seconds


class Echo(reactor.Stream):
    """Sends everything back."""

    def handle_data(self, data: bytes) -> None:
        self.push(data)


def setup(worker: reactor.Worker) -> None:
    """Be a worker: this runs in each of the processes."""
    worker.listen(Echo)


def tell(addresses: list[Any]) -> None:
    """All workers are ready."""
    for address in addresses:
        print(f"listening on {reactor.format_address(address)}", flush=True)


def main() -> None:
    parser = make_parser(__doc__, port=6007, has_key=False)
    parser.add_argument("--path", help="listen on a Unix socket at this path instead")
    parser.add_argument("--workers", type=at_least_one, metavar="N", help="processes (default: one for each processor)")
    parser.add_argument("--grace", type=seconds, default=10.0, help="for connections at the end (default: 10)")
    parser.add_argument("--handover", metavar="PATH", help="where the next version of the program takes the sockets")
    parser.add_argument("--verbose", action="store_true", help="log what becomes of each worker")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO if arguments.verbose else logging.WARNING)
    with errors_on_one_line(arguments):
        reactor.serve(
            setup,
            arguments.workers,
            # What systemd passes is the address then, whatever is written here.
            listen=None if inheritance() else [arguments.path or (arguments.host, arguments.port)],
            grace=arguments.grace,
            handover=arguments.handover,
            on_ready=tell,
        )


if __name__ == "__main__":
    main()
