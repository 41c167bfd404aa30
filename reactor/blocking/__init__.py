"""The blocking face: the names of ``multiprocessing.connection``, with a timeout on everything.

For scripts, tests and worker processes that want to say `recv` and wait. The frames and the handshake are those of
the channels.
"""

from __future__ import annotations

from multiprocessing import BufferTooShort
from multiprocessing.connection import wait

from .connection import Connection
from .handshake import AuthenticationError, answer_challenge, deliver_challenge
from .listener import Client, Listener, Pipe

__all__ = [
    "AuthenticationError",
    "BufferTooShort",
    "Client",
    "Connection",
    "Listener",
    "Pipe",
    "answer_challenge",
    "deliver_challenge",
    "wait",
]
