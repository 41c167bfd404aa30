"""Defects behind proxies: in what is taken for a header, and in how long one is waited for."""

from __future__ import annotations

from tests.conversations.introductions import (
    proxies_take_their_time,
    proxy_says_in_a_block_who_it_is,
    proxy_stands_in_front_of_tls,
)
from tests.zoo.catching import Defect, Simulated
from tests.zoo.planting import Change

IN_A_BLOCK = Simulated(proxy_says_in_a_block_who_it_is, seeds=10)
BEFORE_TLS = Simulated(proxy_stands_in_front_of_tls, seeds=10)
SLOWLY = Simulated(proxies_take_their_time, seeds=5)

DEFECTS: dict[str, list[Defect]] = {
    "decoding split across packets": [
        Defect(
            "introduction-taken-with-what-follows",
            "what comes in one packet with the header of a proxy is dropped",
            Change("reactor.introducing:Introduction.receive", "self._decoder.needed", "4096"),
            by=BEFORE_TLS,
            seen="NotInTime|had to connect again",
        ),
        Defect(
            "split-introduction-refused",
            "a header that is cut by a packet is taken for none",
            Change(
                "reactor.proxying:HeaderDecoder._feed_block",
                "if len(head) < size:\n            return None",
                "if len(head) < size:\n            raise no_header(head)",
            ),
            by=IN_A_BLOCK,
            seen="NotInTime|had to connect again",
        ),
    ],
    "slow loris": [
        Defect(
            "byte-stretches-the-introduction",
            "each byte of a header gives it all of its time again",
            Change("reactor.introducing:Introducing.readable", "progress = True", "self.enter(channel)"),
            by=SLOWLY,
            seen="AssertionError|NotInTime",
        ),
    ],
    "one silent or keyless peer blocks all": [
        Defect(
            "introductions-without-deadline",
            "a proxy that says nothing is waited for",
            Change(
                "reactor.introducing:Introducing.enter", "channel._set_deadline(channel.limits.proxy_timeout)", "pass"
            ),
            by=SLOWLY,
            seen="AssertionError|NotInTime",
        ),
    ],
}
