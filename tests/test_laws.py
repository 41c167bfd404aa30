"""The laws of the design, as far as a test can hold them: what may import what, and what a turn of the loop costs."""

from __future__ import annotations

import ast
import inspect
import os
import selectors
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import reactor
from reactor.states import MEANINGS, TRANSITIONS
from tests.conftest import KEY, ROOT, Accepting, RecordingConnection, RecordingStream, raw_client, run_until

IMPORT_ORDER = [
    "errors",
    "addresses",
    "framing",
    "splitting",
    "authentication",
    "timers",
    "limits",
    "producers",
    "codecs",
    "binding",
    "inheriting",
    "calls",
    "guards",
    "shutdown",
    "threads",
    "tombstones",
    "wakeup",
    "signals",
    "states",
    "eventloop",
    "defaults",
    "proxying",
    "introducing",
    "securing",
    "sending",
    "tls",
    "channel",
    "connecting",
    "stream",
    "connection",
    "chat",
    "listener",
    "exchanging",
    "multicast",
    "datagram",
    "descriptors",
    "dispatcher",
    "processes",
    "children",
    "daemons",
    "notifying",
    "handover",
    "workers.control",
    "workers.sharing",
    "workers.worker",
    "workers.hands",
    "workers.parent",
    "workers.__init__",
    "blocking.connection",
    "blocking.handshake",
    "blocking.encrypted",
    "blocking.guests",
    "blocking.listener",
    "blocking.__init__",
    "servers.encrypted",
    "servers.entrance",
    "servers.service",
    "servers.families",
    "servers.pool",
    "servers.forking",
    "servers.__init__",
    "managers.lines",
    "managers.waiting",
    "managers.standard",
    "managers.messages",
    "managers.crew",
    "managers.sessions",
    "managers.calls",
    "managers.server",
    "managers.segments",
    "managers.__init__",
    "compat.watching",
    "compat.passes",
    "compat.asyncore",
    "compat.asynchat",
    "compat.__init__",
    "simulation.faults",
    "simulation.tape",
    "simulation.network",
    "simulation.sockets",
    "simulation.substitutes",
    "simulation.hosts",
    "simulation.witness",
    "simulation.world",
    "simulation.running",
    "simulation.__init__",
    "simulation.campaign",
    "simulation.__main__",
    "simulation.fixture",
    "settings",
    "commands.console",
    "commands.material",
    "commands.serve",
    "commands.connect",
    "commands.check",
    "commands.states",
    "commands.__init__",
    "__init__",
    "__main__",
]
"""The modules of `reactor`; each may import those in front of it, and no others."""

GUESTS = {"simulation.fixture": {"pytest"}}
"""What a module may import besides: it is loaded by nobody else."""

PURE = {
    "errors", "framing", "splitting", "authentication", "timers", "limits", "producers", "codecs", "states", "proxying",
    "managers.lines", "managers.waiting",
}  # fmt: skip
"""What parses or decides: tested without I/O, so it may not get hold of any."""

IMPURE = {"socket", "select", "selectors", "ssl", "time", "threading", "asyncio", "subprocess", "signal"}

ERRORS_FROM = {"managers.waiting": {"threading.BrokenBarrierError"}}
"""Where an error has to be that of an impure module."""

GIVEN_IN = {
    "time.monotonic", "time.time", "socket.socket", "socket.getaddrinfo", "socket.has_dualstack_ipv6", "os.urandom",
    "os.sendfile", "random.random",
}  # fmt: skip
"""What reaches the reactor through its constructor, and is called by no other way."""

NEEDS_THE_REAL_ONE = {
    ("guards", "time.monotonic"),
    ("threads", "time.monotonic"),
    ("inheriting", "socket.socket"),
    ("notifying", "socket.socket"),
    ("handover", "socket.socket"),
    ("blocking.connection", "time.monotonic"),
    ("blocking.connection", "socket.socket"),
    ("blocking.handshake", "time.monotonic"),
    ("blocking.encrypted", "time.monotonic"),
    ("blocking.guests", "time.monotonic"),
    ("blocking.listener", "time.monotonic"),
    ("servers.encrypted", "time.monotonic"),
    ("compat.asyncore", "socket.socket"),
    ("daemons", "socket.getaddrinfo"),
    ("commands.check", "time.time"),
    ("commands.check", "socket.socket"),
    ("simulation.campaign", "time.monotonic"),
    ("simulation.__main__", "time.monotonic"),
    ("simulation.__main__", "os.urandom"),
}
"""Threads live in real time: the watchdog measures how long the loop is held, the pool waits for its threads. So does
the command that runs campaigns, which uses no reactor itself; and so does whoever blocks. A dispatcher of asyncore
makes its socket by itself."""


