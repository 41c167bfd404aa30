"""The examples, started as their docstrings say, and asked by clients of the standard library."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import gc
import importlib
import itertools
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any

import pytest

import reactor
from examples._command_line import Mistake, port_number, read_key, read_or_make_key
from examples.inside_asyncio import Host
from examples.job_queue import JobQueue, Member
from tests.conftest import KEY, ROOT, Accepting, RecordingConnection, RecordingStream, raw_client, run_until
from tests.examples.running import Program

NAMES = ["calculator", "chat_room", "job_queue", "file_server", "inside_asyncio"]


class Examples:
    """Starts examples, all with the same key."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.key_file = directory / "key"
        self.key_option = f"--authkey-file={self.key_file}"
        self.programs: list[Program] = []

    def write_key(self, key: bytes = KEY, mode: int = 0o600) -> None:
        self.key_file.write_bytes(key)
        self.key_file.chmod(mode)

    def start(self, name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> Program:
        """Start an example as it is."""
        program = Program(self.directory, name, *arguments, stdin=stdin)
        self.programs.append(program)
        return program

    def serve(self, name: str, *arguments: str) -> Program:
        """Start a server on a free port, and wait until it listens."""
        ports = ["--port=0", "--text-port=0"] if name == "inside_asyncio" else ["--port=0"]
        server = self.start(name, *ports, self.key_option, *arguments)
        server.address = server.read_address()
        return server

    def client(self, server: Program, name: str, *arguments: str, stdin: int = subprocess.DEVNULL) -> Program:
        """Start the client role of an example."""
        return self.start(name, f"--port={server.address[1]}", self.key_option, *arguments, stdin=stdin)

    def output(self, server: Program, name: str, *arguments: str) -> tuple[int, bytes, str]:
        """Run the client role of an example; return its exit code, its output and its errors."""
        client = self.client(server, name, *arguments)
        output, _ = client.process.communicate(timeout=20)
        return client.wait(), output, client.errors


@pytest.fixture
def examples(tmp_path: Path) -> Iterator[Examples]:
    """Starts examples with a key; whatever still runs at the end is killed."""
    directory = tmp_path / "programs"
    directory.mkdir()
    made = Examples(directory)
    made.write_key()
    yield made
    for program in made.programs:
        program.close()


def ask(connection: Connection, *request: Any) -> Any:
    connection.send(request)
    return connection.recv()


# What all of them have in common


def test_examples_show_their_help(examples: Examples) -> None:
    programs = {name: examples.start(name, "--help") for name in NAMES}
    for name, program in programs.items():
        output, _ = program.process.communicate(timeout=20)
        assert (program.wait(), program.errors) == (0, "")
        assert f"usage: python -m examples.{name} ".encode() in output
        assert b"--authkey-file" in output


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_servers_end_cleanly_while_a_client_is_connected(examples: Examples, signum: int) -> None:
    for server in [examples.serve(name) for name in NAMES]:
        assert server.first_line.startswith("listening on 127.0.0.1:")
        with server.connect() as connection:
            server.send_signal(signum)
            with pytest.raises(EOFError):
                connection.recv()
        assert (server.wait(), server.errors) == (0, "")


def test_servers_say_that_their_port_is_taken(examples: Examples) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for program in [examples.start(name, f"--port={port}", examples.key_option) for name in NAMES]:
            assert program.wait() == 2
            assert program.errors == f"error: somebody listens on 127.0.0.1:{port} already\n"


def test_bridge_says_that_its_text_port_is_taken(examples: Examples) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        program = examples.start("inside_asyncio", "--port=0", f"--text-port={port}", examples.key_option)
        assert program.wait() == 2
    assert program.errors == f"error: 127.0.0.1:{port}: Address already in use\n"


CLIENTS = [
    ("calculator", "--client", "add", "1", "2"),
    ("chat_room", "--join", "anna"),
    ("job_queue", "--work"),
    ("job_queue", "--submit", "true"),
    ("file_server", "--list"),
    ("file_server", "--get", "x"),
]

RunHere = Callable[..., tuple[int, str]]


@pytest.fixture
def run_here(examples: Examples, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> RunHere:
    """Runs an example that soon ends in this process, which takes no time; returns its exit code and its errors."""

    def run(name: str, *arguments: str) -> tuple[int, str]:
        module = importlib.import_module(f"examples.{name}")
        monkeypatch.setattr(sys, "argv", [str(module.__file__), examples.key_option, *arguments])
        with pytest.raises(SystemExit) as ended:
            module.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().err

    return run


def test_clients_say_that_nobody_listens(run_here: RunHere) -> None:
    with socket.socket() as bound:  # and not listening: nobody else gets the port
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
        for name, *arguments in CLIENTS:
            assert run_here(name, f"--port={port}", *arguments) == (2, f"error: localhost:{port}: Connection refused\n")


def test_clients_with_another_key_say_so_and_the_server_goes_on(examples: Examples, run_here: RunHere) -> None:
    server = examples.serve("calculator")  # to no client the server shows more than the handshake
    examples.write_key(b"another long secret key")
    port = server.address[1]
    for name, *arguments in CLIENTS:
        complaint = f"error: localhost:{port} has another key than {examples.key_file}\n"
        assert run_here(name, f"--port={port}", *arguments) == (2, complaint)
    gc.collect()  # the module multiprocessing leaves it to the collector to close what was refused
    with server.connect() as connection:
        assert ask(connection, "add", 1, 2) == 3
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert server.errors.count("wrong authkey") == len(server.errors.splitlines()) == len(CLIENTS)


def test_port_that_is_none_is_refused(examples: Examples) -> None:
    program = examples.start("calculator", "--port=65536")
    assert program.wait() == 2
    assert "error: argument --port: '65536' is no port" in program.errors
    assert port_number("65535") == 65535
    for text in ("-1", "x", "", "1.0", "٣x"):
        with pytest.raises(argparse.ArgumentTypeError, match="is no port"):
            port_number(text)


# Keys


def test_server_makes_a_key_for_its_user_alone_and_clients_find_it(examples: Examples) -> None:
    server = examples.start("calculator", "--port=0")
    server.address = server.read_address()
    key_file = examples.directory / ".reactor-authkey"
    assert server.read_line() == f"the key is in {key_file}"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    key = key_file.read_bytes()
    assert len(key) == 64
    server.connect(key).close()
    client = examples.start("calculator", f"--port={server.address[1]}", "--client", "add", "1", "2")
    assert client.read_line() == "3"
    assert server.ends_cleanly()
    second = examples.start("chat_room", "--port=0")
    second.read_line()
    assert key_file.read_bytes() == key
    assert second.ends_cleanly()


def test_key_is_the_whole_file_byte_for_byte(examples: Examples) -> None:
    key = b"\0 \n" + bytes(range(256)) + b"\n"
    examples.write_key(key)
    server = examples.serve("calculator")
    with server.connect(key) as connection:
        assert ask(connection, "add", 1, 2) == 3
    assert examples.output(server, "calculator", "--client", "add", "1", "2") == (0, b"3\n", "")


@pytest.mark.parametrize(
    ("key", "mode", "complaint"),
    [
        (KEY, 0o640, "others can read"),
        (KEY, 0o604, "others can read"),
        (b"", 0o600, "0 bytes; it needs at least 16"),
        (b"k" * 15, 0o600, "15 bytes; it needs at least 16"),
    ],
    ids=["group", "others", "empty", "short"],
)
def test_key_that_protects_nothing_is_refused_by_both_roles(
    examples: Examples, key: bytes, mode: int, complaint: str
) -> None:
    examples.write_key(key, mode)
    for role in (read_key, read_or_make_key):
        with pytest.raises(Mistake, match=complaint):
            role(examples.key_file)


def test_missing_key_is_explained_on_one_line_and_made_by_no_client(examples: Examples) -> None:
    client = examples.start("calculator", "--client", "add", "1", "2")
    server = examples.start("calculator", "--port=0", "--authkey-file=/missing/key")
    key_file = examples.directory / ".reactor-authkey"
    assert client.wait() == 2
    assert client.errors == f"error: there is no key in {key_file}; start the server first, or bring its file here\n"
    assert not key_file.exists()
    assert server.wait() == 2
    assert server.errors == "error: /missing/key: No such file or directory\n"


# The calculator


def test_calculator_answers(examples: Examples) -> None:
    server = examples.serve("calculator")
    with server.connect() as connection:
        assert ask(connection, "add", 2, 3) == 5
        assert ask(connection, "subtract", 2, -3.5) == 5.5
        assert ask(connection, "multiply", 3**300, 7) == 7 * 3**300
        assert ask(connection, "divide", 1, 4) == 0.25
    assert examples.output(server, "calculator", "--client", "multiply", "-2", str(3**100)) == (
        0,
        b"%d\n" % (-2 * 3**100),
        "",
    )
    assert examples.output(server, "calculator", "--client", "add", "2.5", "3") == (0, b"5.5\n", "")
    assert server.ends_cleanly()


def test_calculator_sends_what_makes_no_sense_back_as_an_exception_and_goes_on(examples: Examples) -> None:
    server = examples.serve("calculator")
    with server.connect() as connection:
        for message, kind in [
            (("divide", 1, 0), ZeroDivisionError),
            (("power", 2, 3), ValueError),
            (("add", 1), TypeError),
            ((), ValueError),
            (5, TypeError),
            (([], 2, 3), TypeError),
        ]:
            connection.send(message)
            assert type(connection.recv()) is kind
        assert ask(connection, "add", 2, 3) == 5
    for question, complaint in [
        (["divide", "1", "0"], "division by zero"),
        (["power", "2", "3"], "there is no operator 'power'; there are add, subtract, multiply, divide"),
        (["add", "2", "x"], "'x' is no number"),
    ]:
        assert examples.output(server, "calculator", "--client", *question) == (2, b"", f"error: {complaint}\n")
    assert server.ends_cleanly()


# The chat room


@contextlib.contextmanager
def guest(server: Program, name: str) -> Iterator[Connection]:
    """A guest whom the room has welcomed."""
    with server.connect() as connection:
        connection.send(name)
        assert connection.recv() == ("", f"{name} has come in")
        yield connection


def test_chat_room_broadcasts_to_every_guest(examples: Examples) -> None:
    server = examples.serve("chat_room")
    with server.connect() as stranger, guest(server, "anna") as anna:
        with guest(server, "bert") as bert:
            assert anna.recv() == ("", "bert has come in")
            bert.send("hello")
            assert bert.recv() == anna.recv() == ("bert", "hello")
            anna.send("")
            assert bert.recv() == anna.recv() == ("anna", "")
        assert anna.recv() == ("", "bert has left")
        with guest(server, "bert"):  # the name is free again
            assert anna.recv() == ("", "bert has come in")
        assert anna.recv() == ("", "bert has left")
        assert not stranger.poll()  # it gave no name, so nothing is for it
    assert server.ends_cleanly()


def test_chat_room_turns_a_bad_name_away(examples: Examples) -> None:
    server = examples.serve("chat_room")
    with guest(server, "anna") as anna:
        for name in ("anna", "", "x" * 21, "two\nlines", "\x1b[2J"):
            with server.connect() as connection:
                connection.send(name)
                speaker, text = connection.recv()
                assert speaker == ""
                assert "name" in text
                with pytest.raises(EOFError):
                    connection.recv()
        anna.send("still here")
        assert anna.recv() == ("anna", "still here")
    assert server.ends_cleanly()


def test_chat_room_refuses_what_is_no_string(examples: Examples) -> None:
    server = examples.serve("chat_room")
    with guest(server, "anna") as anna:
        anna.send(5)
        assert anna.recv() == ("", "say something in a string, or None to leave")
    assert server.ends_cleanly()


def test_chat_room_runs_no_code_of_a_guest(examples: Examples, tmp_path: Path) -> None:
    server = examples.serve("chat_room")

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "run"),)

    with server.connect() as connection:
        connection.send(Attack())
        with pytest.raises((EOFError, ConnectionError)):
            connection.recv()
    assert not (tmp_path / "run").exists()
    with guest(server, "anna"):
        pass
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "allow-list" in server.errors


