"""What a server's session tells the program: questions, which it waits to have answered, that TLS begins, and its end.

An `Envelope` is a question as well (is the message taken?), and so are `Credentials` (do they go together?).
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping

from .envelope import Envelope
from .mechanisms import Credentials


class Encryption(enum.Enum):
    """Whether there is TLS under a server's session."""

    MISSING = "there is none"
    OFFERED = "the client may ask for it with STARTTLS"
    ACTIVE = "everything is encrypted"


@dataclasses.dataclass(frozen=True, slots=True)
class Sender:
    """A question: is mail from this sender taken?

    Arguments:
        address: a mailbox, or ``""`` for none.
        options: see `Envelope.options`.
    """

    address: str
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Recipient:
    """A question: is mail for this recipient taken?

    Arguments:
        address: a mailbox, or ``"Postmaster"`` without a domain, which is to be taken (RFC 5321, section 4.5.1).
    """

    address: str


@dataclasses.dataclass(frozen=True, slots=True)
class Ended:
    """The session is over: send what is to be sent, then close."""


@dataclasses.dataclass(frozen=True, slots=True)
class StartTls:
    """Send what is to be sent, then begin TLS; when it is in effect, tell the session with `secured`.

    A client's session says so as well. Until then, a session drops what it is fed: it came in plaintext.
    """


Question = Sender | Recipient | Envelope | Credentials
Event = Question | StartTls | Ended
