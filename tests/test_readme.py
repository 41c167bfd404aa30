"""README.md says what is true: its programs run and print what it says, and its tables are those of the code.

``python -m tests.test_readme`` writes the parts of README.md anew that are made from the code.
"""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import importlib.util
import inspect
import multiprocessing.connection
import os
import re
import shlex
import shutil
import signal
import socketserver
import subprocess
import sys
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import reactor
from reactor import errors, limits, servers, states
from reactor.simulation import SimulationFailure, simulate
from tests.certificates import authorities, certificate
from tests.conftest import ROOT

README = ROOT / "README.md"
REGENERATE = "README.md is behind the code; say: python -m tests.test_readme"
HAS_ASYNCORE = importlib.util.find_spec("asyncore") is not None

# Parts that are made from the code


def diagram() -> str:
    """Return the states and transitions as a diagram."""
    return f"```mermaid\n{states.draw()}\n```"


def meanings() -> str:
    """Return the table of what the states mean."""
    rows = [f"| {name} | {meaning} |" for name, meaning in states.MEANINGS.items()]
    return "\n".join(["| state | meaning |", "|---|---|", *rows])


def limits_table() -> str:
    """Return the table of limits: name, default and what is written under each field."""
    rows = [
        f"| `{field.name}` | {readable_default(field.name, field.default)} | {remark} |"
        for field, remark in zip(dataclasses.fields(limits.Limits), remarks_of_limits(), strict=True)
    ]
    return "\n".join(["| limit | default | what it bounds |", "|---|---|---|", *rows])


