"""Telnet over TLS: with `openssl s_client`, with sockets of `ssl`, and with our own client."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from protocols.telnet import Command, Option, Session, Side, Telnet, TelnetClient
from reactor import ClientTls, ServerTls
from reactor.limits import FRAMES_PER_TURN
from tests import certificates
from tests.conftest import Accepting, raw_client, run_until


class Host(Telnet):
    """Says back what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.known: list[Any] = []
        self.troubles: list[Exception] = []
        self.reasons: list[Exception] = []

    def handle_open(self) -> None:
        self.request_window_size()
        self.send_line("welcome")

    def handle_line(self, line: str) -> None:
        self.lines.append(line)
        if line == "bye":
            self.close_when_done()
        elif line != "quiet":
            self.send_line(f"you said {line}")

    def handle_window_size(self, width: int, height: int) -> None:
        self.known.append((width, height))

    def handle_error(self, error: Exception) -> None:
        self.troubles.append(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reasons.append(reason)


@pytest.fixture
def host(loop: reactor.Reactor) -> Iterator[Any]:
    """A factory of channels that are hosts, with the address of a listener over TLS in its `address`."""
    accepting: Any = Accepting(Host)
    tls = ServerTls(certificates.certificate())
    with reactor.Listener(("127.0.0.1", 0), accepting, reactor=loop, tls=tls) as listener:
        accepting.address = listener.address
        yield accepting


def context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificates.authorities())


def secured(address: Any) -> ssl.SSLSocket:
    """Return a blocking socket of `ssl` that is connected to `address`."""
    return context().wrap_socket(raw_client(address), server_hostname="localhost")


def until(loop: reactor.Reactor, thread: Any) -> None:
    run_until(loop, lambda: not thread.is_alive(), 30)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed here")
def test_openssl_s_client_carries_lines_both_ways_and_sees_a_clean_end(loop: reactor.Reactor, host: Any) -> None:
    address = "{}:{}".format(*host.address)
    argv = ["openssl", "s_client", "-quiet", "-verify_return_error", "-verify_hostname", "localhost",
            "-CAfile", certificates.authorities(), "-connect", address]  # fmt: skip
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"caf\xc3\xa9\r\nQUIT\r\nbye\r\n")  # without -quiet, a Q would be for s_client itself
        process.stdin.flush()
        run_until(loop, lambda: process.poll() is not None, 30)
        shown, complaints = process.stdout.read(), process.stderr.read()
    assert process.returncode == 0, complaints
    assert shown == b"\xff\xfd\x1fwelcome\r\nyou said caf\xc3\xa9\r\nyou said QUIT\r\n"
    assert b"unexpected eof" not in complaints
    (channel,) = host.channels
    assert channel.lines == ["caf\u00e9", "QUIT", "bye"]
    assert channel.troubles == []


def test_options_are_negotiated_with_a_socket_of_ssl_however_the_records_are_cut(
    loop: reactor.Reactor, host: Any, in_thread: Any
) -> None:
    session = Session("client", window_size=(100, 40))

    def visit() -> None:
        with secured(host.address) as sock:
            shown = b""
            while b"welcome\r\n" not in shown:
                shown += b"".join(getattr(event, "data", b"") for event in session.feed(sock.recv(1000)))
            session.send_data(b"hello\r\n")
            session.send_command(Command.ARE_YOU_THERE)
            for byte in session.data_to_send():
                sock.sendall(bytes([byte]))  # each is a record of its own
            while b"[Yes]" not in shown:
                shown += b"".join(getattr(event, "data", b"") for event in session.feed(sock.recv(1000)))

    until(loop, in_thread(visit))
    (channel,) = host.channels
    run_until(loop, lambda: channel.reasons)
    assert (channel.known, channel.lines) == ([(100, 40)], ["hello"])