def modules_of(package: str) -> dict[str, ast.Module]:
    """Return the modules of `package` by their names, parsed."""
    root = ROOT / package
    found = {}
    for path in sorted(root.rglob("*.py")):
        found[".".join(path.relative_to(root).with_suffix("").parts)] = ast.parse(path.read_text("utf-8"), str(path))
    return found


def nodes_at_run_time(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk `tree` without what stands under ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield other
                yield from nodes_at_run_time(other)
            continue
        yield node
        yield from nodes_at_run_time(node)


def imports_of(tree: ast.Module, package: str) -> set[str]:
    """Return the full names of what a module imports, inside its functions too.

    Arguments:
        package: where the module stands, for the names that begin with a dot.
    """
    found: set[str] = set()
    for node in nodes_at_run_time(tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = [*parents, *(node.module.split(".") if node.module else [])]
            found.update(".".join([*base, alias.name]) for alias in node.names)
    return found


def package_of(top: str, name: str) -> str:
    """Return the package in which the module `name` of the package `top` stands."""
    return ".".join([top, *name.split(".")[:-1]])


def dotted_name(node: ast.expr) -> str:
    """Return ``a.b`` for such an expression, or the name alone."""
    return ast.unparse(node) if isinstance(node, ast.Attribute | ast.Name) else ""


ENGINE = modules_of("reactor")


# Imports run one way (law 11), from nowhere but the standard library (law 12), and the pure stays pure (law 4)


def test_every_module_has_its_place_in_the_order_of_imports() -> None:
    assert sorted(IMPORT_ORDER) == sorted(ENGINE)


def test_modules_import_only_modules_in_front_of_them() -> None:
    seen: set[str] = set()
    for name in IMPORT_ORDER:
        for imported in imports_of(ENGINE[name], package_of("reactor", name)):
            if imported.partition(".")[0] == "reactor":
                module = imported.removeprefix("reactor.")
                place = module.rpartition(".")[0]
                assert {module, place, f"{place}.__init__"} & seen, f"{name} imports {imported}"
        seen.add(name)


def test_engine_imports_nothing_but_the_standard_library() -> None:
    for name, tree in ENGINE.items():
        found = imports_of(tree, package_of("reactor", name))
        foreign = {imported.partition(".")[0] for imported in found} - {"reactor"} - GUESTS.get(name, set())
        assert foreign <= sys.stdlib_module_names, name


def test_protocols_import_nothing_but_themselves_the_engine_and_the_standard_library() -> None:
    for name, tree in modules_of("protocols").items():
        foreign = {imported.partition(".")[0] for imported in imports_of(tree, package_of("protocols", name))}
        assert foreign <= sys.stdlib_module_names | {"protocols", "reactor"}, name


def test_imports_are_found_in_functions_but_not_under_type_checking() -> None:
    source = """
if TYPE_CHECKING:
    from .hidden import name
else:
    from .shown import name
def function():
    import outside.inner
    from . import beside
    from ..above import name
"""
    assert imports_of(ast.parse(source), "protocols.chat") == {
        "protocols.chat.shown.name",
        "outside.inner",
        "protocols.chat.beside",
        "protocols.above.name",
    }


def test_modules_that_parse_or_decide_get_hold_of_no_socket_clock_or_thread() -> None:
    for name in PURE:
        imported = imports_of(ENGINE[name], "reactor") - ERRORS_FROM.get(name, set())
        found = {module.partition(".")[0] for module in imported} & IMPURE
        assert not found, f"{name} imports {found}"


# Everything from outside is given in (law 5)


def test_clock_sockets_resolver_and_random_source_are_called_only_as_they_were_given_in() -> None:
    found = [
        f"{name}, line {node.lineno}: {called}()"
        for name, tree in ENGINE.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (called := dotted_name(node.func)) in GIVEN_IN
        and (name, called) not in NEEDS_THE_REAL_ONE
    ]
    assert found == []


# States are objects, not flags (law 3)

CHANNEL_MODULES = [
    "states", "introducing", "sending", "channel", "connecting", "stream", "connection", "chat", "listener",
    "exchanging", "datagram", "dispatcher", "children",
]  # fmt: skip


ALLOWED_FLAGS = {"self._troubled"}
"""Whether the log was told that accept fails: it changes what is logged, and nothing that is done."""


def test_channels_and_states_keep_no_flags() -> None:
    found = [
        f"{name}, line {node.lineno}: {ast.unparse(node)}"
        for name in CHANNEL_MODULES
        for node in ast.walk(ENGINE[name])
        if isinstance(node, ast.Assign | ast.AnnAssign)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, bool)
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Attribute) and ast.unparse(target) not in ALLOWED_FLAGS
    ]
    assert found == []


