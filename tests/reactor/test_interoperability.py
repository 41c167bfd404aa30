"""Every CPython of this machine talks to ours, in both roles, with nothing but its standard library."""

from __future__ import annotations

import json
import os
import pickle
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from reactor.framing import encode_frame
from tests.conftest import KEY, ROOT, Accepting, RecordingConnection, RecordingStream, raw_client, run_until
from tests.interpreters import VARIABLE, VERSIONS, Peer, find_interpreters
from tests.peers.stdlib_peer import OBJECTS, OBJECTS_OF_PYTHON_3, SIZES, payload

WRONG_KEY = KEY[:-1] + b"?"
ANY_PORT = ("127.0.0.1", 0)
IMPATIENT = reactor.Limits(authentication_timeout=0.05)


class Echo(RecordingConnection):
    def handle_message(self, message: Any) -> None:
        super().handle_message(message)
        self.send(message)


class Speaker(RecordingConnection):
    def handle_open(self) -> None:
        super().handle_open()
        self.send_bytes(b"welcome")


class OldPickle:
    """Pickles that Python 2 can read; the default, like that of `multiprocessing`, is too new for it."""

    loads = staticmethod(pickle.loads)

    @staticmethod
    def dumps(message: Any) -> bytes:
        return pickle.dumps(message, protocol=2)


@pytest.fixture(scope="module", params=VERSIONS)
def process(request: pytest.FixtureRequest) -> Iterator[Peer]:
    executable = find_interpreters().get(request.param)
    if executable is None:
        pytest.skip(f"no CPython {request.param} was found; {VARIABLE} can name one")
    peer = Peer(request.param, executable)
    yield peer
    peer.close()


@pytest.fixture
def peer(process: Peer) -> Iterator[Peer]:
    """A program on some Python; one process serves all tests with that Python."""
    yield process
    process.settle()


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest) -> Any:
    return ANY_PORT if request.param == "tcp" else request.getfixturevalue("socket_path")


@pytest.fixture(params=[KEY, None], ids=["key", "keyless"])
def key(request: pytest.FixtureRequest) -> bytes | None:
    value: bytes | None = request.param
    return value


def codec_for(peer: Peer) -> Any:
    return OldPickle() if peer.is_python_2 else "pickle"


def objects_for(peer: Peer) -> list[Any]:
    return OBJECTS if peer.is_python_2 else OBJECTS_OF_PYTHON_3


def closed(connection: RecordingConnection) -> bool:
    return bool(connection.of("close"))


# Their Client, our Listener


class Serving:
    """Our listener, and the one channel that it accepts."""

    def __init__(
        self, loop: reactor.Reactor, address: Any, factory: type[RecordingConnection] = Echo, **options: Any
    ) -> None:
        self._accepted = Accepting(factory)
        self._loop = loop
        self.listener = reactor.Listener(address, self._accepted, reactor=loop, **options)
        self.address = self.listener.address

    def run_until_answer(self, peer: Peer) -> RecordingConnection:
        """Run until the peer has said what it saw and our side is closed; return our side."""
        run_until(self._loop, peer.has_answered)
        run_until(self._loop, lambda: closed(self._accepted.channels[0]))
        self.listener.close()
        (channel,) = self._accepted.channels
        assert len(channel.of("close")) == 1
        assert isinstance(channel, RecordingConnection)
        return channel


def test_our_listener_echoes_objects_of_standard_client(
    peer: Peer, address: Any, key: bytes | None, loop: reactor.Reactor
) -> None:
    serving = Serving(loop, address, authkey=key, codec=codec_for(peer), allow_unauthenticated_pickle=True)
    peer.connect(serving.address, key, "exchange_objects")
    ours = serving.run_until_answer(peer)
    assert peer.answer == {"different": []}
    assert ours.of("message") == objects_for(peer)
    assert isinstance(ours.of("close")[0], reactor.PeerClosed)


def test_our_listener_echoes_payloads_of_standard_client(
    peer: Peer, address: Any, key: bytes | None, loop: reactor.Reactor
) -> None:
    serving = Serving(loop, address, authkey=key, codec="bytes")
    peer.connect(serving.address, key, "exchange_payloads")
    ours = serving.run_until_answer(peer)
    assert peer.answer == {"different": []}
    assert [message == payload(size) for message, size in zip(ours.of("message"), SIZES, strict=True)] == [True] * 5
    assert isinstance(ours.of("close")[0], reactor.PeerClosed)


def test_our_listener_refuses_standard_client_with_wrong_key(peer: Peer, address: Any, loop: reactor.Reactor) -> None:
    serving = Serving(loop, address, authkey=KEY)
    peer.connect(serving.address, WRONG_KEY, "hear")
    ours = serving.run_until_answer(peer)
    assert peer.answer == {"error": "AuthenticationError", "message": "digest sent was rejected"}
    (reason,) = ours.of("close")
    assert isinstance(reason, reactor.AuthenticationError)
    assert "wrong authkey" in str(reason)
    assert ours.of("open") == []


