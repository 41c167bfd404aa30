"""A frame of more than 3 GiB, by hand: ``python -m tests.peers.large_frame receive`` (or ``send``).

Our side runs in this process, alone, so that its peak memory is that of the transfer; a standard peer
on the same Python is at the other end. Prints one line of JSON: bytes, seconds, memory.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import zlib
from typing import Any

import reactor
from tests.interpreters import OURS, Peer
from tests.peers.stdlib_peer import PATTERN

KEY = b"a long secret key"
SIZE = ((3 << 30) // len(PATTERN) + 1) * len(PATTERN)
LIMITS = reactor.Limits(maximum_frame=4 << 30, maximum_output=4 << 30)
PATIENCE = 120


class Measuring(reactor.Connection):
    """Keeps one message, and says when it came and when the connection was gone."""

    message: bytes | None = None
    came_at = 0.0
    ended: Exception | None = None

    def handle_message(self, message: Any) -> None:
        self.came_at = time.perf_counter()
        self.message = message

    def handle_close(self, reason: Exception) -> None:
        self.ended = reason


def peak_memory() -> int:
    """Return the most memory that this process has had so far, in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def processor_time() -> list[float]:
    """Return the seconds that this process has computed: its own, and the kernel's on its behalf."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return [round(usage.ru_utime, 2), round(usage.ru_stime, 2)]


def receive(loop: reactor.Reactor, peer: Peer) -> tuple[bytes, float, int, list[float]]:
    """Return what a standard client has sent, the seconds from its first byte to ours, and the peak."""
    channels: list[Measuring] = []
    began = 0.0

    class Listener(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            nonlocal began
            began = time.perf_counter()
            assert isinstance(channel, Measuring)
            channels.append(channel)

    listener = Listener(("127.0.0.1", 0), Measuring, authkey=KEY, codec="bytes", limits=LIMITS, reactor=loop)
    peer.connect(listener.address, KEY, "send_large", patience=PATIENCE)
    while not channels or channels[0].ended is None:
        loop.poll(1)
    peak = peak_memory()
    (channel,) = channels
    assert channel.message is not None, channel.ended
    return channel.message, channel.came_at - began, peak, processor_time()


def send(loop: reactor.Reactor, peer: Peer) -> tuple[bytes, float, int, list[float]]:
    """Return what was sent to a standard listener, the seconds until it was gone, and the peak."""
    data = PATTERN * (SIZE // len(PATTERN))
    where = peer.listen(("127.0.0.1", 0), KEY, "receive_large", patience=PATIENCE)
    began = time.perf_counter()
    channel = Measuring.connect(where, authkey=KEY, codec="bytes", limits=LIMITS, reactor=loop)
    channel.send(data)
    channel.close_when_done()
    while channel.ended is None:
        loop.poll(1)
    assert isinstance(channel.ended, reactor.ClosedHere), channel.ended
    return data, time.perf_counter() - began, peak_memory(), processor_time()


def main() -> None:
    before = peak_memory()
    peer = Peer(OURS, sys.executable)
    try:
        with reactor.Reactor() as loop:
            data, seconds, peak, used = {"receive": receive, "send": send}[sys.argv[1]](loop, peer)
            while not peer.has_answered(timeout=1):
                pass
        arrived = peer.answer == {"size": SIZE, "checksum": zlib.crc32(data)}
    finally:
        peer.close()
    print(
        json.dumps(
            {
                "arrived": arrived,
                "size": len(data),
                "seconds": round(seconds, 2),
                "processor": used,
                "memory before": before,
                "peak memory": peak,
                "beside the frame": peak - before - len(data),
            }
        )
    )


if __name__ == "__main__":
    main()
