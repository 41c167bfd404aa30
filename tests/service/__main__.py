"""What befalls a service under load, as often as it is told: each line says what became of the clients.

python -m tests.service --kills 100 --reloads 20 --handovers 20
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

import reactor

from .load import Load
from .storms import QUICK, handovers, kills, reloads, starting


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("kills", "reloads", "handovers"):
        parser.add_argument(f"--{name}", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="reactor-") as directory:
        path = os.path.join(directory, "socket")
        for where, listen in {"TCP": [["127.0.0.1", 0]], "a Unix socket": [path]}.items():
            for name in ("kills", "reloads", "handovers"):
                count = getattr(arguments, name)
                # Whose the clients of a Unix socket are, no table of the kernel tells.
                if count and not (name == "kills" and listen == [path]):
                    began = time.monotonic()
                    load = befall(name, listen, count, os.path.join(directory, "handover"))
                    print(
                        f"{count} {name} over {where}, {time.monotonic() - began:.1f} s: {load.finished} sessions and "
                        f"{load.answers} answers; {len(load.lost)} sessions were lost, all of killed workers",
                        flush=True,
                    )
        left = os.listdir(directory)
    print(f"files left behind: {left}")
    assert not left


def befall(name: str, listen: list[Any], count: int, path: str) -> Load:
    """Have it happen to a service, so many times."""
    with reactor.Reactor() as loop, starting() as start:
        if name == "handovers":
            return handovers(start, loop, count, path, listen=listen)
        service = start(listen=listen, backoff=QUICK)
        (address,) = service.addresses
        load = (kills if name == "kills" else reloads)(service, address, loop, count)
        assert service.stop() == 0
        return load


if __name__ == "__main__":
    main()
