"""Runs test modules of CPython, on the original asyncore and asynchat or on ours, and prints the counts as JSON.

``python suites.py ours 1/4 test.test_asyncore ...`` runs the first quarter of the tests, in a process of its own: the
modules are exchanged before anything imports them, under their old names or, from Python 3.12 on, under those in
`test.support`.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import unittest
import warnings
from collections.abc import Iterator
from types import ModuleType


def place_ours() -> None:
    """Have the tests find our modules where they look for the original ones."""
    from reactor import compat

    if sys.version_info < (3, 12):
        compat.install()
        return
    support = importlib.import_module("test.support")
    for name in ("asyncore", "asynchat"):
        module = getattr(compat, name)
        sys.modules[f"test.support.{name}"] = module
        setattr(support, name, module)


def modules_of(name: str) -> set[str]:
    """Return the files of the `asyncore` that the test module `name` has got hold of, itself or through smtpd."""
    places = [sys.modules[name], *(sys.modules.get(smtpd) for smtpd in ("smtpd", "test.smtpd", "test.support.smtpd"))]
    found = [getattr(place, "asyncore", None) for place in places]
    return {str(module.__file__) for module in found if isinstance(module, ModuleType)}


def tests_of(suite: unittest.TestSuite) -> Iterator[unittest.TestCase]:
    """Yield the single tests of a suite, in order."""
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from tests_of(test)
        else:
            yield test


def main(which: str, part: str, *names: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)
    if which == "ours":
        place_ours()
    tests = list(tests_of(unittest.defaultTestLoader.loadTestsFromNames(names)))
    number, parts = map(int, part.split("/"))
    suite = unittest.TestSuite(tests[len(tests) * (number - 1) // parts : len(tests) * number // parts])
    report = io.StringIO()
    standard, sys.stdout = sys.stdout, io.StringIO()  # what the tests print
    result = unittest.TextTestRunner(report).run(suite)
    sys.stdout = standard
    counts = {
        "run": result.testsRun,
        "skipped": len(result.skipped),
        "failed": len(result.failures) + len(result.errors),
        "asyncore": sorted({path for name in names for path in modules_of(".".join(name.split(".")[:2]))}),
        "report": report.getvalue()[-5000:],
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
