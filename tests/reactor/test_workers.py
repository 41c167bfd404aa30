"""Workers: they share addresses, are replaced when they die or hang, and come to a good end; in real processes."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import select
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

import reactor
from reactor.inheriting import Inheritance
from reactor.notifying import Notifier
from reactor.processes import Process
from reactor.workers.hands import MANAGED, Hand, HandControl, Stage, stack_of_worker
from reactor.workers.parent import STEADY, Parent, Phase, Terms
from reactor.workers.sharing import Share, assign, open_shares, own_sockets
from tests.conftest import FakeClock
from tests.service.load import Load
from tests.service.running import TIMEOUT, Client, Service, children_of, state_of, stopped, wait_for_death, wait_until
from tests.service.storms import QUICK, Start, finish, kills, reloads, starting


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts services; whatever still runs at the end is killed."""
    with starting() as start:
        yield start


def client_of(service: Service, pid: int) -> Client:
    """Return a client whom the process `pid` serves; the kernel chooses, so it may take several."""
    for _ in range(1000):
        client = Client(service.addresses[0])
        if client.pid == pid:
            return client
        client.__exit__()
    pytest.fail(f"process {pid} serves nobody")


def refuses(address: Any) -> bool:
    """Return whether nobody listens there."""
    with socket.socket() as sock:
        return sock.connect_ex(address) == errno.ECONNREFUSED


# Who listens where


@given(sockets=st.integers(1, 20), workers=st.integers(1, 20), data=st.data())
def test_every_socket_has_somebody_who_listens_as_long_as_anybody_serves(
    sockets: int, workers: int, data: st.DataObject
) -> None:
    serving = data.draw(st.sets(st.integers(0, workers - 1)))
    assigned = assign(sockets, workers, serving)
    assert set(assigned) == serving
    assert set().union(*assigned.values()) == (set(range(sockets)) if serving else set())
    for number, listened in assigned.items():
        assert set(own_sockets(sockets, workers, number)) <= set(listened)
        assert len(set(listened)) == len(listened)


@given(sockets=st.integers(1, 20), workers=st.integers(1, 20))
def test_sockets_are_spread_evenly_while_all_serve(sockets: int, workers: int) -> None:
    assigned = assign(sockets, workers, range(workers))
    sizes = [len(listened) for listened in assigned.values()]
    assert max(sizes) - min(sizes) <= 1
    assert all(sizes)


def test_each_worker_has_a_socket_of_its_own_on_a_port_and_all_share_a_unix_socket(
    loop: reactor.Reactor, socket_path: str
) -> None:
    shares = open_shares([("localhost", 0), socket_path], 3, Inheritance(), loop, 16)
    with contextlib.ExitStack() as stack:
        for share in shares:
            stack.callback(share.close)
            stack.callback(share.remove_file)
        assert [len(share.sockets) for share in shares] == [3, 1]
        assert len({sock.getsockname() for sock in shares[0].sockets}) == 1
        assert [share.name for share in shares] == ["localhost:0", f"unix:{socket_path}"]
        assert os.stat(socket_path).st_mode & 0o777 == 0o600
        # The mode belongs to all copies of a socket: one that blocked for a moment could catch a worker in accept.
        assert {sock.gettimeout() for share in shares for sock in share.sockets} == {0.0}


def test_port_that_another_program_of_this_user_shares_is_taken_all_the_same(loop: reactor.Reactor) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as other:
        address = other.getsockname()
        with pytest.raises(reactor.AddressInUseError):
            open_shares([("localhost", 0), address], 2, Inheritance(), loop, 16)
        with socket.create_connection(address):
            other.accept()[0].close()  # nothing was taken from it


def test_socket_that_was_handed_over_gets_company_where_it_lets_others_have_its_port(loop: reactor.Reactor) -> None:
    for reuse_port, count in ((True, 3), (False, 1)):
        given = socket.create_server(("127.0.0.1", 0), reuse_port=reuse_port)
        (share,) = open_shares([given.getsockname()], 3, Inheritance([("web", given)]), loop, 16)
        assert share.sockets[0] is given
        assert [sock.getsockname() for sock in share.sockets] == [given.getsockname()] * count
        share.close()


