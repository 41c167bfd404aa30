"""The contestants: each prints its port on 127.0.0.1 and serves until it is killed; the first argument is the mode.

raw            sends back whatever comes in
tls            the same, encrypted; the second argument is a file with certificate and key
frames         sends back each message that comes in, 4 bytes of length in front of it
frames-joined  the same, and joins by hand what it has to send
messages       sends back each object, to clients of `multiprocessing.connection` that know the key
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl

BACKLOG = 4096
"""Thousands connect at once here; what a full backlog costs is not what is measured."""

KEY = b"a key that only the benchmark uses"


def server_context(certificate: str) -> ssl.SSLContext:
    """Return the TLS of the contestants that take that of the standard library, as it is by default."""
    import ssl  # not for the modes that need none: it would be counted in their memory

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context