def test_our_listener_says_that_silent_standard_client_has_no_key(peer: Peer, loop: reactor.Reactor) -> None:
    serving = Serving(loop, ANY_PORT, authkey=KEY, limits=IMPATIENT)
    peer.connect(serving.address, None, "hear")
    ours = serving.run_until_answer(peer)
    assert peer.answer == {"heard": ["#CHALLENGE#"]}
    (reason,) = ours.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "authentication_timeout"
    assert "which a peer without an authkey never sends" in str(reason)


def test_our_listener_says_that_speaking_standard_client_has_no_key(peer: Peer, loop: reactor.Reactor) -> None:
    serving = Serving(loop, ANY_PORT, authkey=KEY)
    peer.connect(serving.address, None, "speak")
    ours = serving.run_until_answer(peer)
    assert peer.answer["heard"] == ["#CHALLENGE#", "#FAILURE#"]
    (reason,) = ours.of("close")
    assert isinstance(reason, reactor.AuthenticationError)
    assert "a peer without an authkey" in str(reason)
    assert ours.of("message") == []


def test_our_listener_without_key_ends_standard_client_that_waits_for_challenge(
    peer: Peer, loop: reactor.Reactor
) -> None:
    """Neither side says a word, so nothing can tell ours that a key was expected: idleness ends it."""
    serving = Serving(loop, ANY_PORT, codec="bytes", limits=reactor.Limits(idle_timeout=0.05))
    peer.connect(serving.address, KEY, "hear")
    ours = serving.run_until_answer(peer)
    assert peer.answer["error"] == "EOFError"
    (reason,) = ours.of("close")
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "idle_timeout"


def test_our_listener_without_key_that_speaks_first_loses_standard_client_with_key(
    peer: Peer, loop: reactor.Reactor
) -> None:
    serving = Serving(loop, ANY_PORT, Speaker, codec="bytes")
    peer.connect(serving.address, KEY, "hear")
    ours = serving.run_until_answer(peer)
    assert peer.answer["error"] == ("AuthenticationError" if peer.knows_sha256 else "AssertionError")
    assert ours.events[0] == ("open",)
    assert isinstance(ours.of("close")[0], reactor.PeerClosed | reactor.ConnectionLost)


def test_our_listener_with_sha256_serves_standard_clients_that_know_it(peer: Peer, loop: reactor.Reactor) -> None:
    serving = Serving(loop, ANY_PORT, authkey=KEY, codec=codec_for(peer), minimum_digest="sha256")
    peer.connect(serving.address, KEY, "exchange_objects")
    ours = serving.run_until_answer(peer)
    if peer.knows_sha256:
        assert peer.answer == {"different": []}
    else:
        assert peer.answer == {"error": "AuthenticationError", "message": "digest sent was rejected"}
        assert "knows MD5 alone" in str(ours.of("close")[0])


# Their Listener, our connect


def run_until_both_end(loop: reactor.Reactor, peer: Peer, ours: RecordingConnection) -> Exception:
    """Run until our side is closed and the peer has said what it saw; return why ours closed."""
    run_until(loop, lambda: closed(ours))
    run_until(loop, peer.has_answered)
    (reason,) = ours.of("close")
    assert isinstance(reason, Exception)
    return reason


def test_standard_listener_echoes_our_objects(
    peer: Peer, address: Any, key: bytes | None, loop: reactor.Reactor
) -> None:
    where = peer.listen(address, key, "echo_objects")
    ours = RecordingConnection.connect(
        where, authkey=key, codec=codec_for(peer), allow_unauthenticated_pickle=True, reactor=loop
    )
    objects = objects_for(peer)
    for sent in objects:
        ours.send(sent)
    run_until(loop, lambda: len(ours.of("message")) == len(objects))
    assert ours.of("message") == objects
    ours.close_when_done()
    assert isinstance(run_until_both_end(loop, peer, ours), reactor.ClosedHere)
    assert peer.answer == {"echoed": len(objects)}


def test_standard_listener_echoes_our_payloads(
    peer: Peer, address: Any, key: bytes | None, loop: reactor.Reactor
) -> None:
    where = peer.listen(address, key, "echo_payloads")
    ours = RecordingConnection.connect(where, authkey=key, codec="bytes", reactor=loop)
    for size in SIZES:
        ours.send(payload(size))
    run_until(loop, lambda: len(ours.of("message")) == len(SIZES))
    assert [message == payload(size) for message, size in zip(ours.of("message"), SIZES, strict=True)] == [True] * 5
    ours.close_when_done()
    assert isinstance(run_until_both_end(loop, peer, ours), reactor.ClosedHere)
    assert peer.answer == {"echoed": len(SIZES)}


