"""The settings of a server: from the command line, and from a TOML file. The command line wins.

Each is described once, in `SETTINGS`; the command line and the file are both read by that.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .addresses import parse_address
from .errors import LocalError
from .inheriting import descriptor_in
from .limits import DEFAULT_LIMITS, Limits
from .proxying import Proxies

LEVELS = {name.lower(): getattr(logging, name) for name in ("DEBUG", "INFO", "WARNING", "ERROR")}
UNITS = {"": 1, "B": 1, "KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30}
DIGITS = "[0-9](?:_?[0-9]){0,17}"
"""Nobody means a number with more of them, and Python does not read one with thousands."""
SIZE = re.compile(rf"({DIGITS}) ?([A-Za-z]*)")
HOST_AND_PORT = re.compile(r"[^/\s]*:[0-9]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Problem:
    """Something that is wrong with the settings, or might be.

    Attributes:
        place: the setting, as it is written where it was set.
        message: what is wrong with it, and the way out.
        is_warning: whether a server runs all the same.
    """

    place: str
    message: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class SettingError(LocalError):
    """A setting that makes no sense."""


@dataclasses.dataclass(frozen=True, slots=True)
class Setting:
    """One setting.

    Attributes:
        name: ``"pid-file"``, as it stands in the file, and behind ``--`` on the command line.
        read: makes its value of what was written: a string on the command line, anything that TOML has in the file.
            The second argument is the directory from which relative paths begin.
        help: what it means.
        metavar: what stands for its value in the help; None for a switch, which has none.
        is_list: whether it can be said more than once.
    """

    name: str
    read: Callable[[Any, str], Any]
    help: str
    metavar: str | None = None
    is_list: bool = False

    @property
    def attribute(self) -> str:
        """Its name as one of Python."""
        return self.name.replace("-", "_")


# What can be written


def text(value: Any, base: str) -> str:
    """A word."""
    if not isinstance(value, str) or not value:
        raise SettingError(f"{value!r} is no text; give a word in quotation marks")
    return value


def path(value: Any, base: str) -> str:
    """The path of a file."""
    return os.path.abspath(os.path.join(base, os.path.expanduser(text(value, base))))


def switch(value: Any, base: str) -> bool:
    """Yes or no."""
    if not isinstance(value, bool):
        raise SettingError(f"{value!r} is neither; give true or false")
    return value


def handler(value: Any, base: str) -> str:
    """What serves: a module, and a name in it."""
    module, colon, name = text(value, base).partition(":")
    if not colon or not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise SettingError("this names no handler; give MODULE:NAME, such as package.module:Class")
    return str(value)


def words(value: Any, base: str) -> list[str]:
    """Several words; one alone needs no brackets."""
    return [text(word, base) for word in ([value] if isinstance(value, str) else as_list(value))]


def as_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise SettingError(f'{value!r} is no list; give ["...", "..."]')
    return value


def addresses(value: Any, base: str) -> list[str]:
    """Where it listens."""
    return [address(word, base) for word in words(value, base)]


def address(word: str, base: str, scheme: str = "tcp") -> str:
    """Return the URL `word`, its path absolute.

    Arguments:
        scheme: that of a host and a port.

    Raises:
        SettingError: it is none.
        AddressError: it makes no sense.
    """
    if "://" not in word:
        likely = scheme if HOST_AND_PORT.fullmatch(word) else "unix"
        raise SettingError(f"{word!r} is no URL; is '{likely}://{word}' meant?")
    if descriptor_in(word) is not None:
        return word
    endpoint = parse_address(word, scheme=scheme)
    return f"unix://{path(endpoint.location, base)}" if endpoint.is_unix else word


def proxies(value: Any, base: str) -> list[str]:
    """Who is believed."""
    found = [part.strip() for word in words(value, base) for part in word.split(",")]
    Proxies(found)
    return found


def count(value: Any, base: str) -> int:
    """How many."""
    if isinstance(value, str) and re.fullmatch(DIGITS, value):
        value = int(value)
    if type(value) is not int or value < 1:
        raise SettingError(f"{value!r} is no number of them; give a whole number of at least 1")
    return value


def seconds(value: Any, base: str) -> float:
    """A time."""
    try:
        found = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        found = -1.0
    if not 0 < found < 1e6:
        raise SettingError(f"{value!r} is no time; give seconds above 0")
    return found


def log_level(value: Any, base: str) -> int:
    """How much is logged."""
    if not isinstance(value, str) or value.lower() not in LEVELS:
        raise SettingError(f"{value!r} is no level; there are {', '.join(LEVELS)}")
    return int(LEVELS[value.lower()])


def syslog_address(value: Any, base: str) -> str:
    """Where syslog listens."""
    return address(text(value, base), base, "udp")


def limits(value: Any, base: str) -> dict[str, Any]:
    """Fields of `Limits`, by their names."""
    if not isinstance(value, dict):
        pairs = [word.partition("=") for word in words(value, base)]
        for key, equals, _ in pairs:
            if not equals:
                raise SettingError(f"{key!r} has no value; give NAME=VALUE, such as maximum_connections=1000")
        value = {key.strip(): worth.strip() for key, _, worth in pairs}
    return {name_of_limit(key): limit(name_of_limit(key), worth) for key, worth in value.items()}


def name_of_limit(word: str) -> str:
    """Return the name of the limit that `word` means.

    Raises:
        SettingError: there is none.
    """
    name = word.replace("-", "_")
    known = [field.name for field in dataclasses.fields(Limits)]
    if name not in known:
        raise SettingError(f"there is no limit {word!r}{meant(name, known)}")
    return name


def limit(name: str, value: Any) -> Any:
    """Return the value of the limit `name`.

    Raises:
        LocalError: it is none.
    """
    if isinstance(value, bool):
        raise SettingError(f"{name} is {value!r}; give a whole number")
    if isinstance(value, str):
        size = SIZE.fullmatch(value)
        if name.endswith("_timeout"):
            try:
                value = None if value == "none" else seconds(value, "")
            except SettingError:
                raise SettingError(f"{name} is {value!r}; give seconds above 0, or none for no limit") from None
        elif size is None or size[2].upper() not in UNITS:
            raise SettingError(f"{name} is {value!r}; give a whole number, or one of KiB, MiB and GiB")
        else:
            value = int(size[1]) * UNITS[size[2].upper()]
    small = {} if "water" in name or name == "maximum_output" else {name: value}  # these are looked at together
    dataclasses.replace(DEFAULT_LIMITS, **small)
    return value


def meant(word: str, known: Iterable[str]) -> str:
    """Return a question which of the names that are `known` was meant by `word`, if one is near."""
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; is {near[0]!r} meant?" if near else ""


SETTINGS = (
    Setting("handler", handler, "what is made for each connection: a channel's class, most often", "MODULE:NAME"),
    Setting(
        "listen", addresses, "tcp://HOST:PORT, unix://PATH, or fd://NUMBER for an inherited socket; more than once for "
        "more than one. Left out, the sockets that systemd passes are used", "URL", is_list=True,
    ),
    Setting("authkey-file", path, "the key that peers must have: the bytes of this file, all of them", "FILE"),
    Setting("tls-cert", path, "encrypt with this certificate, and those that lead to its authority, as PEM", "FILE"),
    Setting("tls-key", path, "its private key, if that is in another file", "FILE"),
    Setting(
        "proxies", proxies, "hosts and networks that say with the PROXY protocol who is behind them, or 'unix' for "
        "whoever connects to a Unix socket", "HOST,...", is_list=True,
    ),
    Setting("limits", limits, "what is granted to the peers, such as maximum_frame=1MiB", "NAME=VALUE", is_list=True),
    Setting("workers", count, "serve in so many processes, which are watched and replaced", "N"),
    Setting(
        "handover", path, "with workers: the Unix socket at which the next version of the program, started in the same "
        "way, takes over; nobody is refused meanwhile", "FILE",
    ),
    Setting("grace", seconds, "how long connections may go on when the server is to end (default: 10)", "SECONDS"),
    Setting("daemon", switch, "go to the background, once it serves"),
    Setting("pid-file", path, "keep the number of the process here, and never run twice at once", "FILE"),
    Setting("user", text, "become this user, once the addresses are bound", "NAME"),
    Setting("group", text, "become this group; by default that of the user", "NAME"),
    Setting("log-level", log_level, "what is logged: debug, info, warning (the default) or error", "LEVEL"),
    Setting("log-file", path, "log into this file, in place of standard error", "FILE"),
    Setting("syslog", switch, "log to the syslog of this machine"),
    Setting("syslog-address", syslog_address, "log to the syslog at udp://HOST:PORT or unix://PATH", "URL"),
)  # fmt: skip


@dataclasses.dataclass
class Settings:
    """The settings of a server, all of which make sense, each by itself.

    Attributes: those of `SETTINGS`, and
        places: where each that was set was set, by its name.
    """

    handler: str | None = None
    listen: list[str] | None = None
    authkey_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    proxies: list[str] | None = None
    limits: Limits = DEFAULT_LIMITS
    workers: int | None = None
    handover: str | None = None
    grace: float = 10.0
    daemon: bool = False
    pid_file: str | None = None
    user: str | None = None
    group: str | None = None
    log_level: int = logging.WARNING
    log_file: str | None = None
    syslog: bool = False
    syslog_address: str | None = None
    places: dict[str, str] = dataclasses.field(default_factory=dict)

    def place(self, name: str) -> str:
        """Return how whoever set `name` has written it, or can write it."""
        return self.places.get(name) or on_command_line(name)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where settings come from.

    Attributes:
        file: the path of a file; "" for the command line.
        values: what it says, by the names of `SETTINGS`; None stands for nothing.
        base: the directory from which relative paths begin.
    """

    file: str
    values: Mapping[str, Any]
    base: str

    def place(self, name: str) -> str:
        """Return how the setting `name` is written here."""
        if name == "handler":
            return f"handler {self.values[name]}"
        return f"{self.file}: {name}" if self.file else on_command_line(name)


