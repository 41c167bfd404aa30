"""TLS that begins in the middle of a plain connection, in both roles."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import (
    ClosedHere,
    LimitError,
    Limits,
    LocalError,
    StateError,
    TlsError,
)
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, run_until
from tests.faults import AcceptingSocket, Server, receive, serve, turns
from tests.tls_peers import (
    ANY_PORT,
    FILES,
    LARGE,
    Echo,
    EchoMessages,
    Ended,
    OneByOne,
    RecordingLines,
    SocketPeer,
    believing,
    client_context,
    lines_of,
)

__all__ = ["serve"]

Serve = Callable[..., Server]


class Upgraded(RecordingLines):
    """Speaks like a mail server: a command begins TLS."""

    tls_wanted: Any = None

    def handle_line(self, line: str) -> None:
        super().handle_line(line)
        if line == "STARTTLS":
            self.send_line("220 go ahead")
            self.events.append(("dropped", self.start_tls(self.tls_wanted or FILES())))
        else:
            self.send_line(f"you said {line}")


class UpgradedStream(Ended):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        if data.startswith(b"STARTTLS"):
            self.push(b"go")
            self.events.append(("dropped", self.start_tls(FILES())))


class UpgradedMessages(EchoMessages):
    def handle_message(self, message: bytes) -> None:
        super().handle_message(message)
        if message == b"STARTTLS":
            self.events.append(("dropped", self.start_tls(FILES())))

    def handle_secured(self) -> None:
        self.events.append(("secured",))


def upgraded(server: Server, *, command: bytes, answer: bytes) -> tuple[SocketPeer, Any]:
    """Return a client that has said `command`, has got `answer`, and has TLS from there on."""
    sock, channel = server.pair()
    sock.send(command)
    assert receive(server.loop, sock, len(answer)) == answer
    peer = SocketPeer(sock, client_context())
    run_until(server.loop, lambda: peer.turn().is_secure and channel.of("secured"))
    return peer, channel


def test_lines_are_encrypted_from_start_tls_on(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Upgraded)
    peer, channel = upgraded(server, command=b"STARTTLS\r\n", answer=b"220 go ahead\r\n")
    assert channel.tls.version() == "TLSv1.3"
    peer.push(b"hello\r\n")
    run_until(loop, lambda: peer.turn().received == b"you said hello\r\n")
    assert channel.of("dropped") == [0]
    assert [event[0] for event in channel.events] == ["open", "line", "dropped", "secured", "line"]


def test_stream_is_encrypted_from_start_tls_on(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, UpgradedStream)
    peer, channel = upgraded(server, command=b"STARTTLS", answer=b"go")
    peer.push(b"hello")
    run_until(loop, lambda: channel.of("data")[-1] == b"hello")
    channel.push(b"world")
    run_until(loop, lambda: peer.turn().received == b"world")


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
def test_messages_are_encrypted_from_start_tls_on_in_both_roles(loop: reactor.Reactor, key: bytes | None) -> None:
    class Client(RecordingConnection):
        codec = "bytes"

        def handle_message(self, message: bytes) -> None:
            super().handle_message(message)
            if message == b"STARTTLS":
                self.start_tls(believing())
                self.send(b"behind it")

        def handle_secured(self) -> None:
            self.events.append(("secured",))

    accepted = Accepting(UpgradedMessages)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, authkey=key)
    client = reactor.connect(listener.address, Client, reactor=loop, authkey=key)
    client.send(b"STARTTLS")
    run_until(loop, lambda: len(client.of("message")) == 2)
    (channel,) = accepted.channels
    assert client.of("message") == [b"STARTTLS", b"behind it"]
    assert [event[0] for event in channel.events] == ["open", "message", "dropped", "secured", "message"]
    assert client.tls is not None
    assert client.tls.getpeercert()


def test_name_is_verified_after_start_tls_too(loop: reactor.Reactor) -> None:
    class Client(Ended):
        def handle_open(self) -> None:
            self.push(b"STARTTLS")

        def handle_data(self, data: bytes) -> None:
            self.start_tls(believing(server_name="elsewhere.example"))

    listener = reactor.Listener(ANY_PORT, UpgradedStream, reactor=loop)
    client = reactor.connect(listener.address, Client, reactor=loop)
    run_until(loop, lambda: client.of("close"))
    assert "the certificate of the server is not for 'elsewhere.example'" in str(client.of("close")[0])
    assert not [event for event in client.events if event == ("secured",)]


@pytest.mark.parametrize("what", ["bytes", "file", "producer"])
def test_what_was_queued_before_leaves_in_plaintext_and_what_comes_behind_waits(
    loop: reactor.Reactor, serve: Serve, tmp_path: Path, what: str
) -> None:
    (tmp_path / "file").write_bytes(LARGE)
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    sources: dict[str, Callable[[], Any]] = {
        "bytes": lambda: LARGE,
        "file": lambda: (tmp_path / "file").open("rb"),
        "producer": lambda: (LARGE[start : start + 999] for start in range(0, len(LARGE), 999)),
    }
    channel.push(b"<")
    channel.push(sources[what]())
    channel.push(b">")
    assert channel.start_tls(FILES()) == 0
    channel.push(b"behind")
    channel.push(iter([b" and", b" more"]))
    turns(loop, 5)
    assert channel.state.name == "Upgrading"
    assert channel.tls is None
    assert receive(loop, sock, len(LARGE) + 2) == b"<" + LARGE + b">"
    turns(loop, 5)
    assert channel.state.name == "Securing"
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: len(peer.turn().received) == 15)
    assert peer.received == b"behind and more"
    assert channel.of("secured") == ["secured"]


def test_slow_peer_of_an_upgrade_stalls_at_its_deadline(timed: reactor.Reactor, clock: FakeClock) -> None:
    accepted = Accepting(Ended)
    listener = reactor.Listener(None, accepted, reactor=timed)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.address)
        run_until(timed, lambda: accepted.channels and accepted.channels[0].of("open"))
        (channel,) = accepted.channels
        channel.push(LARGE)
        channel.start_tls(FILES())
        turns(timed, 3)
        clock.advance(61)
        run_until(timed, lambda: channel.of("close"))
    assert "(stall_timeout)" in str(channel.of("close")[0])


def test_silent_peer_of_an_upgrade_is_dropped_at_its_deadline(timed: reactor.Reactor, clock: FakeClock) -> None:
    accepted = Accepting(Ended)
    listener = reactor.Listener(None, accepted, reactor=timed)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.address)
        run_until(timed, lambda: accepted.channels and accepted.channels[0].of("open"))
        (channel,) = accepted.channels
        channel.start_tls(FILES())
        turns(timed, 3)
        assert channel.state.name == "Securing"
        clock.advance(11)
        run_until(timed, lambda: channel.of("close"))
    assert "(tls_timeout)" in str(channel.of("close")[0])


@pytest.mark.parametrize("kind", ["lines", "stream", "frames"])
@pytest.mark.parametrize("parts", [1, 2])
def test_plaintext_behind_the_command_is_dropped_counted_and_never_executed(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, kind: str, parts: int
) -> None:
    """Also what has come half, or only as far as the kernel."""
    make, command, behind = {
        "lines": (Upgraded, b"STARTTLS\r\n", b"DELETE\r\nDELETE ALL\r\nhalf a comm"),
        "stream": (UpgradedStream, b"STARTTLS", b"DELETE"),
        "frames": (UpgradedMessages, b"\0\0\0\x08STARTTLS", b"\0\0\0\x06DELETE\0\0\0\x03ALL\0\0\0\x09half"),
    }[kind]
    server = serve(loop, make)
    sock, channel = server.pair()
    if parts == 1 and kind != "stream":
        sock.send(command + behind)
    else:
        sock.send(command)
        if kind == "stream":
            run_until_sent = sock.send
            channel.handle_data = lambda data, handle=channel.handle_data: (run_until_sent(behind), handle(data))
        else:
            sock.send(behind)
    run_until(loop, lambda: channel.of("dropped"))
    assert channel.of("dropped") == [len(behind)]
    assert lines_of(caplog) == [f"{len(behind)} bytes came in plaintext behind the request for TLS, and were dropped"]
    answer = {"lines": b"220 go ahead\r\n", "stream": b"go", "frames": b"\0\0\0\x08STARTTLS"}[kind]
    assert receive(loop, sock, len(answer)) == answer
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.of("secured"))
    more = {"lines": b"hello\r\n", "stream": b"hello", "frames": b"\0\0\0\x05hello"}[kind]
    peer.push(more)
    run_until(loop, lambda: len(channel.of("line") or channel.of("message") or channel.of("data")) == 2)
    assert [event[1] for event in channel.events if event[0] in ("line", "message", "data")][1] in ("hello", b"hello")


def test_many_lines_behind_the_command_are_dropped(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Upgraded)
    sock, channel = server.pair()
    behind = b"DELETE\n" * 3000
    sock.send(b"hello\nSTARTTLS\n" + behind)
    run_until(loop, lambda: channel.of("dropped"))
    assert channel.of("line") == ["hello", "STARTTLS"]
    assert channel.of("dropped") == [len(behind)]
    peer = SocketPeer(sock, client_context())
    receive(loop, sock, len(b"you said hello\r\n220 go ahead\r\n"))
    run_until(loop, lambda: peer.turn().is_secure and channel.of("secured"))
    turns(loop, 5)
    assert channel.of("line") == ["hello", "STARTTLS"]


def test_start_tls_in_front_of_a_terminator_drops_that_too(loop: reactor.Reactor, serve: Serve) -> None:
    class Hasty(reactor.Chat):
        terminator = b"\n"

        def __init__(self) -> None:
            self.found = 0
            self.is_secured = False

        def collect_incoming_data(self, data: bytes) -> None:
            if data == b"STARTTLS":
                self.start_tls(FILES())

        def found_terminator(self) -> None:
            self.found += 1
            if self.is_secured:
                self.set_terminator(5)

        def handle_secured(self) -> None:
            self.is_secured = True
            self.set_terminator(5)

    server = serve(loop, Hasty)
    sock, channel = server.pair()
    sock.send(b"STARTTLS\nDELETE\n")
    run_until(loop, lambda: channel.state.name == "Securing")
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.is_secured)
    peer.push(b"12345" * 600)
    run_until(loop, lambda: channel.found >= 600)
    turns(loop, 5)
    assert channel.found == 600


def test_plaintext_that_comes_while_the_answer_leaves_fails_the_handshake(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Upgraded)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    channel.push(LARGE)
    sock.send(b"STARTTLS\r\n")
    run_until(loop, lambda: channel.state.name == "Upgrading")
    sock.send(b"DELETE\r\n")
    assert receive(loop, sock) == LARGE + b"220 go ahead\r\n"
    run_until(loop, lambda: channel.of("close"))
    assert "the peer speaks no TLS: b'DELETE\\r\\n'" in str(channel.of("close")[0])
    assert channel.of("line") == ["STARTTLS"]


def test_peer_that_floods_behind_the_command_does_not_hold_the_loop(serve: Serve) -> None:
    """It reads what is there, and not what comes while it reads."""

    class Endless(AcceptingSocket):
        received = 0

        def recv(self, size: int, flags: int = 0) -> bytes:
            data = super().recv(size) if not Endless.received else b"x" * size
            Endless.received += len(data)
            assert Endless.received < 100_000_000, "it reads for ever"
            return data

    with reactor.Reactor(socket_factory=Endless) as loop:
        server = serve(loop, UpgradedStream)
        sock, channel = server.pair()
        sock.send(b"STARTTLS")
        run_until(loop, lambda: channel.of("dropped") or channel.of("close"))
        sock.send(b"more")
        run_until(loop, lambda: channel.of("close"))
        assert isinstance(channel.of("close")[0], TlsError)
        server.close()


def test_end_behind_the_command_closes(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, UpgradedStream)
    sock, channel = server.pair()
    sock.send(b"STARTTLS")
    sock.shutdown(socket.SHUT_WR)
    assert receive(loop, sock) == b"go"
    run_until(loop, lambda: channel.of("close"))
    assert "the peer closed the connection in the handshake of TLS" in str(channel.of("close")[0])
    assert not channel.of("eof")


@pytest.mark.parametrize("when", ["Upgrading", "Securing"])
def test_close_when_done_in_an_upgrade_sends_all_that_was_pushed_encrypted(
    loop: reactor.Reactor, serve: Serve, when: str
) -> None:
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    channel.push(LARGE)
    channel.start_tls(FILES())
    channel.push(b"behind")
    if when == "Upgrading":
        channel.close_when_done()
    assert receive(loop, sock, len(LARGE)) == LARGE
    run_until(loop, lambda: channel.state.name == "Securing")
    if when == "Securing":
        channel.close_when_done()
    channel.push(b"too late")
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().has_ended)
    assert peer.received == b"behind"
    peer.sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere)


@pytest.mark.parametrize("how", ["close", "shutdown"])
@pytest.mark.parametrize("when", ["Upgrading", "Securing"])
def test_close_and_shutdown_in_an_upgrade_close_at_once(
    loop: reactor.Reactor, serve: Serve, when: str, how: str
) -> None:
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    if when == "Upgrading":
        channel.push(LARGE)
    channel.start_tls(FILES())
    channel.push(b"secret")
    run_until(loop, lambda: channel.state.name == when)
    if how == "close":
        channel.close()
    else:
        loop.shutdown()
    got = receive(loop, sock)
    assert LARGE.startswith(got)
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert channel.events.count(("secured",)) == 0


def test_second_start_tls_is_refused(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    channel.push(LARGE)
    channel.start_tls(FILES())
    with pytest.raises(StateError, match="'upgrade' is not possible for a channel that is Upgrading"):
        channel.start_tls(FILES())
    receive(loop, sock, len(LARGE))
    run_until(loop, lambda: channel.state.name == "Securing")
    with pytest.raises(StateError, match="this channel is encrypted already"):
        channel.start_tls(FILES())
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.of("secured"))
    with pytest.raises(StateError, match="this channel is encrypted already"):
        channel.start_tls(FILES())


def test_start_tls_is_for_open_channels(loop: reactor.Reactor, serve: Serve) -> None:
    with pytest.raises(StateError):
        Ended().start_tls(FILES())
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    sock.shutdown(socket.SHUT_WR)
    run_until(loop, lambda: channel.of("eof"))
    with pytest.raises(StateError, match="that is HalfClosed"):
        channel.start_tls(FILES())
    channel.close()
    turns(loop, 1)
    with pytest.raises(StateError):
        channel.start_tls(FILES())
    with pytest.raises(StateError):
        server.listener.start_tls(FILES())
    client = reactor.connect(server.listener.address, Ended, reactor=loop)
    with pytest.raises(StateError, match="that is Connecting"):
        client.start_tls(believing(server_name="localhost"))


def test_start_tls_with_what_cannot_be_used_changes_nothing(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Echo)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    for tls in (True, believing(), "nowhere.pem"):
        with pytest.raises(LocalError):
            channel.start_tls(tls)
    assert server.echoes(sock)


@pytest.mark.parametrize("before", ["Paused", "Throttled"])
def test_start_tls_while_the_channel_reads_nothing(loop: reactor.Reactor, serve: Serve, before: str) -> None:
    server = serve(loop, Ended)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    if before == "Paused":
        channel.pause_reading()
    channel.push(LARGE)
    turns(loop, 3)
    assert channel.state.name == before
    channel.start_tls(FILES())
    with pytest.raises(StateError):
        channel.pause_reading()
    channel.resume_reading()
    assert receive(loop, sock, len(LARGE)) == LARGE
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.of("secured"))
    peer.push(b"hello")
    run_until(loop, lambda: channel.received == b"hello")


def test_buffers_that_are_discarded_in_an_upgrade_leave_the_turning_point(loop: reactor.Reactor, serve: Serve) -> None:
    class Discarding(reactor.Chat):
        is_secured = False

        def handle_secured(self) -> None:
            self.is_secured = True

    server = serve(loop, Discarding)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.state.name == "Open")
    channel.push(LARGE)
    turns(loop, 3)
    left = len(LARGE) - channel.output_size
    channel.start_tls(FILES())
    channel.push(b"behind")
    channel.discard_buffers()
    channel.push(b"encrypted")
    assert receive(loop, sock, left) == LARGE[:left]
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().received == b"encrypted")


def test_too_much_behind_start_tls_is_too_much(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Ended, limits=Limits(low_water=10, high_water=100, maximum_output=1000))
    _, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    channel.start_tls(FILES())
    channel.push(b"x" * 600)
    channel.push(b"x" * 600)
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], LimitError)


def test_upgrade_byte_by_byte(caplog: pytest.LogCaptureFixture) -> None:
    class Client(Ended):
        def handle_open(self) -> None:
            super().handle_open()
            self.push(b"STARTTLS")

        def handle_data(self, data: bytes) -> None:
            super().handle_data(data)
            if self.received == b"go":
                self.start_tls(believing())
                self.push(b"encrypted")

    class Accumulating(UpgradedStream):
        def handle_data(self, data: bytes) -> None:
            Ended.handle_data(self, data)
            if self.received == b"STARTTLS":
                self.push(b"go")
                self.start_tls(FILES())

    with reactor.Reactor(socket_factory=OneByOne) as loop:
        accepted = Accepting(Accumulating)
        listener = reactor.Listener(ANY_PORT, accepted, reactor=loop)
        client = reactor.connect(listener.address, Client, reactor=loop)
        run_until(loop, lambda: accepted.channels and accepted.channels[0].received == b"STARTTLSencrypted", 30)
        assert client.of("secured")
    assert lines_of(caplog) == []


def test_channel_that_is_encrypted_hears_of_a_handler_that_fails(loop: reactor.Reactor, serve: Serve) -> None:
    class Failing(Ended):
        def handle_secured(self) -> None:
            raise ValueError("no")

    server = serve(loop, Failing)
    sock, channel = server.pair()
    run_until(loop, lambda: channel.of("open"))
    channel.start_tls(FILES())
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_closed)
    assert isinstance(channel.of("error")[0], ValueError)
    assert isinstance(channel.of("close")[0], reactor.HookError)
