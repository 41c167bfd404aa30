"""What can go wrong with a delivery: the errors of an SMTP client, typed by blame.

::

    RemoteError
    ├── DeliveryError             the server does not take a message, or one recipient of it
    │   ├── TemporaryFailure      not now (4yz): try again later
    │   └── PermanentFailure      not so (5yz): the same attempt will fail again
    │       └── MissingExtension  the server does not offer what the message needs
    └── ProtocolError             what the server says is no SMTP

A message that this program should not have offered raises `reactor.errors.LocalError` where it is given in.
"""

from __future__ import annotations

from reactor.errors import RemoteError, printable

from .replies import Reply


class DeliveryError(RemoteError):
    """The server does not take a message, or one recipient of it.

    Arguments:
        message: what was refused.
        reply: what the server said, or None.
    """

    def __init__(self, message: str, reply: Reply | None = None) -> None:
        super().__init__(message, reply)
        self.reply = reply

    def _message(self) -> str:
        message = str(self.args[0])
        return message if self.reply is None else f"{message}: {printable(str(self.reply))}"


class TemporaryFailure(DeliveryError):
    """Not now (4yz): the same attempt may succeed later."""


class PermanentFailure(DeliveryError):
    """Not so (5yz): the same attempt would fail again."""


class MissingExtension(PermanentFailure):
    """The server does not offer an extension without which the message cannot be sent to it."""


class ProtocolError(RemoteError):
    """What the server says is no SMTP, or comes where it has no meaning."""


def refusal(what: str, reply: Reply) -> TemporaryFailure | PermanentFailure:
    """Return the error that `reply`, which does not grant what was asked, means.

    Arguments:
        what: what was asked, in words.

    Raises:
        ProtocolError: it is no refusal either.
    """
    if reply.is_temporary:
        return TemporaryFailure(f"{what} is refused for now", reply)
    if reply.is_permanent:
        return PermanentFailure(f"{what} is refused", reply)
    raise ProtocolError(f"{what} is answered by what is no answer to it: {printable(str(reply))}")
