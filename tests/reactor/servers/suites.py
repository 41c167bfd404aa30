"""Runs CPython's own tests of what stands on ``socketserver``, on the original or on ours, and prints the counts.

``python suites.py ours test_socketserver`` runs such a module in a process of its own, and
``test_logging:SocketHandlerTest`` one class of it. CPython comes with its tests, though some distributions leave
them out.
"""

from __future__ import annotations

import importlib
import io
import json
import sys
import unittest
import warnings

NAME = "socketserver"


def place_ours() -> None:
    """Put our module in place of the original, for whoever imports it from now on."""
    from reactor import servers

    for name in servers.__all__:
        found = getattr(servers, name)
        found.__module__ = NAME  # test_all compares the names of the module with what was made there
    sys.modules[NAME] = servers


def main(which: str, *suites: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
    if which == "ours":
        place_ours()
    tests = unittest.TestSuite()
    for suite in suites:
        module, _, classes = suite.partition(":")
        found = importlib.import_module(f"test.{module}")
        tests.addTests(
            unittest.defaultTestLoader.loadTestsFromNames(classes.split(","), found)
            if classes
            else unittest.defaultTestLoader.loadTestsFromModule(found)
        )
    output, sys.stdout = sys.stdout, io.StringIO()
    report = io.StringIO()
    result = unittest.TextTestRunner(report, verbosity=2).run(tests)
    sys.stdout = output
    import http.server
    import socketserver

    counts = {
        "run": result.testsRun,
        "skipped": len(result.skipped),
        "failed": len(result.failures) + len(result.errors),
        "ours": [hasattr(found, "_has_room") for found in (http.server.HTTPServer, socketserver.ForkingMixIn)],
        "report": report.getvalue()[-5000:],
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
