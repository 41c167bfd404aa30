"""The mail sink, started as its docstring says, sent mail by real clients, and killed while it works."""

from __future__ import annotations

import contextlib
import errno
import functools
import mailbox
import os
import shutil
import signal
import smtplib
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import reactor
from examples._command_line import Mistake
from examples.mail_sink import Maildir, MailSink, Mbox
from tests import certificates
from tests.conftest import raw_client, run_until
from tests.examples.running import Program, Start
from tests.tls_peers import swaks_speaks_tls

BOXES = {"--maildir": Maildir, "--mbox": Mbox}


def serve(start: Start, option: str, box: Path, *arguments: str) -> Program:
    """Start the server on a free port, with a mailbox."""
    program = start("--port=0", f"{option}={box}", *arguments)
    program.address = program.read_address()
    assert program.first_line.startswith("listening on 127.0.0.1:")
    return program


def client_of(server: Program) -> smtplib.SMTP:
    return smtplib.SMTP(*server.address, local_hostname="client.example", timeout=20)


def texts_in(option: str, box: Path) -> list[bytes]:
    """Return the messages in a mailbox."""
    kind: Any = mailbox.Maildir if option == "--maildir" else mailbox.mbox
    with contextlib.closing(kind(box, create=False)) as found:
        return [found.get_bytes(key) for key in found.keys()]  # noqa: SIM118


@pytest.mark.parametrize("option", BOXES)
def test_mail_arrives_with_the_lines_that_tell_how_it_came(start: Start, tmp_path: Path, option: str) -> None:
    server = serve(start, option, tmp_path / "box")
    with client_of(server) as client:
        client.sendmail("from@example.org", ["to@example.org", "other@b"], "Subject: x\n\nFrom the start\n.\nend\n")
        client.sendmail("", ["postmaster"], "Subject: y\n\n")
    first, second = sorted(texts_in(option, tmp_path / "box"), key=lambda text: b"Subject: y" in text)
    *trace, received, by, rest = first.split(b"\n", 5)
    assert trace == [b"Return-Path: <from@example.org>", b"Delivered-To: to@example.org", b"Delivered-To: other@b"]
    assert received == b"Received: from client.example ([127.0.0.1])"
    assert by.startswith(b"\tby [127.0.0.1] with ESMTP; ")
    quoted = b">" if option == "--mbox" else b""
    assert rest.rstrip(b"\n") == b"Subject: x\n\n" + quoted + b"From the start\n.\nend"
    assert second.startswith(b"Return-Path: <>\nDelivered-To: postmaster\n")
    assert server.ends_cleanly()


def test_mailbox_can_be_read_by_nobody_else(start: Start, tmp_path: Path) -> None:
    for option in BOXES:
        box = tmp_path / option
        assert serve(start, option, box).ends_cleanly()
        assert box.stat().st_mode & 0o077 == 0


@pytest.mark.skipif(shutil.which("swaks") is None, reason="swaks is not installed")
def test_mail_of_swaks_arrives_as_the_docstring_says(start: Start, tmp_path: Path) -> None:
    server = serve(start, "--maildir", tmp_path / "box")
    host, port = server.address
    argv = ["swaks", "--server", f"{host}:{port}", "--to", "anybody@example.org"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=30)
    (text,) = texts_in("--maildir", tmp_path / "box")
    assert b"\nDelivered-To: anybody@example.org\n" in text
    assert server.ends_cleanly()


