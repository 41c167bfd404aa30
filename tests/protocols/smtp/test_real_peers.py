"""Mail from and to programs that are not ours: curl, swaks, and what the standard library has and had.

What each of them said was written down, and is said again here where the program itself is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

import reactor
from protocols.smtp import ClientSession, Envelope, MailServer, Outcome, Reply, ServerSession, deliver
from protocols.smtp.server_session import Authentication
from tests.conftest import run_until
from tests.interpreters import ALONE, find_interpreters
from tests.properties import every_way
from tests.protocols.smtp.talking import lines, talk_in_pieces

CONTENT = b"Subject: test\r\n\r\n.dot\r\ntext\r\n"
ADDRESSES = ("from@example.org", ("to@example.org", "other@example.org"))

SMTPLIB = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), local_hostname="client.example") as client:
    if sys.argv[3:]:
        client.login("anna", "secret")
    try:
        client.sendmail("from@example.org", ["to@example.org", "other@example.org"], sys.stdin.read())
    except smtplib.SMTPException as error:
        sys.exit(f"{type(error).__name__}: {error}")
"""
CURL = ["curl", "-sS", "smtp://{host}:{port}/client.example", "--mail-from", "from@example.org", "--mail-rcpt",
        "to@example.org", "--mail-rcpt", "other@example.org", "-T", "-"]  # fmt: skip
SWAKS = ["swaks", "--server", "{host}:{port}", "--helo", "client.example", "--from", "from@example.org", "--to",
         "to@example.org,other@example.org", "--data", "-"]  # fmt: skip

PROGRAMS = {
    "smtplib": [sys.executable, "-c", SMTPLIB, "{host}", "{port}"],
    "smtplib with a password": [sys.executable, "-c", SMTPLIB, "{host}", "{port}", "login"],
    "curl": CURL,
    "curl with a password": [*CURL, "--user", "anna:secret"],
    "swaks": SWAKS,
    "swaks with a password": [*SWAKS, "--auth", "LOGIN", "--auth-user", "anna", "--auth-password", "secret"],
    "swaks pipelining": [*SWAKS, "--pipeline"],
}

HELLO, BYE = "EHLO client.example", "QUIT"
ADDRESSED = ["MAIL FROM:<from@example.org>", "RCPT TO:<to@example.org>", "RCPT TO:<other@example.org>", "DATA"]
ADDRESSED_BY_SMTPLIB = [
    "mail from:<from@example.org> size=29", "rcpt to:<to@example.org>", "rcpt to:<other@example.org>", "data",
]  # fmt: skip
ADDRESSED_BY_OLD_SMTPLIB = [
    "mail FROM:<from@example.org> size=29", "rcpt TO:<to@example.org>", "rcpt TO:<other@example.org>", "data",
]  # fmt: skip
TEXT = ["Subject: test", "", "..dot", "text", "."]
TEXT_OF_SWAKS = [*TEXT[:-1], "", "."]
"""It puts an empty line behind what it is given."""

RECORDED = {
    "smtplib": ["ehlo client.example", *ADDRESSED_BY_SMTPLIB, *TEXT, BYE],
    "smtplib with a password": [
        "ehlo client.example", "AUTH PLAIN AGFubmEAc2VjcmV0", *ADDRESSED_BY_SMTPLIB, *TEXT, BYE,
    ],
    "old smtplib": ["ehlo client.example", *ADDRESSED_BY_OLD_SMTPLIB, *TEXT, BYE],
    "old smtplib with a password": [
        "ehlo client.example", "AUTH PLAIN AGFubmEAc2VjcmV0", *ADDRESSED_BY_OLD_SMTPLIB, *TEXT, BYE,
    ],
    "curl": [HELLO, *ADDRESSED, *TEXT, BYE],
    "curl with a password": [HELLO, "AUTH PLAIN", "AGFubmEAc2VjcmV0", *ADDRESSED, *TEXT, BYE],
    "swaks": [HELLO, *ADDRESSED, *TEXT_OF_SWAKS, BYE],
    "swaks with a password": [HELLO, "AUTH LOGIN", "YW5uYQ==", "c2VjcmV0", *ADDRESSED, *TEXT_OF_SWAKS, BYE],
}  # fmt: skip
"""What smtplib of Python 3.13, and the old one up to 3.12, curl 7.88 and swaks 20201014 said."""

