"""Handover: the sockets of a program go to its next version, and no client notices."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import handover
from reactor.handover import Offer, Predecessor, check_credentials, receive, send
from tests.conftest import run_until
from tests.service.running import Client
from tests.service.storms import Start, handovers, starting


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services; whatever still runs at the end is killed."""
    with starting() as start:
        yield start


class Giver:
    """A program that offers its sockets."""

    def __init__(self, path: str, loop: reactor.Reactor) -> None:
        self.loop = loop
        self.given: list[int] = []
        self.sockets = [(name, socket.create_server(("127.0.0.1", 0))) for name in ("one", "two")]
        self.offer = Offer(path, lambda: self.sockets, lambda: ["/a/file"], self.given.append, loop)

    def close(self) -> None:
        self.offer.close()
        for _, sock in self.sockets:
            sock.close()
        self.loop.poll()


@pytest.fixture
def giver(loop: reactor.Reactor, socket_path: str) -> Iterator[Giver]:
    with contextlib.closing(Giver(socket_path, loop)) as giver:
        yield giver


@pytest.fixture
def take(loop: reactor.Reactor, in_thread: Any, socket_path: str) -> Callable[[], Predecessor]:
    """Finds the program that offers its sockets, as the next version does before it has a loop."""

    def run() -> Predecessor:
        found: list[Predecessor | None] = []
        refused: list[reactor.LocalError] = []

        def ask() -> None:
            try:
                found.append(Predecessor.find(socket_path))
            except reactor.LocalError as error:
                refused.append(error)

        thread = in_thread(ask)
        run_until(loop, lambda: not thread.is_alive())
        if refused:
            raise refused[0]
        assert found[0] is not None
        return found[0]

    return run


def test_sockets_go_over_with_their_names_and_the_door_with_them(
    giver: Giver, take: Callable[[], Predecessor], loop: reactor.Reactor, socket_path: str
) -> None:
    with contextlib.closing(take()) as predecessor:
        assert predecessor.pid == os.getpid()
        assert predecessor.files == ["/a/file"]
        assert [(name, sock.getsockname()) for name, sock in predecessor.sockets] == [
            (name, sock.getsockname()) for name, sock in giver.sockets
        ]
        assert predecessor.door is not None
        assert predecessor.door.getsockname() == socket_path
        # The old version accepts from them, too: one that blocked, were it for a moment, could catch it in accept.
        assert {sock.gettimeout() for _, sock in predecessor.sockets} == {0.0}
        assert not any(os.get_inheritable(sock.fileno()) for _, sock in predecessor.sockets)
        assert giver.given == []
    run_until(loop, lambda: giver.offer.visitor is None)
    assert giver.given == []


def test_old_version_is_told_when_the_new_one_is_ready_and_the_new_one_when_the_old_one_has_ended(
    giver: Giver, take: Callable[[], Predecessor], loop: reactor.Reactor, socket_path: str
) -> None:
    with contextlib.closing(take()) as predecessor:
        ended: list[str] = []
        predecessor.dismiss(loop, lambda: ended.append("ended"))
        run_until(loop, lambda: giver.given)
        assert giver.given == [os.getpid()]
        assert ended == []
        giver.offer.close()
        assert os.path.exists(socket_path)  # it belongs to the new version now
        visitors = [channel for channel in loop.channels if isinstance(channel, handover.Visitor)]
        visitors[0].close()  # as the end of the process does
        run_until(loop, lambda: ended)
        assert predecessor.door is not None
        offer = Offer(socket_path, list, list, print, loop, predecessor.door)
        predecessor.door = None
        offer.close()
    assert not os.path.exists(socket_path)


def test_new_version_that_is_ready_at_the_very_end_of_the_old_one_keeps_the_files(
    giver: Giver, take: Callable[[], Predecessor], loop: reactor.Reactor, socket_path: str
) -> None:
    with contextlib.closing(take()) as predecessor, reactor.Reactor() as other:
        predecessor.dismiss(other, list)
        giver.offer.close()
        assert giver.given == [os.getpid()]
    assert os.path.exists(socket_path)
    os.unlink(socket_path)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (b"ready\n", "these are no words of a handover"),
        (b"GET / HTTP/1.1\r\n\r\n", "these are no words of a handover"),
        (b"take\ntake\n", "these are no words of a handover"),
    ],
)
def test_whoever_says_something_else_gets_nothing(
    giver: Giver, loop: reactor.Reactor, socket_path: str, words: bytes, answer: str
) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(socket_path)
        client.sendall(words)
        run_until(loop, lambda: select.select([client], [], [], 0)[0])
        data, descriptors, _, _ = socket.recv_fds(client, 1000, 10)
    assert json.loads(data) == {"error": answer}
    assert descriptors == []
    assert giver.given == []
    run_until(loop, lambda: len(loop.channels) == 1)


