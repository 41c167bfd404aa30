"""The client's session: what it says to servers of every kind, and what it makes of what they say."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.client_session import ClientSession, Finished, Outcome
from protocols.smtp.envelope import Envelope
from protocols.smtp.errors import (
    DeliveryError,
    MissingExtension,
    PermanentFailure,
    ProtocolError,
    TemporaryFailure,
)
from protocols.smtp.mechanisms import Credentials
from protocols.smtp.questions import StartTls
from protocols.smtp.replies import Reply
from reactor import LocalError, PeerClosed, RemoteError, StateError
from tests.properties import cuts, every_way, pieces, steady
from tests.protocols.smtp.talking import lines

LETTER = Envelope("from@example.org", ("one@example.org", "two@example.org"), b"text\r\n")
ANNA = Credentials("anna", "päss")
FULL = ("250-host", "250-8BITMIME", "250-PIPELINING", "250-SIZE 1000", "250-SMTPUTF8", "250 AUTH LOGIN PLAIN")
PLAIN_HELLO = ("250 host",)


def started(*hello: str, greeting: str = "220 host", **options: Any) -> ClientSession:
    """Return a session that has come as far as the reply to its EHLO."""
    session = ClientSession("me.example", **options)
    session.feed(lines(greeting, *hello))
    session.data_to_send()
    return session


def exchange(session: ClientSession, *replies: str) -> tuple[list[str], list[Any]]:
    """Have a server say `replies`; return the commands that this brings about, and the events."""
    events = session.feed(lines(*replies))
    return session.data_to_send().decode().split("\r\n")[:-1], events


def deliver(session: ClientSession, envelope: Envelope, *replies: str) -> Outcome:
    """Have a server say `replies` while `envelope` is handed over, and return what becomes of it."""
    events = session.deliver(envelope)
    for reply in replies:
        session.data_to_send()
        events += session.feed(lines(reply))
    outcomes = [event for event in events if isinstance(event, Outcome)]
    assert len(outcomes) == 1
    assert outcomes[0].envelope is envelope
    return outcomes[0]


def finished(events: list[Any]) -> Any:
    """Return the error with which a session ended."""
    assert isinstance(events[-1], Finished)
    return events[-1].error


# The beginning


def test_client_says_nothing_before_it_is_greeted() -> None:
    session = ClientSession("me.example")
    session.deliver(LETTER)
    assert session.data_to_send() == b""
    assert session.expectation == "the greeting"


def test_client_says_ehlo_and_learns_what_is_offered() -> None:
    session = ClientSession("me.example")
    assert exchange(session, "220 host") == (["EHLO me.example"], [])
    assert exchange(session, "250-host hello", "250-size 10", "250 AUTH PLAIN LOGIN") == ([], [])
    assert session.extensions == {"SIZE": "10", "AUTH": "PLAIN LOGIN"}


@pytest.mark.parametrize("reply", ["500 5.5.1 what?", "502 no", "550 no"])
def test_client_says_helo_to_a_server_that_does_not_know_ehlo(reply: str) -> None:
    session = ClientSession("me.example")
    exchange(session, "220 host")
    assert exchange(session, reply) == (["HELO me.example"], [])
    session.deliver(Envelope("a@b", ("c@d",), b""))
    assert exchange(session, "250 host") == (["MAIL FROM:<a@b>"], [])


@pytest.mark.parametrize(
    ("greeting", "kind"),
    [("554 go away", PermanentFailure), ("421 busy", TemporaryFailure), ("450 x", TemporaryFailure)],
)
def test_greeting_that_refuses_ends_the_session_for_every_message(greeting: str, kind: type[Exception]) -> None:
    session = ClientSession("me.example")
    session.deliver(LETTER)
    session.deliver(LETTER)
    sent, events = exchange(session, greeting)
    assert type(finished(events)) is kind
    assert [type(event) for event in events] == [Outcome, Outcome, Finished]
    assert sent == ([] if greeting.startswith("421") else ["QUIT"])
    with pytest.raises(StateError):
        session.deliver(LETTER)
    assert session.feed(b"220 hello again\r\n") == []


def test_helo_that_is_refused_too_ends_the_session() -> None:
    session = ClientSession("me.example")
    exchange(session, "220 host", "500 what?")
    assert isinstance(finished(exchange(session, "550 no")[1]), PermanentFailure)


def test_name_that_is_none_is_a_mistake_of_this_program() -> None:
    with pytest.raises(LocalError):
        ClientSession("me.example\r\nQUIT")


# A message


def test_message_is_handed_over_step_by_step_where_there_is_no_pipelining() -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(LETTER)
    assert session.data_to_send() == b"MAIL FROM:<from@example.org>\r\n"
    assert exchange(session, "250 ok") == (["RCPT TO:<one@example.org>"], [])
    assert exchange(session, "250 ok") == (["RCPT TO:<two@example.org>"], [])
    assert exchange(session, "250 ok") == (["DATA"], [])
    assert exchange(session, "354 go ahead") == (["text", "."], [])
    assert session.expectation == "the reply to the message"
    reply = Reply(250, "queued", "2.0.0")
    assert exchange(session, "250 2.0.0 queued") == ([], [Outcome(LETTER, LETTER.recipients, {}, {}, reply)])
    assert session.expectation == ""


def test_sender_and_recipients_go_together_where_there_is_pipelining() -> None:
    session = started("250-host", "250 PIPELINING")
    session.deliver(LETTER)
    assert session.data_to_send() == lines(
        "MAIL FROM:<from@example.org>", "RCPT TO:<one@example.org>", "RCPT TO:<two@example.org>"
    )
    assert exchange(session, "250 a", "250 b") == ([], [])
    assert exchange(session, "250 c") == (["DATA"], [])


def test_size_is_told_where_it_is_wanted() -> None:
    session = started("250-host", "250 SIZE")
    session.deliver(Envelope("", ("a@b",), b".\n\n"))
    assert session.data_to_send() == b"MAIL FROM:<> SIZE=5\r\n"


def test_message_that_the_server_calls_too_large_is_not_even_begun() -> None:
    session = started("250-host", "250 SIZE 5")
    outcome = deliver(session, LETTER)
    assert session.data_to_send() == b""
    assert [str(error) for error in outcome.permanent.values()] == [
        "the message has 6 bytes, and the server takes 5"
    ] * 2
    session.deliver(Envelope("", ("a@b",), b"abc\r\n"))
    assert session.data_to_send() == b"MAIL FROM:<> SIZE=5\r\n"


@pytest.mark.parametrize("limit", ["0", "", "many", "-1", "\u0664"])
def test_size_that_is_no_limit_limits_nothing(limit: str) -> None:
    session = started("250-host", f"250 SIZE {limit}")
    session.deliver(LETTER)
    assert session.data_to_send() == b"MAIL FROM:<from@example.org> SIZE=6\r\n"


def test_eight_bits_are_announced() -> None:
    session = started("250-host", "250 8BITMIME")
    session.deliver(Envelope("", ("a@b",), b"Subject: x\r\n\r\n\xff\r\n"))
    assert session.data_to_send() == b"MAIL FROM:<> BODY=8BITMIME\r\n"


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("ä@b", ("c@d",), b""),
        Envelope("a@b", ("c@ö.example",), b""),
        Envelope("a@b", ("c@d",), "Subject: ü\r\n\r\ntext".encode()),
    ],
)
def test_smtputf8_is_asked_for_where_addresses_or_header_need_it(envelope: Envelope) -> None:
    session = started(*FULL)
    session.deliver(envelope)
    assert b" SMTPUTF8\r\n" in session.data_to_send()
    outcome = deliver(started("250-host", "250 8BITMIME"), envelope)
    assert [type(error) for error in outcome.permanent.values()] == [MissingExtension]


def test_eight_bits_are_not_sent_to_a_server_that_cannot_take_them() -> None:
    outcome = deliver(started(*PLAIN_HELLO), Envelope("", ("a@b",), b"x: y\r\n\r\n\xff"))
    (error,) = outcome.permanent.values()
    assert isinstance(error, MissingExtension)
    assert "8BITMIME" in str(error)


def test_dots_are_put_in_and_lines_are_ended() -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(Envelope("", ("a@b",), b".\n..\rx\n."))
    session.feed(lines("250 ok", "250 ok"))
    session.data_to_send()
    session.feed(lines("354 go"))
    assert session.data_to_send() == b"..\r\n...\r\nx\r\n..\r\n.\r\n"


def test_recipient_who_stands_there_twice_is_told_once() -> None:
    outcome = deliver(started(*PLAIN_HELLO), Envelope("", ("a@b", "a@b"), b""), *["250 x"] * 2, "354 x", "250 x")
    assert outcome.delivered == ("a@b",)


@pytest.mark.parametrize(
    "envelope",
    [
        Envelope("a", ("c@d",), b""),
        Envelope("a@b>\r\nDATA", ("c@d",), b""),
        Envelope("a@b", (), b""),
        Envelope("a@b", "c@d", b""),  # type: ignore[arg-type]
        Envelope("a@b", ("c@d", ""), b""),
        Envelope("a@b", ("<c@d>",), b""),
        Envelope("a@b", ("@x:c@d",), b""),
        Envelope("a@b", ("c@d",), b"x" * 999),
        Envelope("a@b", ("c@d",), b"a\0b"),
        Envelope("a@b", ("c@d",), "text"),  # type: ignore[arg-type]
        Envelope("a@b", ("c@d",), None),  # type: ignore[arg-type]
        Envelope("a@b", ("c@d",), 7),  # type: ignore[arg-type]
        Envelope("a@b", None, b""),  # type: ignore[arg-type]
        Envelope("a@b", b"c@d", b""),  # type: ignore[arg-type]
        Envelope("a@b", (None,), b""),  # type: ignore[arg-type]
        Envelope("a@b", (["c@d"],), b""),  # type: ignore[arg-type]
        Envelope(None, ("c@d",), b""),  # type: ignore[arg-type]
        Envelope(b"a@b", ("c@d",), b""),  # type: ignore[arg-type]
    ],
)
def test_message_that_cannot_be_sent_at_all_is_a_mistake_of_this_program(envelope: Envelope) -> None:
    session = started(*PLAIN_HELLO)
    with pytest.raises(LocalError):
        session.deliver(envelope)
    assert session.data_to_send() == b""
    assert deliver(session, LETTER, "250 a", "250 b", "250 c", "354 d", "250 e").delivered == LETTER.recipients


@pytest.mark.parametrize(
    ("envelope", "words"),
    [
        (Envelope(None, ("c@d",), b""), "is text, and not None"),  # type: ignore[arg-type]
        (Envelope("a@b", ("c@d",), "text"), "is bytes, and no str"),  # type: ignore[arg-type]
        (Envelope("a@b", ("c@d",), b"\0"), "NUL"),
    ],
)
def test_mistake_in_an_envelope_is_named(envelope: Envelope, words: str) -> None:
    with pytest.raises(LocalError, match=words):
        started(*PLAIN_HELLO).deliver(envelope)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_content_may_be_whatever_holds_bytes(kind: Any) -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(Envelope("a@b", ("c@d",), kind(b"one\ntwo")))
    session.feed(lines("250 ok", "250 ok"))
    session.data_to_send()
    session.feed(lines("354 go"))
    assert session.data_to_send() == b"one\r\ntwo\r\n.\r\n"


def test_line_of_998_bytes_is_sent() -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(Envelope("", ("a@b",), b"x" * 998))
    assert session.data_to_send() == b"MAIL FROM:<>\r\n"


# Refusals


@pytest.mark.parametrize("hello", [PLAIN_HELLO, ("250-host", "250 PIPELINING")])
def test_each_recipient_that_is_refused_is_reported_and_the_others_are_served(hello: tuple[str, ...]) -> None:
    letter = Envelope("a@b", ("1@x", "2@x", "3@x"), b"")
    replies = [
        "250 ok",
        "450 4.2.1 later",
        "550 5.1.1 unknown",
        "251 forwards",
        "354 go",
        "250 ok",
    ]
    outcome = deliver(started(*hello), letter, *replies)
    assert outcome.delivered == ("3@x",)
    assert {address: type(error) for address, error in outcome.temporary.items()} == {"1@x": TemporaryFailure}
    assert {address: type(error) for address, error in outcome.permanent.items()} == {"2@x": PermanentFailure}
    error = outcome.permanent["2@x"]
    assert error.reply == Reply(550, "unknown", "5.1.1")
    assert str(error) == "the recipient <2@x> is refused: 550 5.1.1 unknown"


@pytest.mark.parametrize("hello", [PLAIN_HELLO, ("250-host", "250 PIPELINING")])
def test_nothing_is_sent_where_all_recipients_are_refused_and_the_session_goes_on(hello: tuple[str, ...]) -> None:
    session = started(*hello)
    events = session.deliver(LETTER)
    sent, more = exchange(session, "250 ok", "550 no", "450 later")
    outcome = (events + more)[-1]
    assert (outcome.delivered, list(outcome.permanent), list(outcome.temporary)) == (
        (),
        *map(list, zip(LETTER.recipients)),
    )
    assert sent[-1] == "RSET"
    session.deliver(LETTER)
    assert exchange(session, "250 ok")[0][0] == "MAIL FROM:<from@example.org>"


@pytest.mark.parametrize(
    ("hello", "replies"),
    [(PLAIN_HELLO, ["550 5.7.1 not you"]), (("250-host", "250 PIPELINING"), ["550 5.7.1 not you", "503 x", "503 x"])],
)
def test_sender_that_is_refused_fails_every_recipient_and_the_session_goes_on(
    hello: tuple[str, ...], replies: list[str]
) -> None:
    session = started(*hello)
    outcome = deliver(session, LETTER, *replies)
    assert {str(error) for error in outcome.permanent.values()} == {
        "the sender <from@example.org> is refused: 550 5.7.1 not you"
    }
    assert session.data_to_send() == b"RSET\r\n"
    assert deliver(session, LETTER, *["250 ok"] * 4, "354 go", "250 ok").delivered == LETTER.recipients


@pytest.mark.parametrize(("reply", "kind"), [("452 4.3.1 full", "temporary"), ("554 5.7.1 spam", "permanent")])
@pytest.mark.parametrize("go_ahead", [[], ["354 go"]])
def test_message_that_is_refused_before_or_behind_its_content_fails_those_who_were_left(
    go_ahead: list[str], reply: str, kind: str
) -> None:
    session = started(*PLAIN_HELLO)
    outcome = deliver(session, LETTER, "250 ok", "550 no", "250 ok", *go_ahead, reply)
    assert outcome.delivered == ()
    assert set(outcome.permanent) | set(outcome.temporary) == set(LETTER.recipients)
    assert isinstance(getattr(outcome, kind)["two@example.org"], DeliveryError)
    assert str(outcome.permanent["one@example.org"]).endswith("550 no")


@pytest.mark.parametrize("behind", range(6))
def test_server_that_goes_down_is_a_temporary_failure_wherever_it_does(behind: int) -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(LETTER)
    replies = ["250 ok", "550 no", "250 ok", "354 go", "250 ok", "250 x"]
    first = exchange(session, *replies[:behind])[1]
    if behind == 5:
        assert first[0].delivered == ("two@example.org",)
        session.deliver(LETTER)
    events = exchange(session, "421 4.3.2 going down")[1]
    outcome = events[0]
    assert isinstance(finished(events), TemporaryFailure)
    assert isinstance(outcome.temporary["two@example.org"], TemporaryFailure)
    assert ("one@example.org" in outcome.permanent) is (behind in (2, 3, 4))


def test_connection_that_is_lost_is_a_temporary_failure_for_all_that_is_left() -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(LETTER)
    session.deliver(LETTER)
    session.quit()
    exchange(session, "250 ok", "550 no")
    reason = PeerClosed("the peer closed the connection")
    first, second, end = session.abandon(reason)
    assert isinstance(first, Outcome)
    assert isinstance(second, Outcome)
    assert (list(first.permanent), first.temporary) == (["one@example.org"], {"two@example.org": reason})
    assert second.temporary == dict.fromkeys(LETTER.recipients, reason)
    assert end == Finished(reason)
    assert session.abandon(reason) == []


# Nonsense


@pytest.mark.parametrize(
    "replies",
    [
        ["hello"], ["250-host", "550 what"], ["350 what"], [*PLAIN_HELLO, "250 unasked for"],
        ["250 host\n250 host"], ["999 x"], ["250 " + "x" * 5000],
    ],
)  # fmt: skip
def test_nonsense_ends_the_session_with_an_error_that_says_so(replies: list[str]) -> None:
    session = ClientSession("me.example")
    session.feed(lines("220 host"))
    error = finished(session.feed(lines(*replies)))
    assert type(error) is ProtocolError
    assert str(error).isprintable()
    assert len(str(error)) < 400


@pytest.mark.parametrize(
    "replies", [["354 x"], ["250 x", "354 x"], ["250 x"] * 3 + ["250 x"], ["250 x"] * 3 + ["354 x"] * 2]
)
def test_reply_that_answers_something_else_ends_the_session(replies: list[str]) -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(LETTER)
    events = session.feed(lines(*replies))
    assert type(finished(events)) is ProtocolError
    assert set(events[0].temporary) == set(LETTER.recipients)


def test_what_a_server_says_is_quoted_on_one_line() -> None:
    session = ClientSession("me.example")
    error = finished(session.feed(b"554-\x1b[31m\xff\r\n554 " + b"x" * 3000 + b"\r\n"))
    assert str(error).isprintable()
    assert len(str(error)) < 300


def test_server_that_refuses_without_being_asked_ends_the_session() -> None:
    session = started(*PLAIN_HELLO)
    assert isinstance(finished(session.feed(lines("421 idle for too long"))), TemporaryFailure)


# AUTH


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def test_password_is_not_sent_where_others_can_listen() -> None:
    with pytest.raises(LocalError, match="listen"):
        ClientSession("me.example", credentials=ANNA)


@pytest.mark.parametrize("options", [{"is_secure": True}, {"allows_plaintext_authentication": True}])
def test_client_authenticates_with_the_best_mechanism(options: dict[str, bool]) -> None:
    session = ClientSession("me.example", credentials=ANNA, **options)
    session.deliver(LETTER)
    exchange(session, "220 host")
    assert exchange(session, *FULL) == ([f"AUTH PLAIN {encoded(chr(0) + 'anna' + chr(0) + 'päss')}"], [])
    assert exchange(session, "235 welcome")[0][0].startswith("MAIL FROM:")


def test_client_authenticates_with_login_where_there_is_nothing_else() -> None:
    session = ClientSession("me.example", credentials=ANNA, is_secure=True)
    exchange(session, "220 host")
    assert exchange(session, "250-host", "250 AUTH CRAM-MD5 login") == (["AUTH LOGIN"], [])
    assert exchange(session, "334 VXNlcm5hbWU6") == ([encoded("anna")], [])
    assert exchange(session, "334 UGFzc3dvcmQ6") == ([encoded("päss")], [])
    assert exchange(session, "235 welcome") == ([], [])


def test_response_that_makes_the_command_too_long_waits_for_its_challenge() -> None:
    session = ClientSession("me.example", credentials=Credentials("anna", "x" * 400), is_secure=True)
    exchange(session, "220 host")
    assert exchange(session, *FULL) == (["AUTH PLAIN"], [])
    assert exchange(session, "334 ") == ([encoded("\0anna\0" + "x" * 400)], [])
    assert exchange(session, "235 welcome") == ([], [])


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        (["535 5.7.8 wrong"], PermanentFailure),
        (["454 4.7.0 later"], TemporaryFailure),
        (["334 more"], ProtocolError),
    ],
)
def test_authentication_that_fails_ends_the_session(replies: list[str], kind: type[Exception]) -> None:
    session = ClientSession("me.example", credentials=ANNA, is_secure=True)
    session.deliver(LETTER)
    exchange(session, "220 host", *FULL)
    events = session.feed(lines(*replies))
    assert type(finished(events)) is kind
    assert "päss" not in str(finished(events))
    assert encoded("päss") not in str(finished(events))


def test_server_without_auth_is_given_no_mail_where_there_are_credentials() -> None:
    session = ClientSession("me.example", credentials=ANNA, is_secure=True)
    session.deliver(LETTER)
    events = session.feed(lines("220 host", *PLAIN_HELLO))
    assert isinstance(finished(events), MissingExtension)


# Encryption

SECURE = ("250-host", "250-STARTTLS", "250 AUTH PLAIN")


def encrypting(**options: Any) -> ClientSession:
    """Return a session that has been told to begin TLS, with a message."""
    session = ClientSession("me.example", starttls=True, **options)
    session.deliver(LETTER)
    assert exchange(session, "220 host") == (["EHLO me.example"], [])
    assert exchange(session, *SECURE) == (["STARTTLS"], [])
    assert exchange(session, "220 go") == ([], [StartTls()])
    return session


def test_client_encrypts_before_anything_else_and_asks_again_what_is_offered() -> None:
    session = encrypting(credentials=ANNA)
    session.secured()
    assert (session.extensions, session.data_to_send()) == ({}, b"EHLO me.example\r\n")
    assert exchange(session, "250-host", "250 AUTH LOGIN") == (["AUTH LOGIN"], [])


def test_client_without_starttls_does_not_say_it() -> None:
    session = ClientSession("me.example")
    session.deliver(LETTER)
    exchange(session, "220 host")
    assert exchange(session, *SECURE)[0] == ["MAIL FROM:<from@example.org>"]


@pytest.mark.parametrize("hello", [PLAIN_HELLO, ("250-host", "250 XSTARTTLS"), ("502 no", "250 host")])
def test_server_that_does_not_offer_encryption_is_given_nothing(hello: tuple[str, ...]) -> None:
    session = ClientSession("me.example", starttls=True, credentials=ANNA)
    session.deliver(LETTER)
    exchange(session, "220 host")
    commands, events = exchange(session, *hello)
    assert commands in ([], ["HELO me.example"])
    outcome, _ = events
    assert isinstance(finished(events), MissingExtension)
    assert set(outcome.permanent) == set(LETTER.recipients)
    assert "STARTTLS" in str(finished(events))


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("454 4.7.0 not now", TemporaryFailure),
        ("501 what?", PermanentFailure),
        ("250 ok", ProtocolError),
        ("354 go", ProtocolError),
        ("421 bye", TemporaryFailure),
    ],
)
def test_starttls_that_is_refused_ends_the_session(reply: str, kind: type[Exception]) -> None:
    session = ClientSession("me.example", starttls=True, credentials=ANNA)
    session.deliver(LETTER)
    exchange(session, "220 host", *SECURE)
    commands, events = exchange(session, reply)
    assert type(finished(events)) is kind
    assert commands in ([], ["QUIT"])


def test_what_comes_behind_the_reply_to_starttls_is_dropped_wherever_it_is_cut() -> None:
    injected = lines("250-evil", "250 AUTH LOGIN", "235 welcome") + b"250-half"
    for parts in every_way(lines("220 go") + injected):
        session = ClientSession("me.example", starttls=True, credentials=ANNA)
        session.deliver(LETTER)
        exchange(session, "220 host", *SECURE)
        events = [event for part in parts for event in session.feed(part)]
        assert (events, session.data_to_send()) == ([StartTls()], b"")
        if len(parts) == 1:
            assert session.dropped == len(injected)
        session.secured()
        assert session.data_to_send() == b"EHLO me.example\r\n"
        assert exchange(session, "250-host", "250 AUTH PLAIN")[0][0].startswith("AUTH PLAIN ")


def test_messages_and_the_end_wait_for_tls() -> None:
    session = encrypting()
    assert session.deliver(LETTER) == session.quit() == []
    assert session.data_to_send() == b""
    session.secured()
    assert session.data_to_send() == b"EHLO me.example\r\n"


def test_tls_that_fails_is_told_to_every_message() -> None:
    session = encrypting()
    lost = PeerClosed("gone")
    outcome, end = session.abandon(lost)
    assert isinstance(outcome, Outcome)
    assert outcome.temporary == dict.fromkeys(LETTER.recipients, lost)
    assert end == Finished(lost)
    with pytest.raises(StateError):
        session.secured()


def test_tls_that_the_session_did_not_want_is_a_mistake_of_this_program() -> None:
    session = started(*FULL)
    with pytest.raises(StateError):
        session.secured()


# The end


def test_client_quits_when_all_is_handed_over() -> None:
    session = started(*PLAIN_HELLO)
    session.deliver(LETTER)
    session.quit()
    exchange(session, "250 ok", "250 ok", "250 ok", "354 go")
    assert exchange(session, "250 ok")[0] == ["QUIT"]
    assert exchange(session, "221 bye") == ([], [Finished(None)])
    with pytest.raises(StateError):
        session.quit()


def test_nothing_can_be_delivered_behind_a_quit() -> None:
    session = ClientSession("me.example")
    session.quit()
    with pytest.raises(StateError):
        session.deliver(LETTER)
    with pytest.raises(StateError):
        session.quit()


def test_any_reply_to_quit_is_good_enough() -> None:
    session = started(*PLAIN_HELLO)
    session.quit()
    assert exchange(session, "550 you may not leave")[1] == [Finished(None)]


def test_idle_session_takes_the_next_message() -> None:
    session = started(*PLAIN_HELLO)
    for _ in range(3):
        assert deliver(session, LETTER, "250 a", "250 b", "250 c", "354 d", "250 e").delivered == LETTER.recipients


# Cut anywhere

SERVERS = {
    "all goes well": lines("220 host", *FULL, *["250 ok"] * 3, "354 go", "250-2.0.0 ok", "250 2.0.0 ok", "221 bye"),
    "old server": lines(
        "220 host", "500 what?", "250 host", "250 ok", "550 no", "250 ok", "354 go", "250 ok", "221 bye"
    ),
    "nobody": lines("220 host", *FULL, "250 ok", "550 no", "450 no", "250 ok", "221 bye"),
    "going down": lines("220 host", *FULL, "250 ok", "421 bye"),
    "nonsense": lines("220 host", *FULL, "250 ok", "what?", "421 bye"),
    "refused": lines("554-no", "554 way", "221 bye"),
}


def run(parts: list[bytes]) -> tuple[list[str], bytes]:
    """Give `parts` to a session with one message; return its events in words, and what it sends."""
    session = ClientSession("me.example")
    events = session.deliver(LETTER) + session.quit()
    sent = session.data_to_send()
    for part in parts:
        events += session.feed(part)
        sent += session.data_to_send()
    return [repr(event) for event in events], sent


@pytest.mark.parametrize("name", SERVERS)
def test_session_is_the_same_cut_at_every_byte(name: str) -> None:
    expected = run([SERVERS[name]])
    assert expected[0]
    for parts in every_way(SERVERS[name]):
        assert run(parts) == expected


replies = st.lists(
    st.sampled_from(["220 x", "250 x", "250-x", "250 PIPELINING", "354 x", "421 x", "450 x", "550 x", "221 x", "what"]),
    max_size=15,
)


@steady
@given(replies.map(lambda said: lines(*said)) | st.binary(max_size=100), cuts)
def test_any_bytes_give_the_same_outcome_wherever_they_are_cut(stream: bytes, places: list[int]) -> None:
    events, sent = run(pieces(stream, places))
    assert (events, sent) == run([stream])
    assert len(sent) < 400


@steady
@given(replies.map(lambda said: lines(*said)) | st.binary(max_size=100))
def test_every_message_has_one_outcome_whatever_the_server_says(stream: bytes) -> None:
    session = ClientSession("me.example")
    session.deliver(LETTER)
    session.deliver(LETTER)
    session.quit()
    events = session.feed(stream) + session.abandon(PeerClosed("gone"))
    assert [type(event) for event in events] == [Outcome, Outcome, Finished]
    for outcome in events[:2]:
        assert isinstance(outcome, Outcome)
        told = [*outcome.delivered, *outcome.temporary, *outcome.permanent]
        assert sorted(told) == sorted(LETTER.recipients)
        assert all(isinstance(error, RemoteError) for error in outcome.temporary.values())