def remarks_of_limits() -> list[str]:
    """Return the strings that stand under the fields of `Limits`, in order."""
    (definition,) = ast.parse(inspect.getsource(limits.Limits)).body
    assert isinstance(definition, ast.ClassDef)
    return [
        " ".join(str(after.value.value).split())
        for field, after in zip(definition.body, definition.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    ]


def readable_default(name: str, value: Any) -> str:
    """Return the default of a limit as a person writes it."""
    if name.endswith("_timeout"):
        return "none" if value is None else f"{value:,g} s" if value < 3600 else f"{value / 3600:g} h"
    for unit, size in (("MiB", limits.MIB), ("KiB", limits.KIB)):
        if value % size == 0:
            return f"{value // size} {unit}"
    return f"{value:,}"


def error_tree() -> str:
    """Return the tree that the module `errors` draws at its top."""
    drawing = inspect.cleandoc(errors.__doc__ or "").partition("::\n\n")[2].partition("\n\n")[0]
    return f"```text\n{inspect.cleandoc(drawing)}\n```"


def failure_of_the_wrong_handler() -> str:
    """Return what the simulation says of the test that is to fail."""
    wrong, _ = simulated(README.read_text("utf-8"))
    space: dict[str, Any] = {}
    exec(compile(wrong, "test_adder.py", "exec"), space)
    try:
        simulate(space["addition"], seeds=100)
    except SimulationFailure as failure:
        failure.replay = (
            f"python -m pytest test_adder.py::test_addition --simulation-replay '{failure.seed};{failure.tape}'"
        )
        lines = [line if len(line) <= 120 else f"{line[:116]} ..." for line in str(failure).splitlines()]
        return "\n".join(["```text", *lines, "```"])
    raise AssertionError("the wrong handler of the README passes")


GENERATED: dict[str, Callable[[], str]] = {
    "failure": failure_of_the_wrong_handler,
    "diagram": diagram,
    "meanings": meanings,
    "limits": limits_table,
    "errors": error_tree,
}


def with_generated_parts(text: str) -> str:
    """Return the README with the parts that are made from the code made anew."""

    def anew(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{GENERATED[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: (\w+) -->\n.*?<!-- end -->", anew, text, flags=re.DOTALL)


@pytest.fixture(scope="module")
def readme() -> str:
    return README.read_text("utf-8")


def test_generated_parts_are_those_of_the_code(readme: str) -> None:
    assert re.findall(r"<!-- generated: (\w+) -->", readme) == list(GENERATED)
    assert with_generated_parts(readme) == readme, REGENERATE


def test_diagram_draws_every_transition_of_the_table(readme: str) -> None:
    (drawn,) = re.findall(r"```mermaid\n(.*?)```", readme, re.DOTALL)
    transitions = {(before, event): after for before, after, event in re.findall(r"(\w+) --> (\w+): (\w+)", drawn)}
    assert transitions == states.TRANSITIONS


def test_table_of_limits_has_the_defaults_of_the_code(readme: str) -> None:
    units = {"": 1, "KiB": 1024, "MiB": 1024**2, "s": 1, "h": 3600}
    rows = re.findall(r"^\| `(\w+)` \| ([\d,.]+) ?(\w*) \|", readme, re.MULTILINE)
    told = {name: float(number.replace(",", "")) * units[unit] for name, number, unit in rows}
    assert told == dataclasses.asdict(limits.Limits())
    assert len(remarks_of_limits()) == len(told)


def test_error_tree_is_the_tree_of_the_classes(readme: str) -> None:
    path: list[str] = []
    drawn = {}
    for line in error_tree().splitlines()[1:-1]:
        found = re.search(r"\w+", line)
        assert found is not None
        depth = found.start() // 4
        path[depth:] = [found[0]]
        drawn[found[0]] = path[depth - 1] if depth else "Exception"
    classes = [value for value in vars(errors).values() if inspect.isclass(value) and issubclass(value, Exception)]
    assert drawn == {cls.__name__: cls.__bases__[0].__name__ for cls in classes}


# The programs


@dataclasses.dataclass
class Program:
    """A block of Python in the README.

    Attributes:
        kind: ``serves`` and ``asks`` belong together by name; ``alone`` ends by itself.
        prints: what it prints, line by line.
    """

    kind: str
    name: str
    needs: str
    source: str
    line: int

    def __str__(self) -> str:
        return f"line-{self.line}-{self.kind}-{self.name}".rstrip("-")

    @property
    def prints(self) -> list[str]:
        return re.findall(r"print.*  # (.+)$", self.source, re.MULTILINE)

    @property
    def can_run(self) -> bool:
        return not self.needs or importlib.util.find_spec(self.needs) is not None


MARK = r"<!-- (serves|asks|alone)(?:: (\w+))?(?:; needs: (\w+))? -->\n```python\n(.*?)```\n"


def programs(text: str) -> list[Program]:
    """Return the marked blocks of Python in `text`."""
    return [
        Program(match[1], match[2] or "", match[3] or "", match[4], text.count("\n", 0, match.start()) + 1)
        for match in re.finditer(MARK, text, re.DOTALL)
    ]


PROGRAMS = programs(README.read_text("utf-8"))
SERVERS = [program for program in PROGRAMS if program.kind == "serves"]
CLIENTS = [program for program in PROGRAMS if program.kind == "asks"]

ADDRESS = '"localhost", 6000'

# Runs a program whose port was replaced by 0, and tells which port the system chose once it listens.
ANNOUNCE = """
import runpy, socket, sys

class Announcing(socket.socket):
    def listen(self, *backlog):
        super().listen(*backlog)
        print(self.getsockname()[1], flush=True)

socket.socket = Announcing
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def command(*arguments: str) -> list[str]:
    """Return the command for a Python without surprises: every warning is shown, on standard error."""
    return [sys.executable, "-W", "always", "-W", "ignore::DeprecationWarning:asyncore", *arguments]


def environment() -> dict[str, str]:
    # Where CI or BUILD_NUMBER is set, pytest says everything in full, and some of it twice.
    foreign = ("PYTHON", "PYTEST", "COVERAGE", "CI", "BUILD_NUMBER")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    return {**clean, "PYTHONPATH": str(ROOT)}


def furnish(directory: Path) -> None:
    """Put the files into `directory` that the programs expect."""
    for name, source in {
        "server.pem": certificate(),
        "server.key": certificate(),
        "authorities.pem": authorities(),
    }.items():
        if not (directory / name).exists():
            shutil.copy(source, directory / name)


def ends_in_good_order(program: Program) -> bool:
    """Whether a server has said what SIGTERM means to it."""
    return "shutdown_on_signal" in program.source or "reactor.serve(" in program.source


@contextmanager
def serving(program: Program, directory: Path) -> Iterator[int]:
    """Run a server of the README, give its port, and end it with SIGTERM."""
    furnish(directory)
    assert program.source.count(ADDRESS) == 1
    script = directory / "server.py"
    script.write_text(program.source.replace(ADDRESS, '"localhost", 0'), "utf-8")
    with subprocess.Popen(
        command("-c", ANNOUNCE, str(script)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        cwd=directory,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            yield int(line)
        finally:
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=20)
        assert without_asyncore(complaints) == ""
        assert process.returncode == (0 if ends_in_good_order(program) else -signal.SIGTERM)


def without_asyncore(complaints: str) -> str:
    """Leave out that asyncore goes: the README says so too."""
    return re.sub(r".*DeprecationWarning: The (asyncore|asynchat|smtpd) module.*\n.*\n", "", complaints)


def run(program: Program, directory: Path, port: int = 0) -> list[str]:
    """Run a program of the README to its end, and return the lines that it printed."""
    script = directory / "program.py"
    script.write_text(program.source.replace(ADDRESS, f'"localhost", {port}'), "utf-8")
    done = subprocess.run(
        command(str(script)),
        capture_output=True,
        env=environment(),
        cwd=directory,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_every_block_of_python_is_marked_and_so_is_run(readme: str) -> None:
    assert len(PROGRAMS) + len(simulated(readme)) == readme.count("```python")
    assert {program.name for program in SERVERS} == {program.name for program in CLIENTS}
    for program in PROGRAMS:
        compile(program.source, f"README.md, line {program.line}", "exec")


@pytest.mark.parametrize("server", SERVERS, ids=str)
def test_server_and_its_clients_run_and_print_what_the_readme_says(server: Program, tmp_path: Path) -> None:
    if not server.can_run:
        pytest.skip(f"this Python has no {server.needs}")
    with serving(server, tmp_path) as port:
        for client in CLIENTS:
            if client.name == server.name:
                assert client.prints
                assert run(client, tmp_path, port) == client.prints


@pytest.mark.parametrize("program", [program for program in PROGRAMS if program.kind == "alone"], ids=str)
def test_program_runs_and_prints_what_the_readme_says(program: Program, tmp_path: Path) -> None:
    assert program.prints
    assert run(program, tmp_path) == program.prints


# The test on a simulated network


def simulated(text: str) -> list[str]:
    """Return the test that fails, and what stands in place of its wrong handler."""
    return re.findall(r"<!-- tests: .*? -->\n```python\n(.*?)```\n", text, re.DOTALL)


def run_test(source: str, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run `source` as a user's test file, with the fixture of the package."""
    (directory / "pytest.ini").write_text("[pytest]")
    (directory / "conftest.py").write_text('pytest_plugins = ["reactor.simulation.fixture"]')
    (directory / "test_adder.py").write_text(source, "utf-8")
    return subprocess.run(
        command("-m", "pytest", "-q", "-p", "no:cacheprovider", *options),
        capture_output=True, env=environment(), text=True, timeout=50, check=False, cwd=directory,
    )  # fmt: skip


def test_simulation_finds_the_wrong_handler_and_prints_what_the_readme_says(readme: str, tmp_path: Path) -> None:
    wrong, _ = simulated(readme)
    done = run_test(wrong, tmp_path)
    assert done.returncode == 1, done.stderr
    printed = [line.removeprefix("E").strip() for line in done.stdout.splitlines()]
    for line in failure_of_the_wrong_handler().splitlines()[2:-1]:
        assert any(found.startswith(line.strip().removesuffix(" ...")) for found in printed), line
    (replay,) = [line for line in printed if "--simulation-replay" in line]
    again = run_test(wrong, tmp_path, *shlex.split(replay)[3:])
    assert again.returncode == 1
    assert "! server.2" in again.stdout


def test_simulation_passes_the_right_handler_of_the_readme(readme: str, tmp_path: Path) -> None:
    wrong, right = simulated(readme)
    handler = re.compile(r"    def handle_data.*?\n\n", re.DOTALL)
    inside = textwrap.indent(right, "    ")
    done = run_test(handler.sub(lambda _: inside + "\n", wrong, count=1), tmp_path, "--simulation-seeds", "200")
    assert done.returncode == 0, done.stdout


# What else it mentions


def prose(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def shell_lines(text: str) -> list[str]:
    return [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]


def test_commands_name_modules_extras_and_files_that_exist(readme: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    lines = [line for line in shell_lines(readme) if line not in makes_a_certificate(readme)]
    commands = [part.strip() for line in lines for part in line.split("&&")]
    assert commands
    for line in commands:
        python, option, module, *arguments = shlex.split(line)
        assert (python, option) == ("python", "-m"), line
        if module == "pip":
            assert arguments[0] == "install"
            assert set(re.findall(r"\w+", " ".join(re.findall(r"\[(.*)\]", arguments[-1])))) <= set(extras)
        elif module != "pytest":
            place = ROOT.joinpath(*module.split("."))
            assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file(), line


def makes_a_certificate(readme: str) -> list[str]:
    """Return the commands that make the certificate to try TLS with."""
    return [line for line in shell_lines(readme) if line.startswith(("openssl ", "cp "))]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_certificate_that_the_readme_makes_is_good_for_its_programs(readme: str, tmp_path: Path) -> None:
    for line in makes_a_certificate(readme):
        subprocess.run(shlex.split(line), cwd=tmp_path, capture_output=True, check=True)
    made = (tmp_path / "server.pem").read_bytes()
    (server,) = [program for program in SERVERS if program.name == "secret"]
    with serving(server, tmp_path) as port:
        for client in CLIENTS:
            if client.name == server.name:
                assert run(client, tmp_path, port) == client.prints
    assert (tmp_path / "authorities.pem").read_bytes() == made == (tmp_path / "server.pem").read_bytes()


def test_message_server_of_the_readme_answers_the_client_of_the_readme(readme: str, tmp_path: Path) -> None:
    server, client = [shlex.split(line)[1:] for line in shell_lines(readme) if "-m examples.calculator" in line]
    key = ["--authkey-file", str(tmp_path / "key")]
    with subprocess.Popen(
        command(*server, *key, "--port", "0"), stdout=subprocess.PIPE, env=environment(), cwd=ROOT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            port = process.stdout.readline().rpartition(":")[2].strip()
            answer = subprocess.run(
                command(*client, *key, "--port", port),
                capture_output=True,
                env=environment(),
                cwd=ROOT,
                text=True,
                timeout=20,
                check=False,
            )
            assert (answer.stdout, answer.stderr) == ("5\n", "")
        finally:
            process.terminate()


def test_check_of_everything_runs_the_test_command_of_the_readme(readme: str) -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    (line,) = [line for line in shell_lines(readme) if "pytest" in line]
    for part in line.split("&&"):
        assert part.strip() in script.read_text("utf-8")


def test_links_lead_somewhere(readme: str) -> None:
    titles = re.findall(r"^#+ (.+)$", readme, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^)]+)\)", prose(readme)):
        assert target[1:] in anchors if target.startswith("#") else (ROOT / target).exists(), target
    for path in re.findall(r"`((?:tests|examples|\.ci)/[\w./]*)`", readme):
        assert (ROOT / path).exists(), path


def is_ours(word: str) -> bool:
    """Return whether `word` names something that a user of the package meets."""
    with reactor.Reactor() as loop:
        places = [reactor, loop, reactor.Listener, reactor.Stream, reactor.Connection, reactor.Limits]
        return any(hasattr(place, word) for place in places)


def test_names_of_the_package_exist(readme: str) -> None:
    for name in re.findall(r"`[^`]*\breactor\.(\w+)", prose(readme)):
        assert hasattr(reactor, name) or importlib.util.find_spec(f"reactor.{name}"), name
    for name in re.findall(r"\b(handle_\w+)\(", prose(readme)):
        assert is_ours(name), name


def words(text: str, title: str) -> list[tuple[list[str], list[str]]]:
    """Return the rows of the table of words `title`: the names on the left, and those on the right."""
    table = text.partition(f"<!-- words: {title} -->\n")[2].partition("\n\n")[0]
    rows = [line.split(" |")[:2] for line in table.splitlines()[2:]]
    return [(re.findall(r"`(\w+)", left), re.findall(r"`([\w.]+)", right)) for left, right in rows]


@pytest.mark.parametrize("title", ["asyncore", "multiprocessing.connection"])
def test_words_that_replace_old_ones_exist(readme: str, title: str) -> None:
    table = words(readme, title)
    assert len(table) > 10
    for old, new in table:
        assert old
        for word in new:
            assert is_ours(word.rpartition(".")[2]), word


def test_words_of_the_old_modules_are_theirs(readme: str) -> None:
    standard = multiprocessing.connection
    places = [standard, standard.Listener, standard.Connection, builtins]
    for old, _ in words(readme, "multiprocessing.connection"):
        for word in old:
            assert any(hasattr(place, word) for place in places), word


def test_words_of_socketserver_are_its_own_and_ours_have_them(readme: str) -> None:
    table = words(readme, "socketserver")
    assert len(table) >= 10
    for standard in (socketserver, servers):
        places = [standard, standard.ForkingTCPServer, standard.ThreadingTCPServer, standard.StreamRequestHandler]
        for old, _ in table:
            for word in old:
                assert any(hasattr(place, word) for place in places), word


@pytest.mark.skipif(not HAS_ASYNCORE, reason="this Python has no asyncore")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_words_of_asyncore_are_its_own(readme: str) -> None:
    asyncore, asynchat = importlib.import_module("asyncore"), importlib.import_module("asynchat")
    for old, _ in words(readme, "asyncore"):
        for word in old:
            assert any(hasattr(place, word) for place in (asyncore, asyncore.dispatcher, asynchat.async_chat)), word


if __name__ == "__main__":
    README.write_text(with_generated_parts(README.read_text("utf-8")), "utf-8")
