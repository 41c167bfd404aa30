"""The manager of shared memory, with a server on one reactor."""

from __future__ import annotations

import os
from multiprocessing import managers
from typing import Any

from .server import Server

_Original: Any = managers.SharedMemoryServer


class SharedMemoryServer(Server):
    """Serves the clients of `multiprocessing.managers.SharedMemoryManager`, unmodified; see `Server`."""

    public = _Original.public

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        name = f"shm_{os.fsdecode(self.address) if isinstance(self.address, bytes) else self.address}_{os.getpid()}"
        self.shared_memory_context: Any = managers._SharedMemoryTracker(name)  # type: ignore[attr-defined]

    def create(self, session: Any, typeid: str, /, *args: Any, **kwargs: Any) -> tuple[str, tuple[str, ...]]:
        """Make a shared object; see `Server.create`."""
        if hasattr(self.registry[typeid][-1], "_shared_memory_proxy"):
            kwargs["shared_memory_context"] = self.shared_memory_context
        return super().create(session, typeid, *args, **kwargs)

    def shutdown(self, session: Any) -> None:
        """Remove all shared memory, and end."""
        self.shared_memory_context.unlink()
        super().shutdown(session)

    track_segment = _Original.track_segment
    release_segment = _Original.release_segment
    list_segments = _Original.list_segments
