"""`multiprocessing.connection` with a thread for each connection: what its users write, and its documentation shows."""

from __future__ import annotations

import sys
import threading
from multiprocessing.connection import Connection, Listener

from . import BACKLOG, KEY


def serve(connection: Connection) -> None:
    with connection:
        try:
            while True:
                connection.send(connection.recv())
        except EOFError:
            pass


if __name__ == "__main__":
    if sys.argv[1] != "messages":
        sys.exit(f"there is no mode {sys.argv[1]!r} here")
    with Listener(("127.0.0.1", 0), backlog=BACKLOG, authkey=KEY) as listener:
        print(listener.address[1], flush=True)
        while True:
            threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()
