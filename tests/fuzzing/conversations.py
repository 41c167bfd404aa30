"""Conversations in Telnet and SMTP, good ones and bad ones, from which the fuzzer begins."""

from __future__ import annotations

from collections.abc import Iterable

from tests.fuzzing.decisions import BYTE_BY_BYTE, IN_THREE, WHOLE, string

CUTTINGS = (WHOLE, BYTE_BY_BYTE, IN_THREE)


def bytes_of(conversation: str) -> bytes:
    """Return what stands in hexadecimal digits, with names and text in quotes between them."""
    return b"".join(word[1:].encode() if word.startswith("'") else bytes.fromhex(word) for word in conversation.split())


def lines(*texts: str) -> bytes:
    """Return `texts` as lines on the wire."""
    return b"".join(f"{text}\r\n".encode() for text in texts)


# Telnet

SAID_BY_A_TERMINAL = bytes_of(
    "'anna 0d0a fffb1f fffa1f00ffff0032fff0 fffb18 fffa1800 'XTERM fff0 fff4 fff2 fffd06 'q 0d00"
)
SAID_BY_A_HOST = bytes_of("fffb03 fffd18 fffd1f fffa1801fff0 fffd27 fffd00 fffb00 fffb01 'login: fffa1801fff0")
SAID_BY_NOBODY = bytes_of(
    "fffa1805ff07ffff 'xxxxxxxxxxxxxxxxxxxxxx fff0 ff00 fff0 fffafff0 fffa18fffb03 fffa1800 0a fff0 'a-long-line ff"
)
PARTICULARS = b"\x50\0\x18" + b"a\r\xff\n"
"""Of an act: the size of a window, and some data."""
ACTS = [bytes([kind, option]) + PARTICULARS for kind in range(8) for option in (0, 3, 4)]
"""As `any_act` reads them."""


def telnet() -> Iterable[bytes]:
    act, hear = b"\0", b"\x01"
    for cutting in CUTTINGS:
        for role, said, acts in ((b"\0", SAID_BY_A_TERMINAL, ACTS[:12]), (b"\x01", SAID_BY_A_HOST, ACTS[12:])):
            heard = hear + string(said)
            yield role + b"\x01\0" + cutting + heard + b"".join(act + each for each in acts) + heard
    yield b"\0\x02\x01" + IN_THREE + hear + string(SAID_BY_A_TERMINAL) + hear + string(SAID_BY_NOBODY)


def telnet_link() -> Iterable[bytes]:
    acts = [side + b"\0" + act for side in (b"\0", b"\x01") for act in ACTS]
    carried = b"\0\x02\x05" + b"\x01\x02\x05"
    yield b"".join(acts)
    yield carried.join(acts)
    yield b"".join(acts[:6]) + carried + b"".join(acts[30:36]) + carried.join(acts[6:20])


# SMTP