def test_standard_listener_refuses_our_connection_with_wrong_key(
    peer: Peer, address: Any, loop: reactor.Reactor
) -> None:
    where = peer.listen(address, KEY, "hear")
    ours = RecordingConnection.connect(where, authkey=WRONG_KEY, reactor=loop)
    ours.send("a secret")
    reason = run_until_both_end(loop, peer, ours)
    assert peer.answer["error"] == "AuthenticationError"
    assert peer.answer["message"] == "digest received was wrong"
    assert isinstance(reason, reactor.AuthenticationError)
    assert "the authkeys differ" in str(reason)
    assert ours.of("open") == []


def test_our_connection_says_that_silent_standard_listener_has_no_key(peer: Peer, loop: reactor.Reactor) -> None:
    where = peer.listen(ANY_PORT, None, "hear")
    ours = RecordingConnection.connect(where, authkey=KEY, limits=IMPATIENT, reactor=loop)
    ours.send("a secret")
    reason = run_until_both_end(loop, peer, ours)
    assert peer.answer == {"heard": []}
    assert isinstance(reason, reactor.DeadlineError)
    assert reason.limit == "authentication_timeout"
    assert "which a peer without an authkey never sends" in str(reason)


def test_our_connection_says_that_speaking_standard_listener_has_no_key(peer: Peer, loop: reactor.Reactor) -> None:
    where = peer.listen(ANY_PORT, None, "speak")
    ours = RecordingConnection.connect(where, authkey=KEY, reactor=loop)
    reason = run_until_both_end(loop, peer, ours)
    assert peer.answer == {"heard": ["#FAILURE#"]}
    assert isinstance(reason, reactor.AuthenticationError)
    assert "a peer without an authkey" in str(reason)
    assert ours.of("message") == []


def test_our_connection_without_key_says_that_standard_listener_demands_one(peer: Peer, loop: reactor.Reactor) -> None:
    where = peer.listen(ANY_PORT, KEY, "hear")
    ours = RecordingConnection.connect(where, codec="bytes", reactor=loop)
    reason = run_until_both_end(loop, peer, ours)
    assert "error" in peer.answer
    assert isinstance(reason, reactor.AuthenticationError)
    assert "the peer demands an authkey, and none was given here" in str(reason)
    assert ours.of("message") == []


def test_our_connection_with_sha256_refuses_standard_listeners_that_know_md5_alone(
    peer: Peer, loop: reactor.Reactor
) -> None:
    where = peer.listen(ANY_PORT, KEY, "hear")
    ours = RecordingConnection.connect(where, authkey=KEY, minimum_digest="sha256", codec="bytes", reactor=loop)
    if peer.knows_sha256:
        ours.send(b"hello hello")
        ours.close_when_done()
    reason = run_until_both_end(loop, peer, ours)
    if peer.knows_sha256:
        assert peer.answer == {"heard": ["hello hello"]}
    else:
        assert peer.answer == {"error": "AuthenticationError", "message": "digest received was wrong"}
        assert "knows MD5 alone" in str(reason)


# Found on the way: what happens between two peers, whatever their Python


def test_our_refused_connection_closes_at_once_though_the_listener_keeps_its_socket(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    """A server that keeps the exception of `accept` keeps the socket too; there is nothing to wait for."""
    closed_here = threading.Event()
    with socket.create_server(ANY_PORT) as server:

        def refuse() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(encode_frame(b"#CHALLENGE#" + bytes(20)))
                connection.recv(4096)
                connection.sendall(encode_frame(b"#FAILURE#"))
                assert closed_here.wait(20)

        in_thread(refuse)
        ours = RecordingConnection.connect(server.getsockname(), authkey=KEY, reactor=loop)
        try:
            run_until(loop, lambda: closed(ours), timeout=5)
        finally:
            closed_here.set()
    assert isinstance(ours.of("close")[0], reactor.AuthenticationError)


def test_empty_push_behind_waiting_output_does_not_keep_the_queue_from_draining(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop)
    with raw_client(listener.address) as sock:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
        (ours,) = accepted.channels
        ours.push(bytes(8_000_000))
        loop.poll(0)
        ours.push(b"")
        ours.close_when_done()
        sock.setblocking(False)
        received = 0
        ended = False

        def receive() -> bool:
            nonlocal received, ended
            try:
                while data := sock.recv(1 << 20):
                    received += len(data)
                ended = True
            except BlockingIOError:
                pass
            return ended

        run_until(loop, receive, timeout=5)
        assert received == 8_000_000
    run_until(loop, lambda: closed(ours))
    listener.close()
    assert [record.getMessage() for record in caplog.records] == []


# By hand


@pytest.mark.skipif(
    os.environ.get("REACTOR_LARGE") != "1", reason="takes minutes and much memory; REACTOR_LARGE=1 runs it"
)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("direction", ["receive", "send"])
def test_frame_of_three_gibibytes_is_never_copied(direction: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-E", "-m", "tests.peers.large_frame", direction]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True, timeout=800).stdout
    with capsys.disabled():
        print(f"\n{direction}: {output.strip()}")
    report = json.loads(output)
    assert report["arrived"]
    assert report["size"] > 3 << 30
    assert report["beside the frame"] < 64 << 20
