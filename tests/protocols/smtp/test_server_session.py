"""The server's session: each rule of the standard, each limit, each way in which a client can misbehave."""

from __future__ import annotations

import base64
import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.commands import COMMANDS, LONGEST_MAIL
from protocols.smtp.envelope import Envelope
from protocols.smtp.limits import SessionLimits
from protocols.smtp.mechanisms import Credentials
from protocols.smtp.questions import Encryption, Ended, Recipient, Sender, StartTls
from protocols.smtp.replies import Reply, ReplyDecoder
from protocols.smtp.server_session import Authentication, ServerSession
from protocols.smtp.states import MEANINGS, STATES, TRANSITIONS, follow
from reactor import LocalError, StateError
from tests.properties import cuts, every_way, peak_memory, pieces, steady
from tests.protocols.smtp.talking import addressed, greeted, lines, talk, talk_in_pieces
from tests.protocols.smtp.test_lines import SMUGGLED

ALWAYS = Authentication.ALWAYS
FROM, TO = "MAIL FROM:<from@example.org>", "RCPT TO:<to@example.org>"
NOBODY = Reply(550, "no such user here", "5.1.1")


def said(session: ServerSession, *commands: str) -> list[str]:
    """Say `commands`, all of them at once, and return the first words of the lines that come back."""
    _, sent = talk(session, lines(*commands))
    return sent.decode().splitlines()


def codes(session: ServerSession, *commands: str) -> list[str]:
    """Say `commands`, and return the codes, plain and enhanced, that come back."""
    return [f"{reply.code} {reply.status}".strip() for reply in read(talk(session, lines(*commands))[1])]


def read(sent: bytes) -> list[Reply]:
    """Return the replies in `sent`."""
    decoder = ReplyDecoder()
    decoder.feed(sent)
    found = list(iter(decoder.next_reply, None))
    assert decoder.failure is None
    return found


def secret(*parts: str) -> str:
    return base64.b64encode("\0".join(parts).encode()).decode()


# The beginning


def test_greeting_names_the_host_and_has_no_enhanced_code() -> None:
    assert ServerSession("host.example").data_to_send() == b"220 host.example ESMTP\r\n"


def test_what_was_sent_once_is_not_sent_again() -> None:
    session = ServerSession("host.example")
    session.data_to_send()
    assert session.data_to_send() == b""


def test_ehlo_says_what_is_offered() -> None:
    session = ServerSession("host.example", limits=SessionLimits(maximum_message=12345))
    session.data_to_send()
    assert said(session, "EHLO client.example") == [
        "250-host.example",
        "250-8BITMIME",
        "250-ENHANCEDSTATUSCODES",
        "250-HELP",
        "250-PIPELINING",
        "250-SIZE 12345",
        "250 SMTPUTF8",
    ]


def test_helo_offers_nothing() -> None:
    session = ServerSession("host.example")
    session.data_to_send()
    assert said(session, "HELO client.example") == ["250 host.example"]


@pytest.mark.parametrize("verb", ["HELO", "EHLO"])
def test_client_has_to_say_its_name(verb: str) -> None:
    session = ServerSession("host.example")
    session.data_to_send()
    assert codes(session, verb, f"{verb} two words", FROM) == ["501 5.5.4", "501 5.5.4", "503 5.5.1"]


def test_name_that_is_no_hostname_is_a_mistake_of_this_program() -> None:
    with pytest.raises(LocalError):
        ServerSession("host.example\r\n250 ok")


@pytest.mark.parametrize("command", [FROM, TO, "DATA", f"AUTH PLAIN {secret('', 'a', 'b')}"])
def test_mail_needs_a_hello(command: str) -> None:
    session = ServerSession("host.example", authentication=ALWAYS)
    session.data_to_send()
    assert said(session, command) == ["503 5.5.1 say HELO or EHLO first"]


def test_rset_noop_vrfy_help_and_quit_need_no_hello() -> None:
    session = ServerSession("host.example")
    session.data_to_send()
    assert codes(session, "RSET", "NOOP", "VRFY x", "HELP", "QUIT") == [
        "250 2.0.0", "250 2.0.0", "252 2.5.0", "214 2.0.0", "221 2.0.0",
    ]  # fmt: skip


def test_verbs_and_keywords_may_be_written_in_any_case() -> None:
    session = ServerSession("host.example")
    session.data_to_send()
    wanted = ["250", "250 2.1.0", "250 2.1.5", "250 2.0.0"]
    assert codes(session, "eHlO x", "mail from:<a@b> size=1 Body=8bitMime", "rcpt To:<c@d>", "rset") == wanted


def test_verb_is_not_recognised_by_letters_that_only_look_right_in_capitals() -> None:
    assert codes(greeted(), "r\u017fet", "help", "qu\u0131t") == ["500 5.5.1", "214 2.0.0", "500 5.5.1"]


def test_white_space_in_front_of_the_end_of_a_line_is_let_pass() -> None:
    wanted = ["250 2.0.0", "250 2.1.0", "250 2.1.5", "250 2.0.0", "250", "221 2.0.0"]
    assert codes(greeted(), "NOOP  ", FROM + "  ", TO + "  ", "RSET  ", "EHLO x  ", "QUIT  ") == wanted


# A message


def test_message_comes_with_all_that_was_said_about_it() -> None:
    session = ServerSession("host.example", peer=("192.0.2.1", 1234))
    events, _ = talk(
        session,
        lines("EHLO client.example", "MAIL FROM:<from@example.org> SIZE=9 BODY=8BITMIME", TO,
              "RCPT TO:<other@example.org>", "DATA", "text", "..", "."),
    )  # fmt: skip
    options = {"SIZE": "9", "BODY": "8BITMIME"}
    recipients = ("to@example.org", "other@example.org")
    assert events == [
        Sender("from@example.org", options),
        Recipient(recipients[0]),
        Recipient(recipients[1]),
        Envelope(
            "from@example.org", recipients, b"text\r\n.\r\n", options, ("192.0.2.1", 1234), "client.example", "ESMTP"
        ),
    ]


def test_replies_are_those_of_the_standard() -> None:
    session = greeted()
    assert said(session, FROM, TO, "DATA", "text", ".", "QUIT") == [
        "250 2.1.0 sender ok",
        "250 2.1.5 recipient ok",
        "354 go ahead; a dot on a line of its own ends the message",
        "250 2.0.0 message accepted",
        "221 2.0.0 good bye",
    ]


