"""The states of a server's session and the table of transitions: the only place where one can happen.

A state is an object without data of its own. The session gives it the input, and the answers of the program.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reactor.errors import StateError

from .replies import Reply

if TYPE_CHECKING:
    from .server_session import ServerSession

TRANSITIONS = {
    ("Fresh", "hello"): "Idle",
    ("Fresh", "close"): "Ended",
    ("Fresh", "reset"): "Fresh",
    ("Idle", "hello"): "Idle",
    ("Idle", "reset"): "Idle",
    ("Idle", "challenge"): "Challenged",
    ("Idle", "mail"): "SenderAsked",
    ("Idle", "encrypt"): "Securing",
    ("Idle", "close"): "Ended",
    ("Securing", "secured"): "Fresh",
    ("Securing", "close"): "Ended",
    ("Challenged", "challenge"): "Challenged",
    ("Challenged", "credentials"): "CredentialsAsked",
    ("Challenged", "cancel"): "Idle",
    ("Challenged", "close"): "Ended",
    ("CredentialsAsked", "settle"): "Idle",
    ("CredentialsAsked", "close"): "Ended",
    ("SenderAsked", "accept"): "Addressing",
    ("SenderAsked", "settle"): "Idle",
    ("SenderAsked", "close"): "Ended",
    ("Addressing", "hello"): "Idle",
    ("Addressing", "reset"): "Idle",
    ("Addressing", "recipient"): "RecipientAsked",
    ("Addressing", "data"): "Receiving",
    ("Addressing", "close"): "Ended",
    ("RecipientAsked", "settle"): "Addressing",
    ("RecipientAsked", "close"): "Ended",
    ("Receiving", "message"): "MessageAsked",
    ("Receiving", "spoil"): "Idle",
    ("Receiving", "close"): "Ended",
    ("MessageAsked", "settle"): "Idle",
    ("MessageAsked", "close"): "Ended",
}
"""(state, event) -> the state that follows. What stands not here cannot happen."""

MEANINGS = {
    "Fresh": "the client has not said who it is",
    "Idle": "no message is under way",
    "Securing": "TLS begins; what still comes in front of it is dropped",
    "Challenged": "in the middle of an AUTH: a response is awaited",
    "CredentialsAsked": "the program is to say whether name and password go together",
    "SenderAsked": "the program is to say whether it takes mail from this sender",
    "Addressing": "there is a sender; recipients come",
    "RecipientAsked": "the program is to say whether it takes mail for this recipient",
    "Receiving": "the content comes",
    "MessageAsked": "the program is to say whether it takes the message",
    "Ended": "the last reply is given; what still comes is dropped",
}


def follow(before: str, event: str) -> State:
    """Return the state that follows the state `before` on `event`.

    Raises:
        StateError: the table has no such transition.
    """
    after = TRANSITIONS.get((before, event))
    if after is None:
        raise StateError(f"{event!r} is not possible for a session that is {before}")
    return STATES[after]


class State:
    """What every state does unless it says otherwise.

    Attributes:
        name: its name in the table.
        limit: the field of `SessionLimits` that says how long a session may stay as it is.
        complaint: what a client is told whose command makes no sense here.
    """

    limit = "command_timeout"
    complaint = ""

    def __init__(self, name: str, complaint: str = "") -> None:
        self.name = name
        self.complaint = complaint

    def enter(self, session: ServerSession) -> None:
        """The transition into this state has happened."""

    def take(self, session: ServerSession) -> bool:
        """Take something from the input. Return whether there may be more to take."""
        return False

    def settle(self, session: ServerSession, reply: Reply | None) -> None:
        """The program has answered: None, or a reply that accepts or refuses."""
        raise StateError(f"nothing was asked: the session is {self.name}")


class Commanding(State):
    """Commands come, each of them a line."""

    def take(self, session: ServerSession) -> bool:
        return session.take_command()


class Idle(Commanding):
    def enter(self, session: ServerSession) -> None:
        session.forget_transaction()


class Securing(State):
    def take(self, session: ServerSession) -> bool:
        session.drop_input()
        return False


class Challenged(State):
    def take(self, session: ServerSession) -> bool:
        return session.take_response()


class Receiving(State):
    limit = "message_timeout"

    def take(self, session: ServerSession) -> bool:
        return session.take_content()


class Asked(State):
    """The program was asked: until it has answered, the input waits."""

    limit = "answer_timeout"


class CredentialsAsked(Asked):
    def settle(self, session: ServerSession, reply: Reply | None) -> None:
        session.settle_credentials(reply)


class SenderAsked(Asked):
    def settle(self, session: ServerSession, reply: Reply | None) -> None:
        session.settle_sender(reply)


class RecipientAsked(Asked):
    def settle(self, session: ServerSession, reply: Reply | None) -> None:
        session.settle_recipient(reply)


class MessageAsked(Asked):
    def settle(self, session: ServerSession, reply: Reply | None) -> None:
        session.settle_message(reply)


class Ended(State):
    def enter(self, session: ServerSession) -> None:
        session.forget_transaction()

    def take(self, session: ServerSession) -> bool:
        session.drop_input()
        return False


STATES: dict[str, State] = {
    state.name: state
    for state in (
        Commanding("Fresh", "say HELO or EHLO first"),
        Idle("Idle", "say MAIL first"),
        Securing("Securing"),
        Challenged("Challenged"),
        CredentialsAsked("CredentialsAsked"),
        SenderAsked("SenderAsked"),
        Commanding("Addressing", "there is a message under way"),
        RecipientAsked("RecipientAsked"),
        Receiving("Receiving"),
        MessageAsked("MessageAsked"),
        Ended("Ended"),
    )
}
