"""The grammar of SMTP commands: paths, parameters, domains (RFC 5321 section 4.1, RFC 6531). No I/O."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any

from reactor.errors import LocalError

LONGEST_LOCAL_PART = 64
LONGEST_DOMAIN = 255
LONGEST_PATH = 256
"""Bytes, with the brackets (RFC 5321, section 4.5.3.1)."""
LONGEST_SIZE = 20
"""Digits of a SIZE (RFC 1870, section 4)."""

# What is beyond ASCII may stand in all of them. Classes that name what may not stand there are compiled thirty times as
# fast as those with "\u0080-\U0010ffff" in them, and every program that imports this compiles them.
_ATOM = r'[^\0- "(),.:;<>@\[\\\]\x7f]+'
_QUOTED = r'"(?:[^\0-\x1f"\\\x7f]|\\[ -~])*"'
_LETTER_OR_DIGIT = r"[^\0-/:-@\[-`{-\x7f]"
_LABEL = rf"{_LETTER_OR_DIGIT}(?:[^\0-,./:-@\[-`{{-\x7f]*{_LETTER_OR_DIGIT})?"
_NAME = rf"{_LABEL}(?:\.{_LABEL})*"
_LITERAL = r"\[[!-Z^-~]+\]"
_LOCAL_PART = rf"{_ATOM}(?:\.{_ATOM})*|{_QUOTED}"

_MAILBOX = re.compile(rf"(?P<local>{_LOCAL_PART})@(?P<domain>{_NAME}|{_LITERAL})")
_ROUTE = re.compile(rf"@{_NAME}(?:,@{_NAME})*:")
_QUOTED_OR_NOT = re.compile(rf"<(?P<path>(?:{_QUOTED}|[^\"<>])*)>(?P<rest>.*)")
_KEYWORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]*")
_VALUE = re.compile(r"[^\0- =\x7f]+")
_HOSTNAME = re.compile(rf"{_NAME}|{_LITERAL}")
_CLIENT_NAME = re.compile(r"[!-~]{1,255}")
_LITERAL_TAG = re.compile(r"(?P<tag>[A-Za-z0-9-]*[A-Za-z0-9]):(?P<rest>.+)")


class Malformed(ValueError):
    """What stands in a command is not what the grammar asks for; the text says why."""


class MalformedPath(Malformed):
    """It is the path that is wrong."""


def split_path(argument: str, keyword: str) -> tuple[str, str]:
    """Return what stands between the brackets, and what stands behind them, of ``FROM:<path> rest``.

    A space behind the colon is let pass: it is a mistake of many clients, and can mean nothing else.

    Raises:
        Malformed: it looks otherwise.
    """
    if argument[: len(keyword)].upper() != keyword:
        raise Malformed(f"it goes {keyword}<address>")
    match = _QUOTED_OR_NOT.fullmatch(argument[len(keyword) :].lstrip(" "))
    if match is None:
        raise MalformedPath(f"it goes {keyword}<address>, with the brackets")
    if match["rest"] and not match["rest"].startswith(" "):
        raise Malformed("a space belongs behind the bracket")
    if len(match["path"].encode("utf-8", "replace")) > LONGEST_PATH - len("<>"):
        raise MalformedPath(f"the path is longer than {LONGEST_PATH} bytes")
    return match["path"], match["rest"]


def parse_mailbox(path: str) -> str:
    """Return the mailbox in `path`. The route of relays in front of it, which is obsolete, is left out.

    Raises:
        Malformed: there is none.
    """
    route = _ROUTE.match(path)
    mailbox = path[route.end() :] if route else path
    match = _MAILBOX.fullmatch(mailbox)
    if match is None:
        raise MalformedPath("this is no mailbox; one looks like somebody@example.org")
    if not mailbox.isprintable():
        raise MalformedPath("there are characters in it that cannot be seen")
    if len(match["local"].encode()) > LONGEST_LOCAL_PART:
        raise MalformedPath(f"the part in front of the @ is longer than {LONGEST_LOCAL_PART} bytes")
    if len(match["domain"].encode()) > LONGEST_DOMAIN:
        raise MalformedPath(f"the domain is longer than {LONGEST_DOMAIN} bytes")
    if match["domain"].startswith("["):
        _check_literal(match["domain"][1:-1])
    return mailbox


def _check_literal(literal: str) -> None:
    """Raise Malformed where `literal` is no address: ``192.0.2.1``, ``IPv6:2001:db8::1`` or ``tag:something``."""
    tagged = _LITERAL_TAG.fullmatch(literal)
    try:
        if tagged is None:
            ipaddress.IPv4Address(literal)
        elif tagged["tag"].upper() == "IPV6":
            ipaddress.IPv6Address(tagged["rest"])
    except ValueError:
        raise MalformedPath("this is no address literal; one looks like [192.0.2.1] or [IPv6:2001:db8::1]") from None


def parse_recipient(path: str) -> str:
    """Return the mailbox in `path`, or ``"Postmaster"`` as it is written there: it needs no domain.

    Raises:
        Malformed: there is none.
    """
    return path if path.upper() == "POSTMASTER" else parse_mailbox(path)


def parse_sender(path: str) -> str:
    """Return the mailbox in `path`; ``""`` where there is none, as in reports about mail that was not delivered.

    Raises:
        Malformed: there is something else.
    """
    return parse_mailbox(path) if path else ""


def parse_parameters(rest: str) -> dict[str, str]:
    """Return the parameters in `rest` of a command, by their names in capitals; ``""`` for one without a value.

    Raises:
        Malformed: they are none, or one stands there twice.
    """
    found: dict[str, str] = {}
    for word in rest.split(" "):
        if not word:
            continue
        keyword, equals, value = word.partition("=")
        if not _KEYWORD.fullmatch(keyword) or (equals and not _VALUE.fullmatch(value)) or not value.isprintable():
            raise Malformed("parameters look like KEYWORD or KEYWORD=value")
        if keyword.upper() in found:
            raise Malformed(f"{keyword.upper()} stands there twice")
        found[keyword.upper()] = value
    return found


def parse_size(parameters: Mapping[str, str]) -> int:
    """Return the bytes that the parameter SIZE announces; 0 where there is none.

    Raises:
        Malformed: it is no number.
    """
    text = parameters.get("SIZE", "0")
    if not (text.isascii() and text.isdigit()) or len(text) > LONGEST_SIZE:
        raise Malformed("SIZE is a number of bytes")
    return int(text)


def parse_client_name(argument: str) -> str:
    """Return what a client calls itself. Too many call themselves wrongly to be strict about it.

    Raises:
        Malformed: there is no name, or more than one.
    """
    if not _CLIENT_NAME.fullmatch(argument):
        raise Malformed("it takes a domain or an address literal")
    return argument


def check_hostname(name: str) -> str:
    """Return `name`, which this program calls itself.

    Raises:
        LocalError: it is neither a domain nor an address literal.
    """
    if not name.isascii() or not _HOSTNAME.fullmatch(name):
        raise LocalError(f"{name!r} is no name for a host; give a domain, or an address literal as [192.0.2.1]")
    return name


def literal_of(address: Any) -> str:
    """Return how a host calls itself that has no better name than the `address` of its socket."""
    if not isinstance(address, tuple):
        return "localhost"  # a Unix socket
    host = str(address[0]).partition("%")[0]
    return f"[IPv6:{host}]" if ":" in host else f"[{host}]"
