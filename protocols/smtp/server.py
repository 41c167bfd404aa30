"""A mail server's side of a connection, on the loop."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import reactor
from reactor.channel import Channel
from reactor.sending import STATES, Closing, Open, Paused, Throttled
from reactor.states import Closed, State

from . import wording
from .envelope import Envelope
from .grammar import literal_of
from .limits import DEFAULT_LIMITS, SessionLimits
from .mechanisms import Credentials
from .questions import Encryption, Ended, Event, Question, Recipient, Sender, StartTls
from .replies import Reply
from .server_session import Authentication, ServerSession, check_verdict

log = logging.getLogger("reactor")


class Answer:
    """The answer to one question, which is given later, once, and on the loop; see `MailServer.answer_later`."""

    __slots__ = ("_channel",)

    def __init__(self, channel: MailServer) -> None:
        self._channel: MailServer | None = channel

    def accept(self, reply: Reply | None = None) -> None:
        """Say yes, in the words of `reply` or in the usual ones. Too late, it has no effect."""
        self._give(reply)

    def refuse(self, reply: Reply) -> None:
        """Say no, in the words of `reply`: a 4yz for now, a 5yz for good. Too late, it has no effect."""
        self._give(reply)

    def _give(self, reply: Reply | None) -> None:
        check_verdict(reply)
        channel, self._channel = self._channel, None
        if channel is None:
            raise reactor.StateError("this question was answered before")
        # Not now: what is pipelined behind the question would call hooks inside of whatever calls this.
        channel.reactor.hook_soon(channel, channel._answered, self, reply)


class GoingDown(State):
    """When the reactor shuts down, a client is told, and whoever waits for an answer gets it first."""

    def shutdown(self, channel: Channel) -> None:
        assert isinstance(channel, MailServer)
        channel._go_down()


class OpenForMail(GoingDown, Open):
    pass


class ThrottledForMail(GoingDown, Throttled):
    pass


class PausedForMail(GoingDown, Paused):
    pass


class MailServer(reactor.Stream):
    """A mail server's side of a connection: write `handle_message`, and give the class to a `reactor.Listener`.

    The hooks are questions. Each returns None to accept, or a `Reply`: one of 2yz accepts in words of its own, one of
    4yz refuses for now, one of 5yz for good, and a 421 closes the connection as well. A hook that cannot say yet says
    `answer_later`. One that raises is logged, and the client told to try again later.

    Attributes:
        hostname: what the server calls itself: a domain, or an address literal. By default the address at which the
            client has reached it.
        session_limits: what is granted to the client, beside the `reactor.Limits` of the listener.
        starttls: the `reactor.ServerTls`, or the `ssl.SSLContext`, with which clients may encrypt a connection that
            begins in plaintext; None for not at all. A listener with ``tls=`` encrypts all of them from the beginning.
        allows_plaintext_authentication: offer AUTH even where others can listen to the password.
        requires_authentication: take mail only from those who have authenticated.
        session: the `ServerSession`: ``session.client_name``, ``session.user`` and ``session.transaction`` tell the
            hooks what is known so far.
    """

    __slots__ = ("_answer", "_due", "_end_of_step", "_steps", "_timer", "session")

    hostname: str = ""
    session_limits: SessionLimits = DEFAULT_LIMITS
    starttls: Any = None
    allows_plaintext_authentication: bool = False
    requires_authentication: bool = False

    _states: ClassVar[Mapping[str, State]] = {
        **STATES,
        "Open": OpenForMail(),
        "Throttled": ThrottledForMail(),
        "Paused": PausedForMail(),
    }

    session: ServerSession
    _answer: Answer | None
    _timer: reactor.Timer | None
    _steps: int

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        self = super().__new__(cls)
        self._answer = self._timer = None
        self._steps = -1
        return self

    # What a subclass writes

    def handle_sender(self, sender: str, options: Mapping[str, str]) -> Reply | None:
        """Is mail from this sender taken? By default it is.

        Arguments:
            sender: a mailbox, which nothing has checked; or ``""``, as in reports about mail that was not delivered.
            options: see `Envelope.options`.
        """
        return None

    def handle_recipient(self, recipient: str) -> Reply | None:
        """Is mail for this recipient taken? By default it is.

        Arguments:
            recipient: a mailbox; or ``"Postmaster"``, in any case and without a domain, whose mail every server has
                to take.
        """
        return None

    def handle_message(self, envelope: Envelope) -> Reply | None:
        """Is this message taken? By default it is not.

        Whoever accepts answers for it from then on: see to it first that it survives whatever may happen. The content
        is that of the client, and nothing was added to it.
        """
        log.warning("%s: a message came in, and handle_message is not written", self)
        return wording.NO_MAIL_HERE

    def handle_authentication(self, name: str, password: str) -> Reply | None:
        """Do name and password go together? By default they do not. Where this is not written, AUTH is not offered."""
        return wording.NOT_AUTHENTICATED

    # What a subclass calls

    def answer_later(self) -> Answer:
        """Return the answer to the question that the running hook was asked, to be given when it is known.

        What the hook returns has no meaning then. After the `answer_timeout` of the session's limits, the client is
        told to try again later.
        """
        self._answer = Answer(self)
        return self._answer

    # What the engine calls

    def _opened(self) -> None:
        self.session = ServerSession(
            self.hostname or literal_of(self.socket.getsockname()),
            limits=self.session_limits,
            authentication=self._authentication(),
            requires_authentication=self.requires_authentication,
            is_secure=not isinstance(self.peer, tuple),  # a Unix socket: nobody can listen to it
            encryption=self._encryption(),
            peer=self.peer,
        )
        super()._opened()
        self._go_on([])

    def _secured(self) -> None:
        if self.socket.is_upgrade:
            self.session.secured()
            self._renew_deadline()
        super()._secured()

    def handle_data(self, data: bytes) -> None:
        self._go_on(self.session.feed(data))

    def _finish(self) -> None:
        self._answer = None
        self._cancel_timer()
        super()._finish()

    # Inside

    def _authentication(self) -> Authentication:
        if type(self).handle_authentication is MailServer.handle_authentication:
            return Authentication.NEVER
        return Authentication.ALWAYS if self.allows_plaintext_authentication else Authentication.WHEN_SECURE

    def _encryption(self) -> Encryption:
        """Return whether there is TLS, or STARTTLS.

        Raises:
            LocalError: `starttls` is of no use.
        """
        if self.tls is not None:
            return Encryption.ACTIVE
        if self.starttls is None:
            return Encryption.MISSING
        if isinstance(self.starttls, tuple | str | os.PathLike):
            raise reactor.LocalError("files would be read again for each client; give starttls a reactor.ServerTls")
        from reactor.tls import tls_for  # not before somebody asks: ssl takes long to load

        assert self._origin is not None
        tls_for(self._origin, self.starttls)  # whose complaint comes now, and not behind the first STARTTLS
        return Encryption.OFFERED

    def _go_on(self, events: list[Event]) -> None:
        """Ask the hooks what the session asks, until it asks no more or the answer comes later; then send."""
        while events:
            event = events[-1]
            if isinstance(event, Ended):
                self._send()
                self.close_when_done()
                return
            if isinstance(event, StartTls):
                self._send()
                self._encrypt()
                return
            self._answer = None
            reply = self._ask(event)
            if isinstance(self.state, Closing | Closed):
                return  # the hook has closed the channel
            if self._answer is not None:
                self.pause_reading()
                break
            events = self.session.answer(reply)
        self._send()
        self._renew_deadline()

    def _encrypt(self) -> None:
        """The client wants TLS, and was told to begin; until then, the deadline is the one of the handshake."""
        if isinstance(self.state, Closing | Closed):
            return
        if self.session.dropped:
            log.warning("%s: %d bytes came in plaintext behind STARTTLS, and were dropped", self, self.session.dropped)
        self._cancel_timer()
        self.start_tls(self.starttls)

    def _ask(self, question: Question) -> Reply | None:
        """Return what the hook says to `question`."""
        try:
            reply = self._call_hook(question)
            check_verdict(reply)
        except Exception as error:
            log.error("%s: a hook failed: %s: %s", self, type(error).__name__, error, exc_info=error)
            self._answer = None
            return wording.TROUBLE
        return reply

    def _call_hook(self, question: Question) -> Reply | None:
        match question:
            case Sender(address, options):
                return self.handle_sender(address, options)
            case Recipient(address):
                return self.handle_recipient(address)
            case Envelope():
                return self.handle_message(question)
            case Credentials(name, password):
                return self.handle_authentication(name, password)

    def _answered(self, answer: Answer, reply: Reply | None) -> None:
        """The answer was given that was to come later."""
        if answer is self._answer:
            self._answer = None
            events = self.session.answer(reply)
            if self.reactor.is_shutting_down:
                events = self.session.end(wording.GOING_DOWN) or events
            self._go_on(events)
            if self._answer is None:
                self.resume_reading()

    def _go_down(self) -> None:
        """The reactor shuts down."""
        if self._answer is None:
            self._go_on(self.session.end(wording.GOING_DOWN))

    def _send(self) -> None:
        data = self.session.data_to_send()
        if data:
            self.push(data)

    # Timeouts

    def _renew_deadline(self) -> None:
        """Give the session its time for the next step, if there was a step, and for the next byte."""
        now = self.reactor.clock()
        if self._steps != self.session.steps:
            self._steps = self.session.steps
            self._end_of_step = now + self.session.timeout
        self._due = min(self._end_of_step, now + self.session.silence_timeout)
        # A timer that comes too early looks again; so a step costs no timer.
        if self._timer is None or self._timer.deadline > self._due:
            self._set_timer()

    def _set_timer(self) -> None:
        self._cancel_timer()
        self._timer = self.reactor.call_at(self._due, self._look)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """The timer has come."""
        self._timer = None
        if self.reactor.clock() < self._due:
            self._set_timer()
        elif self._answer is None:
            self._go_on(self.session.end(wording.TIMED_OUT))
        else:
            log.error("%s: no answer was given within %g s (answer_timeout)", self, self.session.timeout)
            self._answered(self._answer, wording.TROUBLE)
