"""The service: it says who serves, then sends each line back. Some lines are commands.

Run as ``python -m tests.service.program``; the arguments are those of `reactor.serve`, as JSON.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import reactor
from reactor import workers


class Server(reactor.LineChannel):
    """Tells its process, and repeats what it hears."""

    worker: reactor.Worker

    def handle_open(self) -> None:
        self.send_line(str(os.getpid()))

    def handle_line(self, line: str) -> None:
        match line.split():
            case ["hang"]:
                hang()
            case ["compute"]:
                sum(range(10**13))
            case ["crash"]:
                ctypes.string_at(0)
            case ["exit", code]:
                os._exit(int(code))
            case ["stop"]:
                self.reactor.stop()
            case ["shutdown"]:
                self.reactor.shutdown()
            case ["environ", name]:
                line = os.environ.get(name, "nothing")
        self.send_line(line)


def hang() -> None:
    """Hold the loop."""
    time.sleep(1000)


def setup(worker: reactor.Worker) -> None:
    """Do as the file named in SETUP says, if there is one; then listen."""
    path = os.environ.get("SETUP")
    match Path(path).read_text().split() if path and os.path.exists(path) else []:
        case ["raise"]:
            raise ValueError("no such setting")
        case ["exit", message]:
            sys.exit(message)
        case ["hang"]:
            hang()
        case ["once", number] if worker.number == int(number):
            assert path is not None
            os.unlink(path)
            raise ValueError("only this once")
        case ["nobody"]:
            os.setgid(65534)
            os.setuid(65534)
        case ["fail", number] if worker.number == int(number):
            raise ValueError("no such setting for this one")
        case ["die", number] if worker.number == int(number):
            worker.reactor.call_soon(os._exit, 7)
    Server.worker = worker
    worker.listen(Server)
    worker.on_drain(lambda: logging.info("drain %d", os.getpid()))
    reactor.on_signal(signal.SIGUSR1, lambda: logging.info("usr1 %d", os.getpid()))


def tell(addresses: list[Any]) -> None:
    """Print where the service can be found."""
    print("ready", json.dumps([os.fsdecode(a) if isinstance(a, bytes) else a for a in addresses]), flush=True)


def main() -> None:
    options = json.loads(sys.argv[1])
    logging.basicConfig(format="%(levelname)s %(message)s", level=logging.INFO)
    if "backoff" in options:
        options["backoff"] = reactor.Backoff(*options["backoff"])
    if "patience" in options:
        workers.worker.PATIENCE = workers.parent.PATIENCE = options.pop("patience")
        workers.worker.LAST_WORDS = workers.parent.LAST_WORDS = 0.1
        workers.worker.ORPHANED = signal.SIGQUIT  # number 3
    if "no_pidfd" in options:
        del os.pidfd_open, options["no_pidfd"]
    if options.get("listen") == "own":
        options["listen"] = [socket.create_server(("127.0.0.1", 0))]
    elif options.get("listen") is not None:
        options["listen"] = [tuple(a) if isinstance(a, list) else a for a in options["listen"]]
    reactor.serve(setup, on_ready=tell, **options)
    print("over", flush=True)


if __name__ == "__main__":
    main()
