"""Settings: what can be written on the command line and in a file, and what is said of mistakes."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any

import pytest

from reactor import Limits, settings
from reactor.settings import SETTINGS, Problem, Settings, gather

GOOD = {"handler": "examples.calculator:Calculator", "listen": ["tcp://localhost:6000"]}


def complaints(options: dict[str, Any], file: Path | None = None) -> list[str]:
    """Return what is wrong with settings of the command line, and of a file; those that are always needed are there."""
    _, problems = gather({**GOOD, **options}, None if file is None else str(file))
    return [str(problem) for problem in problems]


def read(text: str, tmp_path: Path, **options: Any) -> Settings:
    """Return the settings in a file with `text`, with nothing wrong."""
    file = tmp_path / "server.toml"
    file.write_text(text, "utf-8")
    found, problems = gather({**GOOD, **options}, str(file))
    assert problems == []
    return found


def test_every_setting_has_a_place_and_a_default() -> None:
    made = Settings()
    for setting in SETTINGS:
        assert hasattr(made, setting.attribute), setting
        assert made.place(setting.name) == ("MODULE:NAME" if setting.name == "handler" else f"--{setting.name}")
        assert setting.help[0].islower() or setting.help.startswith("tcp:")


def test_command_line_is_understood(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found, problems = gather(
        {
            **GOOD,
            "listen": ["tcp://[::1]:6000", "unix://run/socket", "fd://3"],
            "authkey-file": "~/key",
            "workers": "4",
            "grace": "2.5",
            "daemon": True,
            "log-level": "INFO",
            "syslog-address": "unix://log",
            "handover": "next",
            "limits": ["maximum_frame=1MiB", "idle-timeout=none", "maximum_connections=1_000", "tls_timeout=3"],
            "proxies": ["127.0.0.1, 10.0.0.0/8", "unix"],
        },
        None,
    )
    assert problems == []
    assert found.listen == ["tcp://[::1]:6000", f"unix://{tmp_path}/run/socket", "fd://3"]
    assert found.authkey_file == os.path.expanduser("~/key")
    assert (found.workers, found.grace, found.daemon, found.log_level) == (4, 2.5, True, logging.INFO)
    assert found.limits == Limits(maximum_frame=1 << 20, idle_timeout=None, maximum_connections=1000, tls_timeout=3.0)
    assert found.proxies == ["127.0.0.1", "10.0.0.0/8", "unix"]
    assert (found.syslog_address, found.handover) == (f"unix://{tmp_path}/log", f"{tmp_path}/next")
    assert found.place("handler") == "handler examples.calculator:Calculator"


def test_file_is_understood_and_its_paths_begin_where_it_is(tmp_path: Path) -> None:
    found = read(
        """
        handler = "other:Handler"
        listen = "unix://socket"
        authkey-file = "key"
        tls_cert = "/etc/cert.pem"
        workers = 2
        grace = 3
        daemon = true
        syslog = true
        [limits]
        maximum_frame = 4096
        idle_timeout = 1.5
        linger_timeout = "none"
        maximum_line = "4 KiB"
        """,
        tmp_path,
        handler=None,
        listen=None,
    )
    assert (found.handler, found.listen) == ("other:Handler", [f"unix://{tmp_path}/socket"])
    assert (found.authkey_file, found.tls_cert) == (str(tmp_path / "key"), "/etc/cert.pem")
    assert (found.workers, found.grace, found.daemon, found.syslog) == (2, 3.0, True, True)
    assert found.limits == Limits(maximum_frame=4096, idle_timeout=1.5, linger_timeout=None, maximum_line=4096)
    assert found.place("listen") == f"{tmp_path}/server.toml: listen"
    assert found.place("user") == "--user"


def test_command_line_wins_and_limits_are_joined(tmp_path: Path) -> None:
    found = read(
        "listen = ['tcp://localhost:1', 'tcp://localhost:2']\nworkers = 2\n"
        "limits = {maximum_frame = 1, maximum_line = 2}\n",
        tmp_path,
        workers="3",
        limits=["maximum_line=5"],
    )
    assert (found.listen, found.workers) == (["tcp://localhost:6000"], 3)
    assert found.limits == Limits(maximum_frame=1, maximum_line=5)
    assert found.place("workers") == "--workers"


def test_water_marks_are_looked_at_together() -> None:
    found, problems = gather({**GOOD, "limits": ["low_water=1", "high_water=2", "maximum_output=3"]}, None)
    assert problems == []
    assert found.limits.maximum_output == 3
    assert "low_water <= high_water <= maximum_output" in complaints({"limits": ["low_water=1GiB"]})[0]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"handler": None}, "MODULE:NAME: say what serves, such as"),
        ({"handler": "calculator"}, "handler calculator: this names no handler; give MODULE:NAME"),
        ({"handler": "a b:c"}, "handler a b:c: this names no handler"),
        ({"listen": None}, "--listen: say where to listen, such as --listen tcp://localhost:6000"),
        ({"listen": ["localhost:6000"]}, "--listen: 'localhost:6000' is no URL; is 'tcp://localhost:6000' meant?"),
        ({"listen": ["/run/socket"]}, "--listen: '/run/socket' is no URL; is 'unix:///run/socket' meant?"),
        ({"listen": ["http://localhost"]}, "--listen: 'http://localhost' has the scheme 'http'"),
        ({"listen": ["tcp://localhost"]}, "--listen: 'tcp://localhost' is no address; give tcp://host:port"),
        ({"listen": ["fd://x"]}, "--listen: 'fd://x' names no descriptor"),
        ({"workers": "0"}, "--workers: 0 is no number of them; give a whole number of at least 1"),
        ({"workers": "two"}, "--workers: 'two' is no number of them"),
        ({"grace": "-1"}, "--grace: '-1' is no time; give seconds above 0"),
        ({"grace": "soon"}, "--grace: 'soon' is no time"),
        ({"log-level": "loud"}, "--log-level: 'loud' is no level; there are debug, info, warning, error"),
        ({"limits": ["maximum_conections=3"]}, "no limit 'maximum_conections'; is 'maximum_connections' meant?"),
        ({"limits": ["x=3"]}, "--limits: there is no limit 'x'"),
        ({"limits": ["maximum_frame"]}, "--limits: 'maximum_frame' has no value; give NAME=VALUE"),
        ({"limits": ["maximum_frame=2 miles"]}, "maximum_frame is '2 miles'; give a whole number, or one of KiB"),
        ({"limits": ["maximum_frame=0"]}, "--limits: Limits.maximum_frame is 0; give a whole number of at least 1"),
        ({"limits": ["maximum_frame=__"]}, "--limits: maximum_frame is '__'; give a whole number"),
        ({"limits": ["maximum_frame=" + "9" * 5000]}, "; give a whole number"),
        ({"limits": ["idle_timeout=x"]}, "--limits: idle_timeout is 'x'; give seconds above 0, or none for no limit"),
        ({"workers": "9" * 5000}, " is no number of them"),
        ({"handover": "next"}, "--handover: it is workers that are handed over; --workers is missing"),
        ({"handover": "next", "workers": "1", "pid-file": "pid"}, "--handover: the pid file would keep the next"),
        ({"proxies": ["localhost"]}, "--proxies: 'localhost' is no host or network"),
        ({"tls-key": "key"}, "--tls-key: this is the key of a certificate; --tls-cert is missing"),
        ({"syslog": True, "log-file": "log"}, "--log-file: the log goes to syslog already"),
        ({"syslog-address": "localhost:514"}, "is 'udp://localhost:514' meant?"),
        ({"syslog-address": "tcp://localhost:514"}, "--syslog-address: 'tcp://localhost:514' has the scheme 'tcp'"),
        ({"user": ""}, "--user: '' is no text"),
    ],
)
def test_mistake_on_the_command_line_is_one_line_with_the_option_and_the_way_out(
    options: dict[str, Any], complaint: str
) -> None:
    (found,) = complaints(options)
    assert complaint in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("listne = 'x'", "server.toml: listne: there is no such setting; is 'listen' meant?"),
        ("pid_fil = 'x'", "server.toml: pid-fil: there is no such setting; is 'pid-file' meant?"),
        ("limits = {maximum_frames = 1}", "server.toml: limits: there is no limit 'maximum_frames'"),
        ("limits = {maximum_frame = 'x'}", "server.toml: limits: maximum_frame is 'x'"),
        ("limits = {maximum_frame = 1.5}", "server.toml: limits: Limits.maximum_frame is 1.5"),
        ("limits = {maximum_frame = true}", "server.toml: limits: maximum_frame is True; give a whole number"),
        ("limits = 3", "server.toml: limits: 3 is no list"),
        ("workers = true", "server.toml: workers: True is no number of them"),
        ("grace = 1" + "0" * 400, "server.toml: grace: "),
        ("grace = true", "server.toml: grace: True is no time"),
        ("daemon = 'yes'", "server.toml: daemon: 'yes' is neither; give true or false"),
        ("pid-file = 7", "server.toml: pid-file: 7 is no text; give a word in quotation marks"),
        ("proxies = [1]", "server.toml: proxies: 1 is no text"),
        ("log-level = 3", "server.toml: log-level: 3 is no level"),
        ("workers = ", "server.toml: this is no TOML: Invalid value"),
        ("a = 'ü'".encode("latin-1"), "server.toml: this is no TOML: 'utf-8' codec"),
    ],
)
def test_mistake_in_the_file_is_one_line_with_the_file_and_the_setting(
    tmp_path: Path, text: str | bytes, complaint: str
) -> None:
    file = tmp_path / "server.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    (found,) = complaints({}, file)
    assert found.startswith(str(tmp_path))
    assert complaint in found


def test_file_that_is_not_there_is_a_mistake_of_the_option(tmp_path: Path) -> None:
    assert complaints({}, tmp_path / "none") == [f"--config: {tmp_path}/none: No such file or directory"]


def test_what_is_wrong_is_not_said_to_be_missing_too() -> None:
    assert len(complaints({"handler": "x", "listen": ["y"], "workers": "z"})) == 3


def test_what_a_file_may_have_said_that_nobody_can_read_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "server.toml").write_text("handler = \n")
    for name in ("server.toml", "none"):
        _, problems = gather({"workers": "x"}, str(tmp_path / name))
        assert [problem.place.removeprefix(f"{tmp_path}/") for problem in problems] == [
            "server.toml" if name == "server.toml" else "--config", "--workers",
        ]  # fmt: skip


def test_daemon_whose_log_goes_nowhere_is_a_warning() -> None:
    _, problems = gather({**GOOD, "daemon": True}, None)
    assert [(problem.place, problem.is_warning) for problem in problems] == [("--daemon", True)]
    assert complaints({"daemon": True, "log-file": "log"}) == []


def test_sockets_of_systemd_need_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert complaints({"listen": None}) == []


def test_problem_is_written_with_its_place() -> None:
    assert str(Problem("--listen", "no")) == "--listen: no"
    assert re.fullmatch(r"; is 'listen' meant\?", settings.meant("listne", ["listen", "grace"]))
    assert settings.meant("zzz", ["listen"]) == ""