SPEAKERS = {"curl": "curl 7.88.", "swaks": "swaks version 20201014."}
"""Those two, as they name themselves."""


class Postbox(MailServer):
    """Takes mail for some people, with a password or without one."""

    allows_plaintext_authentication = True
    refused: tuple[str, ...] = ()
    taken: list[Envelope]
    said: list[bytes]

    def handle_data(self, data: bytes) -> None:
        self.said.append(data)
        super().handle_data(data)

    def handle_recipient(self, recipient: str) -> Reply | None:
        return Reply(550, "no such user here", "5.1.1") if recipient in self.refused else None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        self.taken.append(envelope)
        return None

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        return None if (name, password) == ("anna", "secret") else Reply(535, "no", "5.7.8")


def recording_of(name: str) -> list[str] | None:
    """Return what the program said that is installed here, or None where another version of it was recorded."""
    speaker = name.partition(" ")[0]
    if speaker in SPEAKERS:
        version = subprocess.run([speaker, "--version"], capture_output=True, text=True, timeout=30, check=True)
        if not version.stdout.startswith(SPEAKERS[speaker]):
            return None
    elif sys.version_info < (3, 13):
        name = f"old {name}"
    return RECORDED[name.removesuffix(" pipelining")]  # swaks says the same, only earlier


def run_program(loop: reactor.Reactor, name: str, **attributes: Any) -> tuple[list[Envelope], int, str]:
    """Have a program send the message; return what was taken, and the program's exit code and output."""
    taken: list[Envelope] = []
    kind: Any = type("Postbox", (Postbox,), {"taken": taken, "said": [], **attributes})
    code, output = run_argv(loop, PROGRAMS[name], kind)
    return taken, code, output