def test_channels_cannot_be_asked_whether_they_are_open_but_only_for_their_state() -> None:
    flags = {"closed", "open", "closing", "connected", "connecting", "accepting", "authenticated", "eof"}
    for kind in (reactor.Channel, reactor.Stream, reactor.Connection, reactor.Listener):
        slots = {name for cls in kind.__mro__ for name in getattr(cls, "__slots__", ())}
        properties = {name for name in dir(kind) if isinstance(inspect.getattr_static(kind, name), property)}
        assert {name.lstrip("_").removeprefix("is_") for name in slots | properties} & flags == set()


def test_state_of_a_channel_is_set_where_it_is_made_and_in_the_table_of_transitions_alone() -> None:
    places = [
        (name, function.name)
        for name, tree in ENGINE.items()
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Assign)
        and any(isinstance(target, ast.Attribute) and target.attr == "state" for target in node.targets)
        and ast.unparse(node.targets[0]) != "error.state"
    ]
    assert sorted(places) == [("channel", "__new__"), ("states", "abandon"), ("states", "become")]


def test_every_event_of_the_table_is_used_and_no_other() -> None:
    used = set()
    for tree in ENGINE.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and dotted_name(node.func) == "become":
                event = node.args[1]
                assert isinstance(event, ast.Constant), ast.unparse(node)
                used.add(event.value)
    assert used == {event for _, event in TRANSITIONS}


def test_every_state_of_the_table_can_be_reached_can_end_and_has_a_meaning() -> None:
    reached = {"New"} | set(TRANSITIONS.values())
    assert reached == set(MEANINGS)
    for name in reached - {"Closed"}:
        assert TRANSITIONS[name, "close"] == "Closed"


# One way in (law 1)


def frames_down_to_the_loop() -> list[CodeType]:
    """Return the code of the frames from the hook that calls this down to `Reactor.loop`, both included."""
    frame: FrameType | None = sys._getframe(1)
    found = []
    while frame is not None:
        found.append(frame.f_code)
        if frame.f_code is reactor.Reactor.loop.__code__:
            return found
        frame = frame.f_back
    pytest.fail("the hook was not called by the loop")


class MeasuringStream(reactor.Stream):
    def __init__(self) -> None:
        self.stacks: list[list[CodeType]] = []

    def handle_data(self, data: bytes) -> None:
        self.stacks.append(frames_down_to_the_loop())


class MeasuringMessages(reactor.Connection):
    def __init__(self) -> None:
        self.stacks: list[list[CodeType]] = []

    def handle_message(self, message: Any) -> None:
        self.stacks.append(frames_down_to_the_loop())


class MeasuringFrames(reactor.Connection):
    def __init__(self) -> None:
        self.stacks: list[list[CodeType]] = []

    def handle_frame(self, data: bytes) -> None:
        self.stacks.append(frames_down_to_the_loop())


def test_three_frames_stand_on_the_stack_from_loop_to_handle_data(loop: reactor.Reactor) -> None:
    accepted = Accepting(MeasuringStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        client.sendall(b"x")
        run_until(loop, lambda: accepted.channels and accepted.channels[0].stacks)
        assert [len(stack) for stack in accepted.channels[0].stacks] == [3]


@pytest.mark.parametrize("kind", [MeasuringMessages, MeasuringFrames])
def test_three_frames_stand_on_the_stack_from_loop_to_message_and_to_frame(
    loop: reactor.Reactor, kind: Callable[[], Any]
) -> None:
    accepted = Accepting(kind)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, reactor=loop)
    client = RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop)
    # More of them than one turn delivers, in one piece; and one that comes in many pieces.
    for number in range(1000):
        client.send(number)
    client.send(b"x" * 1_000_000)
    run_until(loop, lambda: accepted.channels and len(accepted.channels[0].stacks) == 1001)
    assert {len(stack) for stack in accepted.channels[0].stacks} == {3}


