"""The end of a connection that comes in one segment with the last input, while that is told in several turns."""

from __future__ import annotations

import ssl
import struct
from collections.abc import Callable
from typing import Any

import pytest

import reactor
from reactor.limits import FRAMES_PER_TURN
from tests import certificates
from tests.conftest import Accepting, raw_client, run_until


class Told:
    """Mixed into a channel: counts what its hooks were told."""

    def __init__(self) -> None:
        self.count = 0
        self.reasons: list[Exception] = []

    def handle_line(self, line: str) -> None:
        self.count += 1

    def handle_message(self, message: Any) -> None:
        self.count += 1

    def handle_close(self, reason: Exception) -> None:
        self.reasons.append(reason)


class Lines(Told, reactor.LineChannel):
    pass


class Messages(Told, reactor.Connection):
    codec = "json"


class Pieces(Told, reactor.Chat):
    def handle_open(self) -> None:
        self.set_terminator(b"\r\n\r\n")

    def collect_incoming_data(self, data: bytes) -> None:
        self.count += len(data)

    def found_terminator(self) -> None:
        pass


def say_and_leave(address: Any, data: bytes) -> None:
    """Send `data` and TLS's last word in one segment, and wait for the last word of the server."""
    context = ssl.create_default_context(cafile=certificates.authorities())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    with raw_client(address) as sock:

        def repeat(call: Callable[[], object]) -> None:
            while True:
                try:
                    call()
                except ssl.SSLWantReadError:
                    sock.sendall(outgoing.read())
                    incoming.write(sock.recv(65536))
                else:
                    break

        repeat(tls.do_handshake)
        tls.write(data)
        repeat(tls.unwrap)


@pytest.mark.parametrize("count", [0, 1, FRAMES_PER_TURN, FRAMES_PER_TURN + 1, 3 * FRAMES_PER_TURN])
@pytest.mark.parametrize(("kind", "data"), [(Lines, b"x\r\n"), (Messages, struct.pack("!i", 1) + b"1")])
def test_end_behind_many_messages_is_seen_though_the_socket_tells_of_nothing_more(
    loop: reactor.Reactor, in_thread: Any, kind: Any, data: bytes, count: int
) -> None:
    channel = served(loop, in_thread, kind, data * count)
    assert channel.count == count


def test_end_behind_half_a_terminator_is_seen_though_the_socket_tells_of_nothing_more(
    loop: reactor.Reactor, in_thread: Any
) -> None:
    channel = served(loop, in_thread, Pieces, b"x\r\n\r\nyy\r\n")
    assert channel.count == 5


def served(loop: reactor.Reactor, in_thread: Any, kind: Any, data: bytes) -> Any:
    """Return the channel that was told of `data`, once its peer has left in good order."""
    accepted = Accepting(kind)
    tls = reactor.ServerTls(certificates.certificate())
    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, tls=tls) as listener:
        thread = in_thread(say_and_leave, listener.address, data)
        run_until(loop, lambda: not thread.is_alive() and accepted.channels[0].reasons, 20)
    (channel,) = accepted.channels
    assert isinstance(channel.reasons[0], reactor.PeerClosed)
    return channel
