"""TLS with peers that others have written: OpenSSL's own programs, curl, and the sockets of the standard library."""

from __future__ import annotations

import os
import re
import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import ClientTls, ClosedHere, PeerClosed, ServerTls, TlsError, TruncatedError
from tests import certificates
from tests.conftest import Accepting, RecordingStream, run_until
from tests.faults import CountingSelector, turns
from tests.tls_peers import TLS_1_2, TLS_1_3, client_context, server_context

FILES = certificates.certificate_and_key
ANY_PORT = ("127.0.0.1", 0)
LARGE = os.urandom(2_000_000)

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs the program curl")


class Echo(RecordingStream):
    def handle_data(self, data: bytes) -> None:
        super().handle_data(data)
        self.push(data)


class Program:
    """A program that runs beside the loop; what it prints is read without waiting."""

    def __init__(self, *command: str) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0
        )
        self.output = b""
        self.has_ended = False

    def turn(self) -> Program:
        """Read what it has printed."""
        assert self.process.stdout is not None
        while not self.has_ended and select.select([self.process.stdout], [], [], 0)[0]:
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            self.output += data
            self.has_ended = not data
        return self

    def has_said(self, pattern: bytes) -> re.Match[bytes] | None:
        """Return where it has printed what `pattern` describes."""
        return re.search(pattern, self.turn().output)

    def write(self, data: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(data)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait(10)
        self.process.stdin.close()
        self.process.stdout.close()


@pytest.fixture
def run() -> Iterator[Callable[..., Program]]:
    """Start programs; they are ended with the test."""
    programs: list[Program] = []

    def start(*command: str) -> Program:
        program = Program(*command)
        programs.append(program)
        return program

    yield start
    for program in programs:
        program.close()


def listen(loop: reactor.Reactor, make: Callable[[], Any] = Echo, tls: Any = None) -> tuple[int, list[Any]]:
    """Return the port of a listener with TLS, and the list of the channels that it makes."""
    accepted = Accepting(make)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop, tls=tls or FILES())
    return listener.address[1], accepted.channels


def s_client(port: int, *options: str) -> tuple[str, ...]:
    return ("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", certificates.authorities(),
            "-verify_return_error", "-verify_hostname", "localhost", *options)  # fmt: skip


# openssl s_client


@needs_openssl
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_client_gets_its_echo_and_ends_cleanly(
    loop: reactor.Reactor, run: Callable[..., Program], version: str
) -> None:
    port, channels = listen(loop)
    client = run(*s_client(port, f"-{version}"))
    client.write(b"hello there\n")
    run_until(loop, lambda: client.has_said(rb"Verify return code: 0 \(ok\)") and client.has_said(rb"hello there\n"))
    assert channels[0].received == b"hello there\n"
    assert b"Compression: NONE" in client.output
    client.write(b"Q\n")
    run_until(loop, lambda: channels[0].of("close"))
    assert isinstance(channels[0].of("close")[0], PeerClosed)