def test_all_that_was_handed_over_is_shared_where_no_address_is_given(loop: reactor.Reactor) -> None:
    given = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    inheritance = Inheritance([("one", given[0]), ("two", given[1])])
    shares = open_shares(None, 2, inheritance, loop, 16)
    assert [(share.name, share.sockets) for share in shares] == [("one", given[:1]), ("two", given[1:])]
    assert len(inheritance) == 0
    assert {sock.gettimeout() for sock in given} == {0.0}
    for share in shares:
        share.close()


def test_socket_that_cannot_be_shared_is_refused_and_nothing_stays_open(
    loop: reactor.Reactor, socket_path: str
) -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(reactor.LocalError, match="does not listen; a unit of systemd needs Accept=no"):
        open_shares([socket_path, "web"], 2, Inheritance([("web", ours)]), loop, 16)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams,
        pytest.raises(reactor.LocalError, match="is not for connections"),
    ):
        open_shares([datagrams], 2, Inheritance(), loop, 16)


# Ends and successors


@pytest.fixture(scope="module")
def common(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, Path]]:
    """A service that survives whatever these tests do to it, and the file that tells its setup what to do."""
    directory = tmp_path_factory.mktemp("s")
    instructions = directory / "setup"
    with starting() as start:
        service = start(
            listen=[["127.0.0.1", 0], str(directory / "socket")],
            heartbeat=None,  # on a busy machine a worker that is well may keep still for longer than a test can wait
            backoff=QUICK,
            environ={"SETUP": str(instructions)},
        )
        yield service, instructions
        assert service.stop() == 0
    assert list(directory.iterdir()) == []


@pytest.fixture
def service(common: tuple[Service, Path]) -> Service:
    """The common service, with two workers that serve and none that comes or goes."""
    found, _ = common
    assert len(found.addresses) == 2
    wait_until(lambda: sorted(children_of(found.pid)) == sorted(found.serving().values()), str(found))
    return found


@pytest.fixture
def instructions(common: tuple[Service, Path], service: Service) -> Iterator[Path]:
    """The file that tells the setup of the common service what to do."""
    _, path = common
    yield path
    path.unlink(missing_ok=True)
    first = service.now
    service.send_signal(signal.SIGHUP)
    service.wait_for("the reload is done", first)


def test_kills_cost_nobody_but_the_clients_of_the_worker(service: Service, loop: reactor.Reactor) -> None:
    kills(service, service.addresses[0], loop, 6)


@pytest.mark.parametrize("number", [0, 1], ids=["tcp", "unix"])
def test_reload_under_load_is_noticed_by_nobody(service: Service, loop: reactor.Reactor, number: int) -> None:
    reloads(service, service.addresses[number], loop, 1)


def test_connections_that_wait_in_the_backlog_outlive_the_workers(service: Service) -> None:
    before = service.serving()
    first = service.now
    with contextlib.ExitStack() as stack:
        with stopped(before[1]), stopped(before[2]):
            waiting = [stack.enter_context(Client(service.addresses[number % 2])) for number in range(10)]
            for client in waiting:
                client.socket.sendall(b"sent before it was accepted\n")
            for pid in before.values():
                os.kill(pid, signal.SIGKILL)
        for client in waiting:
            assert client.pid not in before.values()
            assert client.read() == "sent before it was accepted"
    service.wait_for(f"worker 1: process {before[1]} was killed by SIGKILL, .* after it was ready; .* next one", first)


def test_worker_that_crashes_tells_where_it_stood_and_is_replaced(service: Service) -> None:
    crashing, other = service.serving()[1], service.serving()[2]
    first = service.now
    with client_of(service, crashing) as client, client_of(service, other) as bystander:
        client.send("crash")
        assert client.read() == ""
        assert bystander.ask("still here") == "still here"
    service.wait_for("worker 1 .* is ready", first)
    said = "\n".join(service.lines[first:])
    assert f"ERROR worker 1 (process {crashing}) stood at:\nFatal Python error: Segmentation fault\n" in said
    assert re.search(r'program\.py", line \d+ in handle_line\n', said)
    assert " in be_child" not in said  # nor what stands behind it: the parent, in the middle of which it was forked
    assert f"process {crashing} was killed by SIGSEGV" in said


