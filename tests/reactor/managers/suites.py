"""Runs CPython's tests of managers, on the original managers or on ours, and prints the counts as JSON.

``python suites.py ours NAME ...`` runs the tests of these classes, in a process of its own: the managers are exchanged
before the test module imports them. ``python suites.py list`` prints the names of all classes that use managers.
"""

from __future__ import annotations

import importlib
import io
import json
import multiprocessing
import sys
import types
import unittest
from multiprocessing import managers, process
from typing import Any

EXCHANGED = ["BaseManager", "Server", "SharedMemoryManager", "SyncManager"]

BESIDE = {
    "TestInitializers": ["test_manager_initializer"],
    "WithProcessesTestSharedMemory": [
        "test_shared_memory_SharedMemoryManager_basics",
        "test_shared_memory_SharedMemoryServer_ignores_sigint",
    ],
}
"""Tests in classes whose names do not tell that they use managers."""


def place_ours() -> None:
    """Have the tests find our managers where they look for the original ones."""
    ours = importlib.import_module("reactor.managers")
    for name in EXCHANGED:
        setattr(managers, name, getattr(ours, name))


def load() -> types.ModuleType:
    """Return a module with the tests of multiprocessing."""
    source: Any = importlib.import_module("test._test_multiprocessing")
    module = types.ModuleType("manager_tests")
    sys.modules[module.__name__] = module  # where what is pickled is found
    source.install_tests_in_module_dict(module.__dict__, "fork")
    module.__dict__["support"] = source.test.support
    return module


def names_of(module: types.ModuleType) -> list[str]:
    """Return the names of the classes in `module` that use managers."""
    return [name for name in sorted(vars(module)) if "Manager" in name and isinstance(getattr(module, name), type)]


def tests_of(module: types.ModuleType, name: str) -> unittest.TestSuite:
    """Return the tests of a class that use managers."""
    case = getattr(module, name)
    if name in BESIDE:
        return unittest.TestSuite(map(case, BESIDE[name]))
    return unittest.defaultTestLoader.loadTestsFromTestCase(case)


def main(which: str, *names: str) -> None:
    if which == "ours":
        place_ours()
    module: Any = load()
    if which == "list":
        print(json.dumps([*names_of(module), *BESIDE]))
        return
    servers: set[str] = set()
    start = process.BaseProcess.start

    def noted(self: Any) -> None:
        owner = getattr(self._target, "__self__", None)
        if hasattr(owner, "_Server"):
            servers.add(owner._Server.__module__)
        start(self)

    process.BaseProcess.start = noted  # type: ignore[method-assign]
    report = io.StringIO()
    module.setUpModule()
    result = unittest.TextTestRunner(report, verbosity=2).run(
        unittest.TestSuite(tests_of(module, name) for name in names)
    )
    module.tearDownModule()
    counts = {
        "run": result.testsRun,
        "skipped": sorted(f"{test.id()}: {reason}" for test, reason in result.skipped),
        "failed": len(result.failures) + len(result.errors),
        "altered": module.support.environment_altered,
        "left": len(multiprocessing.active_children()),
        "servers": sorted(servers),
        "report": report.getvalue()[-5000:],
    }
    print(json.dumps(counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
