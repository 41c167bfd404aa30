"""The commands of SMTP, as a server's session obeys them, and the table in which they stand."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from . import wording
from .grammar import (
    Malformed,
    MalformedPath,
    parse_client_name,
    parse_parameters,
    parse_recipient,
    parse_sender,
    parse_size,
    split_path,
)
from .lines import CRLF, LineFault
from .mechanisms import MECHANISMS, Credentials, decode_response
from .questions import Encryption, Recipient, Sender
from .replies import Reply

if TYPE_CHECKING:
    from .server_session import ServerSession

LONGEST_COMMAND = 512
"""Bytes of a command with its CRLF (RFC 5321, section 4.5.3.1.4)."""
LONGEST_MAIL = LONGEST_COMMAND + 26 + 17 + 10 + 500
"""SIZE, BODY, SMTPUTF8 and AUTH make a MAIL longer (RFC 1870, 6152, 6531, 4954)."""
LONGEST_RESPONSE = 12288
"""Bytes of a line in an AUTH with its CRLF (RFC 4954, section 4.3)."""

NEEDED_FOR = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "AUTH": "AUTH"}
"""The parameters of MAIL, and the extensions that they belong to."""
BODIES = ("7BIT", "8BITMIME")

NOT_IMPLEMENTED = {b"EXPN", b"TURN", b"ATRN", b"ETRN", b"SEND", b"SOML", b"SAML", b"BDAT"}
"""Commands of RFCs that are no part of this server."""
STRANGERS = {b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"PATCH", b"PRI"}
"""What HTTP begins with. A browser can be made to send it here, with SMTP behind it."""


def obey(session: ServerSession, line: bytes) -> None:
    """Do what a line says that is a command, or should be one."""
    word, _, argument = line.rstrip(b" ").partition(b" ")
    verb = word.upper()
    command = COMMANDS.get(verb)
    if command is None:
        disobey(session, verb)
        return
    try:
        if len(line) + len(CRLF) > command.longest:
            session.mistake(wording.LINE_REPLIES[LineFault.TOO_LONG])
        elif session.state.name not in command.states:
            session.mistake(Reply(503, session.state.complaint, "5.5.1"))
        else:
            command.run(session, as_text(argument))
    except MalformedPath as error:
        session.mistake(Reply(501, str(error), command.path_status))
    except Malformed as error:
        session.mistake(Reply(501, str(error), "5.5.4"))


def disobey(session: ServerSession, verb: bytes) -> None:
    """Refuse a line that is no command of this server."""
    if verb in STRANGERS:
        session.finish(wording.NO_SMTP)
    elif verb in NOT_IMPLEMENTED:
        session.mistake(wording.NOT_IMPLEMENTED)
    elif not session.is_spent("maximum_unrecognised"):
        session.mistake(wording.UNRECOGNISED)


def helo(session: ServerSession, argument: str) -> None:
    """Begin without extensions."""
    session.greet(parse_client_name(argument), {})
    session.idle(Reply(250, session.hostname, ""))


def ehlo(session: ServerSession, argument: str) -> None:
    """Begin, and say what is offered."""
    name = parse_client_name(argument)
    extensions = session.extensions()
    session.greet(name, extensions)
    offered = [f"{keyword} {value}".rstrip(" ") for keyword, value in extensions.items()]
    session.idle(Reply(250, "\n".join([session.hostname, *offered]), ""))


def starttls(session: ServerSession, argument: str) -> None:
    """Encrypt from here on, and forget what was said before."""
    if argument:
        session.mistake(wording.NO_ARGUMENT)
    elif session.encryption is Encryption.ACTIVE:
        session.mistake(wording.ENCRYPTED_ALREADY)
    elif session.encryption is Encryption.MISSING:
        session.mistake(wording.NOT_IMPLEMENTED)
    elif "STARTTLS" not in session.offered:
        session.mistake(wording.EHLO_FIRST)
    else:
        session.encrypt()


def auth(session: ServerSession, argument: str) -> None:
    """Begin to authenticate."""
    name, _, initial = argument.partition(" ")
    mechanism = MECHANISMS.get(name.upper())
    if not session.offers_authentication:
        session.mistake(wording.NO_AUTHENTICATION if session.is_secure_enough else wording.NEEDS_ENCRYPTION)
    elif "AUTH" not in session.offered:
        session.mistake(wording.EHLO_FIRST)
    elif session.user:
        session.mistake(wording.AUTHENTICATED_ALREADY)
    elif mechanism is None:
        session.mistake(wording.NO_SUCH_MECHANISM)
    elif not session.is_spent("maximum_authentications"):
        session.exchange = mechanism()
        challenge = next(session.exchange)
        session.become("challenge")
        if initial:
            respond(session, b"" if initial == "=" else initial.encode())
        else:
            session.say(as_challenge(challenge))


def respond(session: ServerSession, response: bytes) -> None:
    """Go on with authenticating: this is the response to the challenge, in base64."""
    try:
        challenge = session.exchange.send(decode_response(response))
    except StopIteration as end:
        credentials: Credentials = end.value
        session.ask("credentials", credentials, credentials.name)
    except Malformed as error:
        session.become("cancel")
        session.mistake(Reply(501, str(error), "5.5.2"))
    else:
        session.say(as_challenge(challenge))


def mail(session: ServerSession, argument: str) -> None:
    """Begin a message: who sends it?"""
    if session.requires_authentication and not session.user:
        session.mistake(wording.AUTHENTICATE_FIRST)
        return
    path, rest = split_path(argument, "FROM:")
    sender = parse_sender(path)
    options = parse_parameters(rest)
    if any(NEEDED_FOR.get(keyword) not in session.offered for keyword in options):
        session.mistake(wording.NO_SUCH_PARAMETER)
        return
    check_options(options)
    if parse_size(options) > session.limits.maximum_message:
        session.refuse(wording.TOO_LARGE)
    elif not sender.isascii() and "SMTPUTF8" not in options:
        session.mistake(wording.NEEDS_UTF8)
    else:
        if not session.user:
            options.pop("AUTH", None)  # who has not authenticated can vouch for nobody (RFC 4954, section 5)
        session.begin_transaction(sender, options)
        session.ask("mail", Sender(sender, options))


def rcpt(session: ServerSession, argument: str) -> None:
    """Add a recipient."""
    path, rest = split_path(argument, "TO:")
    recipient = parse_recipient(path)
    transaction = session.transaction
    if parse_parameters(rest):
        session.mistake(wording.NO_SUCH_PARAMETER)
    elif not recipient.isascii() and "SMTPUTF8" not in transaction.options:
        session.mistake(wording.NEEDS_UTF8)
    elif len(transaction.recipients) >= session.limits.maximum_recipients:
        session.refuse(wording.TOO_MANY_RECIPIENTS)
    else:
        session.ask("recipient", Recipient(recipient), recipient)


def data(session: ServerSession, argument: str) -> None:
    """Let the content come."""
    if argument:
        session.mistake(wording.NO_ARGUMENT)
    elif not session.transaction.recipients:
        session.mistake(wording.NO_RECIPIENTS)
    else:
        session.become("data")
        session.say(wording.GO_AHEAD)


def rset(session: ServerSession, argument: str) -> None:
    """Forget the message that is under way."""
    if argument:
        session.mistake(wording.NO_ARGUMENT)
    else:
        session.become("reset")
        session.idle(wording.FORGOTTEN)


def noop(session: ServerSession, argument: str) -> None:
    """Do nothing."""
    session.idle(wording.NOTHING_DONE)


def vrfy(session: ServerSession, argument: str) -> None:
    """Give no answer: who there is, is nobody's business (RFC 5321, section 7.3)."""
    if argument:
        session.idle(wording.CANNOT_VERIFY)
    else:
        session.mistake(wording.NOBODY_TO_VERIFY)


