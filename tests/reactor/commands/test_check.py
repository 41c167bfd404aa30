"""``python -m reactor check`` and ``states``: what is examined, and that nothing is started."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from reactor import states
from reactor.commands import console, main
from reactor.daemons import PidFile
from tests import certificates
from tests.reactor.commands.running import place

__all__ = ["place"]

ANYWHERE = ["--listen", "tcp://127.0.0.1:0"]


@pytest.fixture
def check(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in this process; returns its exit code, output and errors."""
    monkeypatch.syspath_prepend(place)
    monkeypatch.delitem(sys.modules, "program", raising=False)
    (place / "cert.pem").write_bytes(Path(certificates.certificate("localhost", "127.0.0.1")).read_bytes())
    (place / "cert.pem").chmod(0o600)

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["check", *arguments])
        return (code, *capsys.readouterr())

    return run


Check = Callable[..., tuple[int, str, str]]


def test_nothing_is_wrong_with_a_server_that_would_run(check: Check, place: Path) -> None:
    (place / "server.toml").write_text(
        "handler = 'program:Adder'\nlisten = ['tcp://127.0.0.1:0', 'unix://s']\nauthkey-file = 'key'\n"
        "tls-cert = 'cert.pem'\npid-file = 'pid'\nlog-file = 'log'\nlog-level = 'info'\n"
    )
    before = sorted(place.iterdir())
    assert check("--config", "server.toml") == (0, "nothing is wrong\n", "")
    left = [path for path in sorted(place.iterdir()) if path.name != "__pycache__"]
    assert left == before