def test_worker_that_hangs_tells_where_it_stood_and_is_replaced(start: Start) -> None:
    service = start(heartbeat=0.8)
    assert len(service.addresses) == 1
    hanging, other = service.serving()[1], service.serving()[2]
    with client_of(service, hanging) as client, client_of(service, other) as bystander:
        client.send("hang")
        assert client.read() == ""
        assert bystander.ask("still here") == "still here"
    service.wait_for(rf"worker 1 .process (?!{client.pid}).* is ready")
    said = str(service)
    assert re.search(
        rf"ERROR worker 1 \(process {client.pid}\): no sign of life for [\d.]+ s; its heartbeat is 0.8 s; "
        r"it is made to say where it stands, and killed", said,
    )  # fmt: skip
    assert f"ERROR worker 1 (process {client.pid}) stood at:\nFatal Python error: Aborted\n" in said
    assert re.search(r'program\.py", line \d+ in hang\n  .* in handle_line\n', said)
    assert f"process {client.pid} was killed by SIGABRT" in said


def test_stack_of_every_thread_is_shown_and_the_frames_of_the_parent_are_not() -> None:
    text = """Fatal Python error: Aborted

Thread 0x01 (most recent call first):
  File "a.py", line 1 in wait

Current thread 0x02 (most recent call first):
  File "b.py", line 2 in handle_data
  File "hands.py", line 3 in be_child
  File "hands.py", line 4 in fork
  File "parent.py", line 5 in start

Extension modules: none
"""
    shown = stack_of_worker(text).splitlines()
    assert [line.split()[-1] for line in shown if line.startswith("  ")] == ["wait", "handle_data"]
    assert [line.split()[0] for line in shown if line and not line.startswith("  ")] == [
        "Fatal", "Thread", "Current", "Extension",
    ]  # fmt: skip


def test_worker_that_cannot_start_is_tried_ever_later_while_another_serves_its_clients(
    service: Service, loop: reactor.Reactor, instructions: Path
) -> None:
    first = service.now
    survivor = service.serving()[2]
    instructions.write_text("fail 1")
    os.kill(service.serving()[1], signal.SIGKILL)
    failures = "in a row, and the next one starts in"
    wait_until(lambda: service.now and sum(failures in line for line in service.lines[first:]) >= 4)
    load = Load(service.addresses[0], loop, length=1)
    finish(load, 50)
    assert load.verdict == ([], 0, [])
    assert set(load.served) == {survivor}
    lines = service.lines[first:]
    delays = [float(found[1]) for line in lines if (found := re.search(r"starts in ([\d.]+) s", line))]
    # One start in place of the one that was killed, which may have been at once, and one behind each of the waits.
    assert sum(line.startswith("INFO worker 1") and line.endswith("starts") for line in lines) <= len(delays) + 1
    instructions.unlink()
    service.wait_for("worker 1 .* is ready", service.now)


def test_reload_whose_setup_fails_changes_nothing_and_the_next_one_works(service: Service, instructions: Path) -> None:
    before = service.serving()
    first = service.now
    instructions.write_text("once 2")
    service.send_signal(signal.SIGHUP)
    service.wait_for(rf"worker 2: .* exit code 1, .*; worker 2 \(process {before[2]}\) goes on instead", first)
    service.wait_for("the reload has ended with that", first)
    with Client(service.addresses[0]) as client:
        assert client.ask("hello") == "hello"
    assert service.serving()[1] != before[1]
    assert before[2] in children_of(service.pid)
    service.send_signal(signal.SIGHUP)
    service.wait_for("the reload is done", first)
    wait_for_death(before[2])


def test_worker_that_is_told_to_end_does_so_when_its_successor_is_ready(service: Service) -> None:
    first = service.now
    with Client(service.addresses[0]) as client:
        os.kill(client.pid, signal.SIGTERM)
        service.wait_for(
            f".process {client.pid}.: process .* has taken over; accepts no more; connections left: 1", first
        )
        assert client.pid not in service.serving().values()
        for address in service.addresses:
            with Client(address) as another:
                assert another.ask("hello") == "hello"
                assert another.pid != client.pid
        assert client.ask("to be continued") == "to be continued"
    wait_for_death(client.pid)


