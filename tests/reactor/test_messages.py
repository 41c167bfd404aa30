"""The main job: messages with clients of the standard library, and between two channels of ours."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from typing import Any

import pytest

import reactor
from tests.conftest import KEY, Accepting, RecordingConnection, raw_client, run_until


class Adder(RecordingConnection):
    def handle_message(self, message: Any) -> None:
        super().handle_message(message)
        self.send(sum(message))


def test_standard_client_gets_its_answer(loop: reactor.Reactor, in_thread: Callable[..., Any]) -> None:
    listener = reactor.Listener(("localhost", 0), Adder, authkey=KEY, reactor=loop)
    answers = []

    def client() -> None:
        with Client(listener.address, authkey=KEY) as connection:
            connection.send((2, 3))
            answers.append(connection.recv())

    in_thread(client)
    run_until(loop, lambda: answers and listener.connections == 0)
    assert answers == [5]


def test_standard_client_with_a_wrong_key_is_told_and_logged_once(
    loop: reactor.Reactor, in_thread: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    accepted = Accepting(Adder)
    listener = reactor.Listener(("localhost", 0), accepted, authkey=KEY, reactor=loop)

    def client() -> None:
        with pytest.raises(AuthenticationError):
            Client(listener.address, authkey=KEY + b"!")

    in_thread(client)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    (reason,) = accepted.channels[0].of("close")
    assert isinstance(reason, reactor.AuthenticationError)
    assert "wrong authkey" in str(reason)
    assert "Authenticating" in str(reason)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


def test_two_of_ours_talk(loop: reactor.Reactor) -> None:
    listener = reactor.Listener(("localhost", 0), Adder, authkey=KEY, reactor=loop)
    client = RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop)
    client.send((1, 2, 3))
    run_until(loop, lambda: client.of("message"))
    assert client.events == [("open",), ("message", 6)]
    client.close_when_done()
    listener.close()
    loop.loop(timeout=10)
    assert isinstance(client.of("close")[0], reactor.ClosedHere)
    assert loop.is_idle()


def test_http_request_is_refused_with_a_word(loop: reactor.Reactor, in_thread: Callable[..., Any]) -> None:
    accepted = Accepting(Adder)
    listener = reactor.Listener(("localhost", 0), accepted, authkey=KEY, reactor=loop)
    received = []

    def browser() -> None:
        with raw_client(listener.address) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            while data := sock.recv(4096):
                received.append(data)
            sock.shutdown(socket.SHUT_WR)

    in_thread(browser)
    run_until(loop, lambda: accepted.channels and accepted.channels[0].of("close"))
    assert b"".join(received).endswith(b"#FAILURE#")
    assert "HTTP request" in str(accepted.channels[0].of("close")[0])