def test_one_after_the_other(giver: Giver, take: Callable[[], Predecessor]) -> None:
    with (
        contextlib.closing(take()),
        pytest.raises(reactor.LocalError, match=rf"refuses: process {os.getpid()} is about to take them"),
    ):
        take()


def test_nobody_is_found_where_nobody_listens(socket_path: str) -> None:
    assert Predecessor.find(socket_path) is None
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(socket_path)
    assert Predecessor.find(socket_path) is None  # a file that a dead program left behind
    os.unlink(socket_path)
    with pytest.raises(reactor.AddressError):
        Predecessor.find(("localhost", 6000))


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b"", "does not answer within 0.2 s"),
        (b"220 example.org ESMTP\r\n", r"is no version of this program: b'220 example.org"),
        (b'{"sockets": 5}\n', "is no version of this program"),
        (b"[]\n", "is no version of this program"),
        (None, "has ended in the middle of the handover"),
    ],
)
def test_somebody_else_at_the_path_is_no_predecessor(
    socket_path: str, in_thread: Any, answer: bytes | None, complaint: str
) -> None:
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as other:
        other.bind(socket_path)
        other.listen()

        def talk() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(100)
                connection.sendall(answer or b"")
                if answer is not None:
                    connection.recv(100)

        in_thread(talk)
        with pytest.raises(reactor.LocalError, match=complaint):
            Predecessor.find(socket_path, 0.2 if answer == b"" else 10.0)
    os.unlink(socket_path)


def test_more_sockets_go_over_than_one_message_takes() -> None:
    ours, theirs = socket.socketpair()
    received: list[socket.socket] = []
    with ours, theirs, socket.create_server(("127.0.0.1", 0)) as server:
        names = [f"number {number}" for number in range(450)]
        send(ours, {"sockets": names, "files": []}, [server] * 451)
        assert receive(theirs, received) == (names, [])
        assert len(received) == 451
        assert {sock.getsockname() for sock in received} == {server.getsockname()}
        for sock in received:
            sock.close()


class Credentials:
    """A socket that tells who is at its other end."""

    def __init__(self, user: int) -> None:
        self.user = user

    def getsockopt(self, *args: int) -> bytes:
        return struct.pack("iII", 77, self.user, 5)


def test_sockets_are_for_the_same_user_and_for_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert check_credentials(Credentials(1000)) == 77
    assert check_credentials(Credentials(0)) == 77
    with pytest.raises(reactor.LocalError, match="process 77 belongs to user 1001, and this program to user 1000"):
        check_credentials(Credentials(1001))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(reactor.LocalError):  # root takes nothing from a user, who could be anybody
        check_credentials(Credentials(1000))


STRANGER = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
sock = socket.socket(socket.AF_UNIX)
sock.connect("\\0" + sys.argv[1])
try:
    sock.sendall(b"take\\n")
except BrokenPipeError:
    pass
data, descriptors, _, _ = socket.recv_fds(sock, 1000, 10)
print(data.decode(), descriptors)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_another_user_gets_nothing(loop: reactor.Reactor) -> None:
    # An abstract name, which has no file that would keep him out.
    giver = Giver(f"\0reactor-test-{os.getpid()}", loop)
    with contextlib.closing(giver):
        process = subprocess.Popen(
            [sys.executable, "-c", STRANGER, f"reactor-test-{os.getpid()}"], stdout=subprocess.PIPE, cwd="/"
        )
        run_until(loop, lambda: process.poll() is not None)
        output, _ = process.communicate()
    assert b"belongs to user 65534, and this program to user 0" in output
    assert output.strip().endswith(b"[]")
    assert giver.given == []


# Whole programs


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_handover_under_load_is_noticed_by_nobody(
    start: Start, loop: reactor.Reactor, tmp_path: Path, socket_path: str, family: str
) -> None:
    listen = [["127.0.0.1", 0]] if family == "tcp" else [socket_path]
    handovers(start, loop, 1, str(tmp_path / "handover"), listen=listen)
    assert list(tmp_path.iterdir()) == []


