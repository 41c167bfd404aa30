"""TLS for the loads."""

from __future__ import annotations

import ssl


def client_context() -> ssl.SSLContext:
    """Return a context for version 1.3 that believes whoever answers: to verify is the client's work, not the server's.

    Sessions are not resumed: every handshake is a full one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
