"""Mail over TLS, from the beginning and behind STARTTLS: our two sides, real programs, and peers that cheat."""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import reactor
from protocols.smtp import (
    Credentials,
    Envelope,
    MailClient,
    MailServer,
    MissingExtension,
    Outcome,
    PermanentFailure,
    ProtocolError,
    Reply,
    TemporaryFailure,
    deliver,
)
from reactor import ClientTls, ServerTls
from tests import certificates
from tests.conftest import Accepting, FakeClock, raw_client, run_until
from tests.protocols.smtp.talking import lines
from tests.protocols.smtp.test_real_peers import CONTENT, CURL, SWAKS, run_argv
from tests.tls_peers import swaks_speaks_tls

ANNA = Credentials("anna", "secret")
LETTER = Envelope("from@example.org", ("to@example.org",), b"text\r\n")
TO_ANYBODY = ["MAIL FROM:<from@example.org>", "RCPT TO:<to@example.org>", "DATA", "text\r\n."]


def server_tls(*names: str, **options: bool) -> ServerTls:
    return ServerTls(certificates.certificate(*names, **options))


def client_tls(**options: Any) -> ClientTls:
    return ClientTls(certificates.authorities(), **options)


class Postbox(MailServer):
    """Takes mail from Anna, or from anybody, and writes down what it was asked."""

    hostname = "host.example"

    def __init__(self) -> None:
        self.taken: list[Envelope] = []
        self.senders: list[str] = []
        self.errors: list[Exception] = []
        self.reasons: list[Exception] = []
        self.secured = 0

    def handle_sender(self, sender: str, options: Any) -> Reply | None:
        self.senders.append(sender)
        return None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.taken.append(envelope)
        return None

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        return None if (name, password) == ("anna", "secret") else Reply(535, "no", "5.7.8")

    def handle_secured(self) -> None:  # a hook of the user's: it need not call its parent's
        self.secured += 1

    def handle_error(self, error: Exception) -> None:
        self.errors.append(error)
        super().handle_error(error)

    def handle_close(self, reason: reactor.ReactorError) -> None:
        self.reasons.append(reason)


class Encrypting(Postbox):
    """Offers STARTTLS."""

    def __init__(self) -> None:
        super().__init__()
        self.starttls = server_tls()


class Client:
    """A client on a socket that does not block, which drives the loop while it waits.

    Attributes:
        channel: the server's end.
    """

    def __init__(self, loop: reactor.Reactor, kind: Callable[[], MailServer], **options: Any) -> None:
        self.loop = loop
        accepted = Accepting(kind)
        with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, **options) as listener:
            self.sock = raw_client(listener.address)
            run_until(loop, lambda: accepted.channels)
        self.sock.setblocking(False)
        self.channel = accepted.channels[0]

    def secure(self) -> None:
        """Do the handshake of TLS."""
        context = ssl.create_default_context(cafile=certificates.authorities())
        wrapped = context.wrap_socket(self.sock, do_handshake_on_connect=False, server_hostname="localhost")
        self.sock = wrapped
        self._wait(wrapped.do_handshake)
        run_until(self.loop, lambda: self.channel.state.name == "Open")

    def replies(self, count: int = 1) -> list[str]:
        """Return so many replies, each on one line."""
        received = b""
        while sum(line[3:4] != b"-" for line in received.split(b"\r\n")[:-1]) < count:
            data = self._wait(lambda: self.sock.recv(65536))
            assert data, f"the server has closed the connection behind {received!r}"
            received += data
        found = [""]
        for line in received.decode().splitlines():
            found[-1] += line
            if line[3] == " ":
                found.append("")
        assert len(found) == count + 1
        return found[:-1]

    def say(self, *commands: str) -> list[str]:
        """Say commands, one after the other, and return the replies."""
        found = []
        for command in commands:
            self.sock.sendall(lines(command))
            found += self.replies()
        return found

    def codes(self, *commands: str) -> list[str]:
        return [reply[:3] for reply in self.say(*commands)]

    def sees_the_end(self) -> bool:
        """Return whether the server closes the connection, and says nothing before that."""
        return bool(self._wait(lambda: self.sock.recv(65536)) == b"")

    def _wait(self, call: Callable[[], Any]) -> Any:
        found: list[Any] = []

        def is_done() -> bool:
            try:
                found.append(call())
            except (BlockingIOError, ssl.SSLWantReadError):
                return False
            return True

        run_until(self.loop, is_done)
        return found[0]