HELLO = lines("EHLO client.example")
ADDRESSED = lines(
    "MAIL FROM:<from@example.org> SIZE=20 BODY=8BITMIME", "RCPT TO:<to@example.org>", "RCPT TO:<other@example.org>"
)
CONTENT = lines("DATA", "Subject: test", "", "..dot", "text", ".")
PLAIN = lines("AUTH PLAIN AGFubmEAc2VjcmV0")
LOGIN = lines("AUTH LOGIN", "YW5uYQ==", "c2VjcmV0")
CANCELLED = lines("AUTH PLAIN", "*")
SMUGGLING = lines("DATA", "text", ".", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "two", ".", "QUIT")
ENDS = (b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n.\r", b"\r\n.\0\r\n", b"\r\n.\r\n", b"\r\n..\r\n")
OPEN, SMALL = b"\0\0\0\0", b"\x01\0\0\0"
"""Limits, when AUTH is offered, whether it is required, and whether the channel is secure."""
WITH_AUTH, SMALL_WITH_AUTH = b"\0\x02\x01\0", b"\x01\x02\0\x01"
YES, AT_ONCE, LATE = b"\0", b"\0", b"\x02"


def smtp_server() -> Iterable[bytes]:
    for cutting in CUTTINGS:
        mail = ADDRESSED + CONTENT
        yield OPEN + YES + LATE + cutting + HELLO + mail * 2 + lines("QUIT")
        yield WITH_AUTH + string(b"\0\x01\x02\x03\0") + LATE + cutting + HELLO + PLAIN + mail * 2
        yield SMALL_WITH_AUTH + string(b"\x01\0\0\x04") + LATE + cutting + HELLO + CANCELLED + LOGIN + mail
    for end in ENDS:
        yield OPEN + YES + AT_ONCE + WHOLE + HELLO + ADDRESSED + SMUGGLING.replace(b"\r\n.\r\n", end, 1)
    for junk in (
        lines("GET / HTTP/1.1"),
        lines(*["STARTTLS"] * 8),
        b"\x0e" * 4 + lines("", "NOOP"),
        b"NOOP\nRSET\r\n",
        lines("HELP", "VRFY a", "EXPN a", *["NOOP"] * 6),
        lines("MAIL FROM:<a@b", "RCPT TO:<a@b>", "DATA x"),
    ):
        yield SMALL + YES + AT_ONCE + IN_THREE + junk + HELLO + ADDRESSED
    too_much = lines("RCPT TO:<third@x>", "DATA", "x" * 70, ".", "DATA", "y" * 30, ".")
    yield SMALL + YES + AT_ONCE + WHOLE + HELLO + ADDRESSED.replace(b" SIZE=20", b"") + too_much
    smuggled = lines("DATA", "text\r", ".", "MAIL FROM:<evil@example.org>", "RCPT TO:<a@b>", "DATA", "spam", ".")
    yield OPEN + YES + AT_ONCE + WHOLE + HELLO + ADDRESSED + smuggled
    endless = lines("DATA", *["x" * 10] * 20)
    yield SMALL + YES + AT_ONCE + IN_THREE + HELLO + ADDRESSED.replace(b" SIZE=20", b"") + endless
    beyond_ascii = lines("MAIL FROM:<j\u00fcrgen@example.org> SMTPUTF8", 'RCPT TO:<"a b"@[127.0.0.1]>')
    yield OPEN + YES + AT_ONCE + WHOLE + HELLO + beyond_ascii + CONTENT


GREETING = lines("220 host.example ESMTP")
OFFERS = lines(
    "250-host.example", "250-SIZE 5000", "250-8BITMIME", "250-PIPELINING", "250-AUTH PLAIN LOGIN", "250 SMTPUTF8"
)
TAKEN = lines("250 ok", "250 ok", "354 go on", "250 2.0.0 taken")
LETTERS = [bytes([0, number]) for number in range(6)]
LEAVE, HEAR, HEAR_THE_REST = b"\x03", b"\x05", b"\x04"
ANSWERS = (
    lines("421 no"),
    lines("554 no"),
    lines("450 5.1.1 no"),
    b"250 wrong\n",
    lines("SSH-2.0-x"),
    lines(*["250-x"] * 101),
    b"\x0e\x0e",
    lines("220-x", "250 x"),
    lines("354 x"),
)


def smtp_client() -> Iterable[bytes]:
    nobody, anna, long_password = b"\0", b"\x01", b"\x02"
    hello = GREETING + OFFERS
    for cutting in CUTTINGS:
        letters = LETTERS[0] + LETTERS[2] + LEAVE
        yield nobody + cutting + letters + HEAR_THE_REST + hello + TAKEN * 2 + lines("221 bye")
        half = HEAR + string(hello) + HEAR + string(lines("235 in", "250 ok", "250 one", "550 5.1.1 two"))
        other_half = HEAR_THE_REST + lines("450 three", "354 go on", "250 ok") + TAKEN
        yield anna + cutting + LETTERS[1] + half + LETTERS[3] + other_half
        letters = LETTERS[4] + LETTERS[5] + LEAVE
        refused = lines("550 no", "550 no", "250 ok")
        yield long_password + cutting + letters + HEAR_THE_REST + hello + lines("334 ", "235 ") + refused + TAKEN
        old = lines("220 old", "500 what", "250 old")
        yield nobody + cutting + b"".join(LETTERS) + LEAVE + HEAR_THE_REST + old + TAKEN * 6
    for answer in ANSWERS:
        for before in (b"", hello, hello + TAKEN[:-17]):
            yield nobody + WHOLE + LETTERS[0] + HEAR_THE_REST + before + answer + TAKEN
