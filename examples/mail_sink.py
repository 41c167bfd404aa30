"""A mail server that puts all that it takes into one mailbox.

    python -m examples.mail_sink --maildir mail
    swaks --server localhost:8025 --to anybody@example.org

A message is acknowledged when it is on the disk, whole and under its name, and not before. So the server may be killed
at any moment, and no mail is lost: what was not acknowledged the sender sends again, and at worst it is there twice.

With --mbox the mailbox is one file, which is read as a whole for each message, so it should be a small one. Who kills
the server may find half a message in it; the whole one comes behind that when it is sent again.

Anybody who can connect may leave mail. Without --domain it is taken whoever it is for. With --certificate, who wants to
may encrypt what he sends (STARTTLS):

    swaks --server localhost:8025 --to anybody@example.org --tls
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import functools
import logging
import mailbox
import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import IO, Any

import reactor
from protocols.smtp import Envelope, MailServer, Reply, SessionLimits
from protocols.smtp.grammar import Malformed, parse_mailbox

from ._command_line import (
    Mistake,
    add_tls_options,
    errors_on_one_line,
    file_path,
    make_parser,
    serve,
    server_tls,
    user_path,
)

LIMITS = reactor.Limits(maximum_connections=50, maximum_connections_per_peer=10, idle_timeout=600.0)
SESSION_LIMITS = SessionLimits(maximum_message=10 * 1024 * 1024)
"""Together these bound the memory: each connection may hold one message. One host alone cannot take all of them."""

log = logging.getLogger("reactor")

Store = Callable[[bytes], object]
"""Keeps a message for good, or raises. It blocks, and is called on several threads at once."""


class MailSink(MailServer):
    """Takes the mail of one client.

    Arguments:
        store: where messages go.
        domains: in small letters, the domains for which mail is taken; empty for all.
        tls: with what clients may encrypt; None for not at all.
    """

    session_limits = SESSION_LIMITS

    def __init__(self, store: Store, domains: frozenset[str], tls: reactor.ServerTls | None = None) -> None:
        self.store = store
        self.domains = domains
        self.starttls = tls

    def handle_recipient(self, recipient: str) -> Reply | None:
        _, at, domain = recipient.rpartition("@")
        if at and self.domains and domain.lower() not in self.domains:
            return Reply(550, "mail for this domain is not taken here", "5.7.1")
        return None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        answer = self.answer_later()

        def failed(error: BaseException) -> None:
            log.error("%s: a message cannot be stored: %s: %s", self, type(error).__name__, error)
            is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
            answer.refuse(
                Reply(452, "the disk is full; try again later", "4.3.1")
                if is_full
                else Reply(451, "the message cannot be stored; try again later", "4.3.0")
            )

        text = with_trace(envelope, self.session.hostname).replace(b"\r\n", b"\n")
        self.reactor.run_in_thread(self.store, text, on_result=lambda _: answer.accept(), on_error=failed)
        return None


def with_trace(envelope: Envelope, hostname: str) -> bytes:
    """Return the message with the lines in front that tell how it came here (RFC 5321, section 4.4)."""
    peer = f" ([{envelope.peer[0]}])" if isinstance(envelope.peer, tuple) else ""
    lines = [
        f"Return-Path: <{envelope.sender}>",
        *(f"Delivered-To: {recipient}" for recipient in envelope.recipients),
        f"Received: from {envelope.client_name}{peer}",
        f"\tby {hostname} with {envelope.protocol}; {format_datetime(datetime.now(UTC))}",
    ]
    return "".join(f"{line}\r\n" for line in lines).encode() + envelope.content


class Maildir:
    """Stores messages in a Maildir: each in a file of its own, which gets its name when it is whole."""

    def __init__(self, path: Path) -> None:
        if path.exists() and not (path / "new").is_dir() and (not path.is_dir() or any(path.iterdir())):
            raise Mistake(f"{path} is there, and it is no Maildir")
        for directory in (path, path / "tmp", path / "cur", path / "new"):
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
        self._new = path / "new"
        self._box = mailbox.Maildir(path, create=False)
        self._box.clean()  # what was never finished, if it is old enough
        self._lock = threading.Lock()  # the module mailbox is not made for threads

    def store(self, text: bytes) -> None:
        with self._lock:
            self._box.add(text)  # writes into tmp, brings it to the disk, then links it into new
            sync_directory(self._new)


class Mbox:
    """Stores messages in one file, one behind the other."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        path.touch(mode=0o600)
        with path.open("rb+") as file:
            if path.with_name(path.name + ".lock").exists():
                self._remove_stale_lock(file)
        sync_directory(path.parent)

    def store(self, text: bytes) -> None:
        # Opened each time: a mail reader may have put another file in its place.
        with self._lock, contextlib.closing(AppendedMbox(self._path)) as box:
            box.lock()
            box.add(text)
            box.flush()  # to the disk; closing unlocks

    def _remove_stale_lock(self, file: IO[bytes]) -> None:
        """Remove the lock file of a process that was killed; one that lives holds the other lock as well."""
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Mistake(f"somebody else writes to {self._path}") from None
        self._path.with_name(self._path.name + ".lock").unlink()


class AppendedMbox(mailbox.mbox):
    """An mbox in which half a message, left by a process that was killed, does not swallow the next one."""

    def _pre_message_hook(self, f: IO[bytes]) -> None:
        end = f.seek(0, os.SEEK_END)
        f.seek(max(end - 2, 0))
        tail = f.read()
        if tail and tail != b"\n\n":
            f.write(b"\n" if tail.endswith(b"\n") else b"\n\n")


def sync_directory(path: Path) -> None:
    """Bring the names in a directory to the disk: without that they are gone when the power is."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def domain(text: str) -> str:
    """Return the domain that `text` means, in small letters, for argparse."""
    try:
        parse_mailbox(f"anybody@{text}")
    except Malformed:
        raise argparse.ArgumentTypeError(f"{text!r} is no domain; give a name, like example.org") from None
    return text.lower()


def main() -> None:
    parser = make_parser(__doc__, port=8025, has_key=False)
    boxes = parser.add_mutually_exclusive_group()
    boxes.add_argument("--maildir", type=user_path, default="Maildir", metavar="DIRECTORY",
                       help="where the mail goes; made if it is not there (default: %(default)s)")  # fmt: skip
    boxes.add_argument("--mbox", type=file_path, metavar="FILE", help="put the mail into this file instead")
    parser.add_argument("--domain", type=domain, action="append", default=[], metavar="NAME",
                        help="take mail for this domain only; may be given several times")  # fmt: skip
    add_tls_options(parser, "offer STARTTLS with this")
    arguments: Any = parser.parse_args()
    with errors_on_one_line(arguments):
        box = Maildir(arguments.maildir) if arguments.mbox is None else Mbox(arguments.mbox)
        sink = functools.partial(MailSink, box.store, frozenset(arguments.domain), server_tls(arguments))
        serve(reactor.Listener((arguments.host, arguments.port), sink, limits=LIMITS))


if __name__ == "__main__":
    main()