@contextlib.contextmanager
def connected(
    loop: reactor.Reactor, kind: Callable[[], MailServer], tls: Any = None, **options: Any
) -> Iterator[Client]:
    """A client that has read the greeting; at the end the connection is closed."""
    client = Client(loop, kind, tls=tls, **options)
    try:
        if tls is not None:
            client.secure()
        assert client.replies()[0].startswith("220 ")
        yield client
    finally:
        client.sock.close()
        run_until(loop, lambda: client.channel.state.name == "Closed")
        loop.poll(0)


def password(name: str, word: str) -> str:
    return base64.b64encode(f"\0{name}\0{word}".encode()).decode()


# The server


def test_mail_is_taken_behind_starttls_and_says_so(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting) as client:
        assert "250 STARTTLS" in client.say("EHLO me.example")[0]
        assert client.codes("STARTTLS") == ["220"]
        client.secure()
        assert client.codes("MAIL FROM:<a@b>") == ["503"]  # it knows nothing of the hello in plaintext
        assert "STARTTLS" not in client.say("EHLO me.example")[0]
        assert client.codes(*TO_ANYBODY, "STARTTLS", "QUIT") == ["250", "250", "354", "250", "503", "221"]
        assert client.sees_the_end()
        (envelope,) = client.channel.taken
        assert (envelope.protocol, envelope.content) == ("ESMTPS", b"text\r\n")
        assert client.channel.secured == 1
        assert client.channel.errors == []


def test_mail_is_taken_over_tls_from_the_beginning_and_says_so(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting, server_tls()) as client:
        assert "STARTTLS" not in client.say("EHLO me.example")[0]
        assert client.codes("STARTTLS", *TO_ANYBODY, "QUIT") == ["503", "250", "250", "354", "250", "221"]
        assert client.sees_the_end()
        assert client.channel.taken[0].protocol == "ESMTPS"


def test_password_is_refused_in_plaintext_and_taken_over_tls(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting) as client:
        assert "AUTH" not in client.say("EHLO me.example")[0]
        assert client.codes(f"AUTH PLAIN {password('anna', 'secret')}", "STARTTLS") == ["538", "220"]
        client.secure()
        assert "AUTH PLAIN LOGIN" in client.say("EHLO me.example")[0]
        assert client.codes(f"AUTH PLAIN {password('anna', 'wrong')}") == ["535"]
        assert client.codes(f"AUTH PLAIN {password('anna', 'secret')}", *TO_ANYBODY)[0] == "235"
        assert (client.channel.taken[0].protocol, client.channel.taken[0].user) == ("ESMTPSA", "anna")
    with connected(loop, Postbox, server_tls()) as client:
        assert "AUTH PLAIN LOGIN" in client.say("EHLO me.example")[0]
        assert client.codes(f"AUTH PLAIN {password('anna', 'secret')}") == ["235"]


def test_who_has_authenticated_in_plaintext_is_nobody_over_tls(loop: reactor.Reactor) -> None:
    class Careless(Encrypting):
        allows_plaintext_authentication = True
        requires_authentication = True

    with connected(loop, Careless) as client:
        client.say("EHLO me.example")
        assert client.codes(f"AUTH PLAIN {password('anna', 'secret')}", "STARTTLS") == ["235", "220"]
        client.secure()
        assert client.codes("EHLO me.example", "MAIL FROM:<a@b>") == ["250", "530"]


@pytest.mark.parametrize("plan", ["STARTTLS now", "STARTTLS"])
def test_starttls_that_is_malformed_or_not_offered_changes_nothing(loop: reactor.Reactor, plan: str) -> None:
    with connected(loop, Postbox if plan == "STARTTLS" else Encrypting) as client:
        assert client.codes("EHLO me.example", plan) == ["250", "502" if plan == "STARTTLS" else "501"]
        assert client.codes(*TO_ANYBODY) == ["250", "250", "354", "250"]
        assert client.channel.taken[0].protocol == "ESMTP"