@pytest.mark.parametrize("command", ["stop", "shutdown", "exit 3"])
def test_worker_that_ends_by_itself_is_replaced(service: Service, command: str) -> None:
    with Client(service.addresses[0]) as client:
        client.send(command)
        while client.read():
            pass
    wait_until(lambda: client.pid not in service.serving().values())
    for address in service.addresses:
        with Client(address) as client:
            assert client.ask("hello") == "hello"


def test_signals_are_passed_on_to_the_workers(service: Service) -> None:
    first = service.now
    service.send_signal(signal.SIGUSR2)  # for which nobody has a handler
    service.send_signal(signal.SIGUSR1)
    for pid in service.serving().values():
        service.wait_for(f"usr1 {pid}$", first)


# The end of the program


def test_program_whose_setup_fails_at_the_start_ends_and_says_why(start: Start, tmp_path: Path) -> None:
    reasons = {
        "raise": ["ValueError: no such setting", "exit code 1, before it was ready", "never was up; giving up"],
        "exit no-such-file": ["^no-such-file$", "exit code 1, before it was ready", "never was up; giving up"],
        "hang": ["its setup takes longer than 0.3 s", " in hang$", "SIGABRT, before it was ready", "giving up"],
        "die 1": ["exit code 7, .* that was failure 3 in a row; giving up"],
    }
    services = {}
    for number, instruction in enumerate(reasons):
        (tmp_path / str(number)).write_text(instruction)
        services[instruction] = start(
            environ={"SETUP": str(tmp_path / str(number))},
            start_timeout=0.3,
            patience=0.2,
            backoff=[0.01, 0.02, 2.0, 2],
        )
    for instruction, service in services.items():
        assert service.wait() == 1
        for reason in reasons[instruction]:
            assert service.find(reason), f"{service}"
        assert not service.find("^over$")


def test_sigterm_lets_connections_come_to_their_end_and_new_ones_are_refused(start: Start) -> None:
    service = start(grace=20.0)
    (address,) = service.addresses
    with Client(address) as client:
        assert client.ask("first") == "first"
        service.send_signal(signal.SIGTERM)
        service.wait_for("accepts no more; connections left: 1")
        service.wait_for("drain")
        wait_for_death(*(pid for pid in service.serving().values() if pid != client.pid))
        wait_until(lambda: refuses(address))
        service.send_signal(signal.SIGHUP)
        service.wait_for("SIGHUP: no reload, since the program comes to its end")
        assert client.ask("last") == "last"
    assert service.wait() == 0
    assert service.lines[-1] == "over"


def test_connection_that_waits_in_the_backlog_is_served_before_the_end(start: Start) -> None:
    service = start(workers=1)
    (address,) = service.addresses
    (worker,) = service.serving().values()
    with contextlib.ExitStack() as stack:
        with stopped(worker):
            waiting = [stack.enter_context(Client(address)) for _ in range(100)]
            service.send_signal(signal.SIGTERM)
            service.wait_for("SIGTERM: ending 1 worker")
        assert [client.ask("hello") for client in waiting] == ["hello"] * 100
    assert service.wait() == 0


def test_connections_that_outlast_the_grace_are_closed_and_named_in_the_log(start: Start) -> None:
    service = start(workers=1, grace=0.1)
    with Client(service.addresses[0]) as client:
        assert client.pid
        service.send_signal(signal.SIGINT)
        assert client.read() == ""
    assert service.wait() == 0
    assert service.find("connections closed before their end: 1")


def test_second_ctrl_c_closes_what_is_open_unless_it_is_the_first_one_passed_on(start: Start) -> None:
    service = start(grace=1000.0)
    with Client(service.addresses[0]) as client:
        assert client.pid
        os.killpg(service.pid, signal.SIGINT)  # as a terminal does: the workers get it, too
        service.send_signal(signal.SIGINT)
        service.wait_for("accepts no more; connections left: 1")
        assert not service.find("once more")
        deadline = time.monotonic() + TIMEOUT
        while not select.select([client.socket], [], [], 0.05)[0]:
            assert time.monotonic() < deadline
            os.killpg(service.pid, signal.SIGINT)
        assert client.read() == ""
    assert service.wait() == 0
    assert service.find("SIGINT once more: closing what is still open in 1 worker")
    assert not service.find("KeyboardInterrupt")