def test_privileges_and_syslog_are_examined(check: Check, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as syslog:
        syslog.bind("syslog")
        options = ["--syslog-address", f"unix://{place}/syslog"]
        if os.geteuid() == 0:
            options += ["--user", "nobody", "--group", "nogroup" if shutil.which("dpkg") else "nobody"]
        assert check("program:Lines", *ANYWHERE, *options) == (0, "nothing is wrong\n", "")
        syslog.setblocking(False)
        with pytest.raises(BlockingIOError):
            syslog.recv(1)


@pytest.mark.parametrize(
    ("options", "complaints"),
    [
        ([], ["--listen: say where to listen, such as --listen tcp://localhost:6000"]),
        (["--listen", "localhost:6000"], ["--listen: 'localhost:6000' is no URL; is 'tcp://localhost:6000' meant?"]),
        (["--listen", "tcp://192.0.2.1:1"], ["--listen: tcp://192.0.2.1:1: this machine has no such address"]),
        (["--listen", "tcp://no-such-host.invalid:1"], ["cannot listen on no-such-host.invalid:1"]),
        (["--listen", "unix://no/s"], ["/no/s: there is no directory "]),
        (["--listen", "unix://program.py"], ["/program.py: there is a file, and no socket; it would be left alone"]),
        (["--listen", "unix:///" + "x" * 120], ["the path is longer than 107 bytes"]),
        (["--listen", "fd://199"], ["--listen: fd://199: the descriptor 199 was not inherited"]),
        ([*ANYWHERE, "--authkey-file", "none"], ["--authkey-file: there is no /", "Echo is no Connection"]),
        ([*ANYWHERE, "--authkey-file", "open"], ["open; say: chmod 600 /", "Echo is no Connection"]),
        ([*ANYWHERE, "--authkey-file", "an other"], ["> '/", "Echo is no Connection"]),
        ([*ANYWHERE, "--tls-cert", "none.pem"], ["--tls-cert: no certificate with its key in '/"]),
        (
            [*ANYWHERE, "--tls-cert", "cert.pem", "--tls-key", "other.key"],
            ["the key is not the one of the cert"],
        ),
        ([*ANYWHERE, "--tls-cert", "cert.pem", "--tls-key", "locked.key"], ["needs a password, and none was given"]),
        ([*ANYWHERE, "--tls-cert", "expired.pem"], ["--tls-cert: the certificate has expired, "]),
        ([*ANYWHERE, "--tls-cert", "tomorrow.pem"], ["--tls-cert: the certificate is not valid before "]),
        ([*ANYWHERE, "--pid-file", "no/pid"], ["--pid-file: there is no directory /"]),
        ([*ANYWHERE, "--pid-file", "."], ["--pid-file: /"]),
        ([*ANYWHERE, "--pid-file", "program.py"], ["program.py has something else in it"]),
        ([*ANYWHERE, "--log-file", "."], [" is a directory"]),
        ([*ANYWHERE, "--handover", "program.py", "--workers", "1"], ["--handover: there is a file, and no socket"]),
        ([*ANYWHERE, "--log-file", "no/log"], ["--log-file: there is no directory /"]),
        (
            [*ANYWHERE, "--syslog-address", "unix:///no/syslog"],
            ["--syslog-address: no syslog listens on unix:/no/syslog"],
        ),
        ([*ANYWHERE, "--user", "no-such-user"], ["--user: there is no user 'no-such-user' on this system"]),
        ([*ANYWHERE, "--group", "no-such-group"], ["--group: there is no group 'no-such-group' on this system"]),
    ],
)
def test_what_keeps_a_server_from_running_is_one_line_each(
    check: Check, place: Path, options: list[str], complaints: list[str]
) -> None:
    (place / "open").write_bytes(bytes(32))
    (place / "open").chmod(0o644)
    shutil.copy(certificates.certificate_and_key()[1], place / "other.key")
    shutil.copy(certificates.locked_key("secret")[1], place / "locked.key")
    shutil.copy(certificates.certificate("127.0.0.1", expired=True), place / "expired.pem")
    shutil.copy(certificates.certificate_of_tomorrow(), place / "tomorrow.pem")
    code, output, errors = check("program:Echo", *options)
    assert (code, output) == (2, "")
    lines = errors.splitlines()
    assert len(lines) == len(complaints)
    for line, complaint in zip(lines, complaints, strict=True):
        assert line.startswith("error: ")
        assert complaint in line


def test_pickles_without_a_key_are_a_problem_of_the_handler(check: Check) -> None:
    code, _, errors = check("program:Adder", *ANYWHERE)
    assert code == 2
    assert errors.startswith("error: handler program:Adder: it takes pickles, which can run code")
    assert check("program:Adder", "--listen", "unix://s")[0] == 0
    assert check("program:Adder", "--listen", "unix://s", "--proxies", "unix")[0] == 2
    assert check("program:Json", *ANYWHERE)[0] == 0


def test_handler_that_cannot_be_found_is_a_problem(check: Check) -> None:
    code, _, errors = check("program:Ecko", *ANYWHERE)
    assert (code, errors) == (2, "error: handler program:Ecko: program has no Ecko; is 'Echo' meant?\n")


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (["--authkey-file", "lined"], "--authkey-file: the end of the line at its end is part of the key"),
        (["--tls-cert", "soon.pem"], "--tls-cert: the certificate expires in 9 days, "),
        (["--tls-cert", "public.pem"], "--tls-cert: others can read the private key; say: chmod 600 /"),
        (
            ["--tls-cert", "elsewhere.pem"],
            "--tls-cert: the certificate is for a.example.org, *.b.org, not for 127.",
        ),
        (["--limits", "maximum_connections=100000000"], "--limits: maximum_connections is 100000000; there are"),
        (["--daemon"], "--daemon: what it logs goes nowhere; --syslog or --log-file keeps it"),
    ],
)
def test_what_may_be_wrong_is_a_warning(check: Check, place: Path, options: list[str], warning: str) -> None:
    (place / "lined").write_bytes(bytes(31) + b"\n")
    shutil.copy(certificates.self_signed_certificate(), place / "soon.pem")
    shutil.copy(place / "cert.pem", place / "public.pem")
    shutil.copy(certificates.certificate("a.example.org", "*.b.org"), place / "elsewhere.pem")
    for name, mode in {"lined": 0o600, "soon.pem": 0o600, "elsewhere.pem": 0o600, "public.pem": 0o644}.items():
        (place / name).chmod(mode)
    # Port 0 of every address: whatever the certificate is for may be meant.
    everywhere = ["--listen", "tcp://127.0.0.1:0" if "elsewhere.pem" in options else "tcp://:0"]
    code, output, errors = check("program:Json", *everywhere, *options)
    assert (code, output) == (0, "")
    (line,) = errors.splitlines()
    assert line.startswith(f"warning: {warning}")