def test_commands_that_are_pipelined_behind_starttls_are_dropped_and_told_in_the_log(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    behind = lines("EHLO evil.example", "MAIL FROM:<evil@example.org>", "RCPT TO:<to@example.org>")
    with connected(loop, Encrypting) as client:
        client.sock.sendall(lines("EHLO me.example", "STARTTLS") + behind)
        assert [reply[:3] for reply in client.replies(2)] == ["250", "220"]
        client.secure()
        assert client.codes("RCPT TO:<to@example.org>", "EHLO me.example", "DATA") == ["503", "250", "503"]
        assert client.channel.senders == []
        assert client.channel.session.client_name == "me.example"
    assert f"{len(behind)} bytes came in plaintext behind STARTTLS, and were dropped" in caplog.text


def test_starttls_that_waited_for_an_answer_is_obeyed_behind_it(loop: reactor.Reactor) -> None:
    class Late(Encrypting):
        def handle_recipient(self, recipient: str) -> Reply | None:
            self.answer = self.answer_later()
            return None

    with connected(loop, Late) as client:
        commands = lines("EHLO me.example", *TO_ANYBODY[:2], "RSET", "STARTTLS", "MAIL FROM:<evil@example.org>")
        client.sock.sendall(commands)
        assert [reply[:3] for reply in client.replies(2)] == ["250", "250"]
        client.channel.answer.accept()
        assert [reply[:3] for reply in client.replies(3)] == ["250", "250", "220"]
        client.secure()
        assert client.codes("EHLO me.example", "MAIL FROM:<from@example.org>") == ["250", "250"]
        assert client.channel.senders == ["from@example.org"] * 2


def test_client_that_speaks_plaintext_where_tls_was_to_begin_is_cut_off(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting) as client:
        client.codes("EHLO me.example", "STARTTLS")
        client.sock.sendall(lines(*TO_ANYBODY))
        assert client.sees_the_end()
        (error,) = client.channel.errors
        assert isinstance(error, reactor.TlsError)
        assert "MAIL FROM" in str(error)
        assert client.channel.senders == []


def test_client_that_says_starttls_and_shuts_its_side_down_is_forgotten(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting) as client:
        client.sock.sendall(lines("EHLO me.example", "STARTTLS"))
        client.sock.shutdown(socket.SHUT_WR)
        assert [reply[:3] for reply in client.replies(2)] == ["250", "220"]
        run_until(loop, lambda: client.channel.reasons)
        assert isinstance(client.channel.reasons[0], reactor.TlsError)


def test_client_that_is_silent_behind_starttls_has_the_time_of_a_handshake_only(
    timed: reactor.Reactor, clock: FakeClock
) -> None:
    with connected(timed, Encrypting) as client:
        client.codes("EHLO me.example", "STARTTLS")
        clock.advance(9)
        timed.poll(0)
        assert client.channel.state.name == "Securing"
        clock.advance(2)
        run_until(timed, lambda: client.channel.reasons)
        assert getattr(client.channel.reasons[0], "limit", "") == "tls_timeout"


def test_client_that_is_silent_behind_the_handshake_has_the_time_of_a_command_again(
    timed: reactor.Reactor, clock: FakeClock
) -> None:
    with connected(timed, Encrypting) as client:
        client.codes("EHLO me.example")
        clock.advance(290)
        assert client.codes("STARTTLS") == ["220"]
        client.secure()
        for _ in range(2):
            clock.advance(290)
            timed.poll(0)
            assert client.codes("EHLO me.example") == ["250"]
        clock.advance(301)
        assert client.replies() == ["421 4.4.2 you took too long"]
        assert client.sees_the_end()


def test_client_that_says_nothing_at_all_behind_the_handshake_is_shown_the_door(
    timed: reactor.Reactor, clock: FakeClock
) -> None:
    with connected(timed, Encrypting) as client:
        client.codes("EHLO me.example", "STARTTLS")
        client.secure()
        clock.advance(299)
        timed.poll(0)
        assert client.channel.state.name == "Open"
        clock.advance(2)
        assert client.replies() == ["421 4.4.2 you took too long"]
        assert client.sees_the_end()


def test_time_of_a_command_is_not_that_of_a_handshake(timed: reactor.Reactor, clock: FakeClock) -> None:
    limits = reactor.Limits(tls_timeout=1000)
    with connected(timed, Encrypting, limits=limits) as client:
        client.codes("EHLO me.example", "STARTTLS")
        clock.advance(900)
        timed.poll(0)
        client.secure()
        assert client.codes("EHLO me.example") == ["250"]


def test_client_is_told_over_tls_that_the_service_goes_down(loop: reactor.Reactor) -> None:
    with connected(loop, Encrypting) as client:
        client.codes("EHLO me.example", "STARTTLS")
        client.secure()
        client.codes("EHLO me.example")
        loop.shutdown(5)
        assert client.replies() == ["421 4.3.2 the service is going down; try again later"]
        assert client.sees_the_end()


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (("certificate.pem", "key.pem"), "give starttls a reactor.ServerTls"),
        ("certificate.pem", "give starttls a reactor.ServerTls"),
        (True, "of no use"),
        (ssl.create_default_context(), "is for clients"),
    ],
)
def test_starttls_that_makes_no_sense_is_told_before_anybody_wants_it(
    loop: reactor.Reactor, wrong: Any, words: str
) -> None:
    class Mistaken(Postbox):
        starttls = wrong

    client = Client(loop, Mistaken)
    with client.sock:
        assert client.sees_the_end()
        (error,) = client.channel.errors
        assert isinstance(error, reactor.LocalError)
        assert words in str(error)


