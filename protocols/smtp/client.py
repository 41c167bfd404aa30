"""A mail client's side of a connection, on the loop, and the delivery of one message."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any, Self

from reactor import Limits, LocalError, Reactor, Stream, connect
from reactor.addresses import Address
from reactor.channel import Origin

from .client_session import ClientEvent, ClientSession, Outcome
from .envelope import Envelope
from .grammar import literal_of
from .mechanisms import Credentials
from .questions import StartTls

log = logging.getLogger("reactor")

CLIENT_LIMITS = Limits(idle_timeout=600.0)
"""What a server is granted: ten minutes, which it may need at the end of a message (RFC 5321, section 4.5.3.2.6)."""
CHUNK = 64 * 1024


class MailClient(Stream):
    """A mail client's side of a connection: say `connect`, then `deliver`, and write `handle_outcome`.

    Attributes:
        hostname: what the client calls itself: a domain, or an address literal. By default its own address.
        credentials: as whom to authenticate; None for not at all.
        starttls: encrypt the connection, which begins in plaintext, before anything else: True to believe whom this
            system believes, a `reactor.ClientTls` says more, or an `ssl.SSLContext`. A server that does not offer it is
            given no mail. ``connect(..., tls=...)`` encrypts from the beginning, where the port is one for that.
        allows_plaintext_authentication: send the password even where others can listen to it.
    """

    __slots__ = ("_session", "_untold", "_wanted_tls")

    hostname: str = ""
    credentials: Credentials | None = None
    starttls: Any = None
    allows_plaintext_authentication: bool = False

    _session: ClientSession
    _wanted_tls: Any
    _untold: list[ClientEvent]

    @classmethod
    def connect(cls, address: Address, **options: Any) -> Self:
        """Return a new client that connects to `address`; see `reactor.connect` for the options.

        Raises:
            LocalError: the password would be sent where others can listen; or the TLS that is wanted makes no sense.
        """
        options.setdefault("limits", CLIENT_LIMITS)
        return super().connect(address, **options)

    # What a subclass writes

    def handle_outcome(self, outcome: Outcome) -> None:
        """A message has been delivered, or not; told exactly once for each. By default, nothing."""

    # What a subclass calls

    def deliver(self, envelope: Envelope) -> None:
        """Hand a message over when its turn comes; see `ClientSession.deliver`.

        Raises:
            LocalError: the message cannot be sent over SMTP: an address is none, a line is too long, or there is a NUL.
            StateError: the session is over, or was told to `quit`.
        """
        self._later(self._session.deliver(envelope))

    def quit(self) -> None:
        """Leave, and close, when all messages are handed over.

        Raises:
            StateError: the session is over, or was told so before.
        """
        self._later(self._session.quit())

    # What the engine calls

    def _attach(self, reactor: Reactor, peer: Any, limits: Limits, origin: Origin | None = None) -> None:
        assert origin is not None
        self._wanted_tls = None
        if self.starttls is not None and self.starttls is not False:
            if origin._tls is not None:
                raise LocalError("tls encrypts from the beginning, and starttls later: give one of them")
            from reactor.tls import tls_for  # not before somebody asks: ssl takes long to load

            self._wanted_tls = tls_for(origin, self.starttls)
        self._session = ClientSession(
            self.hostname or "localhost",
            credentials=self.credentials,
            is_secure=origin._tls is not None or not isinstance(peer, tuple),  # nobody can listen to a Unix socket
            starttls=self._wanted_tls is not None,
            allows_plaintext_authentication=self.allows_plaintext_authentication,
        )
        self._untold = []
        super()._attach(reactor, peer, limits, origin)

    def _opened(self) -> None:
        if not self.hostname:
            self._session.hostname = literal_of(self.socket.getsockname())
        super()._opened()

    def _secured(self) -> None:
        if self.socket.is_upgrade:
            self._session.secured()
            self._send()
        super()._secured()

    def handle_data(self, data: bytes) -> None:
        self._tell(self._session.feed(data))

    def _finish(self) -> None:
        left = self._untold + self._session.abandon(self._reason)
        try:
            self._tell([event for event in left if isinstance(event, Outcome)])
        finally:
            super()._finish()

    # Inside

    def _later(self, events: list[ClientEvent]) -> None:
        """Send what is to be sent, and tell of `events` when no hook runs."""
        self._send()
        if events:
            self._untold += events
            self.reactor.hook_soon(self, self._tell_rest)

    def _tell_rest(self) -> None:
        events, self._untold = self._untold, []
        self._tell(events)

    def _tell(self, events: list[ClientEvent]) -> None:
        """Send what is to be sent, and tell the hook of `events`."""
        self._send()
        for event in events:
            if isinstance(event, Outcome):
                try:
                    self.handle_outcome(event)
                except Exception as error:
                    self._hook_failed(error)
            elif isinstance(event, StartTls):
                self._encrypt()
            elif event.error is None:
                self.close_when_done()
            else:
                self._give_up(event.error)

    def _encrypt(self) -> None:
        """The server is ready for TLS."""
        dropped = self._session.dropped
        if dropped:
            log.warning("%s: %d bytes came in plaintext behind the reply to STARTTLS, and were dropped", self, dropped)
        self.start_tls(self._wanted_tls)

    def _send(self) -> None:
        data = self._session.data_to_send()
        if len(data) > CHUNK:
            self.push(in_chunks(data))
        elif data:
            self.push(data)


class OneMessage(MailClient):
    """A client for one message; see `deliver`."""

    def __init__(
        self,
        on_outcome: Callable[[Outcome], object],
        hostname: str,
        credentials: Credentials | None,
        starttls: Any,
        allows_plaintext_authentication: bool,
    ) -> None:
        self.on_outcome = on_outcome
        self.hostname = hostname
        self.credentials = credentials
        self.starttls = starttls
        self.allows_plaintext_authentication = allows_plaintext_authentication

    def handle_outcome(self, outcome: Outcome) -> None:
        self.on_outcome(outcome)


def deliver(
    address: Address,
    envelope: Envelope,
    on_outcome: Callable[[Outcome], object],
    *,
    hostname: str = "",
    credentials: Credentials | None = None,
    tls: Any = None,
    starttls: Any = None,
    allows_plaintext_authentication: bool = False,
    family: str | None = None,
    limits: Limits = CLIENT_LIMITS,
    reactor: Reactor | None = None,
) -> MailClient:
    """Connect to a mail server, hand one message over, and leave.

    Arguments:
        address: of the server; see `reactor.connect`. Which server takes mail for a domain is not looked up.
        envelope: the message.
        on_outcome: called once, on the loop, with the `Outcome`, whatever happens.
        hostname: see `MailClient`.
        credentials: see `MailClient`.
        tls: encrypt from the beginning, where the port is one for that (465, most often); see `reactor.connect`.
        starttls: encrypt where the port begins in plaintext (25 or 587, most often); see `MailClient`.
        allows_plaintext_authentication: see `MailClient`.
        family: see `reactor.connect`.
        limits: what is granted to the server.
        reactor: the loop; by default the one of this thread.

    Returns: the channel.

    Raises:
        LocalError: the message cannot be sent over SMTP, or the password would be sent where others can listen; or the
            TLS that is wanted makes no sense.
    """

    def make() -> OneMessage:
        return OneMessage(on_outcome, hostname, credentials, starttls, allows_plaintext_authentication)

    client = connect(address, make, family=family, limits=limits, reactor=reactor, tls=tls)
    try:
        client.deliver(envelope)
        client.quit()
    except BaseException:  # whatever it is: nobody else could close the connection
        client.close()
        raise
    return client


def in_chunks(data: bytes) -> Iterator[bytes]:
    """Produce `data` piece by piece: what is pulled as the peer takes it counts for no limit of output."""
    for start in range(0, len(data), CHUNK):
        yield data[start : start + CHUNK]
