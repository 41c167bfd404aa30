"""The client's side of SMTP: bytes in, bytes and outcomes out. No I/O, no clock.

It says EHLO, or HELO where that is all the server knows; encrypts, if it was told to (STARTTLS), and goes on only then;
authenticates, if it was given credentials; and hands over one message after the other. SIZE, 8BITMIME, SMTPUTF8 and
PIPELINING are used where the server offers them.
"""

from __future__ import annotations

import base64
import dataclasses
from collections import deque
from collections.abc import Collection, Generator, Mapping

from reactor.errors import LocalError, ReactorError, RemoteError, StateError

from .envelope import Envelope
from .errors import DeliveryError, MissingExtension, PermanentFailure, ProtocolError, refusal
from .grammar import Malformed, check_hostname, parse_recipient, parse_sender
from .lines import CRLF, canonical, encode_content
from .mechanisms import Credentials, choose_mechanism, responses_for
from .questions import StartTls
from .replies import Reply, ReplyDecoder

LONGEST_COMMAND = 512
"""Bytes of a command with its CRLF (RFC 5321, section 4.5.3.1.4)."""
LONGEST_TEXT_LINE = 1000
"""Bytes of a line of a message with its CRLF (RFC 5321, section 4.5.3.1.6)."""


@dataclasses.dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a message. Each of its recipients stands in exactly one of the three places.

    Arguments:
        envelope: the message.
        delivered: the recipients for whom the server has taken it, and answers from now on.
        temporary: those for whom it may be tried again later, each with the error. Where the connection broke before
            the last reply came, the server may have taken the message all the same, and they get it twice.
        permanent: those for whom it would fail again, each with the error.
        reply: what the server said when it took the message, or None.
    """

    envelope: Envelope
    delivered: tuple[str, ...]
    temporary: Mapping[str, ReactorError]
    permanent: Mapping[str, PermanentFailure]
    reply: Reply | None


@dataclasses.dataclass(frozen=True, slots=True)
class Finished:
    """The session is over: send what is to be sent, then close.

    Arguments:
        error: why, or None for a session that ended in good order.
    """

    error: ReactorError | None


ClientEvent = Outcome | StartTls | Finished


class Task:
    """A message that is to be delivered.

    Arguments:
        envelope: the message.

    Raises:
        LocalError: it cannot be sent over SMTP, wherever to.
    """

    def __init__(self, envelope: Envelope) -> None:
        self.envelope = envelope
        check_types(envelope)
        self.recipients = tuple(dict.fromkeys(envelope.recipients))
        try:
            addresses = (parse_sender(envelope.sender), *map(parse_recipient, self.recipients))
        except Malformed as error:
            raise LocalError(f"an address of the envelope cannot be used: {error}") from None
        if addresses != (envelope.sender, *self.recipients):
            raise LocalError("an address of the envelope has a route in front of it, which is obsolete")
        self.content = canonical(bytes(envelope.content))
        if b"\0" in self.content:
            raise LocalError("the message has a NUL in it, and SMTP allows none; encode it (quoted-printable, base64)")
        longest = max(map(len, self.content.split(CRLF)))
        if longest > LONGEST_TEXT_LINE - len(CRLF):
            raise LocalError(
                f"the message has a line of {longest} bytes, and SMTP allows {LONGEST_TEXT_LINE - len(CRLF)}; "
                "encode it (quoted-printable, base64)"
            )
        header, _, _ = self.content.partition(b"\r\n\r\n")
        self.needs_utf8 = not (header.isascii() and "".join(addresses).isascii())
        self.needs_8bit = not self.content.isascii()
        self.errors: dict[str, ReactorError] = {}

    def obstacle(self, extensions: Mapping[str, str]) -> PermanentFailure | None:
        """Return why a server with these `extensions` cannot be given the message, or None."""
        if self.needs_utf8 and "SMTPUTF8" not in extensions:
            return MissingExtension("the server takes no addresses and no header lines beyond ASCII (SMTPUTF8)")
        if self.needs_8bit and "8BITMIME" not in extensions:
            return MissingExtension("the server takes messages of 7 bits only (8BITMIME); encode this one")
        maximum = extensions.get("SIZE", "")
        if maximum.isascii() and maximum.isdigit() and 0 < int(maximum[:20]) < len(self.content):
            return PermanentFailure(f"the message has {len(self.content)} bytes, and the server takes {maximum[:20]}")
        return None

    def commands(self, extensions: Mapping[str, str]) -> list[str]:
        """Return the commands for sender and recipients."""
        mail = f"MAIL FROM:<{self.envelope.sender}>"
        if "SIZE" in extensions:
            mail += f" SIZE={len(self.content)}"
        if self.needs_8bit:
            mail += " BODY=8BITMIME"
        if self.needs_utf8:
            mail += " SMTPUTF8"
        return [mail, *(f"RCPT TO:<{recipient}>" for recipient in self.recipients)]

    def outcome(self, reply: Reply | None, error: ReactorError | None) -> Outcome:
        """Return what became of it.

        Arguments:
            reply: what the server said when it took the message.
            error: what happened to the recipients of whom nothing is known yet; None where they are served.
        """
        errors = dict(self.errors)
        if error is not None:
            errors |= {recipient: error for recipient in self.recipients if recipient not in errors}
        return Outcome(
            self.envelope,
            tuple(recipient for recipient in self.recipients if recipient not in errors),
            {recipient: error for recipient, error in errors.items() if not isinstance(error, PermanentFailure)},
            {recipient: error for recipient, error in errors.items() if isinstance(error, PermanentFailure)},
            reply,
        )


def check_types(envelope: Envelope) -> None:
    """Raise LocalError where a part of `envelope` is of another type than it says."""
    recipients, content = envelope.recipients, envelope.content
    if isinstance(recipients, str) or not isinstance(recipients, Collection) or not recipients:
        raise LocalError(f"an envelope has a tuple of at least one recipient, and not {recipients!r}")
    for address in (envelope.sender, *recipients):
        if not isinstance(address, str):
            raise LocalError(f"an address of an envelope is text, and not {address!r}; '' is a sender who is nobody")
    if not isinstance(content, bytes | bytearray | memoryview):
        raise LocalError(f"the content of an envelope is bytes, and no {type(content).__name__}; encode it")


LEAVE = None
"""Stands in the queue behind the last message."""

Conversation = Generator[None, Reply | None, None]
Exchange = Generator[None, Reply | None, Reply]
"""Yields whenever it needs a reply."""


class ClientSession:
    """One session with a server, as a machine.

    `feed` it what came, and send what `data_to_send` returns. What `deliver` is given is handed over when its turn
    comes; each message has its `Outcome`, whatever happens, and the last event is `Finished`.

    Arguments:
        hostname: what the client calls itself: a domain, or an address literal.
        credentials: as whom to authenticate; None for not at all.
        is_secure: whether nobody can listen to the channel.
        starttls: have the channel encrypted before anything else; a server that does not offer it is given no mail.
        allows_plaintext_authentication: send the password even where others can listen.

    Attributes:
        dropped: the bytes that came in plaintext behind the reply to STARTTLS, and were dropped.
        hostname: as above; it may be changed until the greeting comes.
        extensions: what the server offers, by keywords in capitals, once it has said so.
        expectation: the reply that is awaited, in words; ``""`` while there is nothing to do.

    Raises:
        LocalError: the password would be sent where others can listen; or `hostname` is none.
    """

    def __init__(
        self,
        hostname: str,
        *,
        credentials: Credentials | None = None,
        is_secure: bool = False,
        starttls: bool = False,
        allows_plaintext_authentication: bool = False,
    ) -> None:
        if credentials is not None and not (is_secure or starttls or allows_plaintext_authentication):
            raise LocalError(
                "others could listen to the password; use TLS, or say so with allows_plaintext_authentication=True"
            )
        self.hostname = check_hostname(hostname)
        self.extensions: dict[str, str] = {}
        self.expectation = ""
        self.dropped = 0
        self._starttls = starttls
        self._is_encrypting = False
        self._credentials = credentials
        self._queue: deque[Task | None] = deque()
        self._replies = ReplyDecoder()
        self._output: list[bytes] = []
        self._events: list[ClientEvent] = []
        self._conversation: Conversation | None = self._converse()
        next(self._conversation)

    # What a channel calls

    def deliver(self, envelope: Envelope) -> list[ClientEvent]:
        """Hand `envelope` over when its turn comes. Return what that brings about at once, as `feed` does.

        A CR or an LF in the content that stands alone is sent as CRLF, and so is the end of a last line without one.

        Raises:
            LocalError: the message cannot be sent over SMTP: an address is none, a line is too long, or there is a NUL.
            StateError: the session is over, or was told to `quit`.
        """
        self._check_open()
        self._queue.append(Task(envelope))
        return self._continue()

    def quit(self) -> list[ClientEvent]:
        """End the session when all messages are handed over. Return what that brings about at once.

        Raises:
            StateError: the session is over, or was told so before.
        """
        self._check_open()
        self._queue.append(LEAVE)
        return self._continue()

    def feed(self, data: bytes) -> list[ClientEvent]:
        """Take what came from the server, and return what that brings about."""
        if self._is_listening:
            self._replies.feed(data)
        while self._is_listening:
            reply = self._replies.next_reply()
            if reply is None:
                if self._replies.failure is not None:
                    self._end(ProtocolError(f"this is no SMTP: {self._replies.failure}"))
                break
            self._resume(reply)
        return self._take_events()

    def secured(self) -> None:
        """TLS is in effect: what the server has said before counts no more, and it is asked again.

        Raises:
            StateError: nobody has asked for it.
        """
        if self._conversation is None or self._is_listening:
            raise StateError("the session did not say StartTls")
        self._is_encrypting = False
        self._resume(None)

    def abandon(self, reason: ReactorError) -> list[ClientEvent]:
        """There is no connection any more, for `reason`. Return what becomes of the messages that are left."""
        if self._conversation is not None:
            self._end(reason)
        return self._take_events()

    def data_to_send(self) -> bytes:
        """Return what is to be sent to the server, once."""
        data = b"".join(self._output)
        self._output.clear()
        return data

    # Inside

    @property
    def _is_listening(self) -> bool:
        """Whether what the server says means anything."""
        return self._conversation is not None and not self._is_encrypting

    def _check_open(self) -> None:
        if self._conversation is None or LEAVE in self._queue:
            raise StateError("the session is over, or was told to quit: it takes no more")

    def _continue(self) -> list[ClientEvent]:
        """There is something in the queue: begin with it, unless something else is under way."""
        if not self.expectation:
            self._resume(None)
        return self._take_events()

    def _take_events(self) -> list[ClientEvent]:
        events, self._events = self._events, []
        return events

    def _resume(self, reply: Reply | None) -> None:
        assert self._conversation is not None
        try:
            self._conversation.send(reply)
        except StopIteration:
            self._end(None)
        except RemoteError as error:
            if isinstance(error, DeliveryError) and error.reply is not None and error.reply.code != 421:
                self._send("QUIT")
            self._end(error)

    def _end(self, error: ReactorError | None) -> None:
        if self._conversation is not None:
            self._conversation.close()
        self._conversation = None
        self._replies = ReplyDecoder()  # what the server says behind the end is dropped
        self.expectation = ""
        for task in self._queue:
            if task is not LEAVE:
                self._events.append(task.outcome(None, error))
        self._queue.clear()
        self._events.append(Finished(error))

    def _send(self, *commands: str) -> None:
        self._output += [f"{command}\r\n".encode() for command in commands]

    # The conversation

    def _converse(self) -> Conversation:
        """All that is said, from the greeting to the end."""
        self._require((yield from self._reply("the greeting")), "the connection")
        yield from self._say_hello()
        if self._starttls:
            yield from self._encrypt()
            yield from self._say_hello()
        if self._credentials is not None:
            yield from self._authenticate(self._credentials)
        while True:
            if not self._queue:
                self.expectation = ""
                reply = yield
                if reply is not None:
                    raise refusal("the connection", reply)
            elif self._queue[0] is LEAVE:
                break
            else:
                yield from self._transact(self._queue[0])
        self._queue.clear()
        yield from self._ask("QUIT")

    def _say_hello(self) -> Conversation:
        reply = yield from self._ask(f"EHLO {self.hostname}")
        if reply.is_permanent:
            self._require((yield from self._ask(f"HELO {self.hostname}")), "HELO")
            return
        self._require(reply, "EHLO")
        for line in reply.text.split("\n")[1:]:
            keyword, _, value = line.strip().partition(" ")
            self.extensions[keyword.upper()] = value

    def _encrypt(self) -> Conversation:
        """Have everything encrypted from here on; what the server has said in plaintext counts no more."""
        if "STARTTLS" not in self.extensions:
            raise MissingExtension("the server offers no encryption (STARTTLS), and without it nothing is sent")
        reply = yield from self._ask("STARTTLS")
        if reply.code != 220:
            raise refusal("the encryption (STARTTLS)", reply)
        self.extensions = {}
        self.expectation = "TLS"
        self.dropped = self._replies.clear()
        self._is_encrypting = True
        self._events.append(StartTls())
        yield

    def _authenticate(self, credentials: Credentials) -> Conversation:
        mechanism = choose_mechanism(self.extensions.get("AUTH", "").split())
        if mechanism is None:
            raise MissingExtension("the server offers no way to authenticate that is known here (AUTH)")
        responses = [base64.b64encode(response).decode() for response in responses_for(mechanism, credentials)]
        command = f"AUTH {mechanism}"
        # One that makes the command too long has to wait until it is asked for (RFC 4954, section 4).
        if len(responses) == 1 and len(f"{command} {responses[0]}\r\n") <= LONGEST_COMMAND:
            command += f" {responses.pop(0)}"
        reply = yield from self._ask(command)
        for response in responses:
            if reply.code == 334:
                self._send(response)
                reply = yield from self._reply("the reply to the response to AUTH")
        self._require(reply, "the authentication")

    def _transact(self, task: Task) -> Conversation:
        """Hand over one message."""
        failure: DeliveryError | None = task.obstacle(self.extensions)
        if failure is not None:
            self._settle(task, failure)
            return
        failure = yield from self._address(task)
        if failure is None and len(task.errors) < len(task.recipients):
            # Not pipelined with the recipients: whether it makes sense depends on what is said to them.
            reply = yield from self._ask("DATA")
            if reply.is_intermediate:
                self._output.append(encode_content(task.content))
                reply = yield from self._reply("the reply to the message")
                if reply.is_positive:
                    self._settle(task, None, reply)
                else:
                    self._settle(task, refusal("the message", reply))
                return
            failure = refusal("the message", reply)
        self._settle(task, failure)
        self._require((yield from self._ask("RSET")), "RSET")

    def _address(self, task: Task) -> Generator[None, Reply | None, DeliveryError | None]:
        """Say sender and recipients, and keep the errors of recipients. Return why the sender is refused, or None."""
        mail, *others = task.commands(self.extensions)
        is_pipelined = "PIPELINING" in self.extensions
        if is_pipelined:
            self._send(mail, *others)
        exchange = self._reply_to if is_pipelined else self._ask
        reply = yield from exchange(mail)
        failure = None if reply.is_positive else refusal(f"the sender <{task.envelope.sender}>", reply)
        for recipient, command in zip(task.recipients, others, strict=True):
            if failure is None:
                reply = yield from exchange(command)
                if not reply.is_positive:
                    task.errors[recipient] = refusal(f"the recipient <{recipient}>", reply)
            elif is_pipelined:
                yield from self._reply_to(command)  # which means nothing any more
        return failure

    def _settle(self, task: Task, error: ReactorError | None, reply: Reply | None = None) -> None:
        self._queue.popleft()
        self._events.append(task.outcome(reply, error))

    def _ask(self, command: str) -> Exchange:
        """Send a command, and return the reply to it."""
        self._send(command)
        return (yield from self._reply_to(command))

    def _reply_to(self, command: str) -> Exchange:
        """Return the reply to a command that was sent."""
        return (yield from self._reply(f"the reply to {command.partition(' ')[0]}"))

    def _reply(self, expectation: str) -> Exchange:
        self.expectation = expectation
        reply = yield
        assert reply is not None
        if reply.code == 421:
            raise refusal("the rest", reply)
        return reply

    def _require(self, reply: Reply, what: str) -> None:
        """Raise the error that it means where `reply` does not grant `what`."""
        if not reply.is_positive:
            raise refusal(what, reply)
