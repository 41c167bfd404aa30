"""Mail (RFC 5321): a server, which is the successor of ``smtpd``, and a client.

Subclass `MailServer`, and give the class to a `reactor.Listener`; or say `deliver`, or subclass `MailClient`. Both
encrypt from the beginning with ``tls=``, or behind STARTTLS with the attribute `starttls`. The
`ServerSession` and the `ClientSession` below them do no I/O.
"""

from .client import CLIENT_LIMITS, MailClient, deliver
from .client_session import ClientSession, Finished, Outcome
from .envelope import Envelope
from .errors import DeliveryError, MissingExtension, PermanentFailure, ProtocolError, TemporaryFailure
from .limits import SessionLimits
from .mechanisms import Credentials
from .questions import Encryption, Ended, Recipient, Sender, StartTls
from .replies import Reply
from .server import Answer, MailServer
from .server_session import Authentication, ServerSession

__all__ = [
    "CLIENT_LIMITS",
    "Answer",
    "Authentication",
    "ClientSession",
    "Credentials",
    "DeliveryError",
    "Encryption",
    "Ended",
    "Envelope",
    "Finished",
    "MailClient",
    "MailServer",
    "MissingExtension",
    "Outcome",
    "PermanentFailure",
    "ProtocolError",
    "Recipient",
    "Reply",
    "Sender",
    "ServerSession",
    "SessionLimits",
    "StartTls",
    "TemporaryFailure",
    "deliver",
]