def test_worker_that_does_not_end_is_killed_and_the_exit_code_tells(start: Start) -> None:
    service = start(workers=1, heartbeat=None, grace=0.1, patience=0.2)
    with Client(service.addresses[0]) as client:
        client.send("hang")
        assert service.stop() == 1
    assert service.find(r"ERROR worker 1 .* it has not ended within 0.4 s; it is killed")


def test_who_wants_the_end_once_more_never_waits_for_longer(start: Start, tmp_path: Path) -> None:
    (tmp_path / "setup").write_text("hang")
    service = start(environ={"SETUP": str(tmp_path / "setup")}, patience=1.0)
    for number in (1, 2):
        service.wait_for(f"worker {number} .* starts")
    began = time.monotonic()
    while not service.find("it has not ended within 1 s; it is killed"):
        service.send_signal(signal.SIGINT)
        assert time.monotonic() < began + TIMEOUT, f"{service}"
        select.select([], [], [], 0.05)
    assert service.wait() == 0
    assert service.find("SIGINT once more")


def test_workers_end_with_their_parent_even_one_that_hangs(start: Start, tmp_path: Path) -> None:
    if os.geteuid() == 0:  # for Linux a process that becomes another user's is an orphan no more
        (tmp_path / "setup").write_text("nobody")
        tmp_path.chmod(0o755)
    service = start(environ={"SETUP": str(tmp_path / "setup")}, heartbeat=None, grace=0.1, patience=0.2)
    pids = service.serving() if service.addresses else {}
    with Client(service.addresses[0]) as client:
        client.send("compute")  # which no handler of Python interrupts
        os.kill(service.pid, signal.SIGKILL)
        wait_until(lambda: {state_of(pid) for pid in pids.values()} == {"Z"})  # whom init collects, in its own time
    assert service.find("its parent is gone; accepts no more")


def test_unix_socket_is_there_as_long_as_the_program(start: Start, socket_path: str) -> None:
    service = start(listen=[socket_path, ["127.0.0.1", 0]])
    for address in service.addresses:
        with Client(address) as client:
            assert client.ask("hello") == "hello"
    os.kill(service.serving()[1], signal.SIGKILL)
    service.wait_for("process .* was killed by SIGKILL")
    assert os.path.exists(socket_path)
    assert service.stop() == 0
    assert not os.path.exists(socket_path)


def test_file_of_a_unix_socket_goes_before_the_last_connections_do(start: Start, socket_path: str) -> None:
    service = start(listen=[socket_path], grace=1000.0)
    with Client(service.addresses[0]) as client:
        assert client.pid
        service.send_signal(signal.SIGTERM)
        service.wait_for("accepts no more; connections left: 1")
        assert not os.path.exists(socket_path)  # or it might be removed when it is that of the next program
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(socket_path)
    assert service.wait() == 0
    os.unlink(socket_path)


def test_program_that_cannot_start_leaves_no_file_and_names_the_one_that_is_missing(socket_path: str) -> None:
    for listen, handover in (([socket_path], "/no-such-directory/handover"), ([f"{socket_path}/no"], None)):
        with pytest.raises(OSError, match="No such file or directory: '/no-such|Not a directory|No such .*/no'"):
            reactor.serve(print, 1, listen=listen, handover=handover)
        assert not os.path.exists(socket_path)


def test_end_of_a_worker_is_seen_where_the_system_has_no_descriptor_for_processes(start: Start) -> None:
    service = start(no_pidfd=True, listen="own")
    (address,) = service.addresses
    before = service.serving()
    os.kill(before[1], signal.SIGKILL)
    wait_until(lambda: service.serving()[1] != before[1])
    with Client(address) as client:
        assert client.ask("hello") == "hello"
    assert service.stop() == 0


