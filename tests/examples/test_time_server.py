"""The time server, started as its docstring says and asked with plain sockets; and its client, asking such sockets."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import reactor
from examples import time_server
from tests.examples.running import Start, listening, output_of

FROM_1900_TO_1970 = (datetime(1970, 1, 1, tzinfo=UTC) - datetime(1900, 1, 1, tzinfo=UTC)).days * 86400
LINE = re.compile(rb"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC")
LONGEST_ANSWER = 25


@contextlib.contextmanager
def peer(family: int = socket.AF_INET, address: object = ("127.0.0.1", 0)) -> Iterator[socket.socket]:
    """A socket of somebody else, for datagrams."""
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.bind(address)  # type: ignore[arg-type]
        sock.settimeout(20)
        yield sock


def seconds_of(answer: bytes) -> int:
    """Return what time an answer tells, in seconds since 1970."""
    assert len(answer) <= LONGEST_ANSWER
    if len(answer) == 4:
        return int.from_bytes(answer) - FROM_1900_TO_1970
    line = LINE.fullmatch(answer.removesuffix(b"\r\n"))
    assert line is not None, answer
    return int(datetime.fromisoformat(f"{line[1].decode()}+00:00").timestamp())


@pytest.mark.parametrize(
    ("arguments", "size"), [(["--host=127.0.0.1"], 4), (["--host=::1"], 4), (["--host=127.0.0.1", "--text"], 25)]
)
def test_time_is_told_to_whoever_asks_and_an_answer_is_no_question(
    start: Start, arguments: list[str], size: int
) -> None:
    server = listening(start("--port=0", *arguments))
    family = socket.AF_INET6 if "::1" in arguments[0] else socket.AF_INET
    with peer(family, (server.address[0], 0)) as asker:
        before = int(time.time())
        answers = []
        for question in (b"", b"\n", b"\r\n"):
            asker.sendto(question, server.address)
            answers.append(asker.recv(1000))
        assert all(before <= seconds_of(answer) <= time.time() for answer in answers)
        assert {len(answer) for answer in answers} == {size}
        for answer in (answers[0], b"\0\0\0\0", b"1970-01-01 00:00:00 UTC\r\n", b"x" * 60000):
            asker.sendto(answer, server.address)
        # The answers come in turn: one to a datagram from above would be there before the next one.
        for _ in range(2):
            asker.sendto(b"", server.address)
            asker.recv(1000)
        asker.setblocking(False)
        with pytest.raises(BlockingIOError):
            asker.recv(1000)
    assert server.ends_cleanly()


def test_time_is_told_over_a_unix_socket_and_who_cannot_be_answered_is_no_trouble(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "time"
    server = start(f"--path={path}")
    assert server.read_line() == f"listening on unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as nameless:
        nameless.sendto(b"", str(path))
    server.send_signal(signal.SIGSTOP)
    with peer(socket.AF_UNIX, str(tmp_path / "gone")) as gone:
        gone.sendto(b"", str(path))
    server.send_signal(signal.SIGCONT)
    with peer(socket.AF_UNIX, str(tmp_path / "asker")) as asker:
        asker.sendto(b"", str(path))
        assert abs(seconds_of(asker.recv(1000)) - time.time()) < 60
    code, output, errors = output_of(start(f"--ask={path}"))
    assert (code, errors) == (0, "")
    assert LINE.fullmatch(output.strip().encode())
    assert server.ends_cleanly(signal.SIGINT)
    assert not path.exists()


def test_socket_beside_is_asked_by_its_name(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(f"--path={tmp_path}/time")
    server.read_line()
    monkeypatch.chdir(tmp_path)
    with reactor.get_reactor():
        assert LINE.fullmatch(time_server.ask("time", 20.0).encode())


def test_client_prints_the_same_line_for_a_number_and_for_a_line(start: Start) -> None:
    programs = [start("--port=0"), start("--port=0", "--text")]
    clients = [start(f"--ask=localhost:{listening(program).address[1]}") for program in programs]
    for client in clients:
        code, output, errors = output_of(client)
        assert (code, errors) == (0, "")
        assert abs(seconds_of(output.strip().encode()) - time.time()) < 60


def test_client_asks_again_where_a_datagram_was_lost_and_hears_nobody_else(start: Start) -> None:
    with peer() as server, peer() as somebody_else:
        client = start(f"--ask=127.0.0.1:{server.getsockname()[1]}")
        lost, address = server.recvfrom(1000)
        again, same = server.recvfrom(1000)
        assert (lost, again, same) == (b"", b"", address)
        somebody_else.sendto(b"what is not the time", address)
        server.sendto((FROM_1900_TO_1970 + 86400).to_bytes(4), address)
        assert output_of(client) == (0, "1970-01-02 00:00:00 UTC\n", "")


def test_client_counts_on_behind_2036_and_shows_nothing_that_could_harm(start: Start) -> None:
    answers = {
        b"\xff\xff\xff\xff": "2036-02-07 06:28:15 UTC",
        b"\0\0\0\0": "2036-02-07 06:28:16 UTC",
        b"\x1b[31m" + b"noon \xff" * 1000: "?[31m" + ("noon \ufffd" * 16)[:-2],
    }
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(peer()) for _ in answers]
        clients = [start(f"--ask=127.0.0.1:{server.getsockname()[1]}", "--timeout=20") for server in servers]
        for server, answer in zip(servers, answers, strict=True):
            server.sendto(answer, server.recvfrom(1000)[1])
        assert [output_of(client) for client in clients] == [(0, f"{line}\n", "") for line in answers.values()]


def test_client_says_in_one_line_that_nobody_answers(start: Start, tmp_path: Path) -> None:
    with peer() as silent:
        port = silent.getsockname()[1]
        with peer() as closed:
            free_port = closed.getsockname()[1]
        clients = {
            start(f"--ask=127.0.0.1:{port}", "--timeout=0.2"): f"127.0.0.1:{port}",
            start(f"--ask=127.0.0.1:{free_port}", "--timeout=0.2"): f"127.0.0.1:{free_port}: Connection refused",
            start(f"--ask={tmp_path}/nothing"): f"{tmp_path}/nothing: No such file or directory",
        }
        for client, complaint in clients.items():
            assert output_of(client) == (2, "", f"error: nobody answers at {complaint}\n")
        code, output, errors = output_of(start("--ask=nowhere.invalid:1"))
        assert (code, output) == (2, "")
        assert re.fullmatch(r"error: nobody answers at nowhere\.invalid:1: [^:;(]+\n", errors), errors


def test_client_says_in_one_line_what_is_no_address(start: Start) -> None:
    for place in ("localhost", "", "localhost:", "::1", "localhost:70000"):
        complaint = f"error: {place!r} is no address; give HOST:PORT, or the path of a socket\n"
        assert output_of(start(f"--ask={place}")) == (2, "", complaint)


@pytest.mark.parametrize("timeout", ["0", "-1", "nan", "inf", "soon"])
def test_timeout_that_makes_no_sense_is_refused(start: Start, timeout: str) -> None:
    code, _, errors = output_of(start(f"--timeout={timeout}"))
    assert code == 2
    assert errors.endswith(f"argument --timeout: {timeout!r} is no time; give a number of seconds above 0\n")


def test_server_says_in_one_line_why_it_cannot_listen(start: Start, tmp_path: Path) -> None:
    with peer() as somebody:
        port = somebody.getsockname()[1]
        (tmp_path / "file").write_text("kept")
        servers = {
            start("--host=127.0.0.1", f"--port={port}"): f"somebody listens on 127.0.0.1:{port} already",
            start("--host=no such host.invalid"): "cannot listen on no such host.invalid:6037: ",
            start(f"--path={tmp_path}/nowhere/time"): f"{tmp_path}/nowhere/time: No such file or directory",
            start(f"--path={tmp_path}/file"): "is a file, and no socket; it is left alone",
        }
        for server, complaint in servers.items():
            code, output, errors = output_of(server)
            assert (code, output) == (2, "")
            assert re.fullmatch(rf"error: .*{re.escape(complaint)}.*\n", errors), errors
    assert (tmp_path / "file").read_text() == "kept"


def test_name_that_can_be_none_is_told_in_one_line(start: Start) -> None:
    for program in (start("--host=a..b"), start("--ask=a..b:1")):
        code, _, errors = output_of(program)
        assert code == 2
        assert re.fullmatch(r"error: .*a\.\.b.*\n", errors), errors


def test_client_ends_quietly_at_ctrl_c(start: Start) -> None:
    with peer() as server:
        client = start(f"--ask=127.0.0.1:{server.getsockname()[1]}")
        server.recv(1000)
        client.send_signal(signal.SIGINT)
        assert output_of(client) == (130, "", "")


def test_help_says_how_to_ask(start: Start) -> None:
    code, output, errors = output_of(start("--help"))
    assert (code, errors) == (0, "")
    assert "usage: python -m examples.time_server " in output
    assert "python -m examples.time_server --ask localhost:6037" in output
    assert "authkey" not in output
