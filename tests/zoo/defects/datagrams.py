"""Defects in what happens to datagrams, and in what their errors do to others."""

from __future__ import annotations

from tests.zoo.catching import Defect, RowTest, Simulated, Tortured
from tests.zoo.planting import Change
from tests.zoo.scenarios.datagrams import correspondence, haste, nobody_home

TESTS = "tests/reactor/test_datagram.py"
CORRESPONDENCE = Simulated(correspondence)
SENDS_FAIL = Tortured(correspondence, only=frozenset({"send"}))
ICMP = Tortured(correspondence, only=frozenset({"icmp"}))
NOBODY_HOME = Simulated(nobody_home, seeds=20)
HASTE = Simulated(haste, seeds=20)

DEFECTS: dict[str, list[Defect]] = {
    "UDP: ICMP error, empty datagram, ENOBUFS": [
        Defect(
            "icmp-is-fatal",
            "a channel closes when it hears that one datagram was refused",
            Change("reactor.exchanging:OpenForDatagrams.readable", "error.errno in BROKEN", "True"),
            by=NOBODY_HOME,
            seen="NotInTime",
        ),
        Defect(
            "icmp-is-a-mistake-of-the-program",
            "a router that finds a datagram too large is taken for a program that sends too much",
            Change("reactor.datagram:Datagram.send_to", "size > LARGEST.get(self.socket.family, 0)", "True"),
            by=ICMP,
            seen="the writer was blamed: \\[LocalError|an exception escaped: LocalError",
        ),
        Defect(
            "empty-datagram-is-an-end",
            "an empty datagram is taken for the end of a stream",
            Change(
                "reactor.exchanging:OpenForDatagrams.readable",
                "channel.handle_datagram(data, address)",
                "channel.handle_datagram(data, address) if data else channel.close()",
            ),
            by=CORRESPONDENCE,
            seen="NotInTime",
        ),
        Defect(
            "enobufs-spins",
            "a send for which there are no buffers is made again and again, although the socket stays writable",
            Change(
                "reactor.datagram:Datagram._can_wait",
                "not isinstance(error, BlockingIOError | InterruptedError)",
                "error.errno not in (errno.EAGAIN, errno.EINTR, errno.ENOBUFS)",
            ),
            by=RowTest("test_send_that_finds_no_buffers_for_long_neither_spins_nor_closes[105]", TESTS),
            seen="turns of the loop for nothing",
        ),
        Defect(
            "enobufs-closes",
            "a channel closes when the system does not take one datagram",
            Change("reactor.datagram:Datagram.send_to", "self._report, datagram_lost", "self._fail, datagram_lost"),
            by=SENDS_FAIL,
            seen="NotInTime|the writer was closed",
        ),
        Defect(
            "full-receiver-spins",
            "a datagram that its receiver has no room for is tried again and again: the socket itself stays writable",
            Change("reactor.datagram:Datagram._can_wait", "address is None or", "True or"),
            by=RowTest("test_unconnected_unix_channel_loses_what_a_peer_has_no_room_for_and_costs_nothing", TESTS),
            seen="turns of the loop for nothing",
        ),
        Defect(
            "receive-without-memory-spins",
            "a receive that fails for want of memory counts as progress, for ever",
            Change("reactor.exchanging:OpenForDatagrams.readable", "error.errno in SHORT_OF_MEMORY", "False"),
            by=RowTest("test_receive_that_has_no_memory_for_long_does_not_spin[105]", TESTS),
            seen="AssertionError",
        ),
        Defect(
            "queue-of-datagrams-without-bound",
            "whatever is sent waits, however much waits already",
            Change("reactor.datagram:Datagram._enqueue", "queue.size + size + OVERHEAD * len(queue) > limit", "False"),
            by=HASTE,
            seen="a queue is over its limit: .* maximum_output",
        ),
        Defect(
            "queue-of-empty-datagrams-without-bound",
            "the queue counts bytes alone, and empty datagrams have none",
            Change("reactor.datagram:Datagram._enqueue", " + OVERHEAD * len(queue)", ""),
            by=RowTest("test_empty_datagrams_are_bounded_too", TESTS),
            seen="AssertionError: assert 1000 ==",
        ),
        Defect(
            "oversize-is-cut",
            "of a datagram that is too large the beginning is delivered as if it were all",
            Change("reactor.exchanging:OpenForDatagrams.readable", "receive(maximum + 1)", "receive(maximum)"),
            by=CORRESPONDENCE,
            seen="what is delivered is not what was sent",
        ),
        Defect(
            "flood-of-datagrams-takes-the-turn",
            "a channel receives for as long as something comes",
            Change("reactor.exchanging:OpenForDatagrams.readable", "range(DATAGRAMS_PER_TURN)", "range(10**9)"),
            by=RowTest("test_channel_that_is_flooded_leaves_turns_to_the_others", TESTS),
            seen="AssertionError",
        ),
    ],
}