class Entered:
    """Mixed into a channel: counts how many of all hooks run at once, and breaks every rule inside each."""

    depth = 0
    deepest = 0
    hooks: set[str] = set()

    def _break_rules(self, hook: str) -> None:
        cls = Entered
        cls.depth += 1
        cls.deepest = max(cls.deepest, cls.depth)
        cls.hooks.add(hook)
        for channel in list(self.reactor.channels):  # type: ignore[attr-defined]
            if isinstance(channel, Entered) and isinstance(channel, reactor.Connection):
                channel.send(b"x" * 2000)
                channel.send_bytes(b"y" * 2000)
                channel.push(iter([b"z"]))
        if hook == "handle_message":
            self.push(bytes(300_000))  # type: ignore[attr-defined]
            self.close()  # type: ignore[attr-defined]
        cls.depth -= 1

    def handle_open(self) -> None:
        self._break_rules("handle_open")

    def handle_message(self, message: Any) -> None:
        self._break_rules("handle_message")

    def handle_drained(self) -> None:
        self._break_rules("handle_drained")

    def handle_eof(self) -> None:
        self._break_rules("handle_eof")
        self.close()  # type: ignore[attr-defined]

    def handle_error(self, error: Exception) -> None:
        self._break_rules("handle_error")

    def handle_close(self, reason: Exception) -> None:
        self._break_rules("handle_close")


class EnteredConnection(Entered, reactor.Connection):
    """Its own peer: both sides break the rules."""


def test_nothing_that_a_hook_calls_calls_a_hook(loop: reactor.Reactor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Entered, "depth", 0)
    monkeypatch.setattr(Entered, "deepest", 0)
    monkeypatch.setattr(Entered, "hooks", set())
    # So little room that what the hooks send passes every mark and every limit.
    limits = reactor.Limits(low_water=500, high_water=1000, maximum_output=200_000)
    listener = reactor.Listener(None, EnteredConnection, authkey=KEY, limits=limits, reactor=loop)
    for _ in range(4):
        EnteredConnection.connect(listener.address, authkey=KEY, limits=limits, reactor=loop)
    raw_client(listener.address).close()
    run_until(loop, lambda: list(loop.channels) == [listener])
    assert Entered.deepest == 1
    assert {"handle_open", "handle_message", "handle_error", "handle_close"} <= Entered.hooks


# One way out, in batches (law 2)


class CountingSocket(socket.socket):
    """A socket that counts the system calls by which it was given something to send."""

    calls = 0

    def send(self, *args: Any) -> int:
        self.calls += 1
        return super().send(*args)

    def sendmsg(self, *args: Any) -> int:
        self.calls += 1
        return super().sendmsg(*args)


def test_what_a_turn_queues_leaves_in_one_system_call() -> None:
    with reactor.Reactor(socket_factory=CountingSocket) as loop:
        accepted = Accepting(RecordingConnection)
        listener = reactor.Listener(None, accepted, codec="bytes", reactor=loop)
        client = RecordingConnection.connect(listener.address, codec="bytes", reactor=loop)
        run_until(loop, lambda: client.of("open") == ["open"])
        before = client.socket.calls

        def hook() -> None:
            for _ in range(100):
                client.send(b"message")

        loop.call_soon(hook)
        run_until(loop, lambda: len(accepted.channels[0].of("message")) == 100)
        assert client.socket.calls == before + 1


def test_producer_is_pulled_whatever_is_queued_behind_it(loop: reactor.Reactor) -> None:
    limits = reactor.Limits(low_water=1000)
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, limits=limits, reactor=loop)
    client = RecordingStream.connect(listener.address, limits=limits, reactor=loop)
    client.push(iter([b"first, "]))
    client.push(b"then more than the low-water mark".ljust(1001))
    run_until(loop, lambda: accepted.channels and len(accepted.channels[0].received) == 1008)
    assert accepted.channels[0].received.startswith(b"first, then more")


# Idle costs nothing (law 8)


