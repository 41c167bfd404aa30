"""Over TLS the challenge handshake is bound to the connection: who relays between two of them fails."""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Callable
from multiprocessing.connection import answer_challenge, deliver_challenge
from typing import Any

import pytest

import reactor
from reactor.authentication import BOUND_TAGS, CHALLENGE, FAILURE, ROLE_TAGS, WELCOME, Handshake
from reactor.errors import AuthenticationError
from reactor.framing import FrameDecoder, encode_frame
from tests.certificates import authorities, certificate
from tests.conftest import KEY, Accepting, RecordingConnection, RecordingStream, run_until

ONE, OTHER = b"what the ends of one connection know", b"what those of another one know"
STANDS_BETWEEN = "somebody stands in between"
ANOTHER_WAY = "by way of another TLS connection"


def machine(role: str, binding: bytes | None, **options: Any) -> Handshake:
    return Handshake(role, KEY, os.urandom, binding=binding, **options)


def meet(listener: Handshake, client: Handshake) -> list[str]:
    """Let the two talk; return what each one refused, in the order in which that happened."""
    refused: list[str] = []
    waiting = [(client, listener.start()), (listener, client.start())]
    while waiting:
        who, data = waiting.pop(0)
        other = client if who is listener else listener
        if not data or who.done or (refused and who.role in refused):
            continue
        try:
            waiting.append((other, who.receive(data)))
        except AuthenticationError as error:
            refused.append(str(error))
            waiting.append((other, error.reply))
    return refused


def test_two_ends_of_one_tls_connection_authenticate() -> None:
    listener, client = machine("listener", ONE), machine("client", ONE)
    assert meet(listener, client) == []
    assert listener.done
    assert client.done


def test_ends_of_two_tls_connections_do_not_although_they_have_the_key() -> None:
    listener, client = machine("listener", ONE), machine("client", OTHER)
    refused = meet(listener, client)
    assert ANOTHER_WAY in refused[0]
    assert "the peer refused our answer" in refused[1]
    assert not listener.done
    assert not client.done


def test_client_without_tls_refuses_a_listener_with_tls() -> None:
    listener, client = machine("listener", ONE), machine("client", None)
    assert STANDS_BETWEEN in meet(listener, client)[0]
    assert not listener.done
    assert not client.done


def test_client_behind_whose_tls_there_is_a_proxy_authenticates_with_a_listener_without_tls() -> None:
    listener, client = machine("listener", None), machine("client", ONE)
    assert meet(listener, client) == []
    assert listener.done
    assert client.done


@pytest.mark.parametrize("binding", [None, ONE])
def test_challenge_is_bound_only_where_there_is_tls(binding: bytes | None) -> None:
    (frame,) = FrameDecoder(256).feed(machine("listener", binding).start())
    tag = (ROLE_TAGS if binding is None else BOUND_TAGS)["listener"]
    assert frame.startswith(CHALLENGE + b"{sha256}" + tag)
    assert len(frame) == len(CHALLENGE) + len("{sha256}") + 40


@pytest.mark.parametrize("role", ["listener", "client"])
@pytest.mark.parametrize("tags", [ROLE_TAGS, BOUND_TAGS], ids=["plain", "bound"])
@pytest.mark.parametrize("binding", [None, ONE])
def test_no_side_answers_a_challenge_of_its_own_kind(role: str, tags: dict[str, bytes], binding: bytes | None) -> None:
    challenge = CHALLENGE + b"{sha256}" + tags[role] + os.urandom(32)
    with pytest.raises(AuthenticationError, match="of our own kind"):
        machine(role, binding)._respond(challenge)


def test_listener_refuses_an_answer_without_binding_from_a_peer_that_shows_to_be_ours() -> None:
    # Who stands in between has had somebody with the key answer in the way of old peers.
    listener = machine("listener", ONE)
    (frame,) = FrameDecoder(256).feed(listener.start())
    message = frame[len(CHALLENGE) :]
    plain = machine("either", None)
    answer = b"{sha256}" + plain._digest("sha256", message)
    assert listener.receive(encode_frame(answer)) == encode_frame(WELCOME)
    for tag in (BOUND_TAGS["client"], ROLE_TAGS["client"]):
        with pytest.raises(AuthenticationError, match="was not bound to this TLS connection"):
            listener._respond(CHALLENGE + b"{sha256}" + tag + os.urandom(32))


