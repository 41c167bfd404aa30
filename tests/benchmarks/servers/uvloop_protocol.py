"""uvloop, with the very protocols that `asyncio_protocol` has."""

from __future__ import annotations

import sys

import uvloop

from .asyncio_protocol import serve

if __name__ == "__main__":
    uvloop.run(serve(*sys.argv[1:]))
