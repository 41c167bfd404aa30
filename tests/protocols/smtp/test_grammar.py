"""Paths, mailboxes, parameters and names: what the grammar of RFC 5321 and RFC 6531 takes, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.smtp.grammar import (
    Malformed,
    MalformedPath,
    check_hostname,
    literal_of,
    parse_client_name,
    parse_mailbox,
    parse_parameters,
    parse_recipient,
    parse_sender,
    parse_size,
    split_path,
)
from reactor import LocalError
from tests.properties import steady


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("FROM:<a@b>", ("a@b", "")),
        ("from:<a@b>", ("a@b", "")),
        ("FROM: <a@b>", ("a@b", "")),
        ("FROM:<>", ("", "")),
        ("FROM:<> SIZE=1 BODY=7BIT", ("", " SIZE=1 BODY=7BIT")),
        ('FROM:<"a>b <c"@d> X', ('"a>b <c"@d', " X")),
    ],
)
def test_path_stands_between_brackets(argument: str, expected: tuple[str, str]) -> None:
    assert split_path(argument, "FROM:") == expected


@pytest.mark.parametrize(
    "argument",
    ["", "FROM", "TO:<a@b>", "FROM:", "FROM:a@b", "FROM:<a@b", "FROM:a@b>", "FROM:<a@b>SIZE=1", "FROM:<a@b>>",
     "FROM:<<a@b>>", 'FROM:<"a@b>', "FROM :<a@b>", "FROM:<" + "a" * 300 + ">"],
)  # fmt: skip
def test_path_without_keyword_or_brackets_is_refused(argument: str) -> None:
    with pytest.raises(Malformed):
        split_path(argument, "FROM:")


MAILBOXES = [
    "a@b", "a.b@c.d", "a+b@example.org", "o'neil@example.org", "!#$%&'*+-/=?^_`{|}~@x", '"a b"@c', '"a\\"b"@c',
    '"<>,:@"@c', '""@c', "a@[192.0.2.1]", "a@[IPv6:2001:db8::1]", "a@[ipv6:::1]", "a@[tag:anything]", "a@1.2.example",
    "a@xn--bcher-kva.example", "ä@bücher.example", "用户@例子.公司", "x" * 64 + "@y", "a@b-c.d--e",
]  # fmt: skip


@pytest.mark.parametrize("mailbox", MAILBOXES)
def test_mailbox_is_taken_as_it_is(mailbox: str) -> None:
    assert parse_mailbox(mailbox) == parse_sender(mailbox) == parse_recipient(mailbox) == mailbox


@pytest.mark.parametrize(
    "path",
    ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a..b@c", ".a@b", "a.@b", "a@.b", "a@b.", "a@b..c", "a@-b", "a@b-",
     "a@b_c", "a,b@c", "a(b)@c", '"a@b', 'a"b"@c', '"a"b@c', '"a\tb"@c', "a@[192.0.2.256]", "a@[192.0.2]", "a@[]",
     "a@[IPv6:2001::db8::1]", "a@[IPv6:192.0.2.1]", "a@[::1]", "a@192.0.2.1]", "a@[a b]", "x" * 65 + "@y",
     "ä" * 33 + "@y", "a\u2028@b", "a\u0085@b", "a@b\u00a0c", "a\u200b@b", "\ud800@b"],
)  # fmt: skip
def test_what_is_no_mailbox_is_refused(path: str) -> None:
    with pytest.raises(MalformedPath):
        parse_mailbox(path)


def test_domain_that_is_too_long_is_refused() -> None:
    label = "x" * 60
    assert parse_mailbox("a@" + ".".join([label] * 4))
    with pytest.raises(MalformedPath, match="longer than 255"):
        parse_mailbox("a@" + ".".join([label] * 5))


@pytest.mark.parametrize("path", ["@relay:a@b", "@one.example,@two.example:a@b"])
def test_route_in_front_of_a_mailbox_is_left_out(path: str) -> None:
    assert parse_mailbox(path) == "a@b"


@pytest.mark.parametrize("path", ["@:a@b", "@x,y:a@b", "@x a@b", "@x:", "@x,:a@b"])
def test_route_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(MalformedPath):
        parse_mailbox(path)


def test_sender_may_be_empty_and_a_recipient_may_not() -> None:
    assert parse_sender("") == ""
    with pytest.raises(MalformedPath):
        parse_recipient("")


@pytest.mark.parametrize("name", ["Postmaster", "postmaster", "POSTMASTER"])
def test_postmaster_needs_no_domain_as_a_recipient(name: str) -> None:
    assert parse_recipient(name) == name
    with pytest.raises(MalformedPath):
        parse_sender(name)


def test_parameters_are_found_by_names_in_capitals() -> None:
    assert parse_parameters(" SIZE=10  body=8bitmime SMTPUTF8 X-y=<&> ") == {
        "SIZE": "10",
        "BODY": "8bitmime",
        "SMTPUTF8": "",
        "X-Y": "<&>",
    }
    assert parse_parameters("") == {}


@pytest.mark.parametrize("rest", ["=", "=x", "A=", "A=b=c", "A-=", "-A", "A_B", "A=\u2028", "A=1 a=2", "ä", "A=b\tc"])
def test_parameters_that_are_none_or_stand_there_twice_are_refused(rest: str) -> None:
    with pytest.raises(Malformed):
        parse_parameters(rest)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("10", 10), ("9" * 20, 10**20 - 1)])
def test_size_is_a_number_of_up_to_twenty_digits(text: str, size: int) -> None:
    assert parse_size({"SIZE": text}) == size
    assert parse_size({}) == 0


@pytest.mark.parametrize("text", ["", "x", "-1", "+1", "1.0", "1e3", "٣", "²", "0x10", "1_0", "9" * 21])
def test_size_that_is_no_number_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        parse_size({"SIZE": text})


@pytest.mark.parametrize("name", ["example.org", "[192.0.2.1]", "localhost", "MY_PC", "x" * 255])
def test_client_may_call_itself_what_it_likes_in_one_word(name: str) -> None:
    assert parse_client_name(name) == name


@pytest.mark.parametrize("name", ["", "a b", "ä", "a\x7f", "x" * 256])
def test_client_that_calls_itself_nothing_or_several_things_is_refused(name: str) -> None:
    with pytest.raises(Malformed):
        parse_client_name(name)


@pytest.mark.parametrize("name", ["localhost", "mail.example.org", "[192.0.2.1]", "[IPv6:::1]"])
def test_name_of_this_host_is_a_domain_or_a_literal(name: str) -> None:
    assert check_hostname(name) == name


@pytest.mark.parametrize("name", ["", "a b", "a\r\nQUIT", "ä.example", "a_b", "[]"])
def test_name_of_this_host_that_is_none_is_a_mistake_of_this_program(name: str) -> None:
    with pytest.raises(LocalError):
        check_hostname(name)


@steady
@given(st.text(max_size=60) | st.text('<>"@.,:\\[] aä-', max_size=60))
def test_any_text_is_taken_or_refused_and_never_fails_otherwise(text: str) -> None:
    for parse in (parse_sender, parse_recipient, parse_parameters, parse_client_name):
        try:
            parse(text)
        except Malformed:
            pass
    try:
        split_path("FROM:" + text, "FROM:")
    except Malformed:
        pass


@pytest.mark.parametrize("hostile", ["a" * 10_000, "a." * 5000, "a-" * 5000, '"' + "\\a" * 5000, "a@" + "a-" * 5000,
                                     "@a," * 3000, "a@[" + "x:" * 5000])  # fmt: skip
def test_no_text_takes_long_to_refuse(hostile: str) -> None:
    # With a limit for the whole test, and a thousand times the length that a command can have.
    for parse in (parse_sender, parse_recipient, parse_parameters):
        for end in ("", "!", "@", "\\", '"', ">", "\0"):
            try:
                parse(hostile + end)
            except Malformed:
                pass


@pytest.mark.parametrize(
    ("address", "literal"),
    [
        (("192.0.2.1", 25), "[192.0.2.1]"),
        (("2001:db8::1", 25, 0, 0), "[IPv6:2001:db8::1]"),
        (("fe80::1%eth0", 25, 0, 2), "[IPv6:fe80::1]"),
        ("/run/mail", "localhost"),
        (b"\0abstract", "localhost"),
    ],
)
def test_host_without_a_name_calls_itself_by_its_address(address: object, literal: str) -> None:
    assert check_hostname(literal_of(address)) == literal