def test_who_is_connected_to_the_old_version_comes_to_his_end_there(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "handover")
    old = start(handover=path)
    (address,) = old.addresses
    with Client(address) as client:
        assert client.ask("first") == "first"
        new = start(handover=path, workers=1, listen=[list(address)])
        assert new.addresses == [address]
        new.wait_for(rf"the old version \(process {old.pid}\) is told to end")
        old.wait_for("accepts no more; connections left: 1")
        with Client(address) as another:
            assert another.pid == new.serving()[1]
        assert client.ask("last") == "last"
        assert client.pid in old.serving().values()
    assert old.wait() == 0
    new.wait_for(rf"the old version \(process {old.pid}\) has ended")
    assert new.stop() == 0


def test_old_version_that_is_told_to_end_goes_on_with_that_and_cuts_nobody_off(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "handover")
    old = start(handover=path, grace=1000.0)
    (address,) = old.addresses
    with Client(address) as client:
        assert client.pid
        new = start(handover=path, workers=1)
        old.wait_for("accepts no more; connections left: 1")
        old.send_signal(signal.SIGTERM)
        old.wait_for(r"SIGTERM: another process has taken over, and \d workers? come to their end already")
        assert client.ask("hello") == "hello"
    assert old.wait() == 0
    assert new.stop() == 0


def test_old_version_that_ends_before_the_new_one_is_ready_leaves_it_everything(
    start: Start, tmp_path: Path, socket_path: str
) -> None:
    path = str(tmp_path / "handover")
    os.mkfifo(tmp_path / "setup")  # whoever reads it waits
    old = start(listen=[socket_path], handover=path)
    assert old.addresses == [socket_path]
    new = start(listen=[socket_path], handover=path, workers=1, environ={"SETUP": str(tmp_path / "setup")})
    old.wait_for(f"process {new.pid} takes over")
    assert old.stop() == 0
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as early:
        early.connect(socket_path)
        (tmp_path / "setup").write_text("")
        assert new.addresses == [socket_path]
        assert early.recv(100).decode().strip() == str(new.serving()[1])
    newest = start(listen=[socket_path], handover=path)
    assert newest.addresses == [socket_path]
    assert new.wait() == 0
    assert newest.stop() == 0
    assert not os.path.exists(socket_path)
    assert not os.path.exists(path)


def test_version_that_dies_before_it_accepts_is_none(tmp_path: Path) -> None:
    path = str(tmp_path / "handover")
    with socket.socket(socket.AF_UNIX) as door, ThreadPoolExecutor(1) as threads:
        door.bind(path)
        door.listen()
        found = threads.submit(Predecessor.find, path)
        assert select.select([door], [], [], 10)[0]
        door.close()
        assert found.result(10) is None


def test_nobody_waits_for_a_version_that_was_killed_while_its_workers_come_to_their_end(
    start: Start, tmp_path: Path
) -> None:
    path = str(tmp_path / "handover")
    first = start(handover=path)
    (address,) = first.addresses
    killed = start(handover=path, grace=1000.0)  # it has the door from the first one
    assert killed.addresses == [address]
    assert first.wait() == 0
    with Client(address) as client:
        assert client.pid
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait_for("its parent is gone; accepts no more; connections left: 1")
        assert Predecessor.find(path) is None
        assert client.ask("hello") == "hello"


def test_new_version_that_never_is_ready_changes_nothing(start: Start, tmp_path: Path) -> None:
    path = str(tmp_path / "handover")
    (tmp_path / "setup").write_text("raise")
    old = start(handover=path)
    (address,) = old.addresses
    failing = start(handover=path, environ={"SETUP": str(tmp_path / "setup")}, patience=0.2)
    assert failing.wait() == 1
    old.wait_for(rf"ERROR process {failing.pid} has ended before it was ready to take over; this one goes on")
    with Client(address) as client:
        assert client.ask("hello") == "hello"
        assert client.pid in old.serving().values()
    (tmp_path / "setup").unlink()
    new = start(handover=path)
    assert new.addresses == [address]
    assert old.wait() == 0
    assert new.stop(signal.SIGINT) == 0
    assert list(tmp_path.iterdir()) == []
