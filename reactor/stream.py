"""Streams: raw bytes, in the pieces in which they come."""

from __future__ import annotations

from .connecting import Connectable


class Stream(Connectable):
    """A channel for raw bytes: write `handle_data`, call `push`."""

    __slots__ = ()
