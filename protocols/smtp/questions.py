"""What a server's session tells the program: questions, which it waits to have answered, and its end.

An `Envelope` is a question as well (is the message taken?), and so are `Credentials` (do they go together?).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from .envelope import Envelope
from .mechanisms import Credentials


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


Question = Sender | Recipient | Envelope | Credentials
Event = Question | Ended
