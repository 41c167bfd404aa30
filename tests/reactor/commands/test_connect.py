"""``python -m reactor connect``: in a pipe, and at a terminal."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest

from tests import certificates
from tests.conftest import ROOT
from tests.reactor.commands.running import Server, Terminal, argv, command, environment, place, serving, until
from tests.reactor.test_proxying import find, running

__all__ = ["place"]


@pytest.fixture
def server(place: Path) -> Iterator[Callable[..., Server]]:
    """Runs a server of the program, until the end of the test."""
    servers: list[Server] = []

    def start(name: str, *arguments: Any, **options: Any) -> Server:
        servers.append(Server(f"program:{name}", *arguments, **options))
        return servers[-1]

    yield start
    for each in servers:
        each.close()


# In a pipe


def test_bytes_go_both_ways_as_they_are_and_nothing_else_is_printed(server: Callable[..., Server]) -> None:
    url = server("Echo").url
    for data in (b"abc\ndef", b"", b"\r\n\0\xff"):
        done = subprocess.run(
            argv("connect", url, "--bytes"), input=data, capture_output=True, env=environment(), check=True, timeout=20
        )
        assert (done.stdout, done.stderr) == (data, b"")


def test_much_goes_through_a_pipe_both_ways(server: Callable[..., Server], place: Path) -> None:
    data = os.urandom(1 << 20) * 8
    done = subprocess.run(
        argv("connect", server("Echo").url, "--bytes"), input=data, capture_output=True, env=environment(), check=True,
        timeout=20,
    )  # fmt: skip
    assert done.stdout == data


def test_pipe_is_read_no_faster_than_the_server_reads(place: Path, in_thread: Callable[..., Any]) -> None:
    size = 1 << 24
    (place / "data").write_bytes(bytes(size))
    # With more than that waiting for the server, the connection would be closed.
    (place / "sitecustomize.py").write_text(
        "import reactor.commands.connect as c\nc.ROOM = 1 << 18\nc.LIMITS = c.Limits(maximum_output=1 << 19)\n"
    )
    received = []
    with socket.socket() as listening, (place / "data").open("rb") as file:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                time.sleep(0.5)
                while data := peer.recv(1 << 16):
                    received.append(len(data))

        in_thread(serve)
        done = subprocess.run(
            argv("connect", f"tcp://127.0.0.1:{listening.getsockname()[1]}", "--bytes"), stdin=file,
            capture_output=True, env=environment(PYTHONPATH=with_place(place)), check=False, timeout=40,
        )  # fmt: skip
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sum(received) == size


def test_lines_go_both_ways(server: Callable[..., Server]) -> None:
    url = server("Lines").url
    assert command("connect", url, "--lines", input="hello\nand more") == (0, "HELLO\nAND MORE\n", "")
    assert command("connect", url, "--lines", input="bye\n") == (0, "bye\n", "")


def test_line_without_an_end_is_printed_too(place: Path, in_thread: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                peer.sendall(b"one\r\nt\xffwo")
                peer.shutdown(socket.SHUT_WR)
                peer.recv(1)

        in_thread(serve)
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        done = subprocess.run(
            argv("connect", url, "--lines"), stdin=subprocess.DEVNULL, capture_output=True, env=environment(),
            check=True, timeout=20,
        )  # fmt: skip
        assert done.stdout == b"one\nt\xffwo\n"


def test_messages_are_written_as_python_does(server: Callable[..., Server]) -> None:
    url = server("Adder", "--authkey-file", "key").url
    assert command("connect", url, "--authkey-file", "key", input="[1, 2]\n\n(3, 4.5)\n") == (0, "3\n7.5\n", "")


def test_messages_may_be_json_or_bytes(server: Callable[..., Server]) -> None:
    url = server("Json").url
    code, output, errors = command("connect", url, "--codec", "json", input='["ü", null]\n"\\u0007"\n')
    assert (code, output, errors) == (0, '{"got": ["ü", null]}\n{"got": "\\u0007"}\n', "")
    assert command("connect", server("Bytes").url, "--codec", "bytes", input="hello\n") == (0, "HELLO\n", "")


def test_server_may_be_one_of_the_standard_library(place: Path, in_thread: Callable[..., Any]) -> None:
    with Listener(("127.0.0.1", 0), authkey=bytes(range(32))) as listener:

        def serve() -> None:
            with listener.accept() as connection:
                while True:
                    try:
                        connection.send(["got", connection.recv()])
                    except EOFError:
                        return

        in_thread(serve)
        url = f"tcp://127.0.0.1:{listener.address[1]}"  # type: ignore[index]
        code, output, errors = command("connect", url, "--authkey-file", "key", input="{1: 'x'}\nNone\n")
        assert (code, output, errors) == (0, "['got', {1: 'x'}]\n['got', None]\n", "")


def test_answers_that_take_their_time_are_waited_for(server: Callable[..., Server]) -> None:
    url = server("Lines").url
    # As soon as it knows that this was all, the server closes the connection.
    assert command("connect", url, "--lines", input="later\n") == (0, "", "")
    assert command("connect", url, "--lines", "--wait", "20", input="later bye\n") == (0, "now\n", "")


def test_connection_may_be_encrypted(server: Callable[..., Server], place: Path) -> None:
    encrypted = server("Lines", "--tls-cert", certificates.certificate(), listen="tcp://localhost:0")
    url = encrypted.url.replace("127.0.0.1", "localhost")
    known = ["--tls-authorities", certificates.authorities()]
    assert command("connect", url, "--lines", *known, input="hello\n") == (0, "HELLO\n", "")
    code, _, errors = command("connect", url, "--lines", "--tls", input="hello\n")
    assert code == 1
    assert errors.endswith("was signed by nobody who is known here; --tls-authorities says whom to believe\n")
    code, _, errors = command("connect", url, "--lines", *known, "--tls-name", "b.org", input="hello\n")
    assert (code, errors) == (
        1,
        f"error: {url[6:]}: no TLS: the certificate of the server is not for 'b.org'\n",
    )


def test_server_that_closes_while_the_next_line_is_waited_for_ends_it(server: Callable[..., Server]) -> None:
    url = server("Lines").url
    with subprocess.Popen(
        argv("connect", url, "--lines"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment()
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"bye\n")
        process.stdin.flush()
        assert process.stdout.read() == b"bye\n"
        assert process.wait(10) == 0


def test_reader_that_has_read_enough_ends_it(server: Callable[..., Server], place: Path) -> None:
    (place / "lines").write_text("hello\n" * 200_000)
    script = '"$0" "$@" < lines | head -n 1; echo "${PIPESTATUS[0]}"'
    done = subprocess.run(
        ["bash", "-c", script, *argv("connect", server("Lines").url, "--lines")],
        capture_output=True, env=environment(), check=True, timeout=20,
    )  # fmt: skip
    assert done.stdout.splitlines() == [b"HELLO", b"0"]
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("arguments", "code", "complaint"),
    [
        (["localhost:6000", "--lines"], 2, "error: 'localhost:6000' is no URL; is 'tcp://localhost:6000' meant?"),
        (["unix://nothing", "--lines"], 1, "/nothing: No such file or directory"),
        (["tcp://127.0.0.1:1", "--bytes"], 1, "error: cannot connect: 127.0.0.1:1; 127.0.0.1:1: Connection refused"),
        (["tcp://127.0.0.1:1"], 2, "choose --codec json, --codec bytes, --lines or --bytes"),
        (
            ["tcp://127.0.0.1:1", "--authkey-file", "nix"],
            2,
            "there is no nix; make one: (umask 077; head",
        ),
        (["tcp://127.0.0.1:1", "--lines", "--bytes"], 2, "--bytes: not allowed with argument --lines"),
        (["tcp://127.0.0.1:1", "--lines", "--codec", "json"], 2, "--codec is for messages"),
        (["tcp://127.0.0.1:1", "--lines", "--authkey-file", "key"], 2, "--authkey-file is for messages"),
        (["tcp://127.0.0.1:1", "--lines", "--tls-authorities", "nix"], 2, "no authorities in 'nix': No such file"),
        (["tcp://127.0.0.1:1", "--lines", "--wait", "inf"], 2, "argument --wait: invalid seconds value: 'inf'"),
        (["unix://nothing", "--lines", "--tls"], 2, "a Unix socket has no name"),
    ],
)
def test_mistake_is_one_line(place: Path, arguments: list[str], code: int, complaint: str) -> None:
    found, output, errors = command("connect", *arguments)
    assert (found, output) == (code, "")
    (line,) = errors.splitlines()
    assert complaint in line


def test_other_key_is_said_to_be_one(server: Callable[..., Server], place: Path) -> None:
    (place / "other").write_bytes(bytes(32))
    (place / "other").chmod(0o600)
    url = server("Adder", "--authkey-file", "key").url
    code, _, errors = command("connect", url, "--authkey-file", "other", input="[1]\n")
    assert code == 1
    assert errors == f"error: {url[6:]}: the peer refused our answer to its challenge: the authkeys differ\n"


@pytest.mark.parametrize(("codec", "complaint"), [("pickle", "'hello' is no value of Python"), ("json", "no JSON")])
def test_message_that_is_none_is_told_with_its_line(server: Callable[..., Server], codec: str, complaint: str) -> None:
    options = ["--authkey-file", "key"] if codec == "pickle" else ["--codec", "json"]
    url = server(*(["Adder", *options] if codec == "pickle" else ["Json"])).url
    code, _, errors = command("connect", url, *options, input="[1]\nhello\n[2]\n")
    assert code == 2
    assert errors.startswith("error: line 2 of the input: ")
    assert complaint in errors


# At a terminal


def test_history_is_kept_for_its_user_alone_and_found_again(server: Callable[..., Server], place: Path) -> None:
    url = server("Adder", "--authkey-file", "key").url
    with Terminal("connect", url, "--authkey-file", "key") as terminal:
        terminal.wait_for('messages are typed as Python writes them: ("add", 2, 3); Ctrl-D ends')
        terminal.wait_for("> ")
        terminal.type("[40, 2]\n")
        terminal.wait_for("\n42\n> ")
        assert "\x1b[32m42\x1b[0m" in terminal.raw
        terminal.type("hello\n")
        terminal.wait_for("error: 'hello' is no value of Python; text stands in quotation marks\n> ")
        terminal.type("\x04")
        assert terminal.end() == 0
    history = place / ".reactor_history"
    assert history.read_text().split("\n")[:2] == ["[40, 2]", "hello"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
    with Terminal("connect", url, "--authkey-file", "key") as terminal:
        terminal.wait_for("> ")
        terminal.type("\x10\x10\n")  # Ctrl-P, twice
        terminal.wait_for("\n42\n> ")
        assert terminal.end("\x03", is_repeated=True) == 130


def test_what_the_server_says_meanwhile_stands_above_what_is_being_typed(server: Callable[..., Server]) -> None:
    with Terminal("connect", server("Lines").url, "--lines", NO_COLOR="1") as terminal:
        terminal.wait_for("> ")
        terminal.type("later\n")
        terminal.wait_for("> later\n> ")
        terminal.type("hel")
        terminal.wait_for("now\n> hel")
        terminal.type("lo\n")
        terminal.wait_for("HELLO\n> ")
        terminal.type("bye\n")
        terminal.wait_for("the server has closed the connection")
        assert terminal.end() == 0
        assert "\x1b[3" not in terminal.raw


def test_server_cannot_steer_the_terminal(place: Path, in_thread: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for _ in range(3):
                peer, _ = listening.accept()
                with peer:
                    peer.sendall(b"\x1b[31mred\x07\t\xc2\x9b2J\xff\n")
                    peer.shutdown(socket.SHUT_WR)
                    while peer.recv(100):
                        pass

        in_thread(serve)
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        for mode in ("--lines", "--bytes"):
            with Terminal("connect", url, mode, NO_COLOR="1") as terminal:
                terminal.wait_for("\\x1b[31mred\\x07")
                assert terminal.end() == 0
                assert "\x1b[31m" not in terminal.raw
                assert "\\x9b2J\\xff" in terminal.raw
        # In a pipe somebody may want just these bytes.
        done = subprocess.run(
            argv("connect", url, "--bytes"),
            capture_output=True,
            env=environment(),
            stdin=subprocess.DEVNULL,
            check=True,
        )
        assert done.stdout == b"\x1b[31mred\x07\t\xc2\x9b2J\xff\n"


def test_messages_are_printed_readably(place: Path, in_thread: Callable[..., Any]) -> None:
    class Secret:
        def __reduce__(self) -> Any:
            return bytes, (b"a pickle runs code, but only that of a server that has the key",)

    with Listener(("127.0.0.1", 0), authkey=bytes(range(32))) as listener:

        def serve() -> None:
            with listener.accept() as connection:
                connection.send({"name": "x" * 60, "other": list(range(30)), "third": "\x1b[31m"})
                connection.send(Secret())
                with pytest.raises(EOFError):
                    connection.recv()

        in_thread(serve)
        url = f"tcp://127.0.0.1:{listener.address[1]}"  # type: ignore[index]
        with Terminal("connect", url, "--authkey-file", "key", NO_COLOR="1") as terminal:
            terminal.wait_for(" 'third': '\\x1b[31m'}\n")
            terminal.wait_for("only that of a server")
            assert "{'name': '" + "x" * 60 + "',\n 'other': [0,\n" in terminal.shown
            terminal.type("\x04")
            assert terminal.end() == 0


def test_silent_server_that_never_ends_is_not_waited_for_in_vain(
    place: Path, monkeypatch: pytest.MonkeyPatch, in_thread: Callable[..., Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            peer, _ = listening.accept()
            with peer:
                assert peer.recv(100) == b"hello\r\n"
                assert peer.recv(100) == b""
                peer.sendall(b"yes\n")
                time.sleep(1)
                until(lambda: is_reset(peer))

        def is_reset(peer: socket.socket) -> bool:
            try:
                peer.sendall(b"x")
            except OSError:
                return True
            return False

        in_thread(serve)
        (place / "sitecustomize.py").write_text("import reactor.commands.connect as c\nc.PATIENCE = 0.3\n")
        url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
        code, output, errors = command("connect", url, "--lines", input="hello\n", PYTHONPATH=with_place(place))
        assert (code, output, errors) == (0, "yes\n", "")


def with_place(place: Path) -> str:
    return f"{place}{os.pathsep}{environment()['PYTHONPATH']}"


def test_example_of_haproxy_works(place: Path) -> None:
    program = find("haproxy")
    if program is None:
        pytest.skip("no haproxy here")
    with (
        serving("program:Lines", "--proxies", "127.0.0.1") as server,
        socket.create_server(("127.0.0.1", 0)) as listening,
    ):
        text = (ROOT / "examples" / "haproxy.cfg").read_text()
        assert text.count("bind :6000") == text.count("server first 127.0.0.1:6001") == 1
        (place / "haproxy.cfg").write_text(
            text.replace("bind :6000", f"bind fd@{listening.fileno()}").replace("127.0.0.1:6001", server.url[6:])
        )
        with running([program, "-db", "-f", "haproxy.cfg"], place, pass_fds=[listening.fileno()]):
            url = f"tcp://127.0.0.1:{listening.getsockname()[1]}"
            code, output, errors = command("connect", url, "--lines", input="who\n")
            assert (code, errors) == (0, "")
            assert output.split()[2].startswith("127.0.0.1:")
        assert server.end() == 0
        assert server.errors == ""
