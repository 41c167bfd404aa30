"""What the property tests share: how a stream of bytes is cut, and how hypothesis is set."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable, Iterator

from hypothesis import settings
from hypothesis import strategies as st

steady = settings(deadline=None, database=None, print_blob=False)
"""No limit of time for one example: on a busy machine it would fail for no fault of the code."""

cuts = st.lists(st.integers(0, 1 << 16), max_size=24)
"""Places to cut at; each counts modulo the length of what is cut."""


def pieces(data: bytes, places: list[int]) -> list[bytes]:
    """Return `data` cut at `places`; where one stands twice there is an empty piece."""
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(bounds)]


def every_way(data: bytes) -> Iterator[list[bytes]]:
    """Yield `data` whole, a byte at a time, and cut in two at every place."""
    yield [data]
    yield [data[i : i + 1] for i in range(len(data))]
    for place in range(len(data) + 1):
        yield [data[:place], data[place:]]


def peak_memory(work: Callable[[], object]) -> int:
    """Return how many bytes `work` held at the most, above what was held before it."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        result = work()
        _, peak = tracemalloc.get_traced_memory()
        del result
    finally:
        tracemalloc.stop()
    return peak - before
