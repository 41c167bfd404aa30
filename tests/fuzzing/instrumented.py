"""One target under atheris, in a process of its own.

python -m tests.fuzzing.instrumented TARGET [what libFuzzer takes ...]
"""

from __future__ import annotations

import importlib
import shlex
import sys

import atheris


def main() -> None:
    name, *options = sys.argv[1:]
    # json and pickletools too: they read in Python what the codecs read in C, where the fuzzer sees nothing.
    with atheris.instrument_imports(include=["reactor", "protocols", "json", "pickletools"]):
        targets = importlib.import_module("tests.fuzzing.targets")
    targets.limit_memory()
    # To merge, libFuzzer starts itself again, through a shell and by this name.
    program = f"{shlex.quote(sys.executable)} -m {__spec__.name} {shlex.quote(name)}"
    atheris.Setup([program, *options], targets.TARGETS[name].check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