def test_one_session_takes_many_messages_and_forgets_each() -> None:
    session = greeted()
    for number in range(3):
        events, _ = talk(session, lines(f"MAIL FROM:<{number}@a>", f"RCPT TO:<{number}@b>", "DATA", str(number), "."))
        envelope = events[-1]
        assert (envelope.sender, envelope.recipients, envelope.content) == (
            f"{number}@a", (f"{number}@b",), b"%d\r\n" % number,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("verb", "options", "secure", "protocol"),
    [
        ("HELO", "", False, "SMTP"),
        ("EHLO", "", False, "ESMTP"),
        ("EHLO", "", True, "ESMTPS"),
        ("EHLO", " SMTPUTF8", False, "UTF8SMTP"),
    ],
)
def test_envelope_says_how_the_message_came(verb: str, options: str, secure: bool, protocol: str) -> None:
    session = greeted(verb, is_secure=secure)
    events, _ = talk(session, lines(FROM + options, TO, "DATA", "."))
    assert events[-1].protocol == protocol


def test_envelope_says_who_has_authenticated() -> None:
    session = greeted(authentication=ALWAYS)
    events, _ = talk(session, lines(f"AUTH PLAIN {secret('', 'anna', 'x')}", FROM, TO, "DATA", "."))
    assert (events[-1].user, events[-1].protocol) == ("anna", "ESMTPA")


def test_sender_may_be_nobody_and_postmaster_needs_no_domain() -> None:
    events, _ = talk(greeted(), lines("MAIL FROM:<>", "RCPT TO:<Postmaster>", "DATA", "."))
    assert (events[-1].sender, events[-1].recipients, events[-1].content) == ("", ("Postmaster",), b"")


def test_route_of_a_path_is_left_out() -> None:
    events, _ = talk(greeted(), lines("MAIL FROM:<@x,@y:a@b>", "RCPT TO:<@x:c@d>"))
    assert events == [Sender("a@b"), Recipient("c@d")]


def test_names_of_sender_and_recipient_are_kept_as_they_are() -> None:
    events, _ = talk(greeted(), lines('MAIL FROM:<"A b"@Example.ORG>', "RCPT TO:<X+y@[IPv6:::1]>"))
    assert events == [Sender('"A b"@Example.ORG'), Recipient("X+y@[IPv6:::1]")]


# Order


def test_recipient_needs_a_sender_and_data_needs_both() -> None:
    assert said(greeted(), TO, "DATA") == ["503 5.5.1 say MAIL first", "503 5.5.1 say MAIL first"]
    assert codes(greeted(), FROM, "DATA") == ["250 2.1.0", "554 5.5.1"]


def test_second_sender_is_refused_and_changes_nothing() -> None:
    session = addressed()
    assert said(session, "MAIL FROM:<other@example.org>") == ["503 5.5.1 there is a message under way"]
    events, _ = talk(session, lines("DATA", "."))
    assert events[-1].sender == "from@example.org"


@pytest.mark.parametrize("command", ["RSET", "EHLO again.example", "HELO again.example"])
def test_rset_and_hello_forget_the_message_that_is_under_way(command: str) -> None:
    session = addressed()
    assert codes(session, command)[0].startswith("250")
    assert codes(session, TO) == ["503 5.5.1"]
    assert codes(session, FROM, "DATA") == ["250 2.1.0", "554 5.5.1"]


@pytest.mark.parametrize("commands", [["RSET"], ["EHLO x"], ["DATA", "."], ["DATA", "a\nb", "."], ["QUIT"]])
def test_message_that_is_over_takes_no_memory_and_leaves_nothing_to_be_seen(commands: list[str]) -> None:
    def over() -> ServerSession:
        session = addressed()
        assert session.transaction.recipients == ["to@example.org"]
        if "DATA" in commands:
            talk(session, lines("DATA"))
            for _ in range(1000):
                session.feed(b"y" * 998 + b"\r\n")
        talk(session, lines(*commands[1:] or commands))
        assert session.transaction.recipients == []
        return session

    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        session = over()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 100_000
    del session


@pytest.mark.parametrize("command", ["NOOP", "NOOP with words", "VRFY somebody", "HELP", "HELP MAIL"])
def test_noop_vrfy_and_help_leave_the_message_that_is_under_way(command: str) -> None:
    session = addressed()
    said(session, command)
    events, _ = talk(session, lines("DATA", "."))
    assert isinstance(events[-1], Envelope)


@pytest.mark.parametrize("command", ["RSET x", "DATA x", "QUIT x"])
def test_commands_without_arguments_take_none_and_do_nothing_then(command: str) -> None:
    session = addressed()
    assert codes(session, command, "NOOP", "DATA") == ["501 5.5.4", "250 2.0.0", "354"]


def test_quit_ends_the_session_and_what_comes_behind_it_is_dropped() -> None:
    session = greeted()
    events, sent = talk(session, lines("QUIT", "NOOP", FROM))
    assert (events, sent) == ([Ended()], b"221 2.0.0 good bye\r\n")
    assert talk(session, lines("NOOP") * 1000) == ([], b"")
    assert session.end(NOBODY) == []
    assert session.data_to_send() == b""


def test_vrfy_tells_nothing_and_needs_a_name() -> None:
    assert codes(greeted(), "VRFY root", "VRFY nobody", "VRFY") == ["252 2.5.0", "252 2.5.0", "501 5.5.4"]


def test_help_names_the_commands() -> None:
    (line,) = said(greeted(), "HELP")
    assert line == "214 2.0.0 the commands are HELO EHLO STARTTLS AUTH MAIL RCPT DATA RSET NOOP VRFY HELP QUIT"


@pytest.mark.parametrize("command", ["EXPN list", "TURN", "ETRN x", "BDAT 10 LAST", "SAML FROM:<a@b>", "STARTTLS"])
def test_commands_of_other_standards_are_not_implemented(command: str) -> None:
    assert codes(greeted(), command) == ["502 5.5.1"]


@pytest.mark.parametrize("command", ["", " ", "HELLO", "MAILFROM:<a@b>", "NOO", "*", "\ufeffNOOP", " NOOP", "\0"])
def test_what_is_no_command_is_not_recognised(command: str) -> None:
    assert codes(greeted(), command) == ["500 5.5.1"]


# Encryption

OFFERED, ACTIVE = Encryption.OFFERED, Encryption.ACTIVE