@pytest.mark.parametrize(
    ("host", "is_covered"),
    [("www.b.org", True), ("b.org", False), ("a.b.b.org", False), ("A.EXAMPLE.ORG", True), ("a.example.com", False)],
)
def test_names_of_a_certificate_are_those_of_the_addresses(
    check: Check, place: Path, monkeypatch: pytest.MonkeyPatch, host: str, is_covered: bool
) -> None:
    monkeypatch.setattr("reactor.commands.check.look_at_address", lambda url: ())
    shutil.copy(certificates.certificate("a.example.org", "*.b.org"), place / "names.pem")
    (place / "names.pem").chmod(0o600)
    _, output, _ = check("program:Json", "--listen", f"tcp://{host}:443", "--tls-cert", "names.pem")
    assert (output == "nothing is wrong\n") == is_covered


def test_server_that_runs_already_is_a_warning_and_its_address_no_wonder(check: Check, place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        _, _, errors = check("program:Echo", "--listen", url)
        assert errors == f"warning: --listen: {url}: somebody listens on {url[6:]} already\n"
        with PidFile("pid"):
            code, _, errors = check("program:Echo", "--listen", url, "--pid-file", "pid")
            assert (code, errors) == (0, f"warning: --pid-file: it runs already, with pid {os.getpid()}\n")


def test_handover_takes_over_from_whoever_listens(check: Check, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as door, socket.create_server(("127.0.0.1", 0)) as taken:
        door.bind("next")
        door.listen()
        url = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        code, _, errors = check("program:Echo", "--listen", url, "--workers", "1", "--handover", "next")
        assert code == 0
        assert errors == "warning: --handover: it runs already; a server with these settings takes over from it\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_files_that_another_user_cannot_remove_are_a_warning(check: Check, place: Path) -> None:
    files = ["--listen", "unix://s", "--pid-file", "pid", "--log-file", "log"]
    place.chmod(0o755)
    code, _, errors = check("program:Lines", *files, "--user", "nobody")
    assert code == 0
    assert [line.split(": ")[2] for line in errors.splitlines()] == [
        f"{place}/pid stays there in the end", f"{place}/s stays there in the end", f"{place}/log may not be renamed",
    ]  # fmt: skip
    # With workers there is a process of root's that removes them.
    _, _, errors = check("program:Lines", *files, "--user", "nobody", "--workers", "1")
    assert "/log may not be renamed" in errors
    assert len(errors.splitlines()) == 1
    place.chmod(0o777)
    assert check("program:Lines", *files, "--user", "nobody") == (0, "nothing is wrong\n", "")


def test_complaint_is_one_line_whatever_a_program_says(check: Check, place: Path) -> None:
    (place / "broken.py").write_text("raise ValueError('two\\nlines and \\x1b[31mred')\n")
    _, _, errors = check("broken:X", *ANYWHERE)
    assert "ValueError: two\\nlines and \\x1b[31mred" in errors
    assert len(errors.splitlines()) == 1


def test_unix_socket_on_which_somebody_listens_is_told_and_one_left_behind_is_not(check: Check, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("s")
        assert check("program:Echo", "--listen", "unix://s") == (0, "nothing is wrong\n", "")
        listening.listen()
        code, _, errors = check("program:Echo", "--listen", "unix://s")
        assert (code, errors) == (0, f"warning: --listen: unix://{place}/s: somebody listens there already\n")
        listening.accept()[0].close()


def test_problems_are_coloured_at_a_terminal_alone(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console, "is_colourful", lambda stream: True)
    _, _, errors = check("program:Ecko", *ANYWHERE, "--daemon")
    assert errors.startswith("\033[33mwarning:\033[0m --daemon: ")
    assert "\033[31merror:\033[0m handler program:Ecko: " in errors


@pytest.mark.parametrize(
    ("is_terminal", "variables", "expected"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
    ],
)
def test_colours_are_for_terminals_where_nobody_refuses_them(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, variables: dict[str, str], expected: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal, raising=False)
    assert console.is_colourful(sys.stdout) == expected


# The diagram


def test_states_are_drawn(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["states"]) == 0
    assert capsys.readouterr().out == states.draw() + "\n"
    assert main(["states", "--meanings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0]: line.split(maxsplit=1)[1] for line in lines} == states.MEANINGS