def test_starttls_may_be_a_context_of_ssl(loop: reactor.Reactor) -> None:
    class WithContext(Postbox):
        starttls = server_tls().context

    with connected(loop, WithContext) as client:
        assert client.codes("EHLO me.example", "STARTTLS") == ["250", "220"]
        client.secure()
        assert client.codes("EHLO me.example") == ["250"]
        assert client.channel.tls.version() == "TLSv1.3"


# Real programs

SMTPLIB = """
import smtplib, ssl, sys
how, host, port, authorities = sys.argv[1:]
context = ssl.create_default_context(cafile=authorities)
if how == "tls":
    client = smtplib.SMTP_SSL(host, int(port), local_hostname="client.example", context=context)
else:
    client = smtplib.SMTP(host, int(port), local_hostname="client.example")
with client:
    if how == "starttls":
        client.starttls(context=context)
        client.ehlo()
        assert not client.has_extn("starttls")
    client.login("anna", "secret")
    client.sendmail("from@example.org", ["to@example.org", "other@example.org"], sys.stdin.read())
"""
SWAKS_TLS = [*SWAKS, "--auth", "LOGIN", "--auth-user", "anna", "--auth-password", "secret", "--tls-verify",
             "--tls-ca-path", "{authorities}"]  # fmt: skip
CURL_TLS = [*CURL, "--user", "anna:secret", "--cacert", "{authorities}"]

PROGRAMS = {
    "smtplib starttls": [sys.executable, "-c", SMTPLIB, "starttls", "{host}", "{port}", "{authorities}"],
    "smtplib tls": [sys.executable, "-c", SMTPLIB, "tls", "{host}", "{port}", "{authorities}"],
    "swaks starttls": [*SWAKS_TLS, "--tls"],
    "swaks tls": [*SWAKS_TLS, "--tls-on-connect"],
    "swaks pipelining starttls": [*SWAKS_TLS, "--tls", "--pipeline"],
    "curl starttls": [*CURL_TLS, "--ssl-reqd"],
    "curl tls": [word.replace("smtp:", "smtps:") for word in CURL_TLS],
}


class Submission(MailServer):
    """Takes mail from those who have authenticated."""

    requires_authentication = True
    taken: list[Envelope]

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.taken.append(envelope)
        return None

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        return None if (name, password) == ("anna", "secret") else Reply(535, "no", "5.7.8")