def test_starttls_is_offered_until_there_is_tls() -> None:
    session = ServerSession("host.example", encryption=OFFERED)
    assert "250 STARTTLS" in said(session, "EHLO client.example")
    assert talk(session, lines("STARTTLS")) == ([StartTls()], b"220 2.0.0 ready for TLS\r\n")
    session.secured()
    assert session.data_to_send() == b""  # there is no second greeting
    assert codes(session, "STARTTLS", "MAIL FROM:<a@b>") == ["503 5.5.1"] * 2
    assert not any("STARTTLS" in line for line in said(session, "EHLO client.example"))
    assert codes(session, "STARTTLS") == ["503 5.5.1"]


def test_starttls_takes_no_argument_and_needs_ehlo_and_no_message_under_way() -> None:
    assert codes(greeted(encryption=OFFERED), "STARTTLS now") == ["501 5.5.4"]
    assert codes(ServerSession("host.example", encryption=OFFERED), "STARTTLS") == ["220", "503 5.5.1"]
    assert codes(greeted("HELO", encryption=OFFERED), "STARTTLS") == ["503 5.5.1"]
    assert codes(addressed(encryption=OFFERED), "STARTTLS") == ["503 5.5.1"]


def test_starttls_over_tls_is_refused_and_without_tls_it_is_not_implemented() -> None:
    assert codes(greeted(encryption=ACTIVE), "STARTTLS") == ["503 5.5.1"]
    assert codes(greeted(), "STARTTLS") == ["502 5.5.1"]


def test_everything_that_was_said_in_front_of_tls_is_forgotten() -> None:
    session = greeted(encryption=OFFERED, authentication=ALWAYS)
    talk(session, lines(f"AUTH PLAIN {secret('', 'anna', 'pass')}", FROM, TO, "RSET"))
    assert session.user == "anna"
    talk(session, lines("STARTTLS"))
    session.secured()
    assert (session.user, session.client_name, session.offered, session.state.name) == ("", "", {}, "Fresh")
    assert codes(session, TO, "DATA") == ["503 5.5.1"] * 2


def test_what_is_pipelined_behind_starttls_is_dropped_and_counted_wherever_it_is_cut() -> None:
    behind = lines(FROM, TO, "DATA", "text", ".", "NOOP")
    for parts in every_way(lines("STARTTLS") + behind):
        session = greeted(encryption=OFFERED)
        assert talk_in_pieces(session, parts) == ([StartTls()], b"220 2.0.0 ready for TLS\r\n")
        if len(parts) == 1:
            assert session.dropped == len(behind)
        session.secured()
        assert talk(session, b"") == ([], b"")
        assert session.state.name == "Fresh"


def test_half_a_command_in_front_of_tls_does_not_become_a_whole_one_behind_it() -> None:
    session = greeted(encryption=OFFERED)
    talk(session, lines("STARTTLS") + b"MAIL FR")
    session.secured()
    assert codes(session, "NOOP") == ["250 2.0.0"]
    assert talk(greeted(encryption=OFFERED), lines("STARTTLS") + b"x" * 20000)[1].startswith(b"220 ")


def test_counts_of_mistakes_outlive_starttls() -> None:
    session = greeted(encryption=OFFERED, limits=SessionLimits(maximum_errors=2))
    talk(session, lines("MAIL", "MAIL", "STARTTLS"))
    session.secured()
    assert codes(session, "MAIL") == ["421 4.7.0"]


def test_tls_that_nobody_asked_for_is_a_mistake_of_this_program() -> None:
    session = greeted(encryption=OFFERED)
    with pytest.raises(StateError):
        session.secured()
    talk(session, lines("STARTTLS"))
    session.secured()
    with pytest.raises(StateError):
        session.secured()


def test_password_is_asked_for_over_tls_only() -> None:
    session = greeted(encryption=OFFERED, authentication=Authentication.WHEN_SECURE)
    assert "AUTH" not in session.offered
    assert codes(session, f"AUTH PLAIN {secret('', 'anna', 'pass')}") == ["538 5.7.11"]
    talk(session, lines("STARTTLS"))
    session.secured()
    assert "250 AUTH PLAIN LOGIN" in said(session, "EHLO client.example")
    assert codes(session, f"AUTH PLAIN {secret('', 'anna', 'pass')}") == ["235 2.7.0"]
    (_, _, envelope), _ = talk(session, lines(FROM, TO, "DATA", "text", "."))
    assert (envelope.protocol, envelope.user) == ("ESMTPSA", "anna")


def test_session_may_be_ended_while_tls_begins() -> None:
    session = greeted(encryption=OFFERED)
    talk(session, lines("STARTTLS"))
    assert session.end(NOBODY) == [Ended()]
    with pytest.raises(StateError):
        session.secured()


# Syntax


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("MAIL", "501 5.5.4"),
        ("MAIL FROM", "501 5.5.4"),
        ("MAIL TO:<a@b>", "501 5.5.4"),
        ("MAIL FROM:a@b", "501 5.1.7"),
        ("MAIL FROM:<a>", "501 5.1.7"),
        ("MAIL FROM:<a@b", "501 5.1.7"),
        ("MAIL FROM:<a@b@c>", "501 5.1.7"),
        ("MAIL FROM:<a@b>SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=x", "501 5.5.4"),
        ("MAIL FROM:<a@b> SIZE=1 SIZE=1", "501 5.5.4"),
        ("MAIL FROM:<a@b> BODY=BINARYMIME", "501 5.5.4"),
        ("MAIL FROM:<a@b> BODY", "501 5.5.4"),
        ("MAIL FROM:<a@b> SMTPUTF8=yes", "501 5.5.4"),
        ("MAIL FROM:<a@b> RET=FULL", "555 5.5.4"),
        ("MAIL FROM:<a@b> AUTH=<>", "555 5.5.4"),
        ("MAIL FROM:<\x01@b>", "501 5.5.4"),
        ("MAIL FROM:<ä@b>", "553 5.6.7"),
        ("NOOP \x7f", "501 5.5.4"),
        ("EHLO ä", "501 5.5.4"),
    ],
)
def test_mail_and_others_that_are_malformed_are_refused_with_the_code_for_it(command: str, expected: str) -> None:
    assert codes(greeted(), command) == [expected]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("RCPT", "501 5.5.4"),
        ("RCPT FROM:<a@b>", "501 5.5.4"),
        ("RCPT TO:<>", "501 5.1.3"),
        ("RCPT TO:a@b", "501 5.1.3"),
        ("RCPT TO:<a b@c>", "501 5.1.3"),
        ("RCPT TO:<a@b> NOTIFY=NEVER", "555 5.5.4"),
        ("RCPT TO:<ä@b>", "553 5.6.7"),
    ],
)
def test_recipient_that_is_malformed_is_refused_and_the_others_stay(command: str, expected: str) -> None:
    session = addressed()
    assert codes(session, command) == [expected]
    assert codes(session, "DATA") == ["354"]


