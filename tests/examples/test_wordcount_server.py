"""The word count server, started as its docstring says, and asked by its client, by plain sockets and by nc."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples.wordcount_server import Counts
from tests.conftest import raw_client
from tests.examples.running import Program, Start, listening, output_of


def count(server: Program, text: bytes) -> bytes:
    """Send a text and return the answer."""
    with raw_client(server.address) as client:
        client.sendall(text)
        client.shutdown(socket.SHUT_WR)
        answer = b""
        while part := client.recv(100):
            answer += part
    return answer


@given(st.lists(st.binary(min_size=1, max_size=6)))
def test_pieces_are_counted_as_the_whole(pieces: list[bytes]) -> None:
    counts = Counts()
    for piece in pieces:
        counts.add(piece)
    whole = b"".join(pieces)
    assert (counts.lines, counts.words, counts.size) == (whole.count(b"\n"), len(whole.split()), len(whole))


def test_server_counts_as_wc_does(start: Start, tmp_path: Path) -> None:
    server = listening(start("--port=0", "--host=127.0.0.1"))
    texts = [b"", b"\n", b"one two\n", b" no newline", b"\t\v\f\r\n  \n", b"word " * 300_000 + b"\nlast"]
    for text in texts:
        answer = count(server, text)
        wc = subprocess.run(
            ["wc"], input=text, capture_output=True, check=True, env={"LC_ALL": "C", "PATH": os.environ["PATH"]}
        )
        assert answer.split() == wc.stdout.split()
    assert server.ends_cleanly()


def test_client_prints_what_was_counted_in_files_and_in_its_input(start: Start, tmp_path: Path) -> None:
    server = listening(start("--port=0"))
    option = f"--port={server.address[1]}"
    (tmp_path / "one").write_bytes(b"a b\nc\n")
    (tmp_path / "two").write_bytes(b"")
    names = [str(tmp_path / "one"), str(tmp_path / "two")]
    assert output_of(start(option, "--count", *names)) == (0, f"2 3 6 {names[0]}\n0 0 0 {names[1]}\n", "")
    with_input = start(option, "--count", "-", stdin=subprocess.PIPE)
    output, _ = with_input.process.communicate(b"x y z", timeout=20)
    assert (with_input.wait(), output) == (0, b"0 3 5 -\n")
    assert server.ends_cleanly(signal.SIGINT)


@pytest.mark.skipif(shutil.which("nc") is None, reason="nc is not installed")
def test_nc_is_answered_as_the_docstring_says(start: Start) -> None:
    server = listening(start("--port=0", "--host=127.0.0.1"))
    argv = ["nc", "-N", "127.0.0.1", str(server.address[1])]
    result = subprocess.run(argv, input=b"a b\n", capture_output=True, timeout=20, check=False)
    if b"invalid option" in result.stderr:
        pytest.skip("this nc is another one")
    assert result.stdout == b"1 2 4\n"
    assert server.ends_cleanly()


def test_server_listens_on_ipv6(start: Start) -> None:
    server = listening(start("--port=0", "--host=::1"))
    with socket.create_connection(server.address, 10) as client:
        client.sendall(b"a b")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"0 2 3\n"
    assert server.ends_cleanly()


def test_more_clients_than_threads_and_many_silent_ones_are_all_served(start: Start) -> None:
    server = listening(start("--port=0", "--host=127.0.0.1", "--threads=2"))
    answers = []
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(raw_client(server.address))
        threads = [threading.Thread(target=lambda: answers.append(count(server, b"a b\n" * 50_000))) for _ in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert answers == [b"50000 100000 200000\n"] * 10
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0


def test_client_that_stops_in_the_middle_loses_its_thread(start: Start) -> None:
    server = listening(start("--port=0", "--host=127.0.0.1", "--threads=1", "--timeout=0.1"))
    with raw_client(server.address) as client:
        client.sendall(b"half a te")
        assert client.recv(100) == b""
    assert count(server, b"a b\n") == b"1 2 4\n"
    server.send_signal(signal.SIGTERM)
    assert server.wait() == 0
    assert re.match(r"\S+ \S+ 127\.0\.0\.1:\d+: timed out\n", server.errors), server.errors


def test_who_is_being_served_at_the_end_gets_an_answer(start: Start) -> None:
    server = listening(start("--port=0", "--host=127.0.0.1"))
    with raw_client(server.address) as client, raw_client(server.address) as silent:
        client.sendall(b"one ")
        assert count(server, b"") == b"0 0 0\n"  # so that the first one has its thread
        server.send_signal(signal.SIGTERM)
        assert silent.recv(1) == b""
        client.sendall(b"two\n")
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b"1 2 8\n"
    assert (server.wait(), server.errors) == (0, "")


def test_mistakes_are_told_in_one_line(start: Start, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        programs = {
            start("--host=127.0.0.1", f"--port={port}"): f"127.0.0.1:{port}: Address already in use",
            start("--host=no such host.invalid"): "no such host.invalid:6040: ",
            start("--count", str(tmp_path / "nothing")): f"{tmp_path}/nothing: No such file or directory",
        }
        for program, complaint in programs.items():
            code, output, errors = output_of(program)
            assert (code, output) == (2, "")
            assert re.fullmatch(rf"error: {re.escape(complaint)}.*\n", errors), errors
    nobody = start(f"--port={port}", "--host=127.0.0.1", "--count", __file__)
    assert output_of(nobody) == (2, "", f"error: 127.0.0.1:{port}: Connection refused\n")


def test_server_that_hangs_up_is_told_in_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        port = server.getsockname()[1]
        client = start(f"--port={port}", "--host=127.0.0.1", "--count", "-")
        accepted, _ = server.accept()
        accepted.recv(1)
        accepted.close()
        assert output_of(client) == (2, "", f"error: 127.0.0.1:{port} has not answered\n")


def test_help_says_how_to_ask(start: Start) -> None:
    code, output, errors = output_of(start("--help"))
    assert (code, errors) == (0, "")
    assert "usage: python -m examples.wordcount_server " in output
    assert "python -m examples.wordcount_server --count README.md" in output
    assert "authkey" not in output