def test_chat_room_drops_a_guest_who_does_not_read_and_no_other(examples: Examples) -> None:
    server = examples.serve("chat_room")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the kernel reads up to 32 MiB on its behalf
    sock.connect(server.address)
    with guest(server, "anna") as anna, Connection(sock.detach()) as sleeper:
        answer_challenge(sleeper, KEY)
        deliver_challenge(sleeper, KEY)
        sleeper.send("sleeper")
        assert anna.recv() == ("", "sleeper has come in")
        answer: Any = None
        for _ in range(2000):
            anna.send("x" * 15_000)
            answer = anna.recv()
            if answer[0] == "":
                break
        assert answer == ("", "sleeper has left")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "maximum_output" in server.errors


def test_chat_client_says_what_is_typed_and_prints_what_is_said(examples: Examples) -> None:
    server = examples.serve("chat_room")
    with guest(server, "bert") as bert:
        anna = examples.client(server, "chat_room", "--join", "anna", stdin=subprocess.PIPE)
        assert anna.process.stdin is not None
        assert anna.read_line() == "* anna has come in"
        assert bert.recv() == ("", "anna has come in")
        bert.send("hello \x1b[2J")
        assert anna.read_line() == "bert: hello ?[2J"
        assert bert.recv() == ("bert", "hello \x1b[2J")
        anna.process.stdin.write(b"one\ntwo\n")  # in one piece, and nothing behind it that would wake anybody
        anna.process.stdin.flush()
        assert [bert.recv() for _ in range(2)] == [("anna", "one"), ("anna", "two")]
        anna.process.stdin.write(b"three")
        anna.process.stdin.close()
        assert bert.recv() == ("anna", "three")
        assert [anna.read_line() for _ in range(3)] == ["anna: one", "anna: two", "anna: three"]
        assert (anna.wait(), anna.errors) == (0, "")
        assert bert.recv() == ("", "anna has left")
    assert server.ends_cleanly()


