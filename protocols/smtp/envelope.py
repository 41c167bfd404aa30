"""Envelopes: a message, and what is said about it while it is handed over."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Envelope:
    """A message with its sender and its recipients, which need not be those that its header names.

    Arguments:
        sender: who is told when it cannot be delivered; ``""`` for nobody.
        recipients: who is to have it.
        content: header and body in bytes, as they are, without anything put in for the way. What came in over
            SMTP ends every line with CRLF, and has no other CR or LF in it.
        options: what the client said about the message, by the names of RFC 5321's parameters: ``SIZE``, ``BODY``,
            ``SMTPUTF8``. Claims, not facts. A client makes them by itself: what stands here it does not look at.
        peer: the address of the client, as the socket module writes it, or None.
        client_name: what the client calls itself. Nothing has checked it.
        protocol: how it came, in the words that belong into a Received line (RFC 3848): ``"ESMTP"``.
        user: as whom the client has authenticated; ``""`` if it has not.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes = dataclasses.field(repr=False)
    options: Mapping[str, str] = dataclasses.field(default_factory=dict)
    peer: Any = None
    client_name: str = ""
    protocol: str = ""
    user: str = ""