def run_program(
    loop: reactor.Reactor, name: str, certificate: ServerTls, **attributes: Any
) -> tuple[list[Envelope], int, str]:
    """Have a program send the message with a password; return what was taken, and its exit code and output."""
    if name.startswith("swaks") and not swaks_speaks_tls():
        pytest.skip("there is no swaks with TLS")
    taken: list[Envelope] = []
    is_upgrade = name.endswith("starttls")
    offered = {"starttls": certificate} if is_upgrade else {}
    kind: Any = type("Submission", (Submission,), {"taken": taken, **offered, **attributes})
    argv = [word.replace("{authorities}", certificates.authorities()) for word in PROGRAMS[name]]
    code, output = run_argv(loop, argv, kind, None if is_upgrade else certificate)
    return taken, code, output


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_delivers_with_a_password_over_tls(loop: reactor.Reactor, name: str) -> None:
    taken, code, output = run_program(loop, name, server_tls())
    assert code == 0, output
    (envelope,) = taken
    assert (envelope.user, envelope.protocol) == ("anna", "ESMTPSA")
    assert envelope.recipients == ("to@example.org", "other@example.org")
    assert envelope.content.startswith(CONTENT)


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_gives_no_password_to_whom_it_does_not_know(loop: reactor.Reactor, name: str) -> None:
    asked: list[str] = []
    taken, code, _ = run_program(
        loop,
        name,
        server_tls(by_stranger=True),
        handle_authentication=lambda self, name, password: asked.append(name),
        handle_error=lambda self, error: None,
    )
    assert (taken, asked) == ([], [])
    assert code != 0


@pytest.mark.parametrize("name", ["smtplib starttls", "swaks starttls", "curl starttls"])
def test_program_that_wants_starttls_learns_that_it_is_not_offered(loop: reactor.Reactor, name: str) -> None:
    taken, code, _ = run_program(loop, name, server_tls(), starttls=None)
    assert taken == []
    assert code != 0


# The client


class Sender(MailClient):
    """Writes down what it was told."""

    def __init__(self) -> None:
        self.outcomes: list[Outcome] = []
        self.errors: list[Exception] = []

    def handle_outcome(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def handle_error(self, error: Exception) -> None:
        self.errors.append(error)


def delivered(loop: reactor.Reactor, address: Any, **options: Any) -> Outcome:
    """Deliver to the server at `address`, and return what became of it."""
    outcomes: list[Outcome] = []
    client = deliver(address, LETTER, outcomes.append, reactor=loop, **options)
    run_until(loop, lambda: client.state.name == "Closed" and outcomes)
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize("how", ["tls", "starttls"])
@pytest.mark.parametrize("credentials", [None, ANNA])
def test_message_is_delivered_over_tls(loop: reactor.Reactor, how: str, credentials: Credentials | None) -> None:
    accepted = Accepting(Encrypting)
    tls = server_tls() if how == "tls" else None
    options: dict[str, Any] = {how: client_tls(), "credentials": credentials}
    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, tls=tls) as listener:
        outcome = delivered(loop, listener.address, **options)
    assert outcome.delivered == LETTER.recipients
    (envelope,) = accepted.channels[0].taken
    assert envelope.protocol == ("ESMTPSA" if credentials else "ESMTPS")
    loop.loop(timeout=5)


def test_one_encrypted_connection_carries_many_messages(loop: reactor.Reactor) -> None:
    class Encrypted(Sender):
        starttls = client_tls()
        credentials = ANNA

    accepted = Accepting(Encrypting)
    large = Envelope("from@example.org", ("to@example.org",), b"x" * 70 + b"\r\n" + b"line\r\n" * 300_000)
    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop) as listener:
        client = Encrypted.connect(listener.address, reactor=loop)
        for envelope in (LETTER, large, LETTER):
            client.deliver(envelope)
        client.quit()
        run_until(loop, lambda: client.state.name == "Closed", 30)
    assert [outcome.delivered for outcome in client.outcomes] == [LETTER.recipients] * 3
    assert [envelope.content for envelope in accepted.channels[0].taken] == [LETTER.content, large.content, b"text\r\n"]
    assert client.errors == []
    loop.loop(timeout=5)


