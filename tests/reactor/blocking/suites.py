"""Runs CPython's own tests of ``multiprocessing.connection``, on the original or on ours, and prints the counts.

``python suites.py ours 1/4`` runs a quarter of the tests, in a process of its own. They are classes of the module
``test._test_multiprocessing``, which CPython comes with, though some distributions leave it out.
"""

from __future__ import annotations

import io
import json
import multiprocessing.connection
import os
import sys
import types
import unittest
import warnings
from typing import Any

CLASSES = (
    "WithProcessesTestConnection",
    "WithProcessesTestListener",
    "WithProcessesTestListenerClient",
    "WithProcessesTestPicklingConnections",
    "WithProcessesTestPoll",
    "TestWait",
    "TestIgnoreEINTR",
    "TestInvalidHandle",
    "TestInvalidFamily",
    "OtherTest",
    "ChallengeResponseTest",
)
"""The classes with threads in place of processes are not here: they talk over queues, and use no connection."""

LEFT_OUT = {
    "WithProcessesTestListener.test_empty_authkey": "an empty key protects nothing, and is refused here",
    "WithProcessesTestListener.test_abstract_socket": "its address is always the same: two runs at once would meet",
    "TestWait.test_wait_socket": "there is no connection in it, only sockets, and a `wait` that is the original's",
    "TestWait.test_wait_socket_slow": "the same, and it sleeps",
    "TestWait.test_wait_timeout": "it sleeps for five seconds in a `wait` that is the original's",
    "TestWait.test_wait_integer": "it demands of the machine that it answers within 0.4 s",
}
"""Tests of these classes that are not run, and why. The abstract address is tried in `test_listener`."""

NAMES = ("Client", "Connection", "Listener", "Pipe", "answer_challenge", "deliver_challenge", "wait")


def create_response(authkey: bytes, message: bytes) -> bytes:
    """Stand for the original's inner function: answer a challenge."""
    from reactor.authentication import CHALLENGE, Handshake

    return Handshake("either", authkey, os.urandom)._respond(CHALLENGE + message)


def verify_challenge(authkey: bytes, message: bytes, response: bytes) -> None:
    """Stand for the original's inner function: check the answer to a challenge."""
    from reactor.authentication import Handshake

    Handshake("either", authkey, os.urandom)._verify(message, response)


def place_ours() -> None:
    """Have the tests, and all of multiprocessing, find our names where they look for the original ones."""
    from reactor import blocking

    original: Any = multiprocessing.connection
    for name in NAMES:
        setattr(original, name, getattr(blocking, name))
    original._create_response = create_response
    original._verify_challenge = verify_challenge


def tests_of(classes: types.ModuleType) -> list[unittest.TestCase]:
    """Return the single tests that are to be run, in order."""
    return [
        test
        for name in CLASSES
        if hasattr(classes, name)  # Python 3.11 has no ChallengeResponseTest
        for test in unittest.defaultTestLoader.loadTestsFromTestCase(getattr(classes, name))
        if ".".join(test.id().split(".")[-2:]) not in LEFT_OUT  # type: ignore[union-attr]
    ]


def main(which: str, part: str) -> None:
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
    from test import _test_multiprocessing as cpython

    if which == "ours":
        place_ours()
    classes = sys.modules["classes"] = types.ModuleType("classes")  # under a name by which they can be pickled
    cpython.install_tests_in_module_dict(classes.__dict__, "fork")
    tests = tests_of(classes)
    number, parts = map(int, part.split("/"))
    suite = unittest.TestSuite(tests[number - 1 :: parts])
    report = io.StringIO()
    result = unittest.TextTestRunner(report, verbosity=2).run(suite)
    counts = {
        "run": result.testsRun,
        "skipped": len(result.skipped),
        "failed": len(result.failures) + len(result.errors),
        "ours": sum(end.__module__.startswith("reactor.") for end in map(type, multiprocessing.Pipe())),
        "report": report.getvalue()[-5000:],
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