@needs_openssl
def test_s_client_that_is_killed_is_told_apart(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    port, channels = listen(loop)
    client = run(*s_client(port))
    client.write(b"hello there\n")
    run_until(loop, lambda: channels and channels[0].received)
    client.process.kill()
    run_until(loop, lambda: channels[0].of("close"))
    assert isinstance(channels[0].of("close")[0], TruncatedError | reactor.ConnectionLost)
    assert not isinstance(channels[0].of("close")[0], PeerClosed)


@needs_openssl
def test_s_client_cannot_renegotiate(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    port, channels = listen(loop)
    client = run(*s_client(port, "-tls1_2"))
    client.write(b"hello there\n")
    run_until(loop, lambda: client.has_said(rb"hello there\n"))
    before = loop.turns
    client.write(b"R\n")
    run_until(loop, lambda: client.turn().has_ended)
    assert client.has_said(b"RENEGOTIATING")
    assert client.has_said(b"no renegotiation")
    run_until(loop, lambda: channels[0].of("close"))
    assert loop.turns - before < 1000
    assert channels[0].received == b"hello there\n"


@needs_openssl
def test_s_client_changes_keys(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    """By itself (k), and with the wish that we do, too (K)."""
    port, channels = listen(loop)
    client = run(*s_client(port, "-tls1_3"))
    client.write(b"start\n")
    run_until(loop, lambda: client.has_said(rb"start\n"))
    for number, command in enumerate([b"K", b"k", b"K", b"K", b"k", b"K"]):
        client.write(command + b"\n")
        run_until(loop, lambda number=number: client.turn().output.count(b"KEYUPDATE") == number + 1)  # type: ignore[misc]
        client.write(b"line %d\n" % number)
        run_until(loop, lambda number=number: client.has_said(b"line %d\n" % number))  # type: ignore[misc]
    client.write(b"K\n")
    run_until(loop, lambda: client.turn().output.count(b"KEYUPDATE") == 7)
    client.write(b"Q\n")
    run_until(loop, lambda: channels[0].of("close"))
    assert channels[0].received == b"start\n" + b"".join(b"line %d\n" % number for number in range(6))
    assert isinstance(channels[0].of("close")[0], PeerClosed)


@needs_openssl
@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"), "the two sides speak no version of TLS in common"),
        (("-tls1", "-cipher", "ALL:@SECLEVEL=0"), "the two sides speak no version of TLS in common"),
        (("-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"), "the two sides have no cipher in common"),
    ],
)
def test_s_client_with_nothing_in_common_is_refused(
    loop: reactor.Reactor, run: Callable[..., Program], options: tuple[str, ...], text: str
) -> None:
    port, channels = listen(loop)
    client = run(*s_client(port, *options))
    run_until(loop, lambda: client.turn().has_ended and channels and channels[0].of("close"))
    assert client.has_said(rb"alert (protocol version|handshake failure)")
    assert text in str(channels[0].of("close")[0])


@needs_openssl
def test_s_client_chooses_by_name_and_protocol_and_shows_its_certificate(
    loop: reactor.Reactor, run: Callable[..., Program]
) -> None:
    tls = ServerTls(*FILES(), names={"*.c.example": FILES("*.c.example")}, protocols=["chat/2", "chat/1"],
                    client_authorities=certificates.authorities())  # fmt: skip
    port, channels = listen(loop, tls=tls)
    certificate, key = FILES("alice.example")
    client = run("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", certificates.authorities(),
                 "-verify_return_error", "-verify_hostname", "any.c.example", "-servername", "any.c.example",
                 "-alpn", "chat/1", "-cert", certificate, "-key", key)  # fmt: skip
    client.write(b"hello there\n")
    run_until(loop, lambda: client.has_said(rb"Verify return code: 0 \(ok\)") and client.has_said(rb"hello there\n"))
    assert b"ALPN protocol: chat/1" in client.output
    shown = channels[0].tls.getpeercert()
    assert ("DNS", "alice.example") in shown["subjectAltName"]
    assert channels[0].tls.selected_alpn_protocol() == "chat/1"


@needs_openssl
def test_s_client_without_a_certificate_is_refused(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    port, channels = listen(loop, tls=ServerTls(*FILES(), client_authorities=certificates.authorities()))
    client = run(*s_client(port))
    run_until(loop, lambda: client.turn().has_ended and channels[0].of("close"))
    assert client.has_said(b"alert certificate required")
    assert "the client has no certificate, and here it needs one" in str(channels[0].of("close")[0])
    assert not channels[0].of("open")


class Mail(reactor.LineChannel):
    """As much of a mail server as comes in front of TLS."""

    lines: list[str]

    def handle_open(self) -> None:
        self.lines = []
        self.send_line("220 mail.example")

    def handle_line(self, line: str) -> None:
        self.lines.append(line)
        if line.startswith("EHLO") and self.tls is None:
            self.send_line("250-mail.example")
            self.send_line("250 STARTTLS")
        elif line == "STARTTLS":
            self.send_line("220 go ahead")
            self.start_tls(FILES())
        else:
            self.send_line(f"250 you said {line}")


@needs_openssl
def test_s_client_begins_in_plaintext(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    accepted = Accepting(Mail)
    listener = reactor.Listener(ANY_PORT, accepted, reactor=loop)
    client = run(*s_client(listener.address[1], "-starttls", "smtp", "-crlf"))
    run_until(loop, lambda: client.has_said(rb"Verify return code: 0 \(ok\)"))
    client.write(b"hello there\n")
    run_until(loop, lambda: client.has_said(rb"250 you said hello there\r\n"))
    assert [line.partition(" ")[0] for line in accepted.channels[0].lines] == ["EHLO", "STARTTLS", "hello"]


# openssl s_server


def s_server(run: Callable[..., Program], loop: reactor.Reactor, *options: str) -> tuple[Program, int]:
    """Return a server that sends lines back reversed, and its port."""
    certificate, key = FILES()
    given = ("-cert", certificate, "-key", key) if "-cert" not in options else ()
    server = run("openssl", "s_server", "-accept", "127.0.0.1:0", *given, *options)
    run_until(loop, lambda: server.has_said(rb"ACCEPT \S+:\d+\n") or server.has_ended)
    found = server.has_said(rb"ACCEPT \S+:(\d+)\n")
    assert found is not None, server.output
    return server, int(found.group(1))


@needs_openssl
@pytest.mark.parametrize("version", ["tls1_2", "tls1_3"])
def test_s_server_answers_our_client(loop: reactor.Reactor, run: Callable[..., Program], version: str) -> None:
    _, port = s_server(run, loop, "-rev", f"-{version}")
    client = reactor.connect(("localhost", port), RecordingStream, family="AF_INET", reactor=loop,
                             tls=ClientTls(certificates.authorities()))  # fmt: skip
    client.push(b"hello there\n")
    run_until(loop, lambda: client.received == b"ereht olleh\n")
    assert client.tls is not None
    assert client.tls.version() == {"tls1_2": "TLSv1.2", "tls1_3": "TLSv1.3"}[version]
    client.close_when_done()
    run_until(loop, lambda: client.of("close"))
    assert isinstance(client.of("close")[0], ClosedHere)


@needs_openssl
def test_s_server_changes_keys_and_ends_without_a_word(run: Callable[..., Program]) -> None:
    selector = CountingSelector()
    with reactor.Reactor(selector) as loop:
        server, port = s_server(run, loop, "-tls1_3")
        client = reactor.connect(
            ("127.0.0.1", port), RecordingStream, reactor=loop, tls=ClientTls(certificates.authorities())
        )
        client.push(b"hello\n")
        run_until(loop, lambda: server.has_said(b"hello\n"))
        server.write(b"welcome\n")
        run_until(loop, lambda: b"welcome\n" in client.received)  # and with it came the tickets
        for number in range(3):
            before = selector.events
            server.write(b"K\n")
            run_until(loop, lambda before=before: selector.events > before)  # type: ignore[misc]
            server.write(b"line %d\n" % number)
            run_until(loop, lambda number=number: b"line %d\n" % number in client.received)  # type: ignore[misc]
            client.push(b"answer %d\n" % number)
            run_until(loop, lambda number=number: server.has_said(b"answer %d\n" % number))  # type: ignore[misc]
        server.write(b"Q\n")
        run_until(loop, lambda: client.of("close"))
        assert isinstance(client.of("close")[0], TruncatedError)  # it closes without a last word


@needs_openssl
@pytest.mark.parametrize("make_tls", [client_context, lambda: ClientTls(certificates.authorities())])
def test_s_server_cannot_renegotiate(
    loop: reactor.Reactor, run: Callable[..., Program], make_tls: Callable[[], Any]
) -> None:
    server, port = s_server(run, loop, "-tls1_2")
    client = reactor.connect(("127.0.0.1", port), RecordingStream, reactor=loop, tls=make_tls())
    client.push(b"hello\n")
    run_until(loop, lambda: server.has_said(b"hello\n"))
    before = loop.turns
    server.write(b"r\n")
    run_until(loop, lambda: client.of("close"))  # s_server insists
    assert client.of("close")[0].reason == "SSLV3_ALERT_HANDSHAKE_FAILURE"
    assert loop.turns - before < 1000


@needs_openssl
@pytest.mark.parametrize(
    ("options", "tls", "text"),
    [
        (
            (),
            lambda: ClientTls(certificates.authorities(), server_name="elsewhere.example"),
            "the certificate of the server is not for 'elsewhere.example'",
        ),
        ((), ClientTls, "the certificate of the server was signed by nobody who is known here"),
        (
            ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
            lambda: ClientTls(certificates.authorities()),
            "the two sides speak no version of TLS in common",
        ),
        (
            ("-cert", certificates.certificate(expired=True)),
            lambda: ClientTls(certificates.authorities()),
            "the certificate of the server has expired",
        ),
        (
            ("-Verify", "1", "-verify_return_error", "-CAfile", certificates.authorities()),
            lambda: ClientTls(certificates.authorities()),
            "the peer wants a certificate; ClientTls(certificate=...) has one",
        ),
    ],
    ids=["name", "authority", "version", "expired", "certificate"],
)
def test_our_client_says_what_is_wrong_with_s_server(
    loop: reactor.Reactor,
    run: Callable[..., Program],
    options: tuple[str, ...],
    tls: Callable[[], ClientTls],
    text: str,
) -> None:
    _, port = s_server(run, loop, *options)
    client = reactor.connect(("127.0.0.1", port), RecordingStream, reactor=loop, tls=tls())
    run_until(loop, lambda: client.of("close"))
    assert isinstance(client.of("close")[0], TlsError)
    assert text in str(client.of("close")[0])


# curl


class Web(reactor.LineChannel):
    """As much of a web server as curl needs."""

    path = ""

    def handle_line(self, line: str) -> None:
        if line.startswith("GET "):
            self.path = line.split()[1]
        if line:
            return
        body = LARGE if self.path == "/large" else b"hello there\n"
        self.push(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body))
        self.push(body)
        self.close_when_done()


def curl(*options: str) -> tuple[str, ...]:
    return ("curl", "--silent", "--show-error", "--noproxy", "*", "--max-time", "20", *options)


@needs_curl
@pytest.mark.parametrize("version", ["--tls-max 1.2", "--tlsv1.3"])
def test_curl_gets_what_it_asks_for(loop: reactor.Reactor, run: Callable[..., Program], version: str) -> None:
    port, _ = listen(loop, Web, ServerTls(*FILES(), protocols=["http/1.1"]))
    for path, expected in (("/", b"hello there\n"), ("/large", LARGE)):
        program = run(
            *curl(*version.split(), "--cacert", certificates.authorities(), f"https://127.0.0.1:{port}{path}")
        )
        run_until(loop, lambda program=program: program.turn().has_ended)  # type: ignore[misc]
        assert program.output == expected
        assert program.process.wait(10) == 0


@needs_curl
def test_curl_without_tls_is_told_so(loop: reactor.Reactor, run: Callable[..., Program]) -> None:
    port, _ = listen(loop, Web)
    program = run(*curl("--include", f"http://127.0.0.1:{port}/"))
    run_until(loop, lambda: program.turn().has_ended)
    assert program.process.wait(10) == 0
    assert program.output.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert program.output.endswith(b"\r\n\r\nThis port speaks TLS: ask with https://...\r\n")


@needs_curl
def test_curl_that_does_not_believe_us_is_reported(
    loop: reactor.Reactor, run: Callable[..., Program], caplog: pytest.LogCaptureFixture
) -> None:
    port, channels = listen(loop, Web)
    program = run(*curl(f"https://127.0.0.1:{port}/"))
    run_until(loop, lambda: program.turn().has_ended and channels and channels[0].state.name == "Closed")
    assert program.process.wait(10) == 60
    turns(loop, 2)
    (line,) = [record.getMessage() for record in caplog.records if record.name == "reactor"]
    assert "no TLS: the peer does not know who has signed the certificate of this side" in line


# Sockets of the standard library


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_wrapped_client(loop: reactor.Reactor, in_thread: Callable[..., Any], version: ssl.TLSVersion) -> None:
    port, channels = listen(loop)
    received = bytearray()

    def work() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            sock = client_context(version).wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
            for start in range(0, len(LARGE), 100_000):
                part = LARGE[start : start + 100_000]
                sock.sendall(part)
                before = len(received)
                while len(received) < before + len(part):
                    received.extend(sock.recv(1 << 16))
            plain = sock.unwrap()
            assert plain.recv(1) == b""
            plain.close()

    in_thread(work)
    run_until(loop, lambda: channels and channels[0].of("close"), 30)
    assert received == LARGE
    assert channels[0].received == LARGE
    assert isinstance(channels[0].of("close")[0], PeerClosed)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_wrapped_server(loop: reactor.Reactor, in_thread: Callable[..., Any], version: ssl.TLSVersion) -> None:
    received = bytearray()
    with socket.create_server(ANY_PORT) as listener:
        listener.settimeout(20)

        def work() -> None:
            raw, _ = listener.accept()
            raw.settimeout(20)
            with server_context(version).wrap_socket(raw, server_side=True, suppress_ragged_eofs=False) as sock:
                while data := sock.recv(1 << 16):
                    received.extend(data)
                sock.sendall(b"%d bytes" % len(received))
                sock.unwrap().close()

        in_thread(work)
        client = reactor.connect(listener.getsockname(), RecordingStream, reactor=loop,
                                 tls=ClientTls(certificates.authorities()))  # fmt: skip
        client.push(LARGE)
        client.close_when_done()
        run_until(loop, lambda: client.of("close"), 30)
    assert received == LARGE
    assert isinstance(client.of("close")[0], ClosedHere)


def test_wrapped_client_that_closes_without_a_word_is_told_apart(
    loop: reactor.Reactor, in_thread: Callable[..., Any]
) -> None:
    port, channels = listen(loop)

    def work() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            sock = client_context().wrap_socket(raw, server_hostname="localhost")
            sock.sendall(b"half of i")
            sock.close()

    in_thread(work)
    run_until(loop, lambda: channels and channels[0].of("close"))
    assert channels[0].received == b"half of i"
    assert not isinstance(channels[0].of("close")[0], PeerClosed)


def test_file_goes_to_a_wrapped_client(loop: reactor.Reactor, in_thread: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)

    class Serving(RecordingStream):
        def handle_open(self) -> None:
            self.push((tmp_path / "file").open("rb"))
            self.close_when_done()

    port, channels = listen(loop, Serving)
    received = bytearray()

    def work() -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as raw:
            sock = client_context().wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False)
            while data := sock.recv(1 << 16):
                received.extend(data)
            sock.unwrap().close()

    in_thread(work)
    run_until(loop, lambda: channels and channels[0].of("close"))
    assert received == LARGE
