"""What a server says: its replies, with the codes of RFC 5321 and the enhanced ones of RFC 3463."""

from __future__ import annotations

from .lines import ContentFault, LineFault
from .mechanisms import MECHANISMS
from .replies import Reply

SENDER_TAKEN = Reply(250, "sender ok", "2.1.0")
RECIPIENT_TAKEN = Reply(250, "recipient ok", "2.1.5")
MESSAGE_TAKEN = Reply(250, "message accepted", "2.0.0")
AUTHENTICATED = Reply(235, "welcome", "2.7.0")
READY_FOR_TLS = Reply(220, "ready for TLS", "2.0.0")
GO_AHEAD = Reply(354, "go ahead; a dot on a line of its own ends the message")
FORGOTTEN = Reply(250, "forgotten", "2.0.0")
NOTHING_DONE = Reply(250, "ok", "2.0.0")
CANNOT_VERIFY = Reply(252, "send some mail, and see", "2.5.0")
GOOD_BYE = Reply(221, "good bye", "2.0.0")

UNRECOGNISED = Reply(500, "this is no command", "5.5.1")
NOT_IMPLEMENTED = Reply(502, "command not implemented", "5.5.1")
EHLO_FIRST = Reply(503, "say EHLO first", "5.5.1")
NO_ARGUMENT = Reply(501, "this command takes no argument", "5.5.4")
NOBODY_TO_VERIFY = Reply(501, "whom?", "5.5.4")
NO_SUCH_PARAMETER = Reply(555, "a parameter is not known here, or was not offered", "5.5.4")
NEEDS_UTF8 = Reply(553, "an address like this needs SMTPUTF8", "5.6.7")
NO_RECIPIENTS = Reply(554, "no valid recipients", "5.5.1")
TOO_MANY_RECIPIENTS = Reply(452, "too many recipients; send the message to the others separately", "4.5.3")
TOO_LARGE = Reply(552, "the message is larger than this server takes", "5.3.4")

AUTHENTICATE_FIRST = Reply(530, "authentication required", "5.7.0")
AUTHENTICATED_ALREADY = Reply(503, "you have authenticated already", "5.5.1")
ENCRYPTED_ALREADY = Reply(503, "everything is encrypted already", "5.5.1")
NEEDS_ENCRYPTION = Reply(538, "encryption required for authentication", "5.7.11")
NO_AUTHENTICATION = Reply(502, "authentication is not offered", "5.5.1")
NO_SUCH_MECHANISM = Reply(504, f"the mechanisms here are {' and '.join(MECHANISMS)}", "5.5.4")
NOT_AUTHENTICATED = Reply(535, "name and password do not go together", "5.7.8")
CANCELLED = Reply(501, "authentication cancelled", "5.7.0")

NO_SMTP = Reply(421, "this is SMTP, and not HTTP", "4.7.0")
TOO_MUCH_WAITING = Reply(421, "too much was sent without waiting for replies", "4.7.0")
TIMED_OUT = Reply(421, "you took too long", "4.4.2")
GOING_DOWN = Reply(421, "the service is going down; try again later", "4.3.2")
TROUBLE = Reply(451, "something went wrong here; try again later", "4.3.0")
NO_MAIL_HERE = Reply(554, "nobody takes mail here", "5.3.2")

LINE_REPLIES = {
    LineFault.TOO_LONG: Reply(500, "the line is too long", "5.5.2"),
    LineFault.BARE: Reply(500, "lines end with CRLF; a CR or an LF alone is not accepted", "5.5.2"),
}
RESPONSE_REPLIES = {
    LineFault.TOO_LONG: Reply(500, "the line is too long", "5.5.6"),
    LineFault.BARE: LINE_REPLIES[LineFault.BARE],
}
CONTENT_REPLIES = {
    ContentFault.FAR_TOO_LARGE: TOO_LARGE,
    ContentFault.BARE: Reply(554, "lines end with CRLF; a CR or an LF alone is not accepted", "5.6.0"),
    ContentFault.NUL: Reply(554, "a NUL has no place in a message", "5.6.0"),
    ContentFault.TOO_LARGE: TOO_LARGE,
    ContentFault.LONG_LINE: Reply(554, "a line of the message is too long", "5.6.0"),
}
OVER_THE_LIMIT = {
    "maximum_errors": Reply(421, "too many errors", "4.7.0"),
    "maximum_unrecognised": Reply(421, "too many commands that are none", "4.7.0"),
    "maximum_refused": Reply(421, "too much had to be refused", "4.7.0"),
    "maximum_deferred": Reply(421, "too much had to be put off", "4.7.0"),
    "maximum_idle_commands": Reply(421, "too many commands without a message", "4.7.0"),
    "maximum_authentications": Reply(421, "too many authentication attempts", "4.7.0"),
}
"""What is said, by the field of `SessionLimits` that bites."""