def test_starttls_goes_over_a_unix_socket_where_the_server_has_a_name(loop: reactor.Reactor, socket_path: str) -> None:
    accepted = Accepting(Encrypting)
    with reactor.Listener(socket_path, accepted, reactor=loop):
        assert delivered(loop, socket_path, starttls=client_tls(server_name="localhost")).delivered
        assert accepted.channels[0].taken[0].protocol == "ESMTPS"
        with pytest.raises(reactor.LocalError, match="server_name"):
            delivered(loop, socket_path, starttls=client_tls())
    loop.loop(timeout=5)


@pytest.mark.parametrize("how", ["tls", "starttls"])
@pytest.mark.parametrize(
    ("names", "options", "words"),
    [
        ([], {"by_stranger": True}, "signed by nobody who is known here"),
        ([], {"expired": True}, "has expired"),
        (["other.example"], {}, "not for '127.0.0.1'"),
    ],
)
def test_server_whose_certificate_is_not_believed_is_given_nothing(
    loop: reactor.Reactor, how: str, names: list[str], options: dict[str, bool], words: str
) -> None:
    certificate = server_tls(*names, **options)

    class Wrong(Postbox):
        starttls = certificate

    accepted = Accepting(Wrong)
    tls = certificate if how == "tls" else None
    wanted: dict[str, Any] = {how: client_tls()}
    with reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop, tls=tls) as listener:
        outcome = delivered(loop, listener.address, credentials=ANNA, **wanted)
    (error,) = outcome.temporary.values()
    assert isinstance(error, reactor.TlsError)
    assert words in str(error)
    run_until(loop, lambda: accepted.channels[0].state.name == "Closed")
    assert accepted.channels[0].senders == []
    loop.loop(timeout=5)


def test_tls_is_wanted_from_the_beginning_or_later_and_not_both(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="one of them"):
        delivered(loop, ("127.0.0.1", 9), tls=client_tls(), starttls=client_tls())
    with pytest.raises(reactor.LocalError, match="of no use"):
        delivered(loop, ("127.0.0.1", 9), starttls="yes")
    loop.loop(timeout=5)


def test_password_is_still_not_sent_in_plaintext(loop: reactor.Reactor) -> None:
    with pytest.raises(reactor.LocalError, match="use TLS"):
        delivered(loop, ("127.0.0.1", 9), credentials=ANNA, starttls=False)
    loop.loop(timeout=5)


# Servers that cheat


