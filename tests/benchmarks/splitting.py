"""The command ``python -m tests.benchmarks.splitting``: what it costs to cut input at terminators.

First beside asynchat, where this Python still has it; then how the cost grows with the input, for several
terminators, cuts, and ways to change the terminator. Processor time, in this very process; rounds take turns.
"""

from __future__ import annotations

import argparse
import importlib
import socket
import statistics
import time
import warnings
from collections.abc import Callable, Iterable
from itertools import cycle
from typing import Any

import reactor
from reactor.splitting import Splitter, Terminator

MIB = 1 << 20
LINE = b"a short line\r\n"


class OursCount(reactor.Chat):
    """Counts lines."""

    terminator = b"\r\n"
    lines = 0

    def found_terminator(self) -> None:
        self.lines += 1


def cost_of_ours(data: bytes) -> float:
    """Return the seconds that `reactor.Chat` takes for `data`, from the socket to the last line."""
    chats: list[OursCount] = []

    def make() -> OursCount:
        chats.append(OursCount())
        return chats[-1]

    with (
        reactor.Reactor() as loop,
        reactor.Listener(("127.0.0.1", 0), make, reactor=loop) as listener,
        socket.create_connection(listener.address) as client,
    ):
        client.setblocking(False)
        while not chats:
            loop.poll(1)
        return pump(client, data, lambda: loop.poll(1), lambda: chats[0].lines)


def cost_of_asynchat(data: bytes) -> float:
    """Return the same for asynchat."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        asyncore: Any = importlib.import_module("asyncore")
        asynchat: Any = importlib.import_module("asynchat")

    class TheirsCount(asynchat.async_chat):  # type: ignore[misc]
        lines = 0

        def collect_incoming_data(self, data: bytes) -> None:
            pass

        def found_terminator(self) -> None:
            self.lines += 1

    map: dict[int, Any] = {}
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.setblocking(False)
        chat = TheirsCount(server.accept()[0], map)
        chat.set_terminator(b"\r\n")
        try:
            return pump(client, data, lambda: asyncore.loop(1, map=map, count=1), lambda: chat.lines)
        finally:
            chat.close()


def pump(client: socket.socket, data: bytes, turn: Callable[[], object], lines: Callable[[], int]) -> float:
    """Send `data` and run turns until all its lines have come; return the seconds of the turns alone."""
    cost, waiting, wanted = 0.0, memoryview(data), data.count(b"\r\n")
    while lines() < wanted:
        if waiting:
            try:
                waiting = waiting[client.send(waiting[:MIB]) :]
            except BlockingIOError:
                pass
        begun = time.process_time()
        turn()
        cost += time.process_time() - begun
    return cost


def cost_of_cutting(data: bytes, cut: int, terminators: Iterable[Terminator]) -> float:
    """Return the seconds that the splitter takes for `data`, in pieces of `cut` bytes.

    Arguments:
        terminators: the first one, and then one for behind each piece; the same one for ever is never set again.
    """
    following = iter(terminators)
    current = next(following)
    splitter = Splitter(current, maximum=len(data))
    begun = time.process_time()
    for position in range(0, len(data), cut):
        splitter.feed(data[position : position + cut])
        while (piece := splitter.next_piece()) is not None:
            if piece[1]:
                current, before = next(following), current
                if current is not before:
                    splitter.set_terminator(current)
    return time.process_time() - begun


CASES: dict[str, tuple[bytes, int, list[Terminator]]] = {
    "lines": (LINE, 65536, [b"\r\n"]),
    "lines, cut at every 7th byte": (LINE, 7, [b"\r\n"]),
    "no end": (b"x" * 1000, 65536, [b"\r\n"]),
    "ends that are almost there": (b"aaaaaaab", 4099, [b"aaaaaaaaaab"]),
    "a length and so many bytes": (b"10\r\n0123456789", 65536, [b"\r\n", 10]),
    "two terminators in turn": (b"one\ntwo;", 65536, [b"\n", b";"]),
    "the same, all at once": (b"one\ntwo;", 1 << 40, [b"\n", b";"]),
}
"""By name: the input, which is repeated; where it is cut; what it is cut at."""


def growth_of(name: str, sizes: list[int]) -> list[float]:
    """Return the microseconds for each KiB, for each of the sizes."""
    unit, cut, terminators = CASES[name]
    return [
        cost_of_cutting(unit * (size // len(unit)), cut, cycle(terminators)) * 1e6 / (size / 1024) for size in sizes
    ]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.splitting", description=__doc__)
    parser.add_argument("--rounds", type=int, default=11, help="beside asynchat (default: %(default)s)")
    parser.add_argument("--largest", type=int, default=64, metavar="MIB", help="input (default: %(default)s)")
    options = parser.parse_args(arguments)
    data = LINE * (MIB // len(LINE))
    try:
        pairs = [(cost_of_ours(data), cost_of_asynchat(data)) for _ in range(options.rounds)]
    except ModuleNotFoundError:
        print("this Python has no asynchat")
    else:
        ratios = sorted(theirs / ours for ours, theirs in pairs)
        print(f"1 MiB of lines: asynchat over ours {statistics.median(ratios):.2f} [{ratios[0]:.2f}..{ratios[-1]:.2f}]")
    sizes = [size * MIB for size in (1, 4, 16, 64) if size <= options.largest]
    print(f"\n{'µs a KiB, for MiB':32}" + "".join(f"{size // MIB:>8}" for size in sizes))
    for name in CASES:
        print(f"{name:32}" + "".join(f"{cost:8.1f}" for cost in growth_of(name, sizes)), flush=True)


if __name__ == "__main__":
    main()