@pytest.mark.skipif(not swaks_speaks_tls(), reason="there is no swaks with TLS")
def test_mail_of_swaks_arrives_encrypted_as_the_docstring_says(start: Start, tmp_path: Path) -> None:
    server = serve(start, "--maildir", tmp_path / "box", f"--certificate={certificates.certificate()}")
    host, port = server.address
    argv = ["swaks", "--server", f"{host}:{port}", "--to", "anybody@example.org", "--tls"]
    subprocess.run(argv, stdout=subprocess.DEVNULL, check=True, timeout=30)
    (text,) = texts_in("--maildir", tmp_path / "box")
    assert b" with ESMTPS; " in text
    with client_of(server) as client:  # nobody has to encrypt
        client.sendmail("from@example.org", "to@example.org", "text")
    assert len(texts_in("--maildir", tmp_path / "box")) == 2
    assert server.ends_cleanly()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--certificate=/nowhere.pem"],
            "error: no certificate with its key in '/nowhere.pem': No such file or directory",
        ),
        (["--key=/nowhere.pem"], "error: a key is of no use without a certificate; give --certificate as well"),
    ],
)
def test_certificate_that_cannot_be_used_is_told_on_one_line(
    start: Start, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    program = start("--port=0", f"--maildir={tmp_path / 'box'}", *arguments)
    assert (program.wait(), program.errors) == (2, complaint + "\n")


def test_mail_is_taken_for_the_domains_that_were_named_and_for_the_postmaster(start: Start, tmp_path: Path) -> None:
    server = serve(start, "--maildir", tmp_path / "box", "--domain=Example.org", "--domain=example.com")
    with client_of(server) as client:
        recipients = ["a@example.ORG", "b@elsewhere.example", "c@example.com", "Postmaster"]
        refused = client.sendmail("from@example.org", recipients, "text")
    assert refused == {"b@elsewhere.example": (550, b"5.7.1 mail for this domain is not taken here")}
    assert len(texts_in("--maildir", tmp_path / "box")) == 1
    assert server.ends_cleanly()


def test_message_that_cannot_be_stored_is_not_acknowledged_and_the_next_one_is_taken(
    start: Start, tmp_path: Path
) -> None:
    box = tmp_path / "box"
    server = serve(start, "--maildir", box)
    with client_of(server) as client:
        (box / "new").rmdir()
        with pytest.raises(smtplib.SMTPDataError) as caught:
            client.sendmail("from@example.org", "to@example.org", "text")
        assert caught.value.smtp_code == 451
        (box / "new").mkdir()
        client.sendmail("from@example.org", "to@example.org", "text")
    assert len(texts_in("--maildir", box)) == 1
    assert list((box / "tmp").iterdir()) == []
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "a message cannot be stored: FileNotFoundError" in server.errors
    assert len(server.errors.splitlines()) == 1


def test_one_host_cannot_take_all_connections(start: Start, tmp_path: Path) -> None:
    server = serve(start, "--maildir", tmp_path / "box")
    with contextlib.ExitStack() as stack:
        greetings = []
        for _ in range(11):
            client = stack.enter_context(raw_client(server.address))
            greetings.append(client.recv(100)[:4])
        assert greetings == [b"220 "] * 10 + [b""]
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


# Killed


def body_of(name: str) -> str:
    """Return a text that cannot be mistaken for a part of another one."""
    return "".join(f"{name}, line {number}\n" for number in range(200)) + f"the end of {name}\n"


@pytest.mark.parametrize("option", BOXES)
def test_no_mail_that_was_acknowledged_is_lost_when_the_server_is_killed(
    start: Start, tmp_path: Path, option: str, in_thread: Callable[..., threading.Thread]
) -> None:
    box = tmp_path / "box"
    acknowledged: list[str] = []
    enough = threading.Semaphore(0)

    def send(server: Program, client_name: str) -> None:
        try:
            with client_of(server) as client:
                for number in range(1000):
                    name = f"{client_name}.{number}"
                    client.sendmail("from@example.org", "to@example.org", f"Subject: {name}\n\n{body_of(name)}")
                    acknowledged.append(name)
                    enough.release()
        except (OSError, smtplib.SMTPException):
            pass  # it was killed

    rounds = 3
    for kill in range(rounds):
        server = serve(start, option, box)
        threads = [in_thread(send, server, f"{kill}.{client}") for client in range(4)]
        for _ in range(8):
            assert enough.acquire(timeout=30)
        server.send_signal(signal.SIGKILL)
        server.wait()
        for thread in threads:
            thread.join()
    assert len(acknowledged) >= 8 * rounds
    whole = []
    half = 0
    for text in texts_in(option, box):
        header, _, body = text.partition(b"\n\n")
        name = header.partition(b"Subject: ")[2].decode()
        if name and body.decode().rstrip("\n") == body_of(name).rstrip("\n"):
            whole.append(name)
        else:
            half += 1
    assert set(acknowledged) <= set(whole)
    assert len(whole) == len(set(whole))
    assert half <= (rounds if option == "--mbox" else 0)


def test_acknowledgement_waits_until_the_message_is_stored(loop: reactor.Reactor) -> None:
    entered, released = threading.Event(), threading.Event()
    stored: list[bytes] = []

    def store(text: bytes) -> None:
        entered.set()
        assert released.wait(20)
        stored.append(text)

    sink = functools.partial(MailSink, store, frozenset())
    with reactor.Listener(("127.0.0.1", 0), sink, reactor=loop) as listener, raw_client(listener.address) as client:
        client.sendall(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\ntext\r\n.\r\n")
        run_until(loop, entered.is_set)
        for _ in range(5):
            loop.poll(0.01)
        assert client.recv(65536).splitlines()[-1].startswith(b"354 ")
        released.set()
        client.setblocking(False)
        received = b""

        def acknowledged() -> bool:
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                received += client.recv(65536)
            return received.endswith(b"\r\n")

        run_until(loop, acknowledged)
        assert received.startswith(b"250 ")
        assert len(stored) == 1


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, b"452 4.3.1"), (errno.EIO, b"451 4.3.0")])
def test_full_disk_and_broken_disk_are_told_apart(loop: reactor.Reactor, number: int, code: bytes) -> None:
    def store(text: bytes) -> None:
        raise OSError(number, os.strerror(number))

    sink = functools.partial(MailSink, store, frozenset())
    with reactor.Listener(("127.0.0.1", 0), sink, reactor=loop) as listener, raw_client(listener.address) as client:
        client.sendall(b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\ntext\r\n.\r\n")
        received = b""
        client.setblocking(False)

        def refused() -> bool:
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                received += client.recv(65536)
            return code in received

        run_until(loop, refused)


def test_message_is_on_the_disk_before_it_has_its_name_and_the_name_before_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Maildir(tmp_path / "box")
    done: list[tuple[str, bool]] = []
    sync, link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        done.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}").endswith("/new")))
        sync(descriptor)

    def linked(source: str, target: str) -> None:
        done.append(("link", "/new/" in target))
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", linked)
    box.store(b"text")
    assert done == [("fsync", False), ("link", True), ("fsync", True)]


