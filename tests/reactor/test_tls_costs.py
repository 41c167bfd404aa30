"""What a message over TLS costs in system calls: one to receive it, and one to send it."""

from __future__ import annotations

import socket
import ssl
from typing import Any, Self

import pytest

import reactor
from reactor.limits import RECEIVE_SIZE
from tests.certificates import certificate
from tests.conftest import Accepting, run_until


class Echo(reactor.Stream):
    def __init__(self) -> None:
        self.is_open = False

    def handle_open(self) -> None:
        self.is_open = True

    def handle_data(self, data: bytes) -> None:
        self.push(data)


class Counting:
    """A socket that counts what is asked of it."""

    def __init__(self, sock: socket.socket) -> None:
        self.calls: list[str] = []
        self._sock = sock

    def recv(self, size: int) -> bytes:
        self.calls.append("recv")
        return self._sock.recv(size)

    def send(self, data: Any) -> int:
        self.calls.append("send")
        return self._sock.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class Client:
    """The TLS of a client of `loop`, in this very thread: between its calls the loop has its turns."""

    def __init__(self, loop: reactor.Reactor, path: str, version: ssl.TLSVersion) -> None:
        self._loop = loop
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = context.maximum_version = version
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.session = context.wrap_bio(self._incoming, self._outgoing)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()

    def send(self) -> None:
        """Send all that OpenSSL has to say."""
        self._socket.sendall(self._outgoing.read())

    def receive(self) -> None:
        """Let the loop run until something comes, and give it to OpenSSL."""
        self._socket.setblocking(False)

        def has_come() -> bool:
            try:
                self._incoming.write(self._socket.recv(RECEIVE_SIZE))
            except BlockingIOError:
                return False
            return True

        run_until(self._loop, has_come)
        self._socket.setblocking(True)

    def shake_hands(self) -> None:
        while True:
            try:
                self.session.do_handshake()
            except ssl.SSLWantReadError:
                self.send()
                self.receive()
            else:
                self.send()
                return

    def write(self, message: bytes) -> None:
        """Encrypt `message`; nothing leaves yet."""
        written = 0
        while written < len(message):
            written += self.session.write(memoryview(message)[written:])

    def read(self, size: int) -> bytes:
        answer = b""
        while len(answer) < size:
            try:
                answer += self.session.read(RECEIVE_SIZE)
            except ssl.SSLWantReadError:
                self.receive()
        return answer


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
@pytest.mark.parametrize(
    ("size", "count"),
    [(100, 1), (1024, 1), (16 * 1024, 1), (RECEIVE_SIZE, 1), (100, 16)],
    ids=["100 bytes", "1 KiB", "one full record", "as much as is received at once", "sixteen records"],
)
def test_what_arrives_at_once_costs_one_receive_and_its_answer_one_send(
    loop: reactor.Reactor, socket_path: str, size: int, count: int, version: ssl.TLSVersion
) -> None:
    echoes = Accepting(Echo)
    with reactor.Listener(socket_path, echoes, reactor=loop, tls=certificate()):
        with Client(loop, socket_path, version) as client:
            client.shake_hands()
            run_until(loop, lambda: echoes.channels and echoes.channels[0].is_open)
            (echo,) = echoes.channels
            counting = echo.socket._raw = Counting(echo.socket._raw)
            messages = [bytes([number]) * size for number in range(count)]
            for message in messages:
                client.write(message)
            client.send()
            assert client.read(size * count) == b"".join(messages)
            assert counting.calls == ["recv", "send"]
        run_until(loop, lambda: echo.state.name == "Closed")