def test_bytes_that_are_no_utf8_are_refused() -> None:
    assert read(talk(greeted(), b"MAIL FROM:<\xff@b>\r\n")[1])[0].code == 501


def test_parameters_need_the_extensions_that_ehlo_offers() -> None:
    session = greeted("HELO")
    assert codes(session, *(f"{FROM} {word}" for word in ("SIZE=1", "BODY=7BIT", "SMTPUTF8"))) == ["555 5.5.4"] * 3
    assert codes(session, FROM) == ["250 2.1.0"]


# SIZE


def test_message_that_is_announced_too_large_is_refused_at_once() -> None:
    session = greeted(limits=SessionLimits(maximum_message=100))
    assert codes(session, FROM + " SIZE=101", FROM + " SIZE=100") == ["552 5.3.4", "250 2.1.0"]


def test_message_that_is_too_large_is_read_to_its_end_and_refused_there() -> None:
    session = addressed(limits=SessionLimits(maximum_message=100))
    events, sent = talk(session, lines("DATA", *["x" * 48] * 4, ".", "NOOP"))
    assert events == []
    assert [reply.code for reply in read(sent)] == [354, 552, 250]


@pytest.mark.parametrize("behind", [b"", b".\r\nNOOP\r\n"])
def test_message_above_twice_the_size_is_refused_without_waiting_for_its_end_and_ends_the_session(
    behind: bytes,
) -> None:
    stream = lines("DATA", *["x" * 48] * 5) + behind
    for parts in every_way(stream):
        events, sent = talk_in_pieces(addressed(limits=SessionLimits(maximum_message=100)), parts)
        assert events == [Ended()]
        assert [(reply.code, reply.status) for reply in read(sent)] == [(354, ""), (552, "5.3.4")]


def test_dots_that_were_put_in_do_not_count_for_the_size() -> None:
    session = addressed(limits=SessionLimits(maximum_message=6))
    events, _ = talk(session, lines("DATA", "..", "..", "."))
    assert events[-1].content == b".\r\n.\r\n"


# 8BITMIME and SMTPUTF8


def test_eight_bits_come_through_whatever_was_announced() -> None:
    content = bytes(range(14, 256)) + b"\r\n"
    for option in ("", " BODY=7BIT", " BODY=8BITMIME"):
        events, _ = talk(greeted(), lines(FROM + option, TO, "DATA") + content + b".\r\n")
        assert events[-1].content == content


def test_addresses_beyond_ascii_are_taken_with_smtputf8_only() -> None:
    session = greeted()
    events, sent = talk(session, lines("MAIL FROM:<jürgen@bücher.example> SMTPUTF8", "RCPT TO:<用户@例子.公司>"))
    assert events == [Sender("jürgen@bücher.example", {"SMTPUTF8": ""}), Recipient("用户@例子.公司")]
    assert [reply.code for reply in read(sent)] == [250, 250]


# AUTH


def test_auth_is_neither_offered_nor_taken_by_default() -> None:
    session = ServerSession("host.example", is_secure=True)
    assert "AUTH" not in "".join(said(session, "EHLO x"))
    assert codes(session, f"AUTH PLAIN {secret('', 'a', 'b')}") == ["502 5.5.1"]


def test_auth_is_offered_on_a_secure_channel() -> None:
    session = ServerSession("host.example", authentication=Authentication.WHEN_SECURE, is_secure=True)
    assert said(session, "EHLO x")[-1] == "250 AUTH PLAIN LOGIN"
    assert codes(session, f"AUTH PLAIN {secret('', 'a', 'b')}") == ["235 2.7.0"]


def test_auth_in_the_clear_is_refused_unless_it_was_asked_for() -> None:
    session = ServerSession("host.example", authentication=Authentication.WHEN_SECURE)
    assert "AUTH" not in "".join(said(session, "EHLO x"))
    assert codes(session, f"AUTH PLAIN {secret('', 'a', 'b')}") == ["538 5.7.11"]


def test_auth_in_the_clear_is_offered_where_it_was_asked_for() -> None:
    session = ServerSession("host.example", authentication=ALWAYS)
    assert said(session, "EHLO x")[-1] == "250 AUTH PLAIN LOGIN"


def test_auth_needs_ehlo() -> None:
    assert codes(greeted("HELO", authentication=ALWAYS), f"AUTH PLAIN {secret('', 'a', 'b')}") == ["503 5.5.1"]


def test_auth_has_no_place_inside_a_message() -> None:
    assert codes(addressed(authentication=ALWAYS), f"AUTH PLAIN {secret('', 'a', 'b')}") == ["503 5.5.1"]


@pytest.mark.parametrize(
    ("dialogue", "challenges"),
    [
        ([f"AUTH PLAIN {secret('', 'anna', 'päss')}"], []),
        ([f"auth plain {secret('anna', 'anna', 'päss')}"], []),
        (["AUTH PLAIN", secret("", "anna", "päss")], ["334 "]),
        (["AUTH LOGIN", secret("anna"), secret("päss")], ["334 VXNlcm5hbWU6", "334 UGFzc3dvcmQ6"]),
        ([f"AUTH LOGIN {secret('anna')}", secret("päss")], ["334 UGFzc3dvcmQ6"]),
    ],
)
def test_name_and_password_are_asked_about_however_they_came(dialogue: list[str], challenges: list[str]) -> None:
    session = greeted(authentication=ALWAYS)
    events, sent = talk(session, lines(*dialogue))
    assert events == [Credentials("anna", "päss")]
    assert sent.decode().splitlines() == [*challenges, "235 2.7.0 welcome"]
    assert session.user == "anna"


def test_password_is_not_shown() -> None:
    assert "secret" not in repr(Credentials("anna", "secret"))