def test_chat_client_says_that_the_room_has_closed(examples: Examples) -> None:
    server = examples.serve("chat_room")
    anna = examples.client(server, "chat_room", "--join", "anna", stdin=subprocess.PIPE)
    assert anna.read_line() == "* anna has come in"
    assert server.ends_cleanly()
    assert anna.wait() == 2
    assert anna.errors == f"error: localhost:{server.address[1]} closed the connection\n"


def test_chat_client_ends_quietly_at_ctrl_c(examples: Examples) -> None:
    server = examples.serve("chat_room")
    anna = examples.client(server, "chat_room", "--join", "anna", stdin=subprocess.PIPE)
    assert anna.read_line() == "* anna has come in"
    anna.send_signal(signal.SIGINT)
    assert (anna.wait(), anna.errors) == (130, "")


# The job queue


def test_job_queue_keeps_results_until_they_are_forgotten(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with server.connect() as worker, server.connect() as client:
        assert ask(client, "submit", {"any": ["plain", "value"]}) == ("ok", 1)
        assert ask(worker, "work") == ("ok", {"any": ["plain", "value"]})
        assert ask(worker, "done", 3.5) == ("ok", 1)
        client.close()
        with server.connect() as another:
            assert ask(another, "fetch", 1) == ("ok", 3.5)
            assert ask(another, "fetch", 1) == ("ok", 3.5)
            assert ask(another, "forget", 1) == ("ok", 1)
            assert ask(another, "fetch", 1) == ("error", "there is no job 1")
            assert ask(another, "forget", 1) == ("error", "there is no result of a job 1")
    assert server.ends_cleanly()


def test_job_queue_serves_jobs_and_waiting_workers_in_order(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with contextlib.ExitStack() as stack:
        client, *workers = [stack.enter_context(server.connect()) for _ in range(4)]
        for worker in workers:
            worker.send(("work",))
            assert ask(worker, "nonsense") == ("error", "this is no request of the job queue")
            assert ask(worker, "work") == ("error", "one job after the other")
        for number in range(1, 6):
            assert ask(client, "submit", f"job {number}") == ("ok", number)
        assert [worker.recv() for worker in workers] == [("ok", "job 1"), ("ok", "job 2"), ("ok", "job 3")]
        assert ask(workers[1], "done", None) == ("ok", 2)
        assert ask(workers[1], "work") == ("ok", "job 4")
        assert ask(workers[2], "work") == ("error", "one job after the other")
        assert ask(client, "done", None) == ("error", "no job was given to this worker")
    assert server.ends_cleanly()


def test_job_queue_sends_a_result_to_everybody_who_waits_for_it(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with server.connect() as worker, server.connect() as first, server.connect() as second:
        assert ask(first, "submit", "job") == ("ok", 1)
        for client in (first, second):
            client.send(("fetch", 1))
            assert ask(client, "forget", 1) == ("error", "there is no result of a job 1")
        with server.connect() as impatient:
            impatient.send(("fetch", 1))
            assert ask(impatient, "nonsense")[0] == "error"
        assert ask(worker, "work") == ("ok", "job")
        assert ask(worker, "done", "result") == ("ok", 1)
        assert first.recv() == second.recv() == ("ok", "result")
    assert server.ends_cleanly()


def test_job_queue_is_bounded_and_has_room_again(examples: Examples) -> None:
    server = examples.serve("job_queue", "--capacity=2")
    with server.connect() as client:
        assert ask(client, "submit", "a") == ("ok", 1)
        assert ask(client, "submit", "b") == ("ok", 2)
        refusal = ("error", "the queue is full: 2 jobs and results are in it")
        assert ask(client, "submit", "c") == refusal
        assert ask(client, "work") == ("ok", "a")
        assert ask(client, "done", None) == ("ok", 1)
        assert ask(client, "submit", "c") == refusal  # a result takes a place, too
        assert ask(client, "forget", 1) == ("ok", 1)
        assert ask(client, "submit", "c") == ("ok", 3)
    assert server.ends_cleanly()


def test_job_goes_to_another_worker_when_its_worker_is_gone(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with server.connect() as client, server.connect() as survivor:
        with server.connect() as worker:
            assert ask(client, "submit", "job") == ("ok", 1)
            assert ask(worker, "work") == ("ok", "job")
            survivor.send(("work",))
        assert survivor.recv() == ("ok", "job")
        assert ask(survivor, "done", "result") == ("ok", 1)
        assert ask(client, "fetch", 1) == ("ok", "result")
    assert server.ends_cleanly()


def test_job_is_not_lost_with_a_worker_that_left_while_it_waited(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with server.connect() as client:
        with server.connect() as worker:
            worker.send(("work",))
        for _ in range(20):  # turns of the loop, in which the server sees that the worker has left
            assert ask(client, "nonsense")[0] == "error"
        assert ask(client, "submit", "job") == ("ok", 1)
        assert ask(client, "work") == ("ok", "job")
    assert server.ends_cleanly()


def test_job_queue_puts_a_job_back_in_front_and_keeps_nobody_who_left(loop: reactor.Reactor) -> None:
    job_queue = JobQueue(capacity=10)
    listener = reactor.Listener(None, functools.partial(Member, job_queue), reactor=loop)
    with Client(listener.address) as client:
        with Client(listener.address) as worker, Client(listener.address) as impatient:
            for number in (1, 2):
                client.send(("submit", number))
            worker.send(("work",))
            client.send(("fetch", 1))
            # In whatever order the requests come in, the worker has the first job in the end.
            run_until(loop, lambda: len(job_queue.jobs) == 2 and len(job_queue.waiting) == 1)
            run_until(loop, lambda: len(job_queue.jobs[1].fetchers) == 1)
            impatient.send(("fetch", 1))
            run_until(loop, lambda: len(job_queue.jobs[1].fetchers) == 2)
        run_until(loop, lambda: listener.connections == 1)
        assert [job.task for job in job_queue.waiting] == [1, 2]
        assert len(job_queue.jobs[1].fetchers) == 1
        client.send(("work",))
        client.send(("done", "result"))
        run_until(loop, lambda: job_queue.jobs[1].answer == ("ok", "result"))
        assert not job_queue.jobs[1].fetchers


def test_job_that_outlives_every_worker_becomes_an_error(examples: Examples) -> None:
    server = examples.serve("job_queue")
    with server.connect() as client:
        assert ask(client, "submit", "poison") == ("ok", 1)
        for _ in range(5):
            with server.connect() as worker:
                assert ask(worker, "work") == ("ok", "poison")
        assert ask(client, "fetch", 1) == ("error", "5 workers were lost while they worked at it")
        assert ask(client, "forget", 1) == ("ok", 1)
    assert server.ends_cleanly()


def test_worker_runs_commands_for_the_submitting_client(examples: Examples, run_here: RunHere) -> None:
    server = examples.serve("job_queue")
    worker = examples.client(server, "job_queue", "--work")
    assert examples.output(server, "job_queue", "--submit", "echo", "-n", "hello") == (0, b"hello", "")
    assert examples.output(server, "job_queue", "--submit", "sh", "-c", "echo no >&2; exit 7") == (7, b"no\n", "")
    assert run_here("job_queue", "--submit") == (2, "error: --submit needs a command\n")
    with server.connect() as client:
        _, number = ask(client, "submit", ["/no/such/program"])
        _, (code, said) = ask(client, "fetch", number)
        assert code == 127
        assert "No such file" in said
        for job in (5, "ls", [], ["echo", 5], ["a\0b"]):  # no commands: the worker answers, and lives
            _, number = ask(client, "submit", job)
            word, (code, _) = ask(client, "fetch", number)
            assert (word, code) == ("ok", 127)
    assert server.ends_cleanly()
    assert worker.wait() == 2
    assert worker.errors == f"error: localhost:{server.address[1]} closed the connection\n"


def test_job_of_a_worker_that_is_killed_in_the_middle_is_done_by_another(examples: Examples, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "started")
    script = 'if mkdir "$1/first" 2>/dev/null; then echo $$ >"$1/started"; exec sleep 600; fi; echo survived'
    server = examples.serve("job_queue")
    with server.connect() as client:
        assert ask(client, "submit", ["sh", "-c", script, "sh", str(tmp_path)]) == ("ok", 1)
        client.send(("fetch", 1))
        worker = examples.client(server, "job_queue", "--work")
        orphan = int((tmp_path / "started").read_text())  # waits until the job has begun
        worker.send_signal(signal.SIGKILL)
        assert worker.wait() == -signal.SIGKILL
        try:
            assert not client.poll()
            examples.client(server, "job_queue", "--work")
            assert client.recv() == ("ok", (0, "survived\n"))
        finally:
            os.kill(orphan, signal.SIGKILL)


# The file server


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with something of everything, and a secret beside it."""
    root = tmp_path / "root"
    (root / "directory" / "below").mkdir(parents=True)
    (root / "empty").write_bytes(b"")
    (root / "byte").write_bytes(b"\0")
    (root / "large").write_bytes(os.urandom(3 * 1024 * 1024 + 1))
    (root / "directory" / "näme with space").write_bytes(b"inside")
    (root / "link").symlink_to("directory/näme with space")
    os.mkfifo(root / "pipe")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "root-too").mkdir()
    (tmp_path / "root-too" / "secret").write_bytes(b"secret")
    (root / "file out").symlink_to(tmp_path / "secret")
    (root / "directory out").symlink_to(tmp_path)
    (root / "chain").symlink_to("file out")
    (root / "dangling").symlink_to(tmp_path / "missing")
    (root / "circle").symlink_to("circle")
    return root


def test_file_server_sends_files_byte_for_byte(examples: Examples, tree: Path) -> None:
    server = examples.serve("file_server", f"--directory={tree}")
    with server.connect() as connection:
        for name in ["large", "empty", "byte", "link", "directory/../large", "./directory//näme with space", "empty"]:
            content = (tree / name).read_bytes()
            assert ask(connection, "get", name) == ("ok", len(content))
            assert connection.recv_bytes() == content
    for name in ["large", "empty", "byte"]:
        content = (tree / name).read_bytes()
        assert examples.output(server, "file_server", "--get", name) == (0, content, "")
    assert server.ends_cleanly()


OUTSIDE = [
    "..", "../secret", "../missing", "directory/../../secret", "../root-too/secret", "/etc/passwd", "/missing",
    "file out", "directory out", "directory out/secret", "directory out/missing", "chain", "dangling",
]  # fmt: skip


@pytest.mark.parametrize("request_name", ["get", "list"])
def test_file_server_refuses_every_way_out_in_the_same_words(examples: Examples, tree: Path, request_name: str) -> None:
    server = examples.serve("file_server", f"--directory={tree}")
    with server.connect() as connection:
        for name in OUTSIDE:  # and nothing tells whether there is something outside
            refusal = ("error", f"{name!r} lies outside of what is served here")
            assert ask(connection, request_name, name) == refusal
        assert ask(connection, "get", "byte") == ("ok", 1)
        assert connection.recv_bytes() == b"\0"
    assert examples.output(server, "file_server", f"--{request_name}", "../secret") == (
        2,
        b"",
        "error: '../secret' lies outside of what is served here\n",
    )
    assert server.ends_cleanly()


def test_file_server_says_why_a_file_cannot_be_had(examples: Examples, tree: Path) -> None:
    server = examples.serve("file_server", f"--directory={tree}")
    with server.connect() as connection:
        for message, complaint in [
            (("get", "missing"), "'missing': No such file or directory"),
            (("get", "directory"), "'directory' is no file"),
            (("get", ""), "'' is no file"),
            (("get", "pipe"), "'pipe' is no file"),
            (("get", "circle"), "'circle': Too many levels of symbolic links"),
            (("get", "byte/x"), "'byte/x': Not a directory"),
            (("get", "x" * 300), f"{'x' * 300!r}: File name too long"),
            (("get", "a\0b"), "'a\\x00b' is no name"),
            (("get", "\ud800"), "'\\ud800' is no name"),
            (("get", b"byte"), "this is no request of the file server"),
            (("put", "byte"), "this is no request of the file server"),
            (None, "this is no request of the file server"),
            (("list", "byte"), "'byte' is no directory"),
            (("list", "missing"), "'missing' is no directory"),
        ]:
            connection.send(message)
            assert connection.recv() == ("error", complaint)
    assert server.ends_cleanly()


def test_file_server_lists_what_can_be_had(examples: Examples, tree: Path) -> None:
    server = examples.serve("file_server", f"--directory={tree}")
    with server.connect() as connection:
        for name, names in [
            (".", {"byte", "directory/", "empty", "large", "link"}),
            ("directory", {"below/", "näme with space"}),
            ("directory/below", set()),
        ]:
            assert ask(connection, "list", name) == ("ok", 0)
            assert {os.fsdecode(frame) for frame in iter(connection.recv_bytes, b"")} == names
    assert examples.output(server, "file_server", "--list") == (0, b"byte\ndirectory/\nempty\nlarge\nlink\n", "")
    assert server.ends_cleanly()


def test_file_server_answers_pipelined_requests_in_order_with_one_file_open_at_a_time(
    examples: Examples, tree: Path
) -> None:
    server = examples.serve("file_server", f"--directory={tree}")
    names = ["large", "byte", "missing", "empty"]
    with server.connect() as greedy, server.connect() as other:
        for name in itertools.islice(itertools.cycle(names), 200):
            greedy.send(("get", name))
        assert ask(other, "get", "byte") == ("ok", 1)  # so the server has looked at the requests above
        assert other.recv_bytes() == b"\0"
        descriptors = Path(f"/proc/{server.process.pid}/fd")
        opened = [os.readlink(link) for link in descriptors.iterdir()]
        # One for each connection: that of the other is given back a moment after its last byte was sent.
        assert sum(target.startswith(str(tree)) for target in opened) <= 2
        for name in itertools.islice(itertools.cycle(names), 200):
            if name == "missing":
                assert greedy.recv()[0] == "error"
            else:
                content = (tree / name).read_bytes()
                assert greedy.recv() == ("ok", len(content))
                assert greedy.recv_bytes() == content
    assert server.ends_cleanly()


def test_file_server_goes_on_when_a_client_leaves_in_the_middle_of_a_file(examples: Examples, tree: Path) -> None:
    (tree / "huge").write_bytes(bytes(32 * 1024 * 1024))
    server = examples.serve("file_server", f"--directory={tree}")
    with server.connect() as connection:
        assert ask(connection, "get", "huge")[0] == "ok"
    assert examples.output(server, "file_server", "--get", "byte") == (0, b"\0", "")
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert "Warning" not in server.errors
    assert "Traceback" not in server.errors


def test_file_server_says_that_its_directory_is_missing(examples: Examples) -> None:
    program = examples.start("file_server", "--port=0", "--directory=/no/such/directory")
    assert program.wait() == 2
    assert program.errors == "error: /no/such/directory is no directory\n"


# Inside asyncio


def test_bridge_carries_lines_and_messages_both_ways(examples: Examples) -> None:
    server = examples.serve("inside_asyncio")
    text_address = server.read_address()
    with server.connect() as first, server.connect() as second, raw_client(text_address) as text:
        lines = text.makefile("rwb")
        # The reactor has nothing else to do: only asyncio code touches its channels.
        lines.write("grüße\r\n\nlast\n".encode())
        lines.flush()
        for connection in (first, second):
            assert [connection.recv() for _ in range(3)] == ["grüße", "", "last"]
        first.send("two\nlines")
        first.send(("no", "string"))
        assert lines.readline() == b"two?lines\n"
        assert lines.readline() == b"('no', 'string')\n"
        for _ in range(100):
            lines.write(b"ping\n")
            lines.flush()
            assert first.recv() == second.recv() == "ping"
            second.send("pong")
            assert lines.readline() == b"pong\n"
        server.send_signal(signal.SIGTERM)
        assert lines.readline() == b""
        lines.close()
    assert (server.wait(), server.errors) == (0, "")


def test_bridge_closes_a_text_client_whose_line_never_ends(examples: Examples) -> None:
    server = examples.serve("inside_asyncio")
    text_address = server.read_address()
    with raw_client(text_address) as text, pytest.raises(ConnectionError):
        text.sendall(bytes(1 << 26))
    with raw_client(text_address) as text, server.connect() as connection:
        text.sendall(b"hello\n")
        assert connection.recv() == "hello"
    assert server.ends_cleanly()


def hosted(test: Callable[[reactor.Reactor, Host], Any]) -> None:
    """Run the coroutine function `test` with a reactor inside asyncio."""

    async def main() -> None:
        with reactor.Reactor() as inner, contextlib.closing(Host(inner)) as host:
            await asyncio.wait_for(test(inner, host), 20)

    asyncio.run(main())


def test_hosted_reactor_runs_its_timers() -> None:
    async def test(inner: reactor.Reactor, host: Host) -> None:
        fired = asyncio.Event()
        inner.call_later(3600, fired.clear)
        inner.call_later(0.01, inner.call_later, 0.01, fired.set)
        host.rearm()
        await fired.wait()

    hosted(test)


def test_hosted_reactor_takes_calls_and_results_from_threads() -> None:
    async def test(inner: reactor.Reactor, host: Host) -> None:
        results: asyncio.Queue[int] = asyncio.Queue()
        inner.run_in_thread(lambda: 7, on_result=results.put_nowait)
        assert await results.get() == 7
        await asyncio.get_running_loop().run_in_executor(None, inner.call_threadsafe, results.put_nowait, 8)
        assert await results.get() == 8

    hosted(test)


def test_hosted_channels_touched_by_asyncio_code_act_at_once_after_rearm() -> None:
    async def test(inner: reactor.Reactor, host: Host) -> None:
        got: asyncio.Queue[Any] = asyncio.Queue()

        class Listening(reactor.Connection):
            def handle_message(self, message: Any) -> None:
                got.put_nowait(message)

            def handle_close(self, reason: reactor.ReactorError) -> None:
                got.put_nowait(type(reason))

        listener = reactor.Listener(None, Listening, reactor=inner)
        client = RecordingConnection.connect(listener.address, reactor=inner)
        for number in range(20):
            client.send(number)
            host.rearm()
            assert await got.get() == number
        client.close_when_done()
        host.rearm()
        assert await got.get() is reactor.PeerClosed
        listener.close()
        host.rearm()
        await host.wait_idle()
        assert inner.is_idle()

    hosted(test)


def test_hosted_reactor_costs_nothing_while_idle() -> None:
    async def test(inner: reactor.Reactor, host: Host) -> None:
        reactor.Listener(None, RecordingConnection, reactor=inner)
        host.rearm()
        await asyncio.sleep(0.05)
        turns = inner.turns
        await asyncio.sleep(0.2)
        assert inner.turns == turns

    hosted(test)


def test_host_that_is_closed_leaves_the_reactor_alone() -> None:
    async def test(inner: reactor.Reactor, host: Host) -> None:
        fired: list[int] = []
        inner.call_later(0.01, fired.append, 1)
        host.rearm()
        host.close()
        inner.call_threadsafe(fired.append, 2)
        await asyncio.sleep(0.1)
        assert not fired

    hosted(test)


# What the first user of the engine stumbled over


def test_default_reactor_is_given_back_at_the_end_of_the_program() -> None:
    source = "import reactor; reactor.loop(timeout=0)"
    program = subprocess.run(
        [sys.executable, "-W", "error", "-c", source], cwd=ROOT, stderr=subprocess.PIPE, check=True, timeout=20
    )
    assert program.stderr == b""


def test_shutdown_of_a_reactor_without_channels_is_over_at_once(loop: reactor.Reactor) -> None:
    loop.shutdown()
    assert not loop.is_shutting_down


def test_stop_inside_a_poll_does_not_stop_the_loop_that_follows(loop: reactor.Reactor) -> None:
    loop.call_soon(loop.stop)
    loop.poll()
    called: list[int] = []
    loop.call_soon(called.append, 1)
    loop.loop(timeout=5)
    assert called == [1]


def test_second_shutdown_leaves_no_timer_behind(loop: reactor.Reactor) -> None:
    reactor.Listener(None, RecordingConnection, reactor=loop)
    loop.shutdown()
    loop.shutdown()
    loop.loop(timeout=5)
    assert loop.is_idle()


def test_wakeup_by_a_signal_of_somebody_else_is_taken_from_an_idle_hosted_reactor(loop: reactor.Reactor) -> None:
    loop.on_signal(signal.SIGUSR1, lambda: None)
    previous = signal.signal(signal.SIGUSR2, lambda number, frame: None)
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        select.select([loop.fileno()], [], [], 10)
        loop.poll(0)
        # A descriptor that stays readable has the host poll for ever.
        assert select.select([loop.fileno()], [], [], 0)[0] == []
    finally:
        signal.signal(signal.SIGUSR2, previous)


def test_files_that_wait_for_a_peer_make_it_wait(loop: reactor.Reactor, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(1024 * 1024))
    opened: list[Any] = []

    class Serving(reactor.Connection):
        codec = "bytes"

        def handle_message(self, message: bytes) -> None:
            opened.append((tmp_path / "file").open("rb"))
            self.push(opened[-1])

    listener = reactor.Listener(None, Serving, reactor=loop)
    with Client(listener.address) as client:
        for _ in range(200):
            client.send_bytes(b"more")
        loop.loop(timeout=0.1)
        assert sum(not file.closed for file in opened) < 100
    loop.loop(timeout=0.1)


def test_output_is_limited_when_the_peer_reads_a_little_at_the_very_limit(loop: reactor.Reactor) -> None:
    accepted = Accepting(RecordingStream)
    limits = reactor.Limits(low_water=1, high_water=65536, maximum_output=1024 * 1024)
    listener = reactor.Listener(None, accepted, limits=limits, reactor=loop)
    with raw_client(listener.address) as peer:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open") == ["open"])
        (channel,) = accepted.channels
        chunk = bytes(32768)
        while channel.output_size + len(chunk) <= limits.maximum_output:
            channel.push(chunk)
            loop.poll()
        peer.recv(len(chunk) * 4, socket.MSG_WAITALL)
        channel.push(chunk)  # over the limit, and at the end of the turn below it again
        loop.poll()
        assert channel.state.name == "Throttled"
        for _ in range(100):
            channel.push(chunk)
            loop.poll()
        (reason,) = channel.of("close")
        assert isinstance(reason, reactor.LimitError)
