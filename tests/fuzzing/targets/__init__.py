"""The targets: each takes any bytes and asserts what must hold whatever they are.

Nothing here needs atheris: the test suite runs every target on the corpus, a fuzzer on what it makes up. A target
reads its first bytes as decisions, holds the engine to a plain model or to itself, and lets every error out that
is not documented. The same bytes always do the same.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable

from tests.fuzzing.models import CHALLENGE, DIGEST_SIZES, FAILURE, TAGS, WELCOME
from tests.fuzzing.targets import codecs, framing, handshakes, queues, texts

ADDRESS_SPACE = 2 << 30
"""In bytes, for a process that runs what nobody has seen before."""


@dataclasses.dataclass(frozen=True)
class Target:
    """Something to fuzz.

    Attributes:
        check: takes any bytes; it raises when something is wrong.
        tokens: pieces of which the fuzzer may make its inputs.
    """

    check: Callable[[bytes], None]
    tokens: tuple[bytes, ...] = ()

    @property
    def name(self) -> str:
        """What the command and the directory of the corpus call it."""
        return self.check.__name__

    @property
    def summary(self) -> str:
        """What it checks, in one line."""
        return (self.check.__doc__ or "").partition("\n")[0]


PROTOCOL = (CHALLENGE, WELCOME, FAILURE, *TAGS.values(), *(b"{%s}" % name.encode() for name in DIGEST_SIZES))
STRANGERS = (b"GET /", b"SSH-2.0-", b"\x16\x03\x01", b"EHLO ")
HEADERS = (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\x01", b"\0\0\0\0\0\0\0\x05", b"\xff\xff\xff\xfe")
JSON = (
    b"null",
    b"true",
    b"NaN",
    b"-Infinity",
    b"1e999",
    b'"\\ud800"',
    b'{"',
    b'":',
    b"[[",
    b"\xef\xbb\xbf",
    b"\\u0000",
)
PICKLE = (
    b"\x80\x04\x95", b"\x8c\x19tests.fuzzing.targets.codecs\x8c\x07Allowed\x93", b"ccollections\nOrderedDict\n",
    b"cos\nsystem\n", b"\x82\xf0", b"\x8c\x02os\x8c\x06system\x93", b"(ios\nsystem\n", b")\x81", b")R", b"}b", b"\x94",
    b"h\0", b"e.", b"u.", b"s.", b"a.", b"\x85", b"]", b"}", b"\x8f", b"(", b"\x90", b"\x91", b"X\x01\0\0\0x", b"Pid\n",
    b"c__builtin__\neval\n", b"ccopyreg\n_reconstructor\n", b"G\x7f\xf8\0\0\0\0\0\0", b"I01\n", b"L9L\n", b"S'x'\n",
)  # fmt: skip
ADDRESSES = (
    b"tcp://", b"unix://", b"[::1]", b"::ffff:1.2.3.4", b"localhost", b":80", b"@", b"?", b"#", b"%", b"\\\\", b"/run/",
    b"xn--", b"\0", b"\t", b"\xe2\x84\x80", b"127.0.0.1", b"fe80::1%eth0",
)  # fmt: skip
TEXTS = (b"\n", b"\x1b[31m", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xff", b"'", b'"', b"\\")

TARGETS = {
    target.name: target
    for target in (
        Target(framing.frames, (*HEADERS, *STRANGERS, CHALLENGE)),
        Target(handshakes.handshake, (*HEADERS, *STRANGERS, *PROTOCOL)),
        Target(handshakes.link),
        Target(handshakes.reflection, PROTOCOL),
        Target(codecs.json_codec, JSON),
        Target(codecs.bytes_codec),
        Target(codecs.restricted_pickle, PICKLE),
        Target(texts.addresses, ADDRESSES),
        Target(texts.excerpts, TEXTS),
        Target(queues.output_queue),
        Target(queues.timers),
        Target(queues.deadlines),
    )
}
"""The targets by their names."""


def limit_memory() -> None:
    """Have this process refused memory before the machine runs out of it: a pickle of a few bytes can ask for all."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, most))
