"""What a server grants each client: every bound and every timeout, with its default."""

from __future__ import annotations

import dataclasses
import math

from reactor.errors import LocalError

MIB = 1 << 20


@dataclasses.dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one session of a mail server grants its client. Sizes are bytes, times are seconds.

    Counts begin anew when a message was accepted. How many clients there may be stands in `reactor.Limits`; together
    they hold `maximum_message` bytes each of memory at the most, and as much as one receive beside that.

    Raises:
        LocalError: a value makes no sense.
    """

    maximum_message: int = 32 * MIB
    """The content of one message, which is held in memory until it was answered for."""

    maximum_recipients: int = 1000
    """Of one message. RFC 5321 (section 4.5.3.1.8) asks for 100 at least."""

    maximum_text_line: int = 1000
    """One line of a message with its CRLF (RFC 5321, section 4.5.3.1.6)."""

    maximum_errors: int = 20
    """Commands that are malformed, out of order, or none."""

    maximum_unrecognised: int = 5
    """Commands that are none: more of them come from somebody who does not speak SMTP."""

    maximum_refused: int = 100
    """Senders, recipients and messages that were refused for good: who goes on is trying names out."""

    maximum_deferred: int = 1000
    """Those that were refused for now, and recipients above `maximum_recipients`: a long list gets as many at once."""

    maximum_idle_commands: int = 100
    """Commands that bring no message nearer: HELO, EHLO, RSET, NOOP, VRFY, HELP."""

    maximum_authentications: int = 3
    """AUTH commands; these count for the whole session."""

    maximum_waiting_input: int = MIB
    """Input that came behind a question which the program has yet to answer."""

    command_timeout: float = 300.0
    """For the next whole command (RFC 5321, section 4.5.3.2.7)."""

    message_timeout: float = 3600.0
    """For the whole content of a message, from the go-ahead to its end."""

    silence_timeout: float = 300.0
    """For the next bytes of a content: as long as for a command."""

    answer_timeout: float = 300.0
    """For the answer of this program, where it is given later. A client waits ten minutes (section 4.5.3.2.6)."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_timeout"):
                if not (isinstance(value, int | float) and 0 < value < math.inf):
                    raise LocalError(f"SessionLimits.{field.name} is {value!r}; give seconds above 0")
            elif not isinstance(value, int) or value < 1:
                raise LocalError(f"SessionLimits.{field.name} is {value!r}; give a whole number of at least 1")
        if self.maximum_text_line < 3:
            raise LocalError("SessionLimits.maximum_text_line leaves no room beside the CRLF")


DEFAULT_LIMITS = SessionLimits()
