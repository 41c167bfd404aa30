"""The handshake of TLS as a state of a channel, and what a person reads when it fails."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from reactor import (
    ClosedHere,
    DeadlineError,
    LimitError,
    Limits,
    ServerTls,
    TlsError,
)
from reactor.guards import TURNS_WITHOUT_PROGRESS
from reactor.tls import HTTP_ANSWER
from tests import certificates
from tests.conftest import KEY, Accepting, FakeClock, RecordingConnection, RecordingStream, run_until
from tests.faults import AcceptingSocket, CountingSelector, Server, receive, serve, turns
from tests.tls_peers import (
    ANY_PORT,
    FILES,
    LARGE,
    TLS_1_1,
    TLS_1_2,
    TLS_1_3,
    Echo,
    EchoMessages,
    Ended,
    OneByOne,
    RecordingLines,
    SocketPeer,
    believing,
    client_context,
    connected,
    lines_of,
    server_context,
)

__all__ = ["serve"]

Serve = Callable[..., Server]
# The handshake


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_handshake_byte_by_byte_costs_turns_and_no_more(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    server = serve(loop, Echo, tls=FILES())
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context(version))
    flight = peer.feed()
    sent = 0
    before = loop.turns
    while not channel.of("open"):
        for byte in flight:
            sock.send(bytes([byte]))
            sent += 1
            loop.poll(0.01)
        with contextlib.suppress(BlockingIOError):
            flight = peer.feed(sock.recv(1 << 16))
    assert sent > 2 * TURNS_WITHOUT_PROGRESS
    assert loop.turns - before <= sent + 10
    peer.push(b"ping")
    run_until(loop, lambda: peer.turn().received == b"ping")
    assert lines_of(caplog) == []


def test_both_ends_byte_by_byte(caplog: pytest.LogCaptureFixture) -> None:
    with reactor.Reactor(socket_factory=OneByOne) as loop:
        accepted = Accepting(EchoMessages)
        listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=FILES(), authkey=KEY)
        client = reactor.connect(listener.address, RecordingConnection, codec="bytes", reactor=loop, authkey=KEY,
                                 tls=believing())  # fmt: skip
        client.send(b"message")
        run_until(loop, lambda: client.of("message"), 30)
        client.close_when_done()
        run_until(loop, lambda: client.of("close") and accepted.channels[0].of("close"))
    assert client.of("message") == [b"message"]
    assert lines_of(caplog) == []


def test_silent_peer_costs_no_turns_and_is_dropped_at_its_deadline(timed: reactor.Reactor, clock: FakeClock) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(None, accepted, reactor=timed, tls=FILES())
    with socket.socket(socket.AF_UNIX) as silent:
        silent.connect(listener.address)
        run_until(timed, lambda: accepted.channels)
        (channel,) = accepted.channels
        turns(timed, 3)
        assert timed.next_timeout() == 10.0
        clock.advance(9.9)
        turns(timed, 3)
        assert channel.state.name == "Securing"
        clock.advance(0.2)
        run_until(timed, lambda: channel.of("close"))
    (error,) = channel.of("error")
    assert isinstance(error, DeadlineError)
    assert error.limit == "tls_timeout"
    assert str(error).endswith(
        "(Securing): no TLS within 10 s (tls_timeout); nothing came; does the peer speak TLS on this port?"
    )


@pytest.mark.parametrize("size", [1, 5, 100])
def test_unfinished_handshake_costs_no_turns(serve: Serve, size: int) -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        server = serve(loop, RecordingStream, tls=FILES(), limits=Limits(tls_timeout=0.3))
        sock, channel = server.pair()
        sock.send(SocketPeer(sock, client_context()).feed()[:size])
        run_until(loop, lambda: channel.socket.progress.startswith("it was"))
        selector.events = before = loop.turns = 0
        loop.loop(0.2)
        assert selector.events == before
        assert loop.turns <= 5
        run_until(loop, lambda: channel.of("close"))
        assert "(tls_timeout); it was not brought to its end" in str(channel.of("error")[0])
        server.close()


def test_server_that_answers_nothing_is_given_up(loop: reactor.Reactor) -> None:
    with socket.create_server(ANY_PORT) as silent:
        client = reactor.connect(silent.getsockname(), Ended, reactor=loop, tls=believing(),
                                 limits=Limits(tls_timeout=0.05))  # fmt: skip
        run_until(loop, lambda: client.of("close"))
    assert "no TLS within 0.05 s (tls_timeout); nothing came" in str(client.of("close")[0])


def test_peer_that_is_longest_in_the_handshake_makes_room(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, Echo, tls=FILES(), limits=Limits(maximum_unauthenticated=3))
    server.crowd(3)
    peer, _ = connected(server)
    run_until(loop, lambda: server.channels[0].of("close"))
    error = server.channels[0].of("error")[0]
    assert isinstance(error, LimitError)
    assert "still in the handshake, and the next one needs the place: 3 (maximum_unauthenticated)" in str(error)
    assert [len(channel.of("close")) for channel in server.channels] == [1, 0, 0, 0]
    peer.push(b"ping")
    run_until(loop, lambda: peer.turn().received == b"ping")


def test_thousand_silent_peers_hold_up_nobody(loop: reactor.Reactor, serve: Serve, many_files: None) -> None:
    server = serve(loop, Echo, tls=FILES(), limits=Limits(maximum_unauthenticated=200))
    server.crowd(600)
    peer, _ = connected(server)
    peer.push(b"ping")
    run_until(loop, lambda: peer.turn().received == b"ping")
    assert len(server.listener._unauthenticated) <= 200


@pytest.fixture
def many_files() -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4000, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_key_that_comes_behind_tls_takes_the_same_place(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, EchoMessages, tls=FILES(), authkey=KEY, limits=Limits(maximum_unauthenticated=1))
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().is_secure and channel.state.name == "Authenticating")
    assert list(server.listener._unauthenticated) == [channel]
    server.pair()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], LimitError)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_peer_that_goes_in_the_handshake_is_reported_once(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    sock, channel = server.pair()
    sock.send(SocketPeer(sock, client_context()).feed()[:size])
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    progress = "it was not brought to its end" if size else "nothing came; does the peer speak TLS on this port?"
    assert lines_of(caplog) == [f"the peer closed the connection in the handshake of TLS: {progress}"]


def test_reset_in_the_handshake_is_that_of_the_connection(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES(), address=ANY_PORT)
    sock, channel = server.pair()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    assert type(channel.of("close")[0]) is reactor.ConnectionLost


def test_greeting_that_cannot_be_sent_closes_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(AcceptingSocket):
        def send(self, data: Any, flags: int = 0) -> int:
            raise BrokenPipeError(32, "Broken pipe")

    with socket.create_server(ANY_PORT) as silent, reactor.Reactor(socket_factory=Broken) as loop:
        client = reactor.connect(silent.getsockname(), Ended, reactor=loop, tls=believing())
        run_until(loop, lambda: client.of("close"))
    assert str(client.of("close")[0]).endswith("connection lost: Broken pipe")


def test_what_is_pushed_meanwhile_waits_within_its_limit(loop: reactor.Reactor, serve: Serve) -> None:
    class Eager(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.push(b"x" * 2000)

    limits = Limits(low_water=10, high_water=100, maximum_output=1000)
    accepted = Accepting(RecordingStream)
    listener = Eager(None, accepted, reactor=loop, tls=FILES(), limits=limits)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.address)
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    error = accepted.channels[0].of("close")[0]
    assert isinstance(error, LimitError)
    assert error.limit == "maximum_output"


def test_push_in_the_handshake_that_passes_a_mark_loses_nothing(loop: reactor.Reactor, serve: Serve) -> None:
    class Eager(reactor.Listener):
        def handle_accepted(self, channel: reactor.Channel) -> None:
            channel.push(LARGE)

    accepted = Accepting(RecordingStream)
    listener = Eager(None, accepted, reactor=loop, tls=FILES())
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(listener.address)
        sock.setblocking(False)
        peer = SocketPeer(sock, client_context())
        run_until(loop, lambda: len(peer.turn().received) == len(LARGE))
        assert peer.received == LARGE
        peer.push(b"ping")
        run_until(loop, lambda: accepted.channels[0].received == b"ping")


def test_channel_that_is_closed_in_the_handshake_says_nothing(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    sock, channel = server.pair()
    channel.close()
    assert receive(loop, sock) == b""
    assert isinstance(channel.of("close")[0], ClosedHere)
    sock, channel = server.pair()
    loop.shutdown()
    assert receive(loop, sock) == b""
    assert isinstance(channel.of("close")[0], ClosedHere)


def test_close_when_done_in_the_handshake_waits_for_its_end(loop: reactor.Reactor, serve: Serve) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    sock, channel = server.pair()
    channel.push(b"all there is")
    channel.close_when_done()
    channel.push(b"too late")
    peer = SocketPeer(sock, client_context())
    run_until(loop, lambda: peer.turn().has_ended)
    assert peer.received == b"all there is"
    peer.send(peer.goodbye())
    sock.close()
    run_until(loop, lambda: channel.of("close"))


def test_hook_that_makes_room_may_close_the_newcomer(loop: reactor.Reactor, serve: Serve) -> None:
    class Spiteful(RecordingStream):
        def handle_error(self, error: Exception) -> None:
            super().handle_error(error)
            for other in server.channels:
                other.close()

    server = serve(loop, Spiteful, tls=FILES(), limits=Limits(maximum_unauthenticated=1))
    server.pair()
    server.pair()
    run_until(loop, lambda: all(channel.of("close") for channel in server.channels))
    assert server.listener.connections == 0


def test_callback_of_a_context_may_close_its_channel(loop: reactor.Reactor, serve: Serve) -> None:
    context = server_context()
    server = serve(loop, RecordingStream, tls=context)
    context.sni_callback = lambda *_: server.channels[0].close()
    sock, channel = server.pair()
    peer = SocketPeer(sock, client_context())
    peer.turn()
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("close")[0], ClosedHere)
    assert not [key for key in loop._selector.get_map().values() if key.data is channel]


def test_handshake_that_is_refused_may_be_closed_by_its_hook(loop: reactor.Reactor, serve: Serve) -> None:
    class Hasty(RecordingStream):
        def handle_error(self, error: Exception) -> None:
            self.close(error)

    server = serve(loop, Hasty, tls=FILES())
    sock, channel = server.pair()
    sock.send(b"GET / HTTP/1.1\r\n\r\n")
    assert receive(loop, sock) == HTTP_ANSWER
    assert isinstance(channel.of("close")[0], TlsError)


def test_producer_that_is_dropped_with_the_handshake_may_close_its_channel(loop: reactor.Reactor, serve: Serve) -> None:
    class Source:
        def __init__(self, channel: reactor.Channel) -> None:
            self.channel = channel

        def more(self) -> bytes:
            raise AssertionError("pulled in the handshake")

        def close(self) -> None:
            self.channel.close()

    server = serve(loop, RecordingStream, tls=FILES())
    sock, channel = server.pair()
    channel.push(Source(channel))
    sock.send(b"GET / HTTP/1.1\r\n\r\n")
    run_until(loop, lambda: channel.of("close"))
    assert isinstance(channel.of("error")[0], TlsError)


# What a person reads


@pytest.mark.parametrize(
    ("certificate", "client", "server"),
    [
        (
            lambda: certificates.certificate(expired=True),
            "no TLS: the certificate of the server has expired",
            "no TLS: the certificate of this side has expired, says the peer",
        ),
        (
            lambda: certificates.certificate("b.example"),
            "no TLS: the certificate of the server is not for 'localhost'",
            "no TLS: the peer does not believe the certificate of this side",
        ),
        (
            lambda: certificates.certificate(by_stranger=True),
            "no TLS: the certificate of the server was signed by nobody who is known here; "
            "ClientTls(authorities=...) says whom to believe",
            "no TLS: the peer does not know who has signed the certificate of this side",
        ),
        (
            certificates.self_signed_certificate,
            "no TLS: the certificate of the server was signed by itself, and by nobody who is known here; "
            "ClientTls(authorities=...) says whom to believe",
            "no TLS: the peer does not know who has signed the certificate of this side",
        ),
    ],
    ids=["expired", "name", "stranger", "itself"],
)
def test_certificate_that_is_refused_is_one_line_on_each_side(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, certificate: Callable[[], str], client: str, server: str
) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(None, accepted, reactor=loop, tls=certificate())
    ours = reactor.connect(listener.address, Ended, reactor=loop, tls=believing(server_name="localhost"))
    ours.push(b"secret")
    run_until(loop, lambda: ours.of("close") and accepted.channels and accepted.channels[0].of("close"))
    assert lines_of(caplog) == [client, server]
    assert not ours.of("open")
    assert not accepted.channels[0].of("open")
    assert isinstance(ours.of("close")[0], TlsError)
    assert "Stream with " in str(accepted.channels[0].of("close")[0])
    assert "(Securing): " in str(accepted.channels[0].of("close")[0])


def test_client_with_nothing_in_common_is_one_line(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    weak = client_context(TLS_1_2)
    weak.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    for context, text in (
        (client_context(TLS_1_1), "the two sides speak no version of TLS in common; here it is 1.2 and newer"),
        (weak, "the two sides have no cipher in common, or no kind of certificate"),
    ):
        caplog.clear()
        sock, channel = server.pair()
        peer = SocketPeer(sock, context)

        def is_told(peer: SocketPeer = peer) -> bool:
            try:
                return peer.turn().is_closed
            except ssl.SSLError as error:
                return "ALERT" in str(error.reason or error).upper()

        run_until(loop, is_told)
        sock.close()
        run_until(loop, lambda channel=channel: channel.of("close"))  # type: ignore[misc]
        assert lines_of(caplog) == [f"no TLS: {text}"]


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_client_without_a_certificate_is_one_line_on_each_side(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, version: ssl.TLSVersion
) -> None:
    accepted = Accepting(RecordingStream)
    tls = ServerTls(*FILES(), client_authorities=certificates.authorities())
    tls.context.maximum_version = version
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=tls)
    ours = reactor.connect(listener.address, Ended, reactor=loop, tls=believing())
    run_until(loop, lambda: ours.of("close") and accepted.channels and accepted.channels[0].of("close"))
    server, client = lines_of(caplog)
    assert server == "no TLS: the client has no certificate, and here it needs one"
    if version == TLS_1_3:
        assert client == "no TLS: the peer wants a certificate; ClientTls(certificate=...) has one"
    assert isinstance(ours.of("close")[0], TlsError)


@pytest.mark.parametrize("is_slow", [False, True])
def test_http_on_a_port_for_tls_gets_a_complete_answer_and_one_line(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, is_slow: bool
) -> None:
    server = serve(loop, RecordingStream, tls=FILES(), address=ANY_PORT)
    sock, channel = server.pair()
    channel.push(b"secret")
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Long: " + b"x" * 100_000 + b"\r\n\r\n"
    for byte in request[:12] if is_slow else b"":
        sock.send(bytes([byte]))
        turns(loop, 2)
    sent = 12 if is_slow else 0
    sock.setblocking(False)
    while sent < len(request):
        with contextlib.suppress(BlockingIOError):
            sent += sock.send(request[sent:])
        loop.poll(0)
    assert receive(loop, sock, len(HTTP_ANSWER)) == HTTP_ANSWER
    assert receive(loop, sock) == b""
    sock.close()
    run_until(loop, lambda: channel.of("close"))
    (line,) = lines_of(caplog)
    assert line.startswith("the peer speaks an HTTP request, not TLS: b'GET /")
    assert not channel.of("open")
    assert not channel.of("data")


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO you\r\n", b"\0\0\0\x0b#CHALLENGE#", b"\x1b[2J\n\n\n\n\n"]
)
def test_other_plaintext_on_a_port_for_tls_gets_a_close_and_one_line(
    loop: reactor.Reactor, serve: Serve, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    server = serve(loop, RecordingStream, tls=FILES())
    sock, channel = server.pair()
    sock.send(data)
    assert receive(loop, sock) == b""
    run_until(loop, lambda: channel.of("close"))
    (line,) = lines_of(caplog)
    assert line.startswith("the peer speaks ")
    assert not channel.of("data")


@pytest.mark.parametrize("greeting", [b"220 mail.example ESMTP\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_plaintext_of_a_server_is_one_line(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture, greeting: bytes
) -> None:
    class Greeting(RecordingStream):
        def handle_open(self) -> None:
            self.push(greeting)

    listener = reactor.Listener(ANY_PORT, Greeting, reactor=loop)
    client = reactor.connect(listener.address, Ended, reactor=loop, tls=believing())
    run_until(loop, lambda: client.of("close"))
    assert [line for line in lines_of(caplog) if "the peer speaks" in line]
    assert len([record for record in caplog.records if "Ended" in record.getMessage()]) == 1


EVERY_CHANNEL = [
    (lambda: RecordingLines, {}, "a line is no utf-8: this is a TLS handshake; it begins b'\\x16\\x03"),
    (lambda: EchoMessages, {}, "this is a TLS handshake, not a frame: b'\\x16\\x03\\x01"),
    (lambda: EchoMessages, {"authkey": KEY}, "this is a TLS handshake, not a frame: b'\\x16\\x03\\x01"),
]


@pytest.mark.parametrize(("make", "options", "text"), EVERY_CHANNEL, ids=["lines", "keyless", "key"])
def test_tls_on_a_port_for_plaintext_is_one_line(
    loop: reactor.Reactor,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    make: Callable[[], Any],
    options: dict[str, Any],
    text: str,
) -> None:
    server = serve(loop, make(), **options)
    sock, channel = server.pair()
    hello = SocketPeer(sock, client_context()).feed()
    while b"\n" not in hello[11:] or b"\n" in hello[:11]:  # nearly every one has such a byte in it
        hello = SocketPeer(sock, client_context()).feed()
    sock.send(hello)
    sock.shutdown(socket.SHUT_WR)
    receive(loop, sock)
    run_until(loop, lambda: channel.of("close"))
    (line,) = lines_of(caplog)
    assert text in line.replace('b"', "b'")  # which of them it is depends on random bytes
    assert not channel.of("line")
    assert not channel.of("message")


# Plaintext trusted before the handshake (CVE-2023-40217)


@pytest.mark.parametrize("address", [None, ANY_PORT], ids=["unix", "tcp"])
def test_plaintext_and_a_close_at_once_deliver_no_byte(loop: reactor.Reactor, serve: Serve, address: Any) -> None:
    server = serve(loop, RecordingStream, tls=ServerTls(*FILES(), client_authorities=certificates.authorities()),
                   address=address)  # fmt: skip
    for data in (b"DELETE EVERYTHING\r\n", b"x", b"\x17\x03\x03\x00\x05hello", b""):
        sock = server.client()
        sock.send(data)
        sock.close()
    run_until(loop, lambda: len(server.channels) == 4 and all(channel.of("close") for channel in server.channels))
    for channel in server.channels:
        assert not channel.of("open")
        assert not channel.of("data")


def test_plaintext_of_a_server_and_a_close_at_once_deliver_no_byte(loop: reactor.Reactor) -> None:
    with socket.create_server(ANY_PORT) as listener:
        client = reactor.connect(listener.getsockname(), Ended, reactor=loop, tls=believing())
        loop.poll()
        accepted, _ = listener.accept()
        accepted.send(b"ok, deliver this\r\n")
        accepted.close()
        run_until(loop, lambda: client.of("close"))
    assert client.received == b""
    assert not client.of("open")
