"""What befalls a service under load: workers are killed, replaced, and the whole program is."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from typing import Any

import reactor
from tests.conftest import run_until

from .load import Load
from .running import Service, accepted_by, children_of, stopped

Start = Callable[..., Service]

PATIENCE = 60.0
QUICK = [0.02, 0.1]
"""A backoff for workers that are killed all the time."""


def kills(service: Service, address: Any, loop: reactor.Reactor, count: int) -> Load:
    """Kill a worker so many times, and see that this costs nobody but its own clients.

    Whose clients they are, the kernel tells while the worker is held: it may have accepted one whom it has not greeted.
    """
    load = Load(address, loop)
    own: set[int] = set()
    for number in range(count):
        victim = service.serving()[number % 2 + 1]
        run_until(loop, lambda: load.clients_of(victim) >= 2, PATIENCE)  # noqa: B023
        with stopped(victim):
            own |= accepted_by(victim)
            first = service.now
            os.kill(victim, signal.SIGKILL)
        run_until(loop, lambda: service.find(rf"worker {number % 2 + 1} .* is ready", first), PATIENCE)  # noqa: B023
    finish(load, 100)
    foreign = [loss for loss in load.lost if loss.port not in own]
    assert (foreign, load.refused, load.wrong) == ([], 0, []), f"{service}"
    assert len(load.lost) >= count  # each of them had clients, and these are not forgotten
    assert sorted(children_of(service.pid)) == sorted(service.serving().values())
    return load


def reloads(service: Service, address: Any, loop: reactor.Reactor, count: int) -> Load:
    """Reload so many times, and see that nobody notices."""
    load = Load(address, loop)
    for _ in range(count):
        before = set(service.serving().values())
        first = service.now
        run_until(loop, lambda: before & set(load.served), PATIENCE)  # noqa: B023
        service.send_signal(signal.SIGHUP)
        run_until(loop, lambda: service.find("the reload is done", first), PATIENCE)  # noqa: B023
        run_until(loop, lambda: not before & set(children_of(service.pid)), PATIENCE)  # noqa: B023
        run_until(loop, lambda: set(service.serving().values()) & set(load.served), PATIENCE)
    finish(load, 50)
    assert load.verdict == ([], 0, []), f"{service}"
    return load


def handovers(start: Start, loop: reactor.Reactor, count: int, path: str, **options: Any) -> Load:
    """Replace the program so many times by another one with another number of workers; nobody notices."""
    service = start(handover=path, **options)
    (address,) = service.addresses
    load = Load(address, loop)
    for number in range(count):
        run_until(loop, lambda: set(service.serving().values()) & set(load.served), PATIENCE)  # noqa: B023
        follower = start(handover=path, **options | {"workers": 1 + number % 3})
        run_until(loop, lambda: follower.find("the old version .* has ended"), PATIENCE)  # noqa: B023
        assert service.wait() == 0, f"{service}"
        assert follower.addresses == [address]
        service = follower
        run_until(loop, lambda: set(service.serving().values()) & set(load.served), PATIENCE)  # noqa: B023
    finish(load, 50)
    assert load.verdict == ([], 0, []), f"{service}"
    assert service.stop() == 0
    return load


def finish(load: Load, sessions: int) -> None:
    """Let so many more sessions come to their end, and then all of them."""
    finished = load.finished
    run_until(load.loop, lambda: load.finished > finished + sessions, PATIENCE)
    load.goes_on = False
    run_until(load.loop, lambda: not load.sessions, PATIENCE)


@contextlib.contextmanager
def starting() -> Any:
    """Start services; whatever still runs at the end is killed."""
    services: list[Service] = []

    def start(**options: Any) -> Service:
        services.append(Service(**options))
        return services[-1]

    try:
        yield start
    finally:
        for service in services:
            service.close()
