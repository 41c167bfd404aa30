"""What systemd is told, and when."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator

import pytest

import reactor
from reactor.notifying import VARIABLES, Notifier, compose, watchdog_interval
from tests.service.running import TIMEOUT, Client
from tests.service.storms import Start, starting

NOTIFY = shutil.which("systemd-notify")


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services; whatever still runs at the end is killed."""
    with starting() as start:
        yield start


@pytest.fixture
def systemd(socket_path: str) -> Iterator[socket.socket]:
    """The socket on which systemd is told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.bind(socket_path)
        yield sock
    os.unlink(socket_path)


def fields_of(message: bytes) -> dict[str, str]:
    """Return what a message says (sd_notify(3)): a line for each variable."""
    return dict(line.split("=", 1) for line in message.decode().splitlines())


def test_message_has_a_line_for_each_field() -> None:
    assert compose(ready=1, status="4 workers = all") == b"READY=1\nSTATUS=4 workers = all"
    with pytest.raises(reactor.LocalError, match="stands on one line each"):
        compose(status="two\nlines")


@pytest.mark.parametrize(
    ("environ", "seconds"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "2500000"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "7"}, 2.5),
        ({"WATCHDOG_USEC": "2500000", "WATCHDOG_PID": "8"}, None),
    ],
)
def test_watchdog_waits_for_the_process_that_is_meant(environ: dict[str, str], seconds: float | None) -> None:
    assert watchdog_interval(environ, 7) == seconds


@pytest.mark.parametrize("text", ["", "0", "-5", "2.5", "soon"])
def test_watchdog_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(reactor.LocalError, match="WATCHDOG_USEC is"):
        watchdog_interval({"WATCHDOG_USEC": text}, 7)


def test_all_that_can_be_said_arrives(systemd: socket.socket, socket_path: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": socket_path, "WATCHDOG_USEC": "1000000"})
    assert notifier.watchdog == 1.0
    notifier.ready("it works")
    assert fields_of(systemd.recv(1000)) == {"READY": "1", "MAINPID": str(os.getpid()), "STATUS": "it works"}
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading("once more")
    told = fields_of(systemd.recv(1000))
    after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert before <= int(told.pop("MONOTONIC_USEC")) <= after
    assert told == {"RELOADING": "1", "STATUS": "once more"}
    notifier.stopping("goodbye", 1.5)
    assert fields_of(systemd.recv(1000)) == {"STOPPING": "1", "STATUS": "goodbye", "EXTEND_TIMEOUT_USEC": "1500000"}
    notifier.alive()
    assert systemd.recv(1000) == b"WATCHDOG=1"


def test_abstract_names_are_understood() -> None:
    name = f"reactor-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(f"\0{name}")
        sock.settimeout(TIMEOUT)
        Notifier({"NOTIFY_SOCKET": f"@{name}"}).alive()
        assert sock.recv(1000) == b"WATCHDOG=1"


def test_nobody_is_told_where_nobody_wants_to_know() -> None:
    notifier = Notifier({"WATCHDOG_USEC": "1000000"})
    assert notifier.watchdog is None
    notifier.ready("it works")


def test_systemd_that_is_gone_ends_no_program(socket_path: str, caplog: pytest.LogCaptureFixture) -> None:
    Notifier({"NOTIFY_SOCKET": socket_path}).ready("it works")
    assert "systemd could not be told ready, mainpid, status: No such file or directory" in caplog.text
    with pytest.raises(reactor.LocalError, match="NOTIFY_SOCKET is 'vsock:2:1234'"):
        Notifier({"NOTIFY_SOCKET": "vsock:2:1234"})


@pytest.mark.skipif(NOTIFY is None, reason="there is no systemd-notify")
def test_systemd_notify_says_the_same(systemd: socket.socket, socket_path: str) -> None:
    assert NOTIFY is not None
    subprocess.run(
        [NOTIFY, "--no-block", "--ready", f"--pid={os.getpid()}", "--status=it works"],
        env={"NOTIFY_SOCKET": socket_path},
        check=True,
    )
    theirs = fields_of(systemd.recv(1000))
    Notifier({"NOTIFY_SOCKET": socket_path}).ready("it works")
    assert theirs == fields_of(systemd.recv(1000))


def test_service_tells_of_its_whole_life(start: Start, systemd: socket.socket, socket_path: str) -> None:
    service = start(environ={"NOTIFY_SOCKET": socket_path, "WATCHDOG_USEC": "100000"}, grace=7.0)

    def told(word: str) -> dict[str, str]:
        """Return the next message with `word`; signs of life come in between."""
        while True:
            fields = fields_of(systemd.recv(1000))
            if word in fields:
                return fields
            assert fields == {"WATCHDOG": "1"}

    ready = told("READY")
    assert ready["MAINPID"] == str(service.pid)
    assert re.fullmatch(r"serving 127.0.0.1:\d+ with 2 workers", ready["STATUS"])
    for _ in range(3):
        told("WATCHDOG")
    with Client(service.addresses[0]) as client:  # who would speak for the parent, if it were there
        assert [client.ask(f"environ {name}") for name in VARIABLES] == ["nothing"] * 3
    service.send_signal(signal.SIGHUP)
    assert told("RELOADING")["STATUS"] == "replacing 2 workers"
    assert told("READY") == ready
    service.send_signal(signal.SIGTERM)
    stopping = told("STOPPING")
    assert re.fullmatch(r"ending \d workers", stopping["STATUS"])  # one that was replaced may still be there
    assert int(stopping["EXTEND_TIMEOUT_USEC"]) > 7_000_000
    assert service.wait() == 0


def test_new_version_says_that_it_is_the_one_and_the_old_one_does_not_say_that_it_stops(
    start: Start, systemd: socket.socket, socket_path: str
) -> None:
    path = f"{socket_path}.handover"
    old = start(environ={"NOTIFY_SOCKET": socket_path}, handover=path, workers=1)
    assert fields_of(systemd.recv(1000))["MAINPID"] == str(old.pid)
    new = start(environ={"NOTIFY_SOCKET": socket_path}, handover=path, workers=1)
    told = fields_of(systemd.recv(1000))
    assert (told["READY"], told["MAINPID"]) == ("1", str(new.pid))
    assert old.wait() == 0
    assert new.stop() == 0
    assert "STOPPING" in fields_of(systemd.recv(1000))
    systemd.setblocking(False)
    with pytest.raises(BlockingIOError):
        systemd.recv(1000)