def test_wrong_password_leaves_the_client_nobody() -> None:
    session = greeted(authentication=ALWAYS)
    _, sent = talk(session, lines(f"AUTH PLAIN {secret('', 'a', 'b')}"), lambda _: Reply(535, "no", "5.7.8"))
    assert (sent, session.user) == (b"535 5.7.8 no\r\n", "")


def test_second_authentication_is_refused() -> None:
    session = greeted(authentication=ALWAYS)
    command = f"AUTH PLAIN {secret('', 'a', 'b')}"
    assert codes(session, command, command) == ["235 2.7.0", "503 5.5.1"]


def test_authentication_outlives_hello_and_rset() -> None:
    session = greeted(authentication=ALWAYS)
    said(session, f"AUTH PLAIN {secret('', 'a', 'b')}", "RSET", "EHLO x")
    assert session.user == "a"


@pytest.mark.parametrize("begun", ["AUTH PLAIN", "AUTH LOGIN", f"AUTH LOGIN {secret('anna')}"])
def test_client_may_cancel(begun: str) -> None:
    assert codes(greeted(authentication=ALWAYS), begun, "*", "NOOP")[1:] == ["501 5.7.0", "250 2.0.0"]


@pytest.mark.parametrize(
    ("dialogue", "expected"),
    [
        (["AUTH"], "504 5.5.4"),
        (["AUTH CRAM-MD5"], "504 5.5.4"),
        (["AUTH PLAIN ?"], "501 5.5.2"),
        (["AUTH PLAIN =A=="], "501 5.5.2"),
        (["AUTH PLAIN ="], "501 5.5.2"),
        (["AUTH PLAIN", ""], "501 5.5.2"),
        (["AUTH PLAIN", secret("a", "b")], "501 5.5.2"),
        (["AUTH PLAIN", secret("", "", "b")], "501 5.5.2"),
        (["AUTH PLAIN", secret("", "a", "")], "501 5.5.2"),
        (["AUTH PLAIN", secret("", "a", "b", "c")], "501 5.5.2"),
        (["AUTH PLAIN", secret("other", "a", "b")], "501 5.5.2"),
        (["AUTH PLAIN", secret("", "a\r\nb", "b")], "501 5.5.2"),
        (["AUTH PLAIN", base64.b64encode(b"\0\xff\0b").decode()], "501 5.5.2"),
        (["AUTH LOGIN", secret("a"), "ä"], "501 5.5.2"),
        (["AUTH LOGIN", secret("a"), ""], "501 5.5.2"),
        (["AUTH LOGIN", "", secret("b")], "501 5.5.2"),
        (["AUTH LOGIN", "x" * 13_000], "500 5.5.6"),
    ],
)
def test_authentication_that_is_malformed_is_refused_and_the_session_goes_on(
    dialogue: list[str], expected: str
) -> None:
    session = greeted(authentication=ALWAYS)
    assert codes(session, *dialogue, "NOOP")[-2:] == [expected, "250 2.0.0"]
    assert session.user == ""


def test_mail_can_be_left_to_those_who_have_authenticated() -> None:
    session = greeted(authentication=ALWAYS, requires_authentication=True)
    assert codes(session, FROM, f"AUTH PLAIN {secret('', 'a', 'b')}", FROM) == ["530 5.7.0", "235 2.7.0", "250 2.1.0"]


def test_somebody_else_is_vouched_for_only_by_those_who_have_authenticated() -> None:
    session = greeted(authentication=ALWAYS)
    events, _ = talk(session, lines(FROM + " AUTH=x+40y", "RSET", f"AUTH PLAIN {secret('', 'a', 'b')}"))
    assert events[0] == Sender("from@example.org", {})
    events, _ = talk(session, lines(FROM + " AUTH=x+40y", "RSET", FROM + " AUTH"))
    assert events == [Sender("from@example.org", {"AUTH": "x+40y"})]


# Verdicts


def test_sender_that_is_refused_is_forgotten() -> None:
    session = greeted()
    _, sent = talk(session, lines(FROM), lambda _: Reply(550, "not you", "5.7.1"))
    assert sent == b"550 5.7.1 not you\r\n"
    assert codes(session, TO, FROM) == ["503 5.5.1", "250 2.1.0"]


def test_recipient_that_is_refused_gets_nothing_and_the_others_do() -> None:
    def verdict(question: Any) -> Reply | None:
        return NOBODY if question == Recipient("no@example.org") else None

    events, sent = talk(greeted(), lines(FROM, "RCPT TO:<no@example.org>", TO, "DATA", "."), verdict)
    assert [reply.code for reply in read(sent)] == [250, 550, 250, 354, 250]
    assert events[-1].recipients == ("to@example.org",)


def test_data_is_refused_where_all_recipients_were() -> None:
    _, sent = talk(greeted(), lines(FROM, TO, "DATA"), lambda question: NOBODY if "to@" in str(question) else None)
    assert [reply.code for reply in read(sent)] == [250, 550, 554]


@pytest.mark.parametrize("reply", [Reply(554, "spam", "5.7.1"), Reply(451, "later", "4.3.0")])
def test_message_that_is_refused_is_forgotten(reply: Reply) -> None:
    session = addressed()
    _, sent = talk(session, lines("DATA", "."), lambda _: reply)
    assert read(sent)[-1] == reply
    assert codes(session, "DATA") == ["503 5.5.1"]


def test_acceptance_may_have_words_of_its_own() -> None:
    _, sent = talk(addressed(), lines("DATA", "."), lambda _: Reply(250, "queued as 17", "2.6.0"))
    assert sent.endswith(b"\r\n250 2.6.0 queued as 17\r\n")


@pytest.mark.parametrize("command", [FROM, "AUTH PLAIN " + secret("", "a", "b")])
def test_verdict_421_ends_the_session(command: str) -> None:
    session = greeted(authentication=ALWAYS)
    events, sent = talk(session, lines(command, "NOOP"), lambda _: Reply(421, "go away", "4.7.0"))
    assert events[-1] == Ended()
    assert sent == b"421 4.7.0 go away\r\n"


def test_answer_without_a_question_is_a_mistake_of_this_program() -> None:
    session = greeted()
    with pytest.raises(StateError, match="nothing was asked"):
        session.answer()


def test_answer_that_is_none_is_a_mistake_of_this_program_and_the_question_stays() -> None:
    session = greeted()
    session.feed(lines(FROM))
    with pytest.raises(LocalError, match="accepting"):
        session.answer(Reply(354, "go on"))
    assert session.answer() == []
    assert session.data_to_send() == b"250 2.1.0 sender ok\r\n"


