"""SMTP: a server against any client, and a client against any server."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from typing import Any

from protocols.smtp.client_session import ClientSession, Finished, Outcome
from protocols.smtp.commands import LONGEST_RESPONSE
from protocols.smtp.envelope import Envelope
from protocols.smtp.limits import SessionLimits
from protocols.smtp.mechanisms import Credentials
from protocols.smtp.questions import Ended, Event, Recipient, Sender
from protocols.smtp.replies import LONGEST_LINE_TAKEN, MOST_LINES, Reply
from protocols.smtp.server_session import Authentication, ServerSession
from protocols.smtp.wording import TOO_MUCH_WAITING
from reactor.errors import ConnectionLost, LocalError, StateError
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.models import CRLF, plain_content, read_replies
from tests.fuzzing.targets.texts import assert_readable

GRANTS = (
    SessionLimits(),
    SessionLimits(
        maximum_message=60, maximum_recipients=2, maximum_text_line=20, maximum_errors=3, maximum_unrecognised=2,
        maximum_refused=2, maximum_deferred=2, maximum_idle_commands=4, maximum_authentications=1,
        maximum_waiting_input=100,
    ),
)  # fmt: skip
VERDICTS = (
    None,
    Reply(250, "as you like"),
    Reply(450, "later\r\n250 and not a reply of its own"),
    Reply(550, "n\u00f6\0" * 100, "5.7.1"),
    Reply(421, "that is enough"),
)
LONG = b"\x0e"
"""Stands for more bytes than a fuzzer makes: with four of these a line is too long for a server."""
FILLING = b"x" * 4000
END_OF_CONTENT = b"\r\n.\r\n"
BARE = re.compile(rb"\r(?=[^\n])|(?<!\r)\n", re.DOTALL)
REPLY_LINE = re.compile(rb"[2-5][0-9]{2}[ -][ -~]*")
STATUS = re.compile(rb"[0-9]{3}[ -]([245])\.[0-9]+\.[0-9]+ ")
LONGEST_REPLY = 1000

Plan = list[Reply | None]
Talk = tuple[list[Event], bytes]


# The server


def smtp_server(data: bytes) -> None:
    """Each line gets one reply, only CRLF.CRLF ends a message, and no cut and no late answer changes what is taken."""
    decisions = Decisions(data)
    limits = GRANTS[decisions.below(len(GRANTS))]
    authentication = list(Authentication)[decisions.below(3)]
    requires_authentication, is_secure = decisions.flag(), decisions.flag()
    plan = [VERDICTS[byte % len(VERDICTS)] for byte in decisions.string()] or [None]
    lateness = 1 + decisions.below(4)
    cutting = decisions.cutting()
    script = decisions.rest()

    def make() -> ServerSession:
        return ServerSession(
            "host.example",
            limits=limits,
            authentication=authentication,
            requires_authentication=requires_authentication,
            is_secure=is_secure,
        )

    expected = assert_each_line_is_answered(make(), plan, lengthened(Cutting(stride=1).pieces(script)))
    assert_are_asked(expected[0], plan, limits, requires_authentication)
    parts = lengthened(cutting.pieces(script))
    for ways in ([b"".join(parts)], parts):
        assert talked(make(), plan, ways) == expected
    events, sent = talked(make(), plan, parts, lateness)
    if sent.endswith(TOO_MUCH_WAITING.encode()):
        assert events[:-1] == expected[0][: len(events) - 1]
        assert expected[1].startswith(sent.removesuffix(TOO_MUCH_WAITING.encode()))
    else:
        assert (events, sent) == expected


def lengthened(parts: list[bytes]) -> list[bytes]:
    """Return `parts` with the filling where it belongs, in some places at the most."""
    places = 6
    found = []
    for part in parts:
        found.append(part.replace(LONG, FILLING, places))
        places = max(0, places - part.count(LONG))
    return found


def talked(session: ServerSession, plan: Plan, parts: list[bytes], lateness: int = 1) -> Talk:
    """Say `parts`, and answer questions as planned: with each, or only with each second one, and so on."""
    found: list[Event] = []
    verdicts = answers(plan)
    sent = session.data_to_send()
    question = False
    for number, part in enumerate([*parts, *[b""] * lateness], 1):
        events = session.feed(part)
        while True:
            found += events
            question = (question or bool(events)) and session.is_waiting
            if not question or number % lateness:
                break
            events = session.answer(next(verdicts))
        assert_is_small(session)
        sent += session.data_to_send()
    return found, sent


def answers(plan: Plan) -> Iterator[Reply | None]:
    """Yield the answers to one question after the other."""
    while True:
        yield from plan


def assert_each_line_is_answered(session: ServerSession, plan: Plan, steps: list[bytes]) -> Talk:
    """Say one byte after the other, and hold each reply to the bytes that it follows; return what comes of it."""
    found: list[Event] = []
    verdicts = answers(plan)
    sent = session.data_to_send()
    assert replies_in(sent) == [220]
    chunk = b""
    told = spent = deferred = 0
    for step in steps:
        before = session.state.name
        chunk += step
        events = session.feed(step)
        new = len(found)
        found += events
        while session.is_waiting:
            events = session.answer(next(verdicts))
            found += events
        said = session.data_to_send()
        sent += said
        if before == "Ended":
            assert (said, found[new:]) == (b"", [])
            continue
        codes = replies_in(said)
        told += len(codes)
        spent += sum(code >= 500 for code in codes)
        deferred += sum(400 <= code < 500 and code != 421 for code in codes)
        assert spent <= session.limits.maximum_errors + session.limits.maximum_refused
        assert deferred <= session.limits.maximum_deferred
        is_over = chunk.endswith(CRLF)
        if before == "Receiving":
            is_over = (CRLF + chunk).endswith(END_OF_CONTENT)
            size = len((CRLF + chunk).replace(b"\r\n.", CRLF)) - len(CRLF)
            if is_over:
                assert told == 1
                assert_content_is_judged(chunk, codes[0], found[new:], session.limits)
                spent, deferred = (0, 0) if codes[0] < 300 else (spent, deferred)
            elif told:
                assert (codes, found[new:]) == ([552], [Ended()])
                assert size > 2 * session.limits.maximum_message
            else:
                assert size <= 2 * session.limits.maximum_message + len(CRLF + CRLF)
        elif is_over:
            assert told == 1
        elif told:
            assert told == 1
            assert BARE.search(chunk) or len(chunk) >= LONGEST_RESPONSE - 1
        if is_over:
            chunk, told = b"", 0
    return found, sent


def replies_in(sent: bytes) -> list[int]:
    """Return the codes of the replies in `sent`, which are whole and as the standards ask."""
    if not sent:
        return []
    assert sent.endswith(CRLF)
    for line in sent.split(CRLF)[:-1]:
        assert len(line) + len(CRLF) <= 512
        assert REPLY_LINE.fullmatch(line)
        status = STATUS.match(line)
        assert status is None or status[1] == line[:1]
    codes = read_replies(sent)
    assert len(sent) <= LONGEST_REPLY * len(codes)
    return codes


def assert_content_is_judged(wire: bytes, code: int, events: list[Event], limits: SessionLimits) -> None:
    """Assert that the content on the `wire` was taken to the program as it is, or refused for what is wrong with it."""
    content = plain_content(wire)
    envelopes = [event for event in events if isinstance(event, Envelope)]
    lines = content.split(CRLF)
    if len(content) > 2 * limits.maximum_message:
        assert (code, events) == (552, [Ended()])
    elif any({*b"\r\n\0"} & {*line} for line in lines):
        assert (code, events) == (554, [Ended()])
    elif len(content) > limits.maximum_message:
        assert (code, envelopes) in ((552, []), (421, []))
    elif any(len(line) + 2 > limits.maximum_text_line for line in lines):
        assert (code, envelopes) in ((554, []), (421, []))
    else:
        assert [envelope.content for envelope in envelopes] == [content]


def assert_are_asked(events: list[Event], plan: Plan, limits: SessionLimits, requires_authentication: bool) -> None:
    """Assert that an envelope has the sender and the recipients that were accepted for it, and the session one end."""
    assert Ended() not in events[:-1]
    verdicts = answers(plan)
    sender = None
    recipients: list[str] = []
    user = ""
    for event in events:
        verdict = next(verdicts) if event != Ended() else None
        is_accepted = verdict is None or verdict.is_positive
        match event:
            case Sender(address):
                sender, recipients = address if is_accepted else None, []
                assert user or not requires_authentication
            case Recipient(address):
                recipients += [address] * is_accepted
                assert 0 < len(recipients) + (not is_accepted) <= limits.maximum_recipients
            case Credentials(name, password):
                assert name
                assert password
                assert not user
                user = name if is_accepted else ""
            case Envelope():
                assert (event.sender, list(event.recipients), event.user) == (sender, recipients, user)
                assert recipients
                sender = None


def assert_is_small(session: ServerSession) -> None:
    """Assert that a session holds no more than its limits say."""
    most = session.limits.maximum_waiting_input if session.is_waiting else LONGEST_RESPONSE
    # What came together with the question, or with what ended a line, may be more: as much as one receive.
    assert len(session._input) <= max(most, LONGEST_RESPONSE, 1 << 16)
    assert session._content._kept.getbuffer().nbytes <= session.limits.maximum_message
    assert len(session.transaction.recipients) <= session.limits.maximum_recipients


# The client

MESSAGES = (
    Envelope("", ("one@x",), b"Subject: text\n\ntext"),
    Envelope("", ("one@x", "two@x", "two@x", "three@x"), b".\r\n..\r\n.dots\r\n"),
    Envelope("", ("one@x",), b""),
    Envelope("", ("one@x", "two@x"), b"Subject: x\r\n\r\n\xff\xfe\rbare\n.\r\n"),
    Envelope("", ("j\u00fcrgen@x",), "Subject: gr\u00fc\u00dfe\r\n\r\ntext".encode()),
    Envelope("", ("one@x",), b"a long one\r\n" * 100),
)
COMMAND_LINE = re.compile(
    rb"(EHLO|HELO) me\.example|AUTH (PLAIN|LOGIN)( [A-Za-z0-9+/=]+)?|[A-Za-z0-9+/=]+|DATA|RSET|QUIT"
    rb"|MAIL FROM:<[^<> ]+>( SIZE=[0-9]+)?( BODY=8BITMIME)?( SMTPUTF8)?|RCPT TO:<[^<> ]+>"
)
GONE = ConnectionLost("gone", None)

Act = Callable[[ClientSession], list[Any]]


def smtp_client(data: bytes) -> None:
    """Each message has one outcome, which is what the replies say, whatever a server says and however it is cut."""
    decisions = Decisions(data)
    credentials = (None, Credentials("anna", "secret"), Credentials("anna", "s" * 600))[decisions.below(3)]
    cutting = decisions.cutting()
    letters: list[Envelope] = []
    script: list[Act | bytes] = []
    while decisions:
        match decisions.below(8):
            case 0 | 1 | 2:
                message = MESSAGES[decisions.below(len(MESSAGES))]
                letters.append(dataclasses.replace(message, sender=f"from{len(letters)}@x"))
                script.append(delivering(letters[-1]))
            case 3:
                script.append(ClientSession.quit)
            case 4:
                script.append(decisions.rest())
            case _:
                script.append(decisions.string())
    runs = []
    for way in (Cutting(), cutting, Cutting(stride=1)):
        session = ClientSession("me.example", credentials=credentials, allows_plaintext_authentication=True)
        runs.append(played(session, script, way, letters))
    assert runs[0] == runs[1] == runs[2]


def delivering(letter: Envelope) -> Act:
    """Return the act of handing over `letter`."""
    return lambda session: session.deliver(letter)


def played(session: ClientSession, script: list[Act | bytes], way: Cutting, letters: list[Envelope]) -> list[str]:
    """Let a session live through `script`, to its end; return what it tells and sends, in words."""
    told: list[Any] = []
    sent: list[bytes] = []
    refused = 0
    for step in script:
        if isinstance(step, bytes):
            for part in lengthened(way.pieces(step)):
                told += session.feed(part)
                assert len(session._replies._input) <= LONGEST_LINE_TAKEN
                assert len(session._replies._lines) <= MOST_LINES
        else:
            try:
                told += step(session)
            except StateError:
                assert Finished in map(type, told) or any(step is ClientSession.quit for step in script)
                refused += step is not ClientSession.quit
        sent.append(session.data_to_send())
    told += session.abandon(GONE)
    assert session.abandon(GONE) == session.feed(b"250 more\r\n") == []
    assert session.data_to_send() == b""
    assert [type(event) for event in told] == [Outcome] * (len(letters) - refused) + [Finished]
    stream = b"".join(part for step in script if isinstance(step, bytes) for part in lengthened([step]))
    assert_outcomes_are_true(told[:-1], b"".join(sent), letters, read_replies(stream))
    return [*map(in_words, told), *map(repr, sent)]


def in_words(event: Outcome | Finished) -> str:
    """Return `event` in words: two errors are never equal."""
    if isinstance(event, Finished):
        return said(event.error)
    errors = [*event.temporary.items(), *event.permanent.items()]
    return repr((event.envelope.sender, event.delivered, [(name, said(error)) for name, error in errors], event.reply))


def said(error: Exception | None) -> str:
    """Return what an error says, which is short and on one line, and was made by the peer and not by a mistake here."""
    assert_readable(str(error))
    assert not isinstance(error, LocalError)
    return f"{type(error).__name__}: {error}"


def assert_outcomes_are_true(outcomes: list[Outcome], sent: bytes, letters: list[Envelope], codes: list[int]) -> None:
    """Assert that those have the message for whom the server has said so, and nobody else."""
    taken: dict[str, tuple[str, ...]] = {}
    recipients: list[str] = []
    sender = ""
    # The greeting answers nothing; from then on each reply answers one thing, in turn.
    for number, spoken in enumerate(spoken_by_the_client(sent, letters), 1):
        code = codes[number] if number < len(codes) else 0
        if spoken.startswith(b"MAIL"):
            sender, recipients = address_in(spoken), []
        elif spoken.startswith(b"RCPT") and 200 <= code < 300:
            recipients.append(address_in(spoken))
        elif spoken.endswith(b".\r\n") and 200 <= code < 300:
            taken[sender] = tuple(recipients)
    for outcome in outcomes:
        envelope = outcome.envelope
        assert outcome.delivered == taken.get(envelope.sender, ())
        assert (outcome.reply is None) or outcome.reply.is_positive
        places = [*outcome.delivered, *outcome.temporary, *outcome.permanent]
        assert sorted(places) == sorted(set(envelope.recipients))


def address_in(command: bytes) -> str:
    """Return what stands between the brackets."""
    return command.partition(b"<")[2].partition(b">")[0].decode()


def spoken_by_the_client(sent: bytes, letters: list[Envelope]) -> Iterator[bytes]:
    """Yield the commands in `sent`, and the contents; a content comes once, and behind a DATA only."""
    contents = {envelope.sender: on_the_wire(envelope.content) for envelope in letters}
    sender = ""
    while sent:
        command, _, sent = sent.partition(CRLF)
        assert COMMAND_LINE.fullmatch(command), command
        assert len(command) + 2 <= 512 or not re.match(rb"[A-Z]{4} ", command)
        yield command
        if command.startswith(b"MAIL"):
            sender = address_in(command)
        elif command == b"DATA":
            content = contents.pop(sender)
            if sent.startswith(content):
                sent = sent.removeprefix(content)
                yield content


def on_the_wire(content: bytes) -> bytes:
    """Return `content` as it is to be sent."""
    lines = re.split(rb"\r\n|\r|\n", content)
    lines = lines if lines[-1] else lines[:-1]
    return b"".join((b"." if line.startswith(b".") else b"") + line + CRLF for line in lines) + b"." + CRLF
