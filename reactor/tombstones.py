"""What stands in the place of a selector that must not be used any more, and says why."""

from __future__ import annotations

import selectors
from typing import Any

from .errors import ClosedReactorError


class ForkedSelector(selectors.BaseSelector):
    """The selector of a reactor that a fork has copied. The parent goes on with the real one."""

    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise ClosedReactorError(
            "this reactor was made before a fork and belongs to the parent process; "
            "make a new Reactor() in the child, or close() this one there first"
        )

    register = unregister = modify = select = get_map = fileno = _refuse

    def close(self) -> None:
        pass


class ClosedSelector(ForkedSelector):
    def _refuse(self, *args: object, **kwargs: object) -> Any:
        raise ClosedReactorError("this reactor was closed")

    register = unregister = modify = select = get_map = fileno = _refuse