# Answers that come later


def test_what_is_pipelined_behind_a_question_waits_for_the_answer() -> None:
    session = addressed()
    events = session.feed(lines("DATA", ".", "NOOP", FROM, "QUIT"))
    session.data_to_send()
    assert session.is_waiting
    assert session.feed(lines("NOOP")) == []
    assert session.data_to_send() == b""
    assert isinstance(events[-1], Envelope)
    assert session.answer() == [Sender("from@example.org")]
    assert [reply.code for reply in read(session.data_to_send())] == [250, 250]
    assert session.answer(NOBODY) == [Ended()]
    assert [reply.code for reply in read(session.data_to_send())] == [550, 221]


def test_input_that_waits_is_bounded() -> None:
    session = addressed(limits=SessionLimits(maximum_waiting_input=1000))
    session.feed(lines("DATA", "."))
    for _ in range(100):
        assert session.feed(b"x" * 10) == []
    session.data_to_send()
    assert session.feed(b"x") == [Ended()]
    assert read(session.data_to_send())[0].code == 421
    with pytest.raises(StateError):
        session.answer()


def test_session_may_be_ended_from_outside_in_every_state() -> None:
    going = Reply(421, "the service is going down", "4.3.2")
    beginnings: list[list[str]] = [
        [], ["EHLO x"], ["EHLO x", "AUTH LOGIN"], ["EHLO x", FROM], ["EHLO x", FROM, TO], ["EHLO x", FROM, TO, "DATA"],
    ]  # fmt: skip
    seen = set()
    for beginning, answered in itertools.product(beginnings, (True, False)):
        session = ServerSession("host.example", authentication=ALWAYS)
        talk(session, lines(*beginning[:-1]))
        events = session.feed(lines(*beginning[-1:]))
        if answered and events:
            session.answer()
        seen.add(session.state.name)
        session.data_to_send()
        assert session.end(going) == [Ended()]
        assert session.data_to_send() == going.encode()
        assert session.end(going) == []
        assert not session.is_waiting
    assert seen == {"Fresh", "Idle", "Challenged", "SenderAsked", "Addressing", "RecipientAsked", "Receiving"}


def test_each_state_has_its_timeout() -> None:
    limits = SessionLimits(command_timeout=1, message_timeout=20, answer_timeout=3, silence_timeout=4)
    session = greeted(limits=limits)
    timeouts = [(session.timeout, session.silence_timeout)]
    session.feed(lines(FROM))
    timeouts.append((session.timeout, session.silence_timeout))
    session.answer()
    talk(session, lines(TO, "DATA"))
    timeouts.append((session.timeout, session.silence_timeout))
    assert timeouts == [(1, 1), (3, 3), (20, 4)]


def test_steps_count_whole_commands_and_answers_and_not_bytes() -> None:
    session = greeted()
    before = session.steps
    for byte in b"NOOP\r":
        session.feed(bytes([byte]))
    assert session.steps == before
    session.feed(b"\n")
    assert session.steps == before + 1
    session.feed(lines(FROM))
    session.answer()
    assert session.steps == before + 3
    talk(session, lines(TO, "DATA"))
    before = session.steps
    session.feed(b"x\r\n" * 100)
    assert session.steps == before


# Limits


def test_command_line_has_at_most_512_bytes() -> None:
    session = greeted()
    longest = "NOOP " + "x" * (512 - 7)
    assert codes(session, longest, longest + "x", "NOOP") == ["250 2.0.0", "500 5.5.2", "250 2.0.0"]


def test_mail_may_be_longer_for_the_parameters_of_its_extensions() -> None:
    session = greeted(authentication=ALWAYS)
    start = "MAIL FROM:<a@b> SIZE=1 AUTH="
    longest = start + "x" * (LONGEST_MAIL - 2 - len(start))
    assert codes(session, longest + "x", longest) == ["500 5.5.2", "250 2.1.0"]


def test_line_of_an_authentication_has_at_most_12288_bytes() -> None:
    name = "a" * 9000
    session = greeted(authentication=ALWAYS)
    assert codes(session, f"AUTH PLAIN {secret('', name, 'b')}") == ["235 2.7.0"]
    session = greeted(authentication=ALWAYS)
    assert codes(session, f"AUTH PLAIN {secret('', name, 'b' * 1000)}", "NOOP") == ["500 5.5.2", "250 2.0.0"]


def test_line_that_never_ends_is_refused_at_its_limit_and_takes_no_memory() -> None:
    session = greeted()

    def flood() -> ServerSession:
        for _ in range(1000):
            session.feed(b"x" * 10_000)
        return session

    assert peak_memory(flood) < 200_000
    assert [reply.code for reply in read(session.data_to_send())] == [500]


@pytest.mark.parametrize("command", [b"NOOP\n", b"NO\nOP\r\n", b"NOOP\rX\r\n", b"NOOP\r\r\n", b"\nNOOP\r\n", b"\n"])
def test_command_with_a_cr_or_an_lf_alone_is_refused(command: bytes) -> None:
    _, sent = talk(greeted(), command)
    assert [(reply.code, reply.status) for reply in read(sent)] == [(500, "5.5.2")]


def test_commands_that_are_hidden_behind_an_lf_are_not_obeyed() -> None:
    events, sent = talk(greeted(), b"NOOP\nMAIL FROM:<a@b>\nRCPT TO:<c@d>\r\nNOOP\r\n")
    assert events == []
    assert [reply.code for reply in read(sent)] == [500, 250]


def test_text_line_has_at_most_1000_bytes() -> None:
    for length, code in ((998, 250), (999, 554)):
        _, sent = talk(addressed(), lines("DATA", "x" * length, "."))
        assert read(sent)[-1].code == code


def test_recipients_are_limited_and_those_who_were_taken_are_served() -> None:
    session = greeted(limits=SessionLimits(maximum_recipients=2))
    events, sent = talk(session, lines(FROM, "RCPT TO:<1@a>", "RCPT TO:<2@a>", "RCPT TO:<3@a>", "DATA", "."))
    assert [(reply.code, reply.status) for reply in read(sent)][3] == (452, "4.5.3")
    assert events[-1].recipients == ("1@a", "2@a")


def ends_after(session: ServerSession, command: str, verdict: Any = lambda _: None) -> tuple[int, Reply]:
    """Return after how many commands the session ends, and what it says then."""
    for number in range(2000):
        events, sent = talk(session, lines(command), verdict)
        if events and events[-1] == Ended():
            return number, read(sent)[-1]
    pytest.fail("the session goes on for ever")