# What is refused


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"workers": 0}, "workers is 0; give a whole number of at least 1"),
        ({"workers": "two"}, "workers is 'two'"),
        ({"grace": 0}, "grace is 0; give seconds above 0"),
        ({"grace": None}, "grace is None"),
        ({"heartbeat": -1.0}, "heartbeat is -1.0"),
        ({"start_timeout": float("nan")}, "start_timeout is nan"),
        ({"listen": "/a/path"}, "listen is '/a/path'; give a list, also of a single address: ['/a/path']"),
        ({"listen": ("localhost", 6000)}, "give a list, also of a single address: [('localhost', 6000)]"),
        ({"listen": ["fd://"]}, "'fd://' names no descriptor"),
        ({"listen": ["http://localhost:80"]}, "tcp:// and unix:// are understood here"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(reactor.LocalError, match=re.escape(complaint)):
        reactor.serve(print, **options)


def test_workers_are_started_from_the_main_thread_alone(in_thread: Any) -> None:
    def elsewhere() -> None:
        with pytest.raises(reactor.LocalError, match="main thread"):
            reactor.serve(print, 1)

    thread: threading.Thread = in_thread(elsewhere)
    thread.join()


def test_worker_listens_on_what_is_shared_and_on_nothing_else(loop: reactor.Reactor, socket_path: str) -> None:
    shares = open_shares([("localhost", 0), socket_path], 1, Inheritance(), loop, 16)
    worker = reactor.Worker(1, loop, shares, [[0], [0]], 1.0)
    port = worker.addresses[0][1]
    for address in (("localhost", 0), f"tcp://127.0.0.1:{port}", ("localhost", port)):
        (sock,) = worker.sockets(address)
        assert sock.getsockname() == ("127.0.0.1", port)
        sock.close()
    worker.listen(reactor.Stream, socket_path)
    assert [channel.address for channel in loop.channels if isinstance(channel, reactor.Listener)] == [socket_path]
    with pytest.raises(reactor.LocalError, match=r"worker 1 .* 'unix:///elsewhere' is to be listened on"):
        worker.listen(reactor.Stream, "unix:///elsewhere")
    with pytest.raises(reactor.LocalError, match="nothing is to be listened on"):
        reactor.Worker(1, loop, [], [], 1.0).listen(reactor.Stream)
    for share in shares:
        share.remove_file()
        share.close()


def test_next_start_comes_at_once_and_then_ever_later_until_a_worker_has_lived_for_long(
    timed: reactor.Reactor, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    backoff = reactor.Backoff(1.0, 8.0)
    terms = Terms(print, 1, 1.0, None, None, backoff, reactor.Reactor, None)
    boss = Parent(terms, [], Notifier({}), None, None, timed)
    boss.phase = Phase.UP
    starts: list[float] = []
    monkeypatch.setattr(boss, "start", lambda slot: starts.append(clock.now))
    (slot,) = boss.slots
    delays = []
    for _ in range(6):
        boss.start_later(slot, "it has died")
        delays.append(slot.timer.deadline - clock.now if slot.timer is not None else 0.0)
    assert starts == [clock.now]
    assert delays[0] == 0
    for delay, most in zip(delays[1:], (1, 2, 4, 8, 8), strict=True):
        assert most / 2 <= delay <= most
    for lifetime, expected in ((STEADY - 0.01, 7), (STEADY, 1)):
        slot.serving = cast("Hand", SimpleNamespace(ready_at=timed.now - lifetime, stage=Stage.DYING))
        boss.vacate(slot, "it has died")
        assert slot.failures == expected


class FakeHand:
    """A worker that does not exist, and writes down what it is told."""

    def __init__(self, heard_at: float = 0.0) -> None:
        self.heard_at = heard_at
        self.ready_at = 0.0
        self.stage = Stage.SERVING
        self.is_connected = True
        self.process = SimpleNamespace(pid=77)
        self.lifetime = "a moment after it was ready"
        self.told: list[object] = []

    def listen_on(self, plan: object) -> None:
        self.told.append(plan)

    def leave(self, why: str, patience: float) -> None:
        self.stage = Stage.LEAVING
        self.told.append(patience)

    def dump_and_kill(self, why: str) -> None:
        self.stage = Stage.DYING
        self.told.append(why)


def parent_of(*hands: FakeHand, reactor_of_test: reactor.Reactor) -> Parent:
    """Return the parent of workers that serve on one port, with a socket for each."""
    terms = Terms(print, len(hands), 1.0, 30.0, None, reactor.Backoff(1.0, 8.0), reactor.Reactor, None)
    share = Share("localhost:0", [socket.create_server(("127.0.0.1", 0)) for _ in hands])
    boss = Parent(terms, [share], Notifier({}), None, None, reactor_of_test)
    boss.phase = Phase.UP
    for slot, hand in zip(boss.slots, cast("tuple[Hand, ...]", hands), strict=True):
        slot.serving = hand
        boss.hands[hand] = slot
    return boss


def test_sockets_of_a_worker_that_is_stuck_are_served_by_the_others_at_once(timed: reactor.Reactor) -> None:
    # A heartbeat of 30 s: a sign comes every 7.5 s, and what holds the loop may have begun just before the next one.
    stuck, well = FakeHand(heard_at=timed.now - 37.6), FakeHand(heard_at=timed.now - 37.4)
    boss = parent_of(stuck, well, reactor_of_test=timed)
    boss.look_for_stuck(7.5)
    assert stuck.told == ["no sign of life for 37.6 s; its heartbeat is 30 s"]
    assert well.told == [[[1, 0]]]
    boss.shares[0].close()


def test_nobody_is_blamed_for_the_time_in_which_the_parent_was_held_too(
    timed: reactor.Reactor, clock: FakeClock
) -> None:
    hand = FakeHand(heard_at=timed.now)
    boss = parent_of(hand, reactor_of_test=timed)
    timed.call_every(7.5, boss.look_for_stuck, 7.5)
    clock.advance(100.0)  # Ctrl-Z, and a while later fg
    timed.poll()
    assert hand.told == []
    for _ in range(6):
        clock.advance(7.5)
        timed.poll()
    assert hand.told == ["no sign of life for 45.0 s; its heartbeat is 30 s"]
    boss.shares[0].close()


def test_worker_that_says_no_more_has_its_time_to_end_and_a_successor(
    timed: reactor.Reactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    silent, other = FakeHand(), FakeHand()
    boss = parent_of(silent, other, reactor_of_test=timed)
    started: list[int] = []
    monkeypatch.setattr(boss, "start", lambda slot: started.append(slot.number))
    boss.hand_silent(cast("Hand", silent))
    assert silent.told == [boss.terms.patience]
    assert other.told == [[[1, 0]]]
    assert started == [1]
    boss.shares[0].close()


def test_last_words_of_the_dead_are_logged_and_nobody_kills_them_again(
    timed: reactor.Reactor, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    hand = Hand.__new__(Hand)
    hand.number, hand.reactor, hand.death, hand.kill_timer = 1, timed, None, None
    hand.process = cast("Process", SimpleNamespace(pid=77, returncode=0))
    ours, theirs = socket.socketpair()
    hand.control = HandControl(ours, hand, timed)
    hand._kill_in(5.0, "it has not ended")
    with theirs:
        theirs.sendall(b"".join(b"%d: line of a stack\n" % number for number in range(6000)))
    hand.bury()
    clock.advance(10.0)
    timed.poll()
    assert "worker 1 (process 77) stood at:" in caplog.text
    assert "5999: line of a stack" in caplog.text
    assert "1000: line of a stack" not in caplog.text  # there is a bound
    assert "it is killed" not in caplog.text


def test_signals_wait_while_a_worker_is_forked_and_a_system_without_room_for_it_ends_the_program(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    blocked: list[set[int]] = []

    def fork() -> int:
        blocked.append(set(signal.pthread_sigmask(signal.SIG_BLOCK, [])))
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", fork)
    with pytest.raises(SystemExit) as ended:
        reactor.serve(print, 1, listen=[("127.0.0.1", 0)])
    assert ended.value.code == 1
    assert blocked[0] - before >= set(MANAGED)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
    assert "it could not be started: Resource temporarily unavailable, and the program never was up" in caplog.text