class CountingSelector(selectors.DefaultSelector):
    """A selector that counts what it is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.selects = 0
        self.modifies = 0

    def select(self, timeout: float | None = None) -> Any:
        self.selects += 1
        return super().select(timeout)

    def modify(self, *args: Any) -> Any:
        self.modifies += 1
        return super().modify(*args)


@pytest.fixture
def selector() -> CountingSelector:
    return CountingSelector()


@pytest.fixture
def counted_loop(selector: CountingSelector) -> Iterator[reactor.Reactor]:
    with reactor.Reactor(selector) as fresh:
        yield fresh


def test_idle_connections_do_not_wake_the_loop(selector: CountingSelector, counted_loop: reactor.Reactor) -> None:
    loop = counted_loop
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, reactor=loop)
    clients = [RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop) for _ in range(20)]
    run_until(loop, lambda: len([c for c in clients + accepted.channels if c.of("open")]) == 40)
    # What had to be known in the handshake is forgotten: no timer of those twenty is due in this hour.
    wait = loop.next_timeout()
    assert wait is None or wait > 3600
    selector.selects = 0
    loop.loop(timeout=0.5)
    assert selector.selects <= 2


def test_messages_that_the_kernel_takes_change_no_interest(
    selector: CountingSelector, counted_loop: reactor.Reactor
) -> None:
    loop = counted_loop
    accepted = Accepting(RecordingConnection)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, authkey=KEY, reactor=loop)
    client = RecordingConnection.connect(listener.address, authkey=KEY, reactor=loop)
    run_until(loop, lambda: client.of("open") and accepted.channels[0].of("open"))
    selector.modifies = 0
    for number in range(50):
        client.send(number)
        run_until(loop, lambda: len(accepted.channels[0].of("message")) == number + 1)  # noqa: B023
    assert selector.modifies == 0


def test_interest_in_writing_is_armed_by_a_short_write_and_ends_with_it(
    selector: CountingSelector, counted_loop: reactor.Reactor
) -> None:
    loop = counted_loop
    accepted = Accepting(RecordingStream)
    listener = reactor.Listener(("127.0.0.1", 0), accepted, reactor=loop)
    with raw_client(listener.address) as client:
        run_until(loop, lambda: accepted.channels and accepted.channels[0].of("open"))
        (channel,) = accepted.channels
        selector.modifies = 0
        channel.push(b"fits")
        loop.poll()
        assert (channel._interest, selector.modifies) == (selectors.EVENT_READ, 0)
        size = 32 * 1024 * 1024
        channel.push(bytes(size))
        loop.poll()
        assert channel._interest & selectors.EVENT_WRITE
        client.setblocking(False)
        left = len(b"fits") + size
        while left:
            loop.poll()
            try:
                left -= len(client.recv(1 << 20))
            except BlockingIOError:
                pass
        run_until(loop, lambda: channel.output_size == 0)
        assert channel._interest == selectors.EVENT_READ
        assert selector.modifies <= 4


# What people read


def test_public_names_have_docstrings_of_their_own() -> None:
    for name in reactor.__all__:
        value = getattr(reactor, name)
        documentation = value.__dict__.get("__doc__") if isinstance(value, type) else value.__doc__
        assert documentation, name
        # A dataclass without one is given its signature in place of it.
        assert not documentation.startswith(f"{name}("), name


def test_public_methods_have_docstrings() -> None:
    undocumented = [
        f"{name}.{attribute}"
        for name in reactor.__all__
        if isinstance(kind := getattr(reactor, name), type)
        for attribute, value in vars(kind).items()
        if not attribute.startswith("_")
        and (inspect.isfunction(value) or isinstance(value, property | classmethod))
        and not inspect.getdoc(getattr(kind, attribute))
    ]
    assert undocumented == []


def test_ssl_is_loaded_only_when_somebody_asks_for_it() -> None:
    ask = "import sys, reactor; print('ssl' in sys.modules); reactor.ServerTls; print('ssl' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.split() == ["False", "True"]


def test_public_names_are_all_listed() -> None:
    for name in reactor.__all__:
        assert getattr(reactor, name)  # some are there only when somebody asks for them
    shown = {
        name for name in vars(reactor) if not name.startswith("_") and not inspect.ismodule(getattr(reactor, name))
    }
    assert shown - {"annotations"} == set(reactor.__all__)


TOP = ["reactor", "protocols", "examples", "tests", ".ci", "README.md", "LICENSE", "pyproject.toml", ".gitignore"]


def files_of_the_tree() -> Iterator[Path]:
    for name in TOP:
        path = ROOT / name
        for file in [path] if path.is_file() else sorted(path.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc":
                yield file


def test_no_file_names_a_path_of_the_machine_on_which_it_was_written() -> None:
    # Put together here, so that this file does not contain what it looks for.
    private = ["/" + name + "/" for name in ("work", "root", "home", "Users", "tmp" + "/w")]
    found = [
        f"{file.relative_to(ROOT)}, line {number}: {text.strip()}"
        for file in files_of_the_tree()
        for number, text in enumerate(file.read_text("utf-8", "replace").splitlines(), 1)
        if any(path in text for path in private)
    ]
    assert found == []
    assert os.path.basename(__file__) in {file.name for file in files_of_the_tree()}