def test_half_a_message_does_not_swallow_the_one_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "box"
    for tail in (b"", b"\n", b"\n\n", b"\n\n\n"):
        path.write_bytes(b"From MAILER-DAEMON\nSubject: half\n\nhalf" + tail)
        Mbox(path).store(b"Subject: whole\n\nwhole")
        half, whole = texts_in("--mbox", path)
        assert half.rstrip(b"\n") == b"Subject: half\n\nhalf"
        assert whole.rstrip(b"\n") == b"Subject: whole\n\nwhole"


def test_lock_of_a_process_that_was_killed_is_removed(tmp_path: Path) -> None:
    path, lock = tmp_path / "box", tmp_path / "box.lock"
    lock.touch()
    Mbox(path).store(b"Subject: x\n\n")
    assert not lock.exists()
    assert len(texts_in("--mbox", path)) == 1


def test_mailbox_that_somebody_else_writes_to_is_left_alone(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "box"
    with contextlib.closing(mailbox.mbox(path)) as box:
        box.lock()
        program = start("--port=0", f"--mbox={path}")
        assert program.wait() == 2
        assert program.errors == f"error: somebody else writes to {path}\n"
        assert (tmp_path / "box.lock").exists()


# What whoever starts it can get wrong


def test_what_is_there_and_is_no_maildir_is_left_alone(start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "directory").mkdir()
    (tmp_path / "directory" / "mine").touch()
    for name in ("file", "directory"):
        program = start("--port=0", f"--maildir={tmp_path / name}")
        assert program.wait() == 2
        assert program.errors == f"error: {tmp_path / name} is there, and it is no Maildir\n"
    assert [path.name for path in (tmp_path / "directory").iterdir()] == ["mine"]


def test_maildir_that_was_half_made_is_completed(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    Maildir(tmp_path).store(b"text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cur", "new", "tmp"]
    with pytest.raises(Mistake):
        Maildir(tmp_path / "new")


def test_directory_that_is_not_there_is_named(start: Start, tmp_path: Path) -> None:
    for option in BOXES:
        program = start("--port=0", f"{option}={tmp_path}/nowhere/box")
        assert program.wait() == 2
        assert program.errors == f"error: {tmp_path}/nowhere/box: No such file or directory\n"


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--domain=", "--domain: '' is no domain; give a name, like example.org"),
        ("--domain=me@a.org", "--domain: 'me@a.org' is no domain; give a name, like example.org"),
        ("--mbox=/dev/null", "--mbox: /dev/null is no file"),
    ],
)
def test_option_with_which_no_mail_could_be_taken_is_refused(start: Start, option: str, complaint: str) -> None:
    program = start("--port=0", option)
    assert program.wait() == 2
    assert program.errors.splitlines()[-1] == f"python -m examples.mail_sink: error: argument {complaint}"


def test_taken_port_is_named(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = start(f"--port={port}", f"--maildir={tmp_path / 'box'}")
        assert program.wait() == 2
    assert program.errors == f"error: somebody listens on 127.0.0.1:{port} already\n"


def test_help_is_shown(start: Start) -> None:
    program = start("--help")
    output, _ = program.process.communicate(timeout=20)
    assert (program.wait(), program.errors) == (0, "")
    assert b"usage: python -m examples.mail_sink " in output
    assert b"--maildir DIRECTORY" in output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_server_ends_cleanly_while_a_client_is_connected(start: Start, tmp_path: Path, signum: int) -> None:
    server = serve(start, "--maildir", tmp_path / "box")
    with raw_client(server.address) as client:
        assert client.recv(100).startswith(b"220 ")
        server.send_signal(signum)
        assert client.makefile("rb").read() == b"421 4.3.2 the service is going down; try again later\r\n"
    assert (server.wait(), server.errors) == (0, "")