class Script:
    """A server that blocks, in a thread: says what is written for it, and writes down what it hears."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = self._listener.getsockname()

    def accept(self, *replies: str) -> None:
        """Take one connection, and give the replies, each behind a line but for the first."""
        self._listener.settimeout(10)
        with self._listener:
            self.sock, _ = self._listener.accept()
        self.sock.settimeout(10)
        self.sock.sendall(lines("220 host.example"))
        self.answer(*replies)

    def answer(self, *replies: str) -> None:
        for reply in replies:
            line = self._line()
            if not line:
                return
            self.heard.append(line)
            self.sock.sendall(lines(reply))

    def secure(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificates.certificate())
        self.sock = context.wrap_socket(self.sock, server_side=True)

    def hear_the_end(self) -> None:
        """Read until the client closes the connection, and close it too."""
        with self.sock:
            while line := self._line():
                self.heard.append(line)

    def _line(self) -> bytes:
        line = b""
        with contextlib.suppress(OSError):
            while not line.endswith(b"\r\n") and (byte := self.sock.recv(1)):
                line += byte
        return line


HELLO = b"EHLO [127.0.0.1]\r\n"
SECURE_HELLO = "250-host.example\r\n250-STARTTLS\r\n250 AUTH PLAIN"


@pytest.mark.parametrize(
    ("replies", "kind", "heard"),
    [
        (["250 host.example"], MissingExtension, [HELLO]),
        (["502 what?", "250 host.example"], MissingExtension, [HELLO, HELLO.replace(b"EHLO", b"HELO")]),
        ([SECURE_HELLO, "454 4.7.0 not now"], TemporaryFailure, [HELLO, b"STARTTLS\r\n", b"QUIT\r\n"]),
        ([SECURE_HELLO, "502 5.5.1 no"], PermanentFailure, [HELLO, b"STARTTLS\r\n", b"QUIT\r\n"]),
        ([SECURE_HELLO, "250 ok"], ProtocolError, [HELLO, b"STARTTLS\r\n"]),
        ([SECURE_HELLO, "nonsense"], ProtocolError, [HELLO, b"STARTTLS\r\n"]),
    ],
)
def test_client_says_nothing_in_plaintext_to_a_server_that_does_not_encrypt(
    loop: reactor.Reactor, in_thread: Any, replies: list[str], kind: type[Exception], heard: list[bytes]
) -> None:
    server = Script()

    def serve() -> None:
        server.accept(*replies)
        server.hear_the_end()

    in_thread(serve)
    outcome = delivered(loop, server.address, credentials=ANNA, starttls=client_tls())
    (error,) = [*outcome.temporary.values(), *outcome.permanent.values()]
    assert type(error) is kind
    assert bool(outcome.permanent) is isinstance(error, PermanentFailure)
    loop.loop(timeout=5)
    assert server.heard == heard


def test_replies_that_were_put_in_behind_the_one_to_starttls_are_dropped_and_told_in_the_log(
    loop: reactor.Reactor, in_thread: Any, caplog: pytest.LogCaptureFixture
) -> None:
    server = Script()
    injected = lines("250-host.example", "250 AUTH PLAIN", "235 welcome", "250 ok", "250 ok", "354 go", "250 mine")

    def serve() -> None:
        server.accept(SECURE_HELLO, "220 go\r\n" + injected.decode().removesuffix("\r\n"))
        server.secure()
        server.answer("250 host.example", "550 no", "250 ok", "221 bye")
        server.hear_the_end()

    in_thread(serve)
    outcome = delivered(loop, server.address, starttls=client_tls())
    assert outcome.delivered == ()
    assert [str(error) for error in outcome.permanent.values()] == ["the sender <from@example.org> is refused: 550 no"]
    assert f"{len(injected)} bytes came in plaintext behind the reply to STARTTLS, and were dropped" in caplog.text
    loop.loop(timeout=5)
    assert server.heard == [
        HELLO,
        b"STARTTLS\r\n",
        HELLO,
        b"MAIL FROM:<from@example.org>\r\n",
        b"RSET\r\n",
        b"QUIT\r\n",
    ]


@pytest.mark.parametrize("says", ["250-host.example", ""])
def test_server_that_does_not_do_what_it_has_said_is_a_temporary_failure(
    loop: reactor.Reactor, in_thread: Any, says: str
) -> None:
    server = Script()

    def serve() -> None:
        server.accept(SECURE_HELLO, "220 go")
        with server.sock:
            assert server.sock.recv(5)[:1] == b"\x16"  # a handshake of TLS
            if says:
                server.sock.sendall(lines(says))
                while server._line():
                    pass

    in_thread(serve)
    outcome = delivered(loop, server.address, credentials=ANNA, starttls=client_tls())
    (error,) = outcome.temporary.values()
    assert isinstance(error, reactor.ConnectionLost)
    loop.loop(timeout=5)
    assert server.heard == [HELLO, b"STARTTLS\r\n"]


def test_server_that_is_silent_where_tls_was_to_begin_is_given_up(
    timed: reactor.Reactor, clock: FakeClock, in_thread: Any
) -> None:
    server = Script()

    def serve() -> None:
        server.accept(SECURE_HELLO, "220 go")
        with server.sock:
            while server.sock.recv(1000):
                pass

    in_thread(serve)
    outcomes: list[Outcome] = []
    client = deliver(server.address, LETTER, outcomes.append, reactor=timed, starttls=client_tls())
    run_until(timed, lambda: client.state.name == "Securing")
    clock.advance(11)
    run_until(timed, lambda: outcomes)
    (error,) = outcomes[0].temporary.values()
    assert isinstance(error, reactor.DeadlineError)


def test_server_that_speaks_plaintext_where_tls_was_wanted_from_the_beginning_is_named(
    loop: reactor.Reactor, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.CRITICAL), reactor.Listener(("127.0.0.1", 0), Encrypting, reactor=loop) as listener:
        outcome = delivered(loop, listener.address, tls=client_tls(), credentials=ANNA)
    (error,) = outcome.temporary.values()
    assert isinstance(error, reactor.TlsError)
    assert "220 host.example ESMTP" in str(error)
    loop.loop(timeout=5)