def on_command_line(name: str) -> str:
    """Return how the setting `name` is written on the command line."""
    return "MODULE:NAME" if name == "handler" else f"--{name}"


def gather(options: Mapping[str, Any], file: str | None) -> tuple[Settings, list[Problem]]:
    """Return the settings, and what is wrong with them.

    Arguments:
        options: what the command line says, by the names of `SETTINGS`; None stands for nothing.
        file: the path of the TOML file, or None.
    """
    problems: list[Problem] = []
    sources = [Source("", options, os.getcwd())]
    if file is not None:
        sources.insert(0, read_file(file, problems))
    is_unread = bool(problems) and not sources[0].values
    settings, wrong = Settings(), set()
    limits_said: dict[str, Any] = {}
    for source in sources:
        for setting in SETTINGS:
            value = source.values.get(setting.name)
            if value is None:
                continue
            place = settings.places[setting.name] = source.place(setting.name)
            try:
                made = setting.read(value, source.base)
            except LocalError as error:
                problems.append(Problem(place, str(error)))
                wrong.add(setting.name)
                continue
            if setting.name == "limits":
                limits_said |= made
            else:
                setattr(settings, setting.attribute, made)
    try:
        settings.limits = Limits(**limits_said)
    except LocalError as error:
        problems.append(Problem(settings.place("limits"), str(error)))
    if not is_unread:  # else nobody knows what is missing
        problems += [problem for name, problem in look_at_all(settings) if name not in wrong]
    return settings, problems


