"""A closed-loop echo load like `load.c`, over TLS, in bursts.

It must not be the bottleneck, though Python is not fast. So what is to be sent is encrypted before a burst and what
came back is decrypted, and compared, behind it; within a burst, which is what is measured, there are only bytes to send
and to receive, and the headers of records to be counted. Each burst begins and ends with nothing in flight.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import ssl
import sys
import time

from .accounting import ProcessorTime
from .tls import client_context

PREPARED = 16 * 1024 * 1024
"""Bytes of messages that are encrypted in front of a burst, about."""

LONGEST_BURST = 100
"""Batches on each connection."""

READ_SIZE = 64 * 1024
SILENCE = 10.0
"""Seconds."""

HEADER = 5
OVERHEAD = HEADER + 1 + 16
"""Bytes in a record of TLS 1.3 beside what it carries: its header, the inner type and the tag (RFC 8446, 5.2)."""

clock = time.perf_counter


class Peer:
    """One connection, and what is prepared for it.

    Arguments:
        port: of the server.
        context: for TLS, and for version 1.3 only: the size of a record tells there how much it carries.
        messages: what is in flight at the same time; each leaves in a record of its own, or in several.
    """

    def __init__(self, port: int, context: ssl.SSLContext, messages: list[bytes]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), SILENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.latencies: list[float] = []
        self._messages = messages
        self._batch = b"".join(messages)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing)
        self._prepared: list[bytes] = []
        self._arrived: list[bytes] = []
        self._rest = b""
        self._missing = 0
        self._began = 0.0
        self._sent = 0
        self._shake_hands()

    def prepare(self, count: int) -> None:
        """Encrypt so many batches."""
        for _ in range(count):
            for message in self._messages:
                written = 0
                while written < len(message):
                    written += self._session.write(memoryview(message)[written:])
            self._prepared.append(self._outgoing.read())
        self._prepared.reverse()
        self._sent = count

    def send_next(self) -> bool:
        """Send one batch; return whether there was one."""
        if not self._prepared:
            return False
        self._missing = len(self._batch)
        self._began = clock()
        self.socket.sendall(self._prepared.pop())
        return True

    def receive(self) -> bool:
        """Take what has come; return whether a batch is complete."""
        data = self.socket.recv(READ_SIZE)
        if not data:
            sys.exit("the server closed a connection")
        self._arrived.append(data)
        if self._rest:
            data = self._rest + data
        position, end = 0, len(data)
        while position + HEADER <= end:
            stop = position + HEADER + int.from_bytes(data[position + 3 : position + 5], "big")
            if stop > end:
                break
            self._missing -= stop - position - OVERHEAD
            position = stop
        self._rest = data[position:]
        if self._missing > 0:
            return False
        self.latencies.append(clock() - self._began)
        return True

    def check(self) -> None:
        """Decrypt what came in a burst, and compare it with what was sent."""
        self._incoming.write(b"".join(self._arrived))
        self._arrived.clear()
        parts = []
        try:
            while part := self._session.read(READ_SIZE):
                parts.append(part)
        except ssl.SSLWantReadError:
            pass
        answer = b"".join(parts)
        if len(answer) > self._sent * len(self._batch) or self._rest:
            sys.exit("the server sent more than it was sent")
        if answer != self._sent * self._batch:
            sys.exit("the server sent something else than it was sent")

    def close(self) -> None:
        """Close in good order, and wait until the server has done the same."""
        try:
            self._session.unwrap()
        except ssl.SSLWantReadError:
            pass
        self.socket.sendall(self._outgoing.read())
        self.socket.shutdown(socket.SHUT_WR)
        while self.socket.recv(READ_SIZE):
            pass
        self.socket.close()

    def _shake_hands(self) -> None:
        """Do that, and exchange one batch: the tickets that a server sends of its own accord come in front of it."""
        while True:
            try:
                self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._exchange()
        self.prepare(1)
        self.socket.sendall(self._prepared.pop())
        answer = b""
        while len(answer) < len(self._batch):
            try:
                answer += self._session.read(READ_SIZE)
            except ssl.SSLWantReadError:
                self._exchange()
        if answer != self._batch:
            sys.exit("the server sent something else than it was sent")

    def _exchange(self) -> None:
        self.socket.sendall(self._outgoing.read())
        data = self.socket.recv(READ_SIZE)
        if not data:
            sys.exit("the server closed a connection")
        self._incoming.write(data)


def burst(peers: list[Peer], selector: selectors.BaseSelector) -> None:
    """Send all that is prepared, each batch when the one before it has come back."""
    busy = sum(peer.send_next() for peer in peers)
    while busy:
        ready = selector.select(SILENCE)
        if not ready:
            sys.exit(f"the server was silent for {SILENCE:g} s")
        for key, _ in ready:
            peer: Peer = key.data
            if peer.receive() and not peer.send_next():
                busy -= 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True, help="of the server")
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--depth", type=int, required=True, help="messages in flight on each connection")
    parser.add_argument("--size", type=int, required=True, help="of a message, in bytes")
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()

    # Every message of the batch is different, so that one that is lost, doubled or out of order is noticed.
    messages = [
        bytes((index * 7 + message * 31 + 1) % 256 for index in range(arguments.size))
        for message in range(arguments.depth)
    ]
    context = client_context()
    peers = [Peer(arguments.port, context, messages) for _ in range(arguments.connections)]
    batches = PREPARED // (arguments.size * arguments.depth * arguments.connections)
    batches = max(1, min(LONGEST_BURST, batches))
    warm = clock() + arguments.seconds / 5
    seconds, spent = 0.0, ProcessorTime(0.0, 0, 0)
    with selectors.DefaultSelector() as selector:
        for peer in peers:
            selector.register(peer.socket, selectors.EVENT_READ, peer)
        while seconds < arguments.seconds:
            for peer in peers:
                peer.prepare(batches)
            before, began = ProcessorTime.of(arguments.pid), clock()
            burst(peers, selector)
            after, ended = ProcessorTime.of(arguments.pid), clock()
            for peer in peers:
                peer.check()
            if began < warm:
                for peer in peers:
                    peer.latencies.clear()
            else:
                seconds += ended - began
                spent = spent.plus(after.since(before))
    for peer in peers:
        peer.close()

    latencies = sorted(latency for peer in peers for latency in peer.latencies)
    result = {
        "messages": len(latencies) * arguments.depth,
        "seconds": seconds,
        **spent.shares(),
        "median": latencies[len(latencies) // 2] * 1e6,
        "p99": latencies[int((len(latencies) - 1) * 0.99)] * 1e6,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
