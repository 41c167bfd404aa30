"""A reactor inside asyncio: both in one thread, neither waits for the other.

    python -m examples.inside_asyncio
    nc localhost 6005

A bridge between text and messages. A line that comes in on the text port, which asyncio serves, goes to every
message client; a string that a message client sends goes to every text client, as a line. The text port asks
for no key, and listens on this machine alone.

`Host` is all that it takes, and can be used in other programs as it stands.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import logging
import os
import signal
from typing import Any

import reactor

from ._command_line import GRACE, Mistake, errors_on_one_line, make_parser, port_number, printable, read_or_make_key

TEXT_HOST = "127.0.0.1"
LIMITS = reactor.Limits(maximum_frame=64 * 1024, maximum_output=1024 * 1024)
LONGEST_BACKLOG = 1024 * 1024
"""A text client that does not read is cut off when so many bytes wait for it."""


class Host:
    """Runs a reactor inside the asyncio loop that is running.

    Asyncio watches the descriptor of the reactor's selector, which is readable when any of its channels is,
    and the time of its next timer. Only what asyncio code does to the reactor itself goes unseen: after
    sending, closing or setting a timer from there, call `rearm`. Hooks of channels need not.
    """

    def __init__(self, hosted: reactor.Reactor) -> None:
        self._reactor = hosted
        self._loop = asyncio.get_running_loop()
        self._descriptor = hosted.fileno()
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._loop.add_reader(self._descriptor, self._run)
        self.rearm()

    def rearm(self) -> None:
        """Look again at when the reactor has something to do."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        timeout = self._reactor.next_timeout()
        if timeout is not None:
            self._timer = self._loop.call_later(timeout, self._run)
        if self._reactor.is_idle():
            self._idle.set()
        else:
            self._idle.clear()

    async def wait_idle(self) -> None:
        """Wait until the reactor has nothing left to do: the moment at which its own `loop` would return."""
        await self._idle.wait()

    def close(self) -> None:
        """Let the reactor stand still; it is not closed."""
        self._loop.remove_reader(self._descriptor)
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        try:
            self._reactor.poll(0)
        finally:
            self.rearm()


class Bridge:
    """Everybody who is connected, on both sides."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.message_clients: set[MessageClient] = set()
        self.text_clients: dict[asyncio.StreamWriter, asyncio.Future[None]] = {}

    async def serve_text(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on the lines of one text client, until it has sent its last."""
        gone = self.text_clients[writer] = asyncio.get_running_loop().create_future()
        try:
            while line := await reader.readline():
                self.send_to_message_clients(line.decode(errors="replace").rstrip("\r\n"))
        except (ConnectionError, ValueError):
            pass  # the connection broke, or the line is longer than the reader's limit of 64 KiB
        finally:
            del self.text_clients[writer]
            writer.close()
            gone.set_result(None)

    def send_to_message_clients(self, text: str) -> None:
        for client in self.message_clients:
            client.send(text)
        self.host.rearm()  # asyncio code has touched channels

    def send_to_text_clients(self, text: str) -> None:
        for writer in self.text_clients:
            writer.write(printable(text).encode() + b"\n")
            if writer.transport.get_write_buffer_size() > LONGEST_BACKLOG:
                writer.transport.abort()

    async def close_text_clients(self) -> None:
        clients = list(self.text_clients.items())
        for writer, _ in clients:
            writer.transport.abort()
        await asyncio.gather(*(gone for _, gone in clients))


class MessageClient(reactor.Connection):
    """One message client of the bridge."""

    codec = reactor.RestrictedPickle()

    def __init__(self, bridge: Bridge) -> None:
        self.bridge = bridge

    def handle_open(self) -> None:
        self.bridge.message_clients.add(self)

    def handle_message(self, message: Any) -> None:
        self.bridge.send_to_text_clients(message if isinstance(message, str) else repr(message))

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.bridge.message_clients.discard(self)


async def run_bridge(arguments: argparse.Namespace) -> None:
    """Serve both ports until SIGTERM or Ctrl-C."""
    stopped = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stopped.set)
    with reactor.Reactor() as hosted, contextlib.closing(Host(hosted)) as host:
        bridge = Bridge(host)
        listener = reactor.Listener(
            (arguments.host, arguments.port),
            functools.partial(MessageClient, bridge),
            authkey=read_or_make_key(arguments.authkey_file),
            limits=LIMITS,
            reactor=hosted,
        )
        try:
            server = await asyncio.start_server(bridge.serve_text, TEXT_HOST, arguments.text_port)
        except OSError as error:
            raise Mistake(f"{TEXT_HOST}:{arguments.text_port}: {os.strerror(error.errno or 0)}") from None
        print(f"listening on {reactor.format_address(listener.address)}")
        print(f"text on {reactor.format_address(server.sockets[0].getsockname())}")
        print(f"the key is in {arguments.authkey_file}", flush=True)
        await stopped.wait()
        server.close()
        await bridge.close_text_clients()
        hosted.shutdown(GRACE)
        host.rearm()
        await host.wait_idle()


def main() -> None:
    parser = make_parser(__doc__, port=6004)
    parser.add_argument("--text-port", type=port_number, default=6005, help="(default: %(default)s)")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(asctime)s %(message)s")
    with errors_on_one_line(arguments):
        asyncio.run(run_bridge(arguments))


if __name__ == "__main__":
    main()
