"""What every test stands on: a reactor of its own, and a count of descriptors, threads and files at the end."""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import reactor

KEY = b"a long secret key"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell ignores Ctrl-C in what it starts in the background, and so would every program that the tests start.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def open_descriptors() -> dict[int, str]:
    """Return the open descriptors of this process, and what each one is."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            pass  # the descriptor of the listing itself
    return found


@pytest.fixture(scope="module", autouse=True)
def what_lives_already_is_frozen() -> None:
    """Have the two collections around each test look at what its module made.

    To walk each time through all that was imported, and through the reports of the tests before, takes
    longer than the tests.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def nothing_is_leaked() -> Iterator[list[Path]]:
    """Fail a test that leaves a descriptor, a thread or a socket's file behind."""
    gc.collect()
    descriptors, threads = open_descriptors(), set(threading.enumerate())
    directories: list[Path] = []
    yield directories
    for directory in directories:
        assert list(directory.iterdir()) == []
    gc.collect()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        left = {number: what for number, what in open_descriptors().items() if descriptors.get(number) != what}
        alive = set(threading.enumerate()) - threads
        if not left and not alive:
            return
        time.sleep(0.01)  # a thread that was told to end may need a moment
    pytest.fail(f"left behind: descriptors {left}, threads {alive}")


@pytest.fixture
def loop() -> Iterator[reactor.Reactor]:
    """A reactor of the test's own, closed at the end."""
    with reactor.Reactor() as fresh:
        yield fresh


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def timed(clock: FakeClock) -> Iterator[reactor.Reactor]:
    """A reactor whose time is moved by hand. Only `poll` it: a `loop` that waits would wait for ever."""
    with reactor.Reactor(clock=clock) as loop:
        yield loop


@pytest.fixture
def socket_path(tmp_path_factory: pytest.TempPathFactory, nothing_is_leaked: list[Path]) -> str:
    """A short path for a Unix socket; the directory is empty at the end of the test."""
    directory = tmp_path_factory.mktemp("s")
    nothing_is_leaked.append(directory)
    return str(directory / "socket")


def run_until(loop: reactor.Reactor, condition: Callable[[], Any], timeout: float = 10.0) -> None:
    """Run the loop until `condition` holds; fail the test if it does not within `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout} s: {condition}")
        loop.poll(0.01)


class Recorder:
    """Mixed into a channel: writes down in `events` what its hooks were told, in order."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def handle_open(self) -> None:
        self.events.append(("open",))

    def handle_data(self, data: bytes) -> None:
        self.events.append(("data", data))

    def handle_message(self, message: Any) -> None:
        self.events.append(("message", message))

    def handle_error(self, error: Exception) -> None:
        self.events.append(("error", error))
        super().handle_error(error)  # type: ignore[misc]

    def handle_close(self, reason: Exception) -> None:
        self.events.append(("close", reason))

    def of(self, kind: str) -> list[Any]:
        """Return what the hook `kind` was told, each time."""
        return [event[-1] for event in self.events if event[0] == kind]


class RecordingConnection(Recorder, reactor.Connection):
    """A connection that writes down what happens to it."""


class RecordingStream(Recorder, reactor.Stream):
    """A stream that writes down what happens to it."""

    @property
    def received(self) -> bytes:
        return b"".join(self.of("data"))


class Accepting:
    """A factory for a listener that keeps the channels it has made, in `channels`."""

    def __init__(self, make: Callable[[], reactor.Channel]) -> None:
        self._make = make
        self.channels: list[Any] = []

    def __call__(self) -> reactor.Channel:
        channel = self._make()
        self.channels.append(channel)
        return channel


@pytest.fixture
def in_thread() -> Iterator[Callable[..., threading.Thread]]:
    """Start threads for blocking peers; each is joined at the end, and what one raised is raised then."""
    threads: list[threading.Thread] = []
    errors: list[BaseException] = []

    def start(function: Callable[..., Any], *args: Any) -> threading.Thread:
        def work() -> None:
            try:
                function(*args)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work, daemon=True)
        threads.append(thread)
        thread.start()
        return thread

    yield start
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "a peer's thread hangs"
    if errors:
        raise errors[0]


def port_of_nobody() -> int:
    """Return a port that is free, and not one of those that the system gives to whoever asks for any (ip(7))."""
    while True:
        with contextlib.suppress(OSError), socket.create_server(("", random.randrange(20_000, 32_000))) as server:
            return int(server.getsockname()[1])


def raw_client(address: Any) -> socket.socket:
    """Return a blocking socket that is connected to `address`, with a timeout."""
    sock = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    sock.settimeout(10)
    sock.connect(address)
    return sock


ROOT = Path(__file__).resolve().parent.parent
