"""Telnet (RFC 854 and 855): server and client.

Subclass `Telnet`, and give the class to a `reactor.Listener`; or subclass `TelnetClient`, and say `connect`. The
`Session` below them does no I/O.
"""

from .channel import Telnet, TelnetClient
from .lines import Line
from .options import Option, Side
from .session import Data, Event, OptionDisabled, OptionEnabled, Session, TerminalType, WindowSize
from .wire import Command, LimitExceeded

__all__ = [
    "Command",
    "Data",
    "Event",
    "LimitExceeded",
    "Line",
    "Option",
    "OptionDisabled",
    "OptionEnabled",
    "Session",
    "Side",
    "Telnet",
    "TelnetClient",
    "TerminalType",
    "WindowSize",
]
