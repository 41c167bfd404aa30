"""The example that follows a file and a program, started as its docstring says, on files that do what log files do."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

import reactor
from examples import tail
from tests.examples.running import Program, Start

TIMEOUT = 20.0


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file of thirty lines."""
    path = tmp_path / "log"
    path.write_text("".join(f"{number}\n" for number in range(1, 31)))
    return path


def says(program: Program, *lines: str) -> bool:
    """Return whether these are the next lines that it prints."""
    printed = [program.read_line() for _ in lines]
    assert printed == list(lines)
    return True


def said(program: Program) -> tuple[int, list[str], str]:
    """Return its exit code, what it still prints, and what it complains of."""
    output, _ = program.process.communicate(timeout=TIMEOUT)
    return program.wait(), output.decode().splitlines(), program.errors


def is_gone(pid: int) -> bool:
    """Return whether the process ends soon, or has ended."""
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def append(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


# As a process


def test_file_is_followed_through_all_that_happens_to_log_files(start: Start, log: Path) -> None:
    program = start(log, "--lines", 2)
    assert says(program, "log: 29", "log: 30")
    append(log, "more\nand a ")
    assert says(program, "log: more")
    append(log, "line\n")
    assert says(program, "log: and a line")
    log.write_text("short\n")
    assert says(program, "* log: it was cut off", "log: short")
    with log.open("a") as writer:  # which does not notice at once that the file has another name
        log.rename(log.with_name("log.1"))
        assert says(program, "* log: No such file or directory")
        writer.write("last words\n")
    assert says(program, "log: last words")
    log.write_text("a new beginning")
    assert says(program, "* log: it is a new file")
    log.unlink()
    assert says(program, "log: a new beginning", "* log: No such file or directory")
    assert program.ends_cleanly()


def test_file_may_come_later_and_its_last_line_be_open(start: Start, tmp_path: Path) -> None:
    program = start(tmp_path / "log")
    assert says(program, "* log: No such file or directory")
    (tmp_path / "log").write_text("first\nlast")
    assert says(program, "* log: it is a new file", "log: first")
    program.send_signal(signal.SIGINT)
    assert said(program) == (0, ["log: last"], "")


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_and_the_program_with_it(start: Start, log: Path, signum: int) -> None:
    program = start("--lines", 0, log, "--", "sh", "-c", "echo $$; exec sleep 100")
    pid = int(program.read_line().removeprefix("sh: "))
    append(log, "both are heard\n")
    assert says(program, "log: both are heard")
    program.send_signal(signum)
    assert said(program) == (0, ["* sh: it was killed by SIGTERM"], "")
    assert is_gone(pid)


def test_second_signal_ends_a_program_that_did_not_want_to(start: Start, log: Path) -> None:
    script = "trap 'echo no >> $0' TERM; echo $$; while :; do sleep 0.01; done"
    program = start("--lines", 0, log, "--", "sh", "-c", script, log)
    pid = int(program.read_line().removeprefix("sh: "))
    program.send_signal(signal.SIGTERM)
    assert says(program, "log: no")
    program.send_signal(signal.SIGTERM)
    code, _, errors = said(program)
    assert code == 0
    assert "cut off at shutdown" in errors
    assert is_gone(pid)


def test_it_ends_with_its_program_when_nobody_reads_on(start: Start, log: Path) -> None:
    program = start("--lines", 0, log, "--", "sh", "-c", "echo $$; exec sleep 100")
    pid = int(program.read_line().removeprefix("sh: "))
    assert program.process.stdout is not None
    program.process.stdout.close()
    append(log, "for nobody\n")
    assert (program.wait(), program.errors) == (0, "")
    assert is_gone(pid)


# In this process


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs the example to its end here, which takes less time; returns its exit code, its output and its errors."""

    def run_here(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tail.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            tail.main()
        assert isinstance(ended.value.code, int)
        return ended.value.code, *capsys.readouterr()

    yield run_here
    reactor.get_reactor().close()


def test_help_says_how_it_is_used(run: Run) -> None:
    code, output, _ = run("--help")
    assert code == 0
    assert output.startswith("usage: python -m examples.tail [-h] [--lines N] FILE [-- PROGRAM [ARGUMENT ...]]\n")


def test_program_is_heard_and_all_ends_with_its_exit_code(run: Run, log: Path) -> None:
    script = "echo out; echo error >&2; printf open; echo by the program >> $0; exit 7"
    code, output, errors = run(log, "--lines", 1, "--", "sh", "-c", script, log)
    assert (code, errors) == (7, "")
    heard = ["sh: out", "sh: error", "sh: open", "* sh: it ended with exit code 7"]
    assert [line for line in output.splitlines() if "sh:" in line] == heard
    assert [line for line in output.splitlines() if line not in heard] == ["log: 30", "log: by the program"]


def test_all_that_the_program_has_written_to_the_file_is_read_at_its_end(run: Run, log: Path) -> None:
    code, output, errors = run(log, "--lines", 0, "--", "sh", "-c", "seq 100000 >> $0", log)
    assert (code, errors) == (0, "")
    heard = [line for line in output.splitlines() if line.startswith("log")]
    assert heard == [f"log: {number}" for number in range(1, 100_001)]


def test_program_that_was_killed_is_told_as_a_shell_does(run: Run, log: Path) -> None:
    killed = run(log, "--lines", 0, "--", "sh", "-c", "kill -9 $$")
    assert killed == (137, "* sh: it was killed by SIGKILL\n", "")


def test_what_takes_control_of_terminals_is_not_printed(run: Run, log: Path) -> None:
    log.write_bytes(b"\x1b[2J\0\xff\ttab \r\n\xc3\xa9\n")
    code, output, errors = run(log, "--", "printf", r"\033[2J\n")
    assert (code, errors) == (0, "")
    assert sorted(output.splitlines()) == [
        "* printf: it ended with exit code 0", "log: ?[2J?\ufffd     tab", "log: é", "printf: ?[2J",
    ]  # fmt: skip


def test_line_without_an_end_is_printed_in_pieces(run: Run, log: Path) -> None:
    program = "import sys; sys.stdout.write('x' * 1_000_000)"
    code, output, errors = run(log, "--lines", 0, "--", sys.executable, "-c", program)
    assert (code, errors) == (0, "")
    *pieces, note = output.splitlines()
    assert sum(piece.count("x") for piece in pieces) == 1_000_000
    assert 1 < len(pieces) < 1_000_000 / tail.PIECE + 1
    assert note.endswith("it ended with exit code 0")


def test_what_is_no_file_is_refused_on_one_line(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        assert run(path) == (2, "", f"error: {path} is no file that could grow\n")


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_must_not_be_read_is_refused_on_one_line(run: Run, log: Path) -> None:
    log.chmod(0)
    assert run(log) == (2, "", f"error: {log}: Permission denied\n")


def test_program_that_cannot_be_run_is_refused_on_one_line(run: Run, log: Path) -> None:
    for command, complaint in [
        (["no such program"], "no such program: No such file or directory"),
        ([log], f"{log}: Permission denied"),
    ]:
        assert run(log, "--", *command) == (2, "", f"error: {complaint}\n")


def test_words_that_make_no_sense_are_refused(run: Run, log: Path) -> None:
    for words, complaint in [
        ([], "the following arguments are required: FILE"),
        (["--", "true"], "the following arguments are required: FILE"),
        ([log, "--lines", "x"], "argument --lines: 'x' is no count; give a whole number, 0 or more"),
        ([log, "--lines", "-3"], "argument --lines: '-3' is no count; give a whole number, 0 or more"),
        ([log, "--"], "give a PROGRAM behind --"),
        ([log, "--", ""], "give a PROGRAM behind --"),
        ([log, "true"], "unrecognized arguments: true"),
    ]:
        code, output, errors = run(*words)
        assert (code, output) == (2, "")
        assert errors.splitlines()[-1] == f"python -m examples.tail: error: {complaint}"


@contextmanager
def following(path: Path, count: int) -> Iterator[Iterator[bytes | str]]:
    """What `follow` gives, from its first news on."""
    with closing(tail.follow(path, count)) as growth:  # type: ignore[type-var]
        assert next(growth) == b""
        yield growth


def news(growth: Iterator[bytes | str]) -> list[bytes | str]:
    """Return what there is until there is nothing."""
    return list(iter(lambda: next(growth), b""))


@pytest.mark.parametrize(
    ("content", "count", "expected"),
    [
        (b"1\n2\n3\n", 2, b"2\n3\n"),
        (b"1\n2\n3", 2, b"2\n3"),
        (b"1\n2\n3\n", 3, b"1\n2\n3\n"),
        (b"1\n2\n3\n", 4, b"1\n2\n3\n"),
        (b"1\n2\n3\n", 100, b"1\n2\n3\n"),
        (b"1\n2\n3\n", 0, b""),
        (b"1\n2\n3\n", -1, b""),
        (b"\n\n", 1, b"\n"),
        (b"", 10, b""),
        (b"x" * (tail.PIECE + 100) + b"\n1\n", 1, b"1\n"),
        (b"x" * (tail.PIECE + 100), 1, b"x" * tail.PIECE),
    ],
)
def test_last_lines_come_first(tmp_path: Path, content: bytes, count: int, expected: bytes) -> None:
    path = tmp_path / "log"
    path.write_bytes(content)
    with following(path, count) as growth:
        assert news(growth) == ([expected] if expected else [])
        with path.open("ab") as file:
            file.write(b"more")
        assert news(growth) == [b"more"]


def test_trouble_is_told_once_and_over_when_there_is_a_file_again(log: Path) -> None:
    with following(log, 1) as growth:
        assert news(growth) == [b"30\n"]
        log.unlink()
        assert news(growth) == ["No such file or directory"]
        log.mkdir()
        assert news(growth) == [f"{log} is no file that could grow"]
        assert news(growth) == []
        log.rmdir()
        log.touch()
        assert news(growth) == ["it is a new file"]
        assert news(growth) == []
        for _ in range(2):
            log.unlink()
            assert news(growth) == ["No such file or directory"]
            assert news(growth) == []
            log.touch()
            assert next(growth) == "it is a new file"
        log.rename(log.with_name("log.1"))
        assert news(growth) == ["No such file or directory"]
        log.with_name("log.1").rename(log)
        assert news(growth) == []
        log.unlink()
        assert news(growth) == ["No such file or directory"]


def test_what_is_written_while_the_file_is_replaced_is_not_lost(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rotate(path: Path) -> os.stat_result:
        monkeypatch.undo()
        append(log, "at the last moment\n")
        log.rename(log.with_name("log.1"))
        log.write_text("first\n")
        return os.stat(path)

    with following(log, 0) as growth:
        monkeypatch.setattr(os, "stat", rotate)
        assert news(growth) == [b"at the last moment\n", "it is a new file", b"first\n"]
