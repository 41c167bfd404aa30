"""The server's side of SMTP: bytes in, bytes and questions out. No I/O, no clock.

RFC 5321, with 8BITMIME (RFC 6152), AUTH (4954), ENHANCEDSTATUSCODES (2034), PIPELINING (2920), SIZE (1870),
SMTPUTF8 (6531) and STARTTLS (3207).

Where the standard leaves a choice, the safe one was taken. Only CRLF ends a line, and only CRLF.CRLF a message. A
command with a CR or an LF that stands alone is refused. A message with one in it, or with a NUL, is refused as a whole,
so that nobody behind this server can read it otherwise; and the session is over, because somebody in front of it may
have: what comes next, and looks like commands, may be content to him.

What came in plaintext, in front of TLS or behind a STARTTLS, is forgotten: anybody between the two may have said it.
"""

from __future__ import annotations

import dataclasses
import enum
from collections import Counter
from collections.abc import Mapping
from typing import Any

from reactor.errors import LocalError

from . import wording
from .commands import LONGEST_RESPONSE, obey, respond
from .envelope import Envelope
from .grammar import check_hostname
from .limits import DEFAULT_LIMITS, SessionLimits
from .lines import ContentDecoder, ContentFault, Input, LineFault
from .mechanisms import MECHANISMS, Exchange
from .questions import Encryption, Ended, Event, Question, StartTls
from .replies import Reply
from .states import STATES, Asked, follow

LAST_STRAWS = frozenset({ContentFault.FAR_TOO_LARGE, ContentFault.BARE, ContentFault.NUL})
"""Faults of a content behind which a session does not go on."""


class Authentication(enum.Enum):
    """When a server offers AUTH. Its mechanisms hand the password over in the clear."""

    NEVER = "never"
    WHEN_SECURE = "when the channel is secure"
    ALWAYS = "always, even where others can listen"


@dataclasses.dataclass(slots=True)
class Transaction:
    """What is known of the message that is under way."""

    sender: str = ""
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    recipients: list[str] = dataclasses.field(default_factory=list)