def help_(session: ServerSession, argument: str) -> None:
    """Name the commands."""
    session.idle(Reply(214, "the commands are " + " ".join(verb.decode() for verb in COMMANDS), "2.0.0"))


def quit_(session: ServerSession, argument: str) -> None:
    """End the session."""
    if argument:
        session.mistake(wording.NO_ARGUMENT)
    else:
        session.finish(wording.GOOD_BYE)


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """What a session does with a command.

    Arguments:
        run: does it; it is given the session and what stands behind the verb.
        states: the states in which it makes sense.
        longest: the most bytes that it may have, with the CRLF.
        path_status: what is wrong where its path is none, in the words of RFC 3463.
    """

    run: Callable[[ServerSession, str], None]
    states: frozenset[str]
    longest: int = LONGEST_COMMAND
    path_status: str = ""


ANYWHERE = frozenset({"Fresh", "Idle", "Addressing"})

COMMANDS = {
    b"HELO": Command(helo, ANYWHERE),
    b"EHLO": Command(ehlo, ANYWHERE),
    b"STARTTLS": Command(starttls, frozenset({"Idle"})),
    b"AUTH": Command(auth, frozenset({"Idle"}), LONGEST_RESPONSE),
    b"MAIL": Command(mail, frozenset({"Idle"}), LONGEST_MAIL, "5.1.7"),
    b"RCPT": Command(rcpt, frozenset({"Addressing"}), LONGEST_COMMAND, "5.1.3"),
    b"DATA": Command(data, frozenset({"Addressing"})),
    b"RSET": Command(rset, ANYWHERE),
    b"NOOP": Command(noop, ANYWHERE),
    b"VRFY": Command(vrfy, ANYWHERE),
    b"HELP": Command(help_, ANYWHERE),
    b"QUIT": Command(quit_, ANYWHERE),
}
"""The commands, in the order in which HELP names them."""


def check_options(options: dict[str, str]) -> None:
    """Look at the values of the parameters of a MAIL, and put BODY into capitals.

    Raises:
        Malformed: one of them cannot be.
    """
    if "BODY" in options:
        options["BODY"] = options["BODY"].upper()
        if options["BODY"] not in BODIES:
            raise Malformed(f"BODY is {' or '.join(BODIES)}")
    if options.get("SMTPUTF8"):
        raise Malformed("SMTPUTF8 takes no value")
    if options.get("AUTH") == "":
        raise Malformed("AUTH takes a value")


def as_text(argument: bytes) -> str:
    """Return what stands behind a verb.

    Raises:
        Malformed: it cannot stand in a command.
    """
    try:
        text = argument.decode()
    except UnicodeDecodeError:
        raise Malformed("this is no UTF-8") from None
    if any(letter < " " or letter == "\x7f" for letter in text):
        raise Malformed("control characters have no place in a command")
    return text


def as_challenge(challenge: bytes) -> Reply:
    """Return the reply that asks for the response to `challenge`."""
    return Reply(334, base64.b64encode(challenge).decode())