@pytest.mark.parametrize("count", [1, FRAMES_PER_TURN, FRAMES_PER_TURN + 1, 3 * FRAMES_PER_TURN])
def test_end_that_came_with_the_last_lines_is_seen_though_the_socket_tells_of_nothing_more(
    loop: reactor.Reactor, host: Any, in_thread: Any, count: int
) -> None:
    def visit() -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context().wrap_bio(incoming, outgoing, server_hostname="localhost")
        with raw_client(host.address) as sock:

            def repeat(call: Callable[[], object]) -> None:
                """Call until it needs no more bytes."""
                while True:
                    try:
                        call()
                    except ssl.SSLWantReadError:
                        sock.sendall(outgoing.read())
                        incoming.write(sock.recv(65536))
                    else:
                        break

            repeat(tls.do_handshake)
            repeat(lambda: tls.read(1000))
            tls.write(b"quiet\r\n" * count)
            repeat(tls.unwrap)  # all of it in one segment; then it waits for the last word of the server

    thread = in_thread(visit)
    until(loop, thread)
    (channel,) = host.channels
    run_until(loop, lambda: channel.reasons)
    assert channel.lines == ["quiet"] * count
    assert isinstance(channel.reasons[0], reactor.PeerClosed)


def test_our_client_and_our_server_speak_over_tls(loop: reactor.Reactor, host: Any) -> None:
    class Visitor(TelnetClient):
        window_size = (80, 24)

        def __init__(self) -> None:
            self.lines: list[str] = []
            self.reasons: list[Exception] = []

        def handle_open(self) -> None:
            self.send_line("hello")
            self.push(iter([b"\xff" * 20_000, b"\r\n"]))

        def handle_line(self, line: str) -> None:
            self.lines.append(line)
            if len(self.lines) == 3:
                self.send_line("bye")

        def handle_close(self, reason: reactor.ReactorError) -> None:
            self.reasons.append(reason)

    visitor = Visitor.connect(("localhost", host.address[1]), reactor=loop, tls=ClientTls(certificates.authorities()))
    run_until(loop, lambda: visitor.reasons)
    assert visitor.tls is None  # the socket is gone
    assert visitor.lines == ["welcome", "you said hello", "you said " + "\ufffd" * 20_000]
    assert isinstance(visitor.reasons[0], reactor.PeerClosed)
    (channel,) = host.channels
    run_until(loop, lambda: channel.reasons)
    assert channel.known == [(80, 24)]
    loop.loop(timeout=0)


def test_client_of_plain_telnet_is_told_apart_and_hurts_nobody(loop: reactor.Reactor, host: Any) -> None:
    with raw_client(host.address) as sock:
        sock.sendall(b"\xff\xfd\x03hello\r\n")
        run_until(loop, lambda: host.channels and host.channels[0].reasons)
        (error,) = host.channels[0].troubles
        assert isinstance(error, reactor.TlsError)
        assert "no TLS" in str(error)
        assert host.channels[0].lines == []


def test_connection_that_is_cut_is_told_apart_from_a_clean_end(
    loop: reactor.Reactor, host: Any, in_thread: Callable[..., Any]
) -> None:
    def visit() -> None:
        sock = secured(host.address)
        sock.recv(1000)
        sock.close()  # without TLS's last word

    until(loop, in_thread(visit))
    (channel,) = host.channels
    run_until(loop, lambda: channel.reasons)
    assert isinstance(channel.reasons[0], reactor.ConnectionLost)


def test_nothing_that_came_in_plaintext_is_heard_behind_start_tls(loop: reactor.Reactor, in_thread: Any) -> None:
    class Upgrading(Host):
        def handle_line(self, line: str) -> None:
            if line == "encrypt":
                self.send_line("ready")
                self.start_tls((certificates.certificate(), None))
                self.send_line("welcome over TLS")
            else:
                super().handle_line(line)

    def visit() -> None:
        sock = raw_client(listener.address)
        sock.sendall(b"encrypt\r\nevil\r\n" + bytes([255, 251, 31]) + b"half a line" + bytes([255]))
        while not sock.recv(1000).endswith(b"ready\r\n"):
            pass
        with context().wrap_socket(sock, server_hostname="localhost") as secure:
            secure.sendall(b"hello\r\n")
            shown = b""
            while not shown.endswith(b"you said hello\r\n"):
                shown += secure.recv(1000)
            assert shown == b"welcome over TLS\r\nyou said hello\r\n"

    accepted = Accepting(Upgrading)
    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop) as listener:
        until(loop, in_thread(visit))
    (channel,) = accepted.channels
    run_until(loop, lambda: channel.reasons)
    assert channel.lines == ["hello"]
    assert not channel.is_enabled(Side.REMOTE, Option.WINDOW_SIZE)