@pytest.mark.parametrize(
    ("command", "limit", "words"),
    [
        ("RCPT TO:<a@b>", "maximum_errors", "too many errors"),
        ("MAIL FROM:a", "maximum_errors", "too many errors"),
        ("EXPN x", "maximum_errors", "too many errors"),
        ("NOOP\nNOOP", "maximum_errors", "too many errors"),
        ("XYZZY", "maximum_unrecognised", "too many commands that are none"),
        ("NOOP", "maximum_idle_commands", "too many commands without a message"),
        ("VRFY x", "maximum_idle_commands", "too many commands without a message"),
        ("HELP", "maximum_idle_commands", "too many commands without a message"),
        ("RSET", "maximum_idle_commands", "too many commands without a message"),
        ("EHLO x", "maximum_idle_commands", "too many commands without a message"),
    ],
)
def test_client_that_goes_on_and_on_is_shown_the_door(command: str, limit: str, words: str) -> None:
    number, reply = ends_after(greeted(limits=SessionLimits(**{limit: 7})), command)
    assert number == (7 if limit != "maximum_idle_commands" else 6)  # one went for the EHLO
    assert reply == Reply(421, words, "4.7.0")


def test_client_that_tries_names_out_is_shown_the_door() -> None:
    session = greeted(limits=SessionLimits(maximum_refused=7))
    talk(session, lines(FROM))
    assert ends_after(session, TO, lambda _: NOBODY) == (7, Reply(421, "too much had to be refused", "4.7.0"))


def test_what_is_refused_for_now_has_a_bound_of_its_own() -> None:
    session = greeted(limits=SessionLimits(maximum_refused=1, maximum_deferred=100))
    talk(session, lines(FROM))
    for _ in range(100):
        assert talk(session, lines(TO), lambda _: Reply(450, "later"))[1] == b"450 4.0.0 later\r\n"
    events, sent = talk(session, lines(TO), lambda _: Reply(450, "later"))
    assert (events[-1], sent) == (Ended(), b"421 4.7.0 too much had to be put off\r\n")


def test_client_that_goes_on_to_name_too_many_recipients_is_shown_the_door() -> None:
    session = greeted(limits=SessionLimits(maximum_recipients=2, maximum_deferred=7))
    talk(session, lines(FROM))
    assert ends_after(session, TO) == (2 + 7, Reply(421, "too much had to be put off", "4.7.0"))


def test_message_to_twice_as_many_recipients_as_are_taken_is_taken_for_half_of_them() -> None:
    recipients = [f"RCPT TO:<{number}@example.org>" for number in range(2 * SessionLimits().maximum_recipients)]
    events, sent = talk(greeted(), lines(FROM, *recipients, "DATA", "."))
    assert len(events[-1].recipients) == SessionLimits().maximum_recipients
    assert read(sent)[-1].code == 250


def test_client_that_tries_passwords_out_is_shown_the_door_and_a_message_does_not_help_it() -> None:
    session = greeted(authentication=ALWAYS, limits=SessionLimits(maximum_authentications=2))
    command = f"AUTH PLAIN {secret('', 'a', 'b')}"

    def verdict(question: Any) -> Reply | None:
        return Reply(535, "no", "5.7.8") if isinstance(question, Credentials) else None

    _, sent = talk(session, lines(command, command, FROM, TO, "DATA", ".", command), verdict)
    assert [reply.code for reply in read(sent)] == [535, 535, 250, 250, 354, 250, 421]


def test_authentication_that_is_cancelled_counts() -> None:
    session = greeted(authentication=ALWAYS, limits=SessionLimits(maximum_authentications=2))
    assert codes(session, *["AUTH LOGIN", "*"] * 2, "AUTH LOGIN")[-1] == "421 4.7.0"