class ServerSession:
    """One client's session with a server, as a machine.

    `feed` it what came, send what `data_to_send` returns, and answer its questions. A question is the last event in
    its list: a `Sender`, a `Recipient`, an `Envelope` or `Credentials`. Until `answer` is called, at once or much
    later, the input behind it waits in the session.

    Arguments:
        hostname: what the server calls itself: a domain, or an address literal.
        limits: what is granted to the client.
        authentication: when AUTH is offered.
        requires_authentication: take mail only from those who have authenticated.
        is_secure: whether nobody can listen to the channel, even without TLS.
        encryption: whether there is TLS, or STARTTLS.
        peer: the client's address, for envelopes.

    Raises:
        LocalError: `hostname` is none.

    Attributes:
        state: the `State` that it is in; ``state.name`` tells which.
        client_name: what the client calls itself; ``""`` until it does.
        user: as whom the client has authenticated; ``""`` until it does.
        dropped: the bytes that came behind a STARTTLS, and were dropped.
        offered: the extensions that the client was told of, with their values.
        transaction: the message that is under way.
        exchange: the AUTH that is under way.
        steps: how many commands, contents and answers there were; `timeout` is for each of them.
    """

    def __init__(
        self,
        hostname: str,
        *,
        limits: SessionLimits = DEFAULT_LIMITS,
        authentication: Authentication = Authentication.NEVER,
        requires_authentication: bool = False,
        is_secure: bool = False,
        encryption: Encryption = Encryption.MISSING,
        peer: Any = None,
    ) -> None:
        self.hostname = check_hostname(hostname)
        self.limits = limits
        self.authentication = authentication
        self.requires_authentication = requires_authentication
        self.is_secure = is_secure or encryption is Encryption.ACTIVE
        self.encryption = encryption
        self.peer = peer
        self.steps = 0
        self.dropped = 0
        self._input = Input()
        self._events: list[Event] = []
        self._spent: Counter[str] = Counter()
        self._output = [Reply(220, f"{hostname} ESMTP", "").encode()]
        self._start_over()

    def _start_over(self) -> None:
        """Know nothing of the client, whatever it has said, or sent ahead."""
        self._input.clear()
        self.state = STATES["Fresh"]
        self.client_name = ""
        self.user = ""
        self.offered: dict[str, str] = {}
        self.exchange: Exchange = MECHANISMS["PLAIN"]()
        self._asked_about = ""
        self.forget_transaction()

    # What a channel calls

    def feed(self, data: bytes) -> list[Event]:
        """Take what came from the client, and return what that brings about."""
        if self.is_waiting and len(self._input) + len(data) > self.limits.maximum_waiting_input:
            return self.end(wording.TOO_MUCH_WAITING)
        self._input.feed(data)
        return self._go_on()

    def answer(self, reply: Reply | None = None) -> list[Event]:
        """Answer the question that was the last event, and return what comes behind it.

        Arguments:
            reply: what the client is told: a 2yz accepts, a 4yz or a 5yz refuses. None accepts in the usual words. A
                421 ends the session.

        Raises:
            LocalError: `reply` is no reply, or neither accepts nor refuses.
            StateError: nothing was asked.
        """
        check_verdict(reply)
        self.state.settle(self, reply)
        self.steps += 1
        return self._go_on()

    def secured(self) -> None:
        """TLS is in effect: the client begins anew, and nothing that it said before counts (RFC 3207, section 4.2).

        Raises:
            StateError: there was no STARTTLS.
        """
        self.become("secured")
        self._start_over()
        self.encryption = Encryption.ACTIVE
        self.is_secure = True
        self.steps += 1

    def end(self, reply: Reply) -> list[Event]:
        """End the session, whatever it is doing, with `reply` as the last one. Ending it once more does nothing."""
        if self.state is not STATES["Ended"]:
            self.finish(reply)
        return self._go_on()

    def data_to_send(self) -> bytes:
        """Return what is to be sent to the client, once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    @property
    def is_waiting(self) -> bool:
        """Whether a question is not answered yet. It is best to read nothing from the client until it is."""
        return isinstance(self.state, Asked)

    @property
    def timeout(self) -> float:
        """The seconds that the session may go without another step."""
        seconds: float = getattr(self.limits, self.state.limit)
        return seconds

    @property
    def silence_timeout(self) -> float:
        """The seconds that the session may go without another byte: less than `timeout` inside of a content."""
        return self.limits.silence_timeout if self.state is STATES["Receiving"] else self.timeout

    # What the states call

    def take_command(self) -> bool:
        """Take a line, and do what it says."""
        line = self._input.take_line(LONGEST_RESPONSE)
        if line is None:
            return False
        self.steps += 1
        if isinstance(line, LineFault):
            self.mistake(wording.LINE_REPLIES[line])
        else:
            obey(self, line)
        return True

    def take_response(self) -> bool:
        """Take a line that answers the challenge of an AUTH."""
        line = self._input.take_line(LONGEST_RESPONSE)
        if line is None:
            return False
        self.steps += 1
        if isinstance(line, LineFault) or line == b"*":
            self.become("cancel")
            self.mistake(wording.RESPONSE_REPLIES[line] if isinstance(line, LineFault) else wording.CANCELLED)
        else:
            respond(self, line)
        return True

    def take_content(self) -> bool:
        """Take content of the message, and perhaps its end."""
        if not self._input:
            return False
        rest = self._content.feed(self._input.take_all())
        fault = self._content.fault
        if rest is None and fault is not ContentFault.FAR_TOO_LARGE:
            return False
        self.steps += 1
        self._input.feed(rest or b"")
        if fault is None:
            self.ask("message", self._envelope())
        elif fault in LAST_STRAWS:
            self.finish(wording.CONTENT_REPLIES[fault])
        else:
            self.become("spoil")
            self.refuse(wording.CONTENT_REPLIES[fault])
        return True

    def drop_input(self) -> None:
        """Drop what came."""
        self._input.clear()

    def settle_credentials(self, reply: Reply | None) -> None:
        """The program has said whether name and password go together."""
        self.become("settle")
        if reply is None or reply.is_positive:
            self.user = self._asked_about
            self.say(reply or wording.AUTHENTICATED)
        else:
            self.refuse(reply)

    def settle_sender(self, reply: Reply | None) -> None:
        """The program has said whether it takes mail from the sender."""
        if reply is None or reply.is_positive:
            self.become("accept")
            self.say(reply or wording.SENDER_TAKEN)
        else:
            self.become("settle")
            self.refuse(reply)

    def settle_recipient(self, reply: Reply | None) -> None:
        """The program has said whether it takes mail for the recipient."""
        self.become("settle")
        if reply is None or reply.is_positive:
            self.transaction.recipients.append(self._asked_about)
            self.say(reply or wording.RECIPIENT_TAKEN)
        else:
            self.refuse(reply)

    def settle_message(self, reply: Reply | None) -> None:
        """The program has said whether it takes the message."""
        self.become("settle")
        if reply is None or reply.is_positive:
            attempts = self._spent["maximum_authentications"]
            self._spent = Counter(maximum_authentications=attempts)
            self.say(reply or wording.MESSAGE_TAKEN)
        else:
            self.refuse(reply)

    # What the commands call

    def become(self, event: str) -> None:
        """Make the transition that `event` stands for.

        Raises:
            StateError: the table has no such transition.
        """
        self.state = follow(self.state.name, event)
        self.state.enter(self)

    def ask(self, event: str, question: Question, about: str = "") -> None:
        """Make the transition `event`, and ask the program; `about` is what a yes is about."""
        self._asked_about = about
        self.become(event)
        self._events.append(question)

    def say(self, reply: Reply) -> None:
        """Give the client a reply."""
        self._output.append(reply.encode())

    def idle(self, reply: Reply) -> None:
        """Give a reply to a command that brings no message nearer."""
        if not self.is_spent("maximum_idle_commands"):
            self.say(reply)

    def mistake(self, reply: Reply) -> None:
        """The client has made a mistake; `reply` says which."""
        if not self.is_spent("maximum_errors"):
            self.say(reply)

    def refuse(self, reply: Reply) -> None:
        """Refuse what was asked, which was no mistake."""
        if reply.code == 421:
            self.finish(reply)
        elif not self.is_spent("maximum_deferred" if reply.is_temporary else "maximum_refused"):
            self.say(reply)

    def is_spent(self, limit: str) -> bool:
        """Count one more against `limit`; return whether that was one too many, which ends the session."""
        self._spent[limit] += 1
        if self._spent[limit] <= getattr(self.limits, limit):
            return False
        self.finish(wording.OVER_THE_LIMIT[limit])
        return True

    def finish(self, reply: Reply) -> None:
        """Give the last reply."""
        self.say(reply)
        self.become("close")
        self._events.append(Ended())

    def greet(self, client_name: str, offered: dict[str, str]) -> None:
        """The client has said who it is, and is told what is offered."""
        self.become("hello")
        self.client_name = client_name
        self.offered = offered

    def encrypt(self) -> None:
        """TLS begins behind this reply."""
        self.dropped = len(self._input)
        self.say(wording.READY_FOR_TLS)
        self.become("encrypt")
        self._events.append(StartTls())

    def begin_transaction(self, sender: str, options: Mapping[str, str]) -> None:
        """A message is under way."""
        self.transaction = Transaction(sender, options)
        self._content = ContentDecoder(self.limits.maximum_message, self.limits.maximum_text_line)

    def forget_transaction(self) -> None:
        """No message is under way."""
        self.begin_transaction("", {})

    def extensions(self) -> dict[str, str]:
        """Return what is offered, as EHLO says it."""
        found = {"8BITMIME": "", "ENHANCEDSTATUSCODES": "", "HELP": "", "PIPELINING": ""}
        found |= {"SIZE": str(self.limits.maximum_message), "SMTPUTF8": ""}
        if self.offers_authentication:
            found["AUTH"] = " ".join(MECHANISMS)
        if self.encryption is Encryption.OFFERED:
            found["STARTTLS"] = ""
        return found

    @property
    def offers_authentication(self) -> bool:
        """Whether AUTH is offered, here and now."""
        return self.authentication is not Authentication.NEVER and self.is_secure_enough

    @property
    def is_secure_enough(self) -> bool:
        """Whether the channel is good enough for passwords."""
        return self.is_secure or self.authentication is not Authentication.WHEN_SECURE

    # Inside

    def _go_on(self) -> list[Event]:
        """Take from the input what can be taken, and return what that brought about."""
        while self.state.take(self):
            pass
        events, self._events = self._events, []
        return events

    def _envelope(self) -> Envelope:
        transaction = self.transaction
        return Envelope(
            transaction.sender,
            tuple(transaction.recipients),
            self._content.content,
            transaction.options,
            self.peer,
            self.client_name,
            self._protocol,
            self.user,
        )

    @property
    def _protocol(self) -> str:
        """How the message came, in the words of RFC 3848 and RFC 6531."""
        if not self.offered:
            return "SMTP"
        name = "UTF8SMTP" if "SMTPUTF8" in self.transaction.options else "ESMTP"
        return f"{name}{'S' * self.is_secure}{'A' * bool(self.user)}"


def check_verdict(reply: Reply | None) -> None:
    """Raise LocalError where `reply` is no answer to a question."""
    if reply is not None and not isinstance(reply, Reply):
        raise LocalError(f"a question is answered by a Reply, or by None to accept, not by {reply!r}")
    if reply is not None and reply.is_intermediate:
        raise LocalError(f"a question is answered by accepting (2yz) or refusing (4yz, 5yz), not by {reply}")
