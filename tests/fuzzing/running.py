"""Runs targets under libFuzzer, reads what it reports, and keeps the corpus small."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.fuzzing.seeds import SEEDS
from tests.fuzzing.targets import Target

HERE = Path(__file__).resolve().parent
CORPUS = HERE / "corpus"
FOUND = HERE / "found"
FINDINGS = HERE / "findings"

LONGEST_INPUT = 1000
"""In bytes."""
MOST_FILES = 40
"""In the corpus of one target."""
SECONDS_FOR_ONE_INPUT = 10
MEGABYTES = 1024


class Mistake(Exception):
    """The command cannot do what it was asked for."""


@dataclasses.dataclass(frozen=True)
class Run:
    """What came of fuzzing one target.

    Attributes:
        executions: how many inputs were tried.
        rate: how many a second.
        edges: how many edges of the code were reached.
        findings: the inputs that make the target fail, kept in files.
        cause: the error that the target raised, in a line, or nothing.
    """

    target: Target
    executions: int
    rate: int
    edges: int
    findings: tuple[Path, ...]
    cause: str

    @classmethod
    def read(cls, target: Target, report: str, findings: tuple[Path, ...]) -> Run:
        """Return the run of which libFuzzer gives this `report`."""
        return cls(
            target,
            last_number(r"stat::number_of_executed_units: +(\d+)", report),
            last_number(r"stat::average_exec_per_sec: +(\d+)", report),
            last_number(r" cov: (\d+)", report),
            findings,
            cause_in(report) if findings else "",
        )


def cause_in(report: str) -> str:
    """Return, in a line, why libFuzzer stopped, and the last line of code in the traceback."""
    error = re.search(r"=== Uncaught Python exception: ===\n(.*)", report) or re.search(r"ERROR: (.*)", report)
    places = re.findall(r'File ".*", line \d+, in .*\n\s+(.*)', report)
    return "; at ".join([error[1] if error else "no reason is given", *places[-1:]])


def last_number(pattern: str, report: str) -> int:
    """Return the number at the last place in `report` that fits `pattern`; 0 where none does."""
    return int((re.findall(pattern, report) or ["0"])[-1])


def check_atheris() -> None:
    """Raise `Mistake` where atheris is not installed."""
    if importlib.util.find_spec("atheris") is None:
        raise Mistake("atheris is not installed: python -m pip install -e '.[test,fuzz]'")


def fuzz(target: Target, seconds: int) -> Run:
    """Fuzz one target for so many seconds, or until something is found.

    Raises:
        Mistake: the fuzzer could not be run.
    """
    found, findings = FOUND / target.name, FINDINGS / target.name
    found.mkdir(parents=True, exist_ok=True)
    findings.mkdir(parents=True, exist_ok=True)
    before = set(findings.iterdir())
    with surroundings(target) as (seeds, dictionary):
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT}",
            f"-timeout={SECONDS_FOR_ONE_INPUT}",
            f"-rss_limit_mb={MEGABYTES}",
            f"-artifact_prefix={findings}/",
            "-print_final_stats=1",
        ]
        if target.tokens:
            options.append(f"-dict={dictionary}")
        directories = [found, seeds, *existing(CORPUS / target.name)]
        report = under_atheris(target, [*options, *map(str, directories)])
    run = Run.read(target, report, tuple(sorted(set(findings.iterdir()) - before)))
    if not run.executions and not run.findings:
        raise Mistake(f"{target.name} could not be fuzzed:\n{report[-2000:]}")
    return run


def minimize(target: Target) -> tuple[int, int]:
    """Keep a small selection of all inputs of a target: those that reach the most beside the seeds.

    Returns: how many files they are, and how many bytes.

    Raises:
        Mistake: the fuzzer could not be run.
    """
    # First what each edge needs; then what goes along an edge more often than others, the shortest first.
    needed = merge(target, ["-use_counters=0"])
    others = sorted(merge(target, []), key=len)
    kept = list(dict.fromkeys([*needed, *others]))[:MOST_FILES]
    corpus = CORPUS / target.name
    shutil.rmtree(corpus, ignore_errors=True)
    for data in kept:
        corpus.mkdir(parents=True, exist_ok=True)
        (corpus / hashlib.sha1(data).hexdigest()).write_bytes(data)
    return len(kept), sum(map(len, kept))


def merge(target: Target, options: list[str]) -> list[bytes]:
    """Return the fewest inputs of a target that reach, together with the seeds, what all of them do."""
    with surroundings(target) as (seeds, _), tempfile.TemporaryDirectory() as directory:
        # What stands in the first directory is taken as it is: so nothing is chosen that the seeds reach.
        merged = Path(shutil.copytree(seeds, Path(directory, "merged")))
        others = [*existing(FOUND / target.name), *existing(CORPUS / target.name)]
        always = ["-set_cover_merge=1", f"-max_len={LONGEST_INPUT}"]
        report = under_atheris(target, [*always, *options, *map(str, [merged, *others])])
        if "MERGE-OUTER: the control file has" not in report:
            raise Mistake(f"the corpus of {target.name} could not be made smaller:\n{report[-2000:]}")
        return [path.read_bytes() for path in merged.iterdir() if not (seeds / path.name).exists()]


def under_atheris(target: Target, arguments: list[str]) -> str:
    """Run the program `instrumented`, and return what it reports."""
    finished = subprocess.run(
        [sys.executable, "-m", "tests.fuzzing.instrumented", target.name, *arguments],
        cwd=HERE.parent.parent,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return finished.stdout.decode("utf-8", "replace")


@contextlib.contextmanager
def surroundings(target: Target) -> Iterator[tuple[Path, Path]]:
    """Write for a while what the fuzzer reads: the directory of the seeds, and the dictionary."""
    with tempfile.TemporaryDirectory() as directory:
        seeds, dictionary = Path(directory, "seeds"), Path(directory, "dictionary")
        seeds.mkdir()
        for number, seed in enumerate(SEEDS[target.name]()):
            (seeds / f"seed-{number}").write_bytes(seed)
        dictionary.write_text("".join(f'"{escaped(token)}"\n' for token in target.tokens), "ascii")
        yield seeds, dictionary


def escaped(token: bytes) -> str:
    """Return `token` as a dictionary of libFuzzer has it."""
    return "".join(f"\\x{byte:02x}" for byte in token)


def existing(directory: Path) -> list[Path]:
    """Return `directory` in a list, which is empty where there is none."""
    return [directory] if directory.is_dir() else []
