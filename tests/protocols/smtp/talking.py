"""What the tests of the two sessions share: talking to one, and having its questions answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from protocols.smtp.questions import Ended, StartTls
from protocols.smtp.replies import Reply
from protocols.smtp.server_session import ServerSession

Verdict = Callable[[Any], Reply | None]


def accept(question: Any) -> None:
    """Say yes to everything."""


def talk(session: ServerSession, data: bytes, verdict: Verdict = accept) -> tuple[list[Any], bytes]:
    """Give `data` to a session and answer its questions at once; return its events, and what it sends."""
    found: list[Any] = []
    events = session.feed(data)
    while events:
        found += events
        events = [] if isinstance(events[-1], Ended | StartTls) else session.answer(verdict(events[-1]))
    return found, session.data_to_send()


def talk_in_pieces(session: ServerSession, parts: list[bytes], verdict: Verdict = accept) -> tuple[list[Any], bytes]:
    """Do as `talk` does, in pieces."""
    events: list[Any] = []
    sent = session.data_to_send()
    for part in parts:
        new, replies = talk(session, part, verdict)
        events += new
        sent += replies
    return events, sent


def lines(*commands: str) -> bytes:
    """Return commands as they are sent."""
    return b"".join(command.encode() + b"\r\n" for command in commands)


def greeted(verb: str = "EHLO", **options: Any) -> ServerSession:
    """Return a session whose client has said hello."""
    session = ServerSession("host.example", **options)
    talk(session, lines(f"{verb} client.example"))
    return session


def addressed(**options: Any) -> ServerSession:
    """Return a session that has a sender and a recipient."""
    session = greeted(**options)
    talk(session, lines("MAIL FROM:<from@example.org>", "RCPT TO:<to@example.org>"))
    return session
