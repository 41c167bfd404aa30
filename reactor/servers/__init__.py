"""The servers of `socketserver`, on a reactor: ``from reactor import servers as socketserver``.

Handler classes run unchanged: the reactor accepts, holds the limits, and makes the handshakes of all peers at the same
time; then the handler gets a blocking socket, in a thread of a bounded pool (`ThreadingMixIn`), in a forked child
(`ForkingMixIn`), or in the thread that serves.
"""

from __future__ import annotations

from socketserver import BaseRequestHandler, DatagramRequestHandler, StreamRequestHandler

from .encrypted import EncryptedSocket
from .families import BaseServer, TCPServer, UDPServer, UnixDatagramServer, UnixStreamServer
from .forking import ForkingMixIn
from .pool import ThreadingMixIn

__all__ = [
    "BaseRequestHandler",
    "BaseServer",
    "DatagramRequestHandler",
    "EncryptedSocket",
    "ForkingMixIn",
    "ForkingTCPServer",
    "ForkingUDPServer",
    "ForkingUnixDatagramServer",
    "ForkingUnixStreamServer",
    "StreamRequestHandler",
    "TCPServer",
    "ThreadingMixIn",
    "ThreadingTCPServer",
    "ThreadingUDPServer",
    "ThreadingUnixDatagramServer",
    "ThreadingUnixStreamServer",
    "UDPServer",
    "UnixDatagramServer",
    "UnixStreamServer",
]


class ThreadingTCPServer(ThreadingMixIn, TCPServer):
    """A `TCPServer` whose handlers run on threads."""


class ThreadingUDPServer(ThreadingMixIn, UDPServer):
    """A `UDPServer` whose handlers run on threads."""


class ThreadingUnixStreamServer(ThreadingMixIn, UnixStreamServer):
    """A `UnixStreamServer` whose handlers run on threads."""


class ThreadingUnixDatagramServer(ThreadingMixIn, UnixDatagramServer):
    """A `UnixDatagramServer` whose handlers run on threads."""


class ForkingTCPServer(ForkingMixIn, TCPServer):
    """A `TCPServer` whose handlers run in children."""


class ForkingUDPServer(ForkingMixIn, UDPServer):
    """A `UDPServer` whose handlers run in children."""


class ForkingUnixStreamServer(ForkingMixIn, UnixStreamServer):
    """A `UnixStreamServer` whose handlers run in children."""


class ForkingUnixDatagramServer(ForkingMixIn, UnixDatagramServer):
    """A `UnixDatagramServer` whose handlers run in children."""
