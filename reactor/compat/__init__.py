"""Drop-in modules for programs that lost `asyncore` and `asynchat` in Python 3.12.

Change the import of the program::

    from reactor.compat import asynchat, asyncore

or, where the program cannot be edited, call `install` before it is imported.
"""

from __future__ import annotations

import sys

from . import asynchat, asyncore

__all__ = ["asynchat", "asyncore", "install"]


def install() -> None:
    """Have ``import asyncore`` and ``import asynchat`` find the modules of this package, on every Python.

    Who imported the old ones before keeps them.
    """
    sys.modules["asyncore"] = asyncore
    sys.modules["asynchat"] = asynchat
