"""Terminators, in any input."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle

from reactor.errors import LimitError
from reactor.splitting import Piece, Splitter, Terminator
from tests.fuzzing.decisions import Cutting, Decisions
from tests.fuzzing.models import Split, SplitterModel, split_plainly
from tests.fuzzing.targets.texts import assert_readable

MAXIMA = (1 << 16, 12, 3, 1)


def splitter(data: bytes) -> None:
    """Pieces are those of a plain search, however the input is cut, and with another terminator behind each."""
    decisions = Decisions(data)
    maximum = MAXIMA[decisions.below(len(MAXIMA))]
    terminators = [any_terminator(decisions) for _ in range(1 + decisions.below(4))]
    as_a_channel = decisions.flag()
    cutting = decisions.cutting()
    stream = decisions.rest()
    expected = split_plainly(stream, terminators, maximum)
    for way in (Cutting(), cutting, Cutting(stride=1)):
        found = split_by_the_engine(Splitter(terminators[0], maximum), way.pieces(stream), terminators, as_a_channel)
        assert found.pieces == expected.pieces
        assert found.failed == expected.failed
        if found.failed:
            assert expected.rest.startswith(found.rest)
            assert len(found.rest) <= maximum
        else:
            assert found.rest == expected.rest


def any_terminator(decisions: Decisions) -> Terminator:
    """Return a terminator: often few bytes, of which some come again."""
    kind = decisions.below(8)
    if kind == 0:
        return None
    if kind == 1:
        return decisions.below(20)
    return decisions.take(1 + decisions.below(kind)) or b"\n"


def split_by_the_engine(
    machine: Splitter, parts: list[bytes], terminators: list[Terminator], as_a_channel: bool
) -> Split:
    """Feed `parts`, and set the next of the `terminators`, if they are several, behind each piece."""
    pieces: list[bytes] = []
    piece = b""
    upcoming = cycle(terminators[1:] + terminators[:1])
    for part in parts:
        machine.feed(part)
        for taken, is_end in taken_as_a_channel_does(machine) if as_a_channel else iter(machine.next_piece, None):
            piece += taken
            if is_end:
                pieces.append(piece)
                piece = b""
                if len(terminators) > 1:
                    machine.set_terminator(next(upcoming))
    assert_may_have_failed(machine)
    return Split(pieces, piece + machine.take_rest(), machine.failure is not None)


def taken_as_a_channel_does(machine: Splitter) -> Iterator[Piece]:
    """Yield the lines, then the other pieces; the terminator may be changed meanwhile."""
    for line in machine.lines:
        yield line, True
    yield from iter(machine.next_piece, None)


def assert_may_have_failed(machine: Splitter) -> None:
    """Assert that a failure is one of the peer, and the last thing that happens."""
    if machine.failure is not None:
        assert type(machine.failure) is LimitError
        assert machine.failure.limit == "maximum_line"
        assert_readable(str(machine.failure))
        machine.feed(b"more\n")
        assert machine.next_piece() is None
        assert machine.take_rest() == b""


def terminators(data: bytes) -> None:
    """Pieces are those of a plain search, whatever is changed or dropped between any two of them."""
    decisions = Decisions(data)
    maximum = MAXIMA[decisions.below(len(MAXIMA))]
    first = any_terminator(decisions)
    machine, model = Splitter(first, maximum), SplitterModel(first, maximum)
    while decisions:
        match decisions.below(8):
            case 0:
                changed = any_terminator(decisions)
                machine.set_terminator(changed)
                model.terminator = changed
            case 1:
                machine.clear()
                model.clear()
            case 2 | 3:
                for _ in range(1 + decisions.below(4)):
                    assert_same_piece(machine, model)
            case 4:
                machine.put_end_back()
                assert machine.take_end()
                assert not machine.take_end()
            case _:
                while assert_same_piece(machine, model):
                    pass
                part = decisions.string()
                machine.feed(part)
                if not model.failed:
                    model.left += part
                assert_same_piece(machine, model)  # a terminator is changed behind a piece, not in front of all
    while assert_same_piece(machine, model):
        pass
    assert_may_have_failed(machine)
    assert machine.take_rest() == model.left


def assert_same_piece(machine: Splitter, model: SplitterModel) -> bool:
    """Assert that both hand out the same next; return whether that was a piece."""
    expected = model.next_piece()
    assert machine.next_piece() == expected
    assert machine.terminator == model.terminator
    assert (machine.failure is not None) == model.failed
    return expected is not None
