"""The targets: each takes any bytes and asserts what must hold whatever they are.

Nothing here needs atheris: the test suite runs every target on the corpus, a fuzzer on what it makes up. A target
reads its first bytes as decisions, holds the engine to a plain model or to itself, and lets every error out that
is not documented. The same bytes always do the same.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable

from tests.fuzzing.models import CHALLENGE, DIGEST_SIZES, FAILURE, SIGNATURE, TAGS, WELCOME
from tests.fuzzing.targets import codecs, framing, handshakes, proxying, queues, smtp, splitting, telnet, texts, tls

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
TERMINATORS = (b"\r\n", b"\r\n.\r\n", b"aab", b"aaaa", b"abab", b"abacaba")
TELNET = (
    *(bytes([255, verb, option]) for verb in range(251, 255) for option in (0, 1, 3, 24, 31, 39)),
    *(bytes([255, code]) for code in (236, 240, 241, 244, 250, 255)),
    b"\xff\xfa\x18\x01\xff\xf0", b"\xff\xfa\x18\0xterm\xff\xf0", b"\xff\xfa\x1f\0\x50\0\x18\xff\xf0", b"\r\0", b"\r\n",
)  # fmt: skip
SMTP = (
    b"EHLO x\r\n", b"HELO x\r\n", b"MAIL FROM:<a@b>", b"MAIL FROM:<>", b"RCPT TO:<a@b>", b"RCPT TO:<Postmaster>",
    b"DATA\r\n", b"RSET\r\n", b"NOOP\r\n", b"VRFY a\r\n", b"HELP\r\n", b"QUIT\r\n", b"AUTH PLAIN", b"AUTH LOGIN",
    b" AGEAYg==", b"YQ==\r\n", b"*\r\n", b" SIZE=", b" BODY=8BITMIME", b" SMTPUTF8", b" AUTH=<>", b'"a b"@', b"@r:",
    b"@[127.0.0.1]", b"@[IPv6:::1]", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"\n.\r\n", b"\r\n.\n", b"\r\n..\r\n", b"\r\n",
    b"GET / HTTP/1.1", b"STARTTLS", b"\xc3\xbc", b"\x0e",
)  # fmt: skip
REPLIES = (
    b"220 x\r\n", b"250-x\r\n", b"250 x\r\n", b"250\r\n", b"354 \r\n", b"334 \r\n", b"235 \r\n", b"221 \r\n",
    b"421 \r\n", b"450 \r\n", b"550 5.1.1 ", b"250-PIPELINING\r\n", b"250-SIZE 10\r\n", b"250-8BITMIME\r\n",
    b"250-SMTPUTF8\r\n", b"250-AUTH PLAIN\r\n", b"250-AUTH LOGIN\r\n", b"\x0e",
)  # fmt: skip
RECORDS = (
    b"\x16\x03\x01\x00\x05", b"\x15\x03\x03\x00\x02\x02\x28", b"\x15\x03\x03\x00\x02\x01\x00",
    b"\x14\x03\x03\x00\x01\x01",
    b"\x17\x03\x03\x00\x10", b"\x18\x03\x03\x00\x03\x01\xff\xff", b"GET / HTTP/1.1\r\n", b"\x80\x2e\x01\x00\x02",
)  # fmt: skip
PROXIES = (
    SIGNATURE, b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN", b"192.0.2.1 ", b"::ffff:1.2.3.4 ",
    b"::1 ", b"443 65535\r\n", b"\x20\0\0\0", b"\x21\x11\0\x0c", b"\x21\x21\0\x24", b"\x21\x31\0\xd8", b"\x03\0\x04",
    b"\x04\0\0",
)  # fmt: skip
TEXTS = (b"\n", b"\x1b[31m", b"\xe2\x80\xa8", b"\xed\xa0\x80", b"\xff", b"'", b'"', b"\\")

TARGETS = {
    target.name: target
    for target in (
        Target(framing.frames, (*HEADERS, *STRANGERS, CHALLENGE)),
        Target(handshakes.handshake, (*HEADERS, *STRANGERS, *PROTOCOL)),
        Target(handshakes.link),
        Target(handshakes.reflection, PROTOCOL),
        Target(proxying.proxy_header, (*PROXIES, *STRANGERS)),
        Target(codecs.json_codec, JSON),
        Target(codecs.bytes_codec),
        Target(codecs.restricted_pickle, PICKLE),
        Target(texts.addresses, ADDRESSES),
        Target(texts.excerpts, TEXTS),
        Target(queues.output_queue),
        Target(queues.timers),
        Target(queues.deadlines),
        Target(splitting.splitter, TERMINATORS),
        Target(splitting.terminators, TERMINATORS),
        Target(telnet.telnet, TELNET),
        Target(telnet.telnet_link, TELNET),
        Target(smtp.smtp_server, SMTP),
        Target(smtp.smtp_client, REPLIES),
        Target(tls.tls_socket, RECORDS),
        Target(tls.start_tls, RECORDS),
    )
}
"""The targets by their names."""


def limit_memory() -> None:
    """Have this process refused memory before the machine runs out of it: a pickle of a few bytes can ask for all."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, most))