def run_argv(loop: reactor.Reactor, argv: list[str], kind: Any, tls: Any = None) -> tuple[int, str]:
    """Have a program send the message to a server of `kind`; return the program's exit code and output."""
    if shutil.which(argv[0]) is None:
        pytest.skip(f"{argv[0]} is not installed")
    with reactor.Listener(("127.0.0.1", 0), kind, reactor=loop, tls=tls) as listener:
        host, port = listener.address
        with subprocess.Popen(
            [word.format(host=host, port=port) if "{host}" in word or "{port}" in word else word for word in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(CONTENT)
            process.stdin.close()
            run_until(loop, lambda: process.poll() is not None, 30)
            output = process.stdout.read().decode(errors="replace")
    return process.returncode, output


@pytest.mark.parametrize("name", PROGRAMS)
def test_program_delivers_and_says_what_was_recorded(loop: reactor.Reactor, name: str) -> None:
    said: list[bytes] = []
    taken, code, output = run_program(loop, name, said=said)
    assert code == 0, output
    (envelope,) = taken
    assert (envelope.sender, envelope.recipients) == ADDRESSES
    assert envelope.content.removesuffix(b"\r\n") == CONTENT.removesuffix(b"\r\n") + b"\r\n" * name.startswith("swaks")
    assert envelope.user == ("anna" if "password" in name else "")
    assert envelope.client_name == "client.example"
    recording = recording_of(name)
    assert recording is None or b"".join(said) == lines(*recording)


@pytest.mark.parametrize("name", ["smtplib", "curl", "swaks", "swaks pipelining"])
def test_program_learns_that_all_recipients_are_refused(loop: reactor.Reactor, name: str) -> None:
    taken, code, output = run_program(loop, name, refused=ADDRESSES[1])
    assert taken == []
    assert code != 0
    assert "550" in output


@pytest.mark.parametrize("name", ["smtplib", "swaks", "swaks pipelining"])
def test_program_delivers_to_the_recipients_that_are_not_refused(loop: reactor.Reactor, name: str) -> None:
    taken, _, _ = run_program(loop, name, refused=ADDRESSES[1][:1])
    assert [envelope.recipients for envelope in taken] == [ADDRESSES[1][1:]]


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_session_of_a_program_delivers_wherever_it_is_cut(name: str) -> None:
    for parts in every_way(lines(*RECORDED[name])):
        session = ServerSession("host.example", authentication=Authentication.ALWAYS)
        events, sent = talk_in_pieces(session, parts)
        envelope = events[-2]
        assert (envelope.sender, envelope.recipients) == ADDRESSES
        assert envelope.content == CONTENT + b"\r\n" * name.startswith("swaks")
        assert sent.endswith(b"250 2.0.0 message accepted\r\n221 2.0.0 good bye\r\n")


# The standard library's server, up to Python 3.11

SMTPD = """
import asyncore, json, smtpd, sys
class Server(smtpd.SMTPServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **options):
        print(json.dumps([mailfrom, rcpttos, data.decode("latin-1"), options["mail_options"]]), flush=True)
        return "451 later" if b"later" in data else None
server = Server(("127.0.0.1", 0), None, enable_SMTPUTF8=True)
print(server.socket.getsockname()[1], flush=True)
asyncore.loop()
"""

RECORDED_SMTPD = lines(
    "220 host.example Python SMTP proxy version 0.3",
    "250-host.example", "250-SIZE 33554432", "250-8BITMIME", "250-SMTPUTF8", "250 HELP",
    "250 OK", "250 OK", "250 OK", "354 End data with <CR><LF>.<CR><LF>", "250 OK", "221 Bye",
)  # fmt: skip
"""What smtpd of Python 3.11 said."""


@pytest.fixture
def smtpd() -> Iterator[tuple[int, Any]]:
    """The port of the standard library's server, and what it prints for each message."""
    pythons = [path for version, path in find_interpreters().items() if version in ("3.8", "3.9", "3.10", "3.11")]
    if not pythons:
        pytest.skip("there is no Python here from 3.8 to 3.11, which had the module smtpd")
    argv = [pythons[-1], *ALONE, "-W", "ignore", "-c", SMTPD]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline()), process.stdout
        finally:
            process.kill()


@pytest.mark.parametrize(("word", "count"), [("text", 2), ("later", 0)])
def test_server_of_the_standard_library_takes_what_we_deliver(
    loop: reactor.Reactor, smtpd: tuple[int, Any], word: str, count: int
) -> None:
    port, printed = smtpd
    content = f"Subject: {word}\n\n.dot\n..\n\xe4\n".encode()
    envelope = Envelope("jürgen@example.org", ADDRESSES[1], content)
    outcomes: list[Outcome] = []
    deliver(("127.0.0.1", port), envelope, outcomes.append, reactor=loop)
    run_until(loop, lambda: outcomes)
    assert json.loads(printed.readline()) == [
        "jürgen@example.org",
        list(ADDRESSES[1]),
        content.decode("latin-1").rstrip("\n"),
        [f"SIZE={len(content) + 5}", "BODY=8BITMIME", "SMTPUTF8"],
    ]
    assert len(outcomes[0].delivered) == count
    assert len(outcomes[0].temporary) == 2 - count
    loop.loop(timeout=5)


def test_recorded_session_of_the_standard_librarys_server_is_a_delivery_wherever_it_is_cut() -> None:
    for parts in every_way(RECORDED_SMTPD):
        session = ClientSession("client.example")
        session.deliver(Envelope(*ADDRESSES, CONTENT))
        session.quit()
        events = [event for part in parts for event in session.feed(part)]
        outcome, finished = events
        assert isinstance(outcome, Outcome)
        assert outcome.delivered == ADDRESSES[1]
        assert finished.error is None