def test_client_refuses_an_answer_without_binding_from_a_listener_that_has_bound_its_challenge() -> None:
    client = machine("client", ONE)
    client.start()
    challenge = CHALLENGE + b"{sha256}" + BOUND_TAGS["listener"] + os.urandom(32)
    client.receive(encode_frame(challenge))
    (frame,) = FrameDecoder(256).feed(client.receive(encode_frame(WELCOME)))
    message = frame[len(CHALLENGE) :]
    assert message.startswith(b"{sha256}" + BOUND_TAGS["client"])
    answer = b"{sha256}" + machine("either", None)._digest("sha256", message)
    with pytest.raises(AuthenticationError, match="was not bound to this TLS connection") as caught:
        client.receive(encode_frame(answer))
    assert caught.value.reply == encode_frame(FAILURE)


class Framed:
    """What the functions of the standard library need, over a socket with TLS."""

    def __init__(self, sock: ssl.SSLSocket) -> None:
        self._sock = sock
        self._decoder = FrameDecoder(1 << 16)
        self._frames: list[bytes] = []

    def send_bytes(self, data: bytes) -> None:
        self._sock.sendall(encode_frame(data))

    def recv_bytes(self, maximum: int | None = None) -> bytes:
        while not self._frames:
            data = self._sock.recv(65536)
            if not data:
                raise EOFError
            self._frames += self._decoder.feed(data)
        return self._frames.pop(0)


def secure(sock: socket.socket) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=authorities())
    return context.wrap_socket(sock, server_hostname="localhost")


def test_client_of_the_standard_library_over_tls_authenticates_without_binding(
    loop: reactor.Reactor, in_thread: Callable[..., threading.Thread]
) -> None:
    accepting = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepting, authkey=KEY, tls=certificate(), reactor=loop)
    received: list[bytes] = []

    def talk() -> None:
        with secure(socket.create_connection(listener.address)) as sock:
            connection: Any = Framed(sock)
            answer_challenge(connection, KEY)
            deliver_challenge(connection, KEY)
            connection.send_bytes(b"hello")
            received.append(connection.recv_bytes())
            sock.unwrap()

    thread = in_thread(talk)
    run_until(loop, lambda: accepting.channels and accepting.channels[0].state.name == "Open")
    accepting.channels[0].send_bytes(b"welcome")
    run_until(loop, lambda: accepting.channels[0].state.name == "Closed")
    thread.join(10)
    assert received == [b"welcome"]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_two_of_ours_authenticate_over_tls(version: ssl.TLSVersion, loop: reactor.Reactor) -> None:
    context = ssl.create_default_context(cafile=authorities())
    context.maximum_version = version
    accepting = Accepting(RecordingConnection)
    with reactor.Listener(("127.0.0.1", 0), accepting, authkey=KEY, tls=certificate(), reactor=loop) as listener:
        client = RecordingConnection.connect(listener.address, authkey=KEY, tls=context, reactor=loop)
        run_until(loop, lambda: client.state.name == "Open")
        assert client.tls is not None
        assert client.tls.version() == version.name.replace("_", ".")
        client.close()
        run_until(loop, lambda: accepting.channels and accepting.channels[0].state.name == "Closed")


def test_who_relays_between_two_tls_connections_is_found_out(loop: reactor.Reactor) -> None:
    """The client takes anybody for the server, and whoever that is passes on what it hears."""
    accepting = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepting, authkey=KEY, tls=certificate(), reactor=loop)

    class ToServer(RecordingStream):
        def handle_data(self, data: bytes) -> None:
            towards_client[0].push(data)

    class ToClient(RecordingStream):
        def handle_open(self) -> None:
            towards_client.append(self)
            believing = reactor.ClientTls(authorities())
            self.server = ToServer.connect(listener.address, tls=believing, reactor=loop)

        def handle_data(self, data: bytes) -> None:
            self.server.push(data)

    towards_client: list[Any] = []
    relay = reactor.Listener(
        ("127.0.0.1", 0), ToClient, tls=certificate("nobody.example", by_stranger=True), reactor=loop
    )
    trusting = reactor.ClientTls(allow_unverified_server=True)
    client = RecordingConnection.connect(relay.address, authkey=KEY, tls=trusting, reactor=loop)
    run_until(loop, lambda: client.of("close") and accepting.channels and accepting.channels[0].of("close"))
    assert "the peer refused our answer" in str(client.of("close")[0])
    assert ANOTHER_WAY in str(accepting.channels[0].of("close")[0])
    relay.close()
    listener.close()
    for channel in (towards_client[0], towards_client[0].server):
        channel.close()