def read_file(file: str, problems: list[Problem]) -> Source:
    """Return what stands in the TOML file; what is wrong with it is put into `problems`."""
    values: dict[str, Any] = {}
    try:
        with open(file, "rb") as opened:
            values = tomllib.load(opened)
    except OSError as error:
        problems.append(Problem("--config", f"{file}: {error.strerror}"))
    except ValueError as error:  # no TOML, or no UTF-8
        problems.append(Problem(file, f"this is no TOML: {error}"))
    known = [setting.name for setting in SETTINGS]
    named = {key.replace("_", "-"): value for key, value in values.items()}
    for name in named.keys() - known:
        problems.append(Problem(f"{file}: {name}", f"there is no such setting{meant(name, known)}"))
    return Source(file, named, os.path.dirname(os.path.abspath(file)))


def look_at_all(settings: Settings) -> list[tuple[str, Problem]]:
    """Return what is wrong with the settings together, each with the name of the one that is to blame."""
    problems = []

    def add(name: str, message: str, is_warning: bool = False) -> None:
        problems.append((name, Problem(settings.place(name), message, is_warning)))

    if settings.handler is None:
        add("handler", "say what serves, such as examples.calculator:Calculator")
    if not settings.listen and "LISTEN_FDS" not in os.environ:
        add("listen", "say where to listen, such as --listen tcp://localhost:6000")
    if settings.tls_key is not None and settings.tls_cert is None:
        add("tls-key", "this is the key of a certificate; --tls-cert is missing")
    if settings.handover is not None and settings.workers is None:
        add("handover", "it is workers that are handed over; --workers is missing")
    if settings.handover is not None and settings.pid_file is not None:
        add("handover", "the pid file would keep the next version from coming up; leave one of the two out")
    has_syslog = settings.syslog or settings.syslog_address is not None
    if has_syslog and settings.log_file is not None:
        add("log-file", "the log goes to syslog already; leave one of the two out")
    elif settings.daemon and not has_syslog and settings.log_file is None:
        add("daemon", "what it logs goes nowhere; --syslog or --log-file keeps it", is_warning=True)
    return problems