def test_message_that_is_accepted_lets_the_other_counts_begin_anew() -> None:
    session = greeted(limits=SessionLimits(maximum_errors=3, maximum_idle_commands=3, maximum_refused=3))
    for _ in range(20):
        wanted = ["503 5.5.1", "503 5.5.1", "250 2.0.0", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"]
        assert codes(session, TO, "DATA", "NOOP", FROM, TO, "DATA", ".") == wanted


@pytest.mark.parametrize("request_line", ["GET / HTTP/1.1", "POST /x HTTP/1.1", "CONNECT host:25 HTTP/1.1", "get /"])
def test_browser_is_shown_the_door_before_it_can_say_more(request_line: str) -> None:
    session = ServerSession("host.example")
    events, _ = talk(session, lines(request_line, "Host: x", "", "EHLO x", FROM, TO, "DATA", "spam", "."))
    assert events == [Ended()]


@pytest.mark.parametrize("value", [0, -1, 1.5, "1", None])
def test_limit_that_makes_no_sense_is_a_mistake_of_this_program(value: Any) -> None:
    with pytest.raises(LocalError, match="maximum_errors"):
        SessionLimits(maximum_errors=value)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", None])
def test_timeout_that_makes_no_sense_is_a_mistake_of_this_program(value: Any) -> None:
    with pytest.raises(LocalError, match="answer_timeout"):
        SessionLimits(answer_timeout=value)


def test_text_line_with_no_room_is_a_mistake_of_this_program() -> None:
    with pytest.raises(LocalError, match="maximum_text_line"):
        SessionLimits(maximum_text_line=2)


# Smuggling


@pytest.mark.parametrize("false_end", SMUGGLED, ids=repr)
def test_smuggled_message_is_never_a_message_of_its_own(false_end: bytes) -> None:
    hidden = lines("MAIL FROM:<evil@example.org>", TO, "DATA", "spam")
    stream = lines("DATA") + b"text" + false_end + hidden + b"\r\n.\r\n"
    for parts in every_way(stream) if len(false_end) < 4 else [[stream]]:
        events, sent = talk_in_pieces(addressed(), parts)
        (event,) = events
        assert event == Ended() or b"MAIL FROM:<evil@example.org>" in event.content
        assert [reply.code for reply in read(sent)] == [354, 554 if event == Ended() else 250]


DOUBTFUL = [
    b"\r\r\n.\r\n", b"\n\r\n.\r\n", b"\r.\r\n\r\n.\r\n", b"\r.\r\r\n.\r\n", b"\n.\n\r\n.\r\n", b"\r\n.\r\r\n.\r\n",
    b"\r\n.\0\r\n.\r\n", b"\0\r\n.\r\n",
]  # fmt: skip
"""Ends of a message, where somebody in front of the server may see none, or one that stands elsewhere."""


@pytest.mark.parametrize("end", DOUBTFUL, ids=repr)
def test_nothing_is_obeyed_behind_a_message_whose_end_others_may_see_elsewhere(end: bytes) -> None:
    hidden = lines("MAIL FROM:<evil@example.org>", TO, "DATA", "spam", ".")
    for parts in every_way(lines("DATA") + b"text" + end + hidden):
        session = addressed()
        events, sent = talk_in_pieces(session, parts)
        assert events == [Ended()]
        assert [reply.code for reply in read(sent)] == [354, 554]
        assert talk(session, hidden) == ([], b"")


def test_message_with_a_cr_or_an_lf_alone_is_refused_as_a_whole() -> None:
    for bare in (b"\n", b"\r"):
        events, sent = talk(addressed(), b"DATA\r\none" + bare + b"two\r\n.\r\n")
        assert events == [Ended()]
        assert read(sent)[-1] == Reply(554, "lines end with CRLF; a CR or an LF alone is not accepted", "5.6.0")


def test_message_with_a_nul_is_refused_as_a_whole() -> None:
    events, sent = talk(addressed(), b"DATA\r\none\0two\r\n.\r\n")
    assert events == [Ended()]
    assert read(sent)[-1] == Reply(554, "a NUL has no place in a message", "5.6.0")


# Cut anywhere

DIALOGUES = {
    "a message": lines("EHLO x", FROM, TO, "DATA", "text", "..", "..x", "", ".", "QUIT"),
    "two messages": lines("HELO x", FROM, TO, "DATA", "1", ".", FROM, TO, TO, "DATA", ".", "QUIT"),
    "authentication": lines("EHLO x", "AUTH LOGIN", secret("a"), secret("b"), FROM, TO, "DATA", "."),
    "cancelled": lines("EHLO x", "AUTH PLAIN", "*", "AUTH PLAIN =", "NOOP"),
    "mistakes": lines("MAIL", "EHLO", "EHLO x", "RCPT", FROM, "RCPT TO:<>", "DATA", "XYZZY", "NOOP\nx", "\rNOOP"),
    "a bad content": lines("EHLO x", FROM, TO, "DATA", "a\nb", ".", "NOOP"),
    "a long line": lines("EHLO x", FROM, TO, "DATA", "x" * 999, ".", "NOOP"),
    "a browser": b"GET / HTTP/1.1\r\nHost: x\r\n\r\nEHLO x\r\n",
    "refusals": lines("EHLO x", "MAIL FROM:<no@b>", FROM, "RCPT TO:<no@b>", "DATA", TO, "DATA", "no", "."),
}  # fmt: skip


def no_means_no(question: Any) -> Reply | None:
    """Refuse whatever has `no` in it."""
    if isinstance(question, Envelope):
        return NOBODY if question.content == b"no\r\n" else None
    return NOBODY if "no@" in str(question) else None


@pytest.mark.parametrize("name", DIALOGUES)
def test_session_is_the_same_cut_at_every_byte(name: str) -> None:
    expected = talk_in_pieces(ServerSession("host.example", authentication=ALWAYS), [DIALOGUES[name]], no_means_no)
    for parts in every_way(DIALOGUES[name]):
        session = ServerSession("host.example", authentication=ALWAYS)
        assert talk_in_pieces(session, parts, no_means_no) == expected


words = st.sampled_from(
    [b"EHLO x", b"HELO x", FROM.encode(), TO.encode(), b"DATA", b".", b"RSET", b"NOOP", b"QUIT", b"AUTH LOGIN",
     b"AUTH PLAIN ", b"YQ==", b"AGEAYg==", b"*", b"MAIL FROM:<", b"SIZE=10", b"VRFY", b"HELP", b" ", b"..", b"text",
     b"\xff\0", b"<no@b>"]
)  # fmt: skip
ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""])
dialogues = st.lists(st.tuples(words, ends).map(b"".join), max_size=30).map(b"".join)
TIGHT = SessionLimits(maximum_message=30, maximum_recipients=2, maximum_text_line=12, maximum_errors=6)


@steady
@given(dialogues | st.binary(max_size=200), cuts, st.booleans())
def test_any_bytes_give_the_same_events_and_replies_wherever_they_are_cut(
    stream: bytes, places: list[int], is_tight: bool
) -> None:
    def run(parts: list[bytes]) -> tuple[list[Any], bytes]:
        options: dict[str, Any] = {"limits": TIGHT} if is_tight else {}
        session = ServerSession("host.example", authentication=ALWAYS, **options)
        return talk_in_pieces(session, parts, no_means_no)

    events, sent = run(pieces(stream, places))
    assert (events, sent) == run([stream])
    assert len(sent) < 2000 + 60 * stream.count(b"\r\n") + 200 * stream.upper().count(b"E")
    read(sent)


@steady
@given(dialogues)
def test_each_line_that_is_a_command_gets_one_reply(stream: bytes) -> None:
    session = ServerSession("host.example", authentication=ALWAYS)
    session.data_to_send()
    for line in stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n"):
        if session.state.name in ("Ended", "Receiving"):
            break
        _, sent = talk(session, line + b"\r\n")
        assert len(read(sent)) == 1


# The table


def test_every_transition_of_the_table_leads_to_a_state_that_there_is() -> None:
    named = {state for state, _ in TRANSITIONS} | set(TRANSITIONS.values())
    assert named == set(STATES) == set(MEANINGS)
    for name in named - {"Ended"}:
        assert TRANSITIONS[name, "close"] == "Ended"


def test_transition_that_stands_in_no_table_is_refused() -> None:
    with pytest.raises(StateError, match="'mail' is not possible for a session that is Receiving"):
        follow("Receiving", "mail")


def test_commands_make_sense_in_states_that_there_are() -> None:
    for command in COMMANDS.values():
        assert command.states <= set(STATES)


@steady
@given(st.lists(dialogues, max_size=5))
def test_every_transition_that_happens_stands_in_the_table(streams: list[bytes]) -> None:
    session = ServerSession("host.example", authentication=ALWAYS)
    for stream in streams:
        talk(session, stream, no_means_no)  # raises StateError where one does not
