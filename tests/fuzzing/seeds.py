"""Where the fuzzer begins: real conversations, and what a program does on an ordinary day."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections import OrderedDict
from collections.abc import Iterable
from multiprocessing.connection import Connection
from typing import Any

from tests.fuzzing.conversations import smtp_client, smtp_server, telnet, telnet_link
from tests.fuzzing.decisions import BYTE_BY_BYTE, IN_THREE, WHOLE, string
from tests.fuzzing.models import SIGNATURE
from tests.fuzzing.targets import codecs

MESSAGES: list[Any] = [
    ("add", 2, 3),
    {"numbers": [1, -2.5, 10**20], "text": "gr\u00fc\u00dfe", "bytes": b"\0\xff", "nothing": None},
    OrderedDict(first=[True, (), set(), frozenset({1})], second=bytearray(b"x")),
]


def recorded(messages: Iterable[Any]) -> bytes:
    """Return what the standard library writes when it sends `messages`."""
    reading, writing = os.pipe()
    with open(reading, "rb") as reader:
        with Connection(writing, readable=False) as connection:
            for message in messages:
                connection.send(message)
        return reader.read()


def frames() -> Iterable[bytes]:
    kinds = [bytes([kind]) for kind in range(4)]
    for cutting in (WHOLE, BYTE_BY_BYTE, IN_THREE):
        yield kinds[0] + b"\0" + cutting + recorded(MESSAGES)
    long = b"\xff\xff\xff\xff" + (5).to_bytes(8) + b"first" + (0).to_bytes(4)
    yield kinds[0] + b"\0" + IN_THREE + long + long[:9]
    yield kinds[0] + b"\x01" + WHOLE + b"\xff\xff\xff\xff" + (1 << 40).to_bytes(8) + b"a header bomb"
    yield kinds[0] + b"\0" + BYTE_BY_BYTE + b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield kinds[0] + b"\0" + WHOLE + b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03"
    challenge = b"#CHALLENGE#{sha256}" + bytes(range(65, 105))
    yield kinds[2] + b"\0" + BYTE_BY_BYTE + len(challenge).to_bytes(4) + challenge
    for kind in kinds[1:]:
        yield kind + b"\x03" + IN_THREE + len(challenge).to_bytes(4) + challenge + b"\0\0\0\x09#WELCOME#" + b"\0\0"
        yield kind + b"\0" + WHOLE + b"\0\0\0\x04four" + b"\0\0\0\0"


ANSWER, OLD_ANSWER, CHALLENGE, OLD_CHALLENGE, WELCOME, FAILURE, OURS = (bytes([step]) for step in range(2, 9))
"""The steps of a peer in the script of a handshake."""

SHA256, SHA3_384 = b"\x01", b"\x04"


def handshake() -> Iterable[bytes]:
    # Each with an answer to our challenge, and a challenge.
    old = OLD_ANSWER, OLD_CHALLENGE + b"twenty bytes of old."
    new = ANSWER + SHA256 + b"\0", CHALLENGE + SHA256 + string(b"forty bytes that a new Python makes up..")
    other = ANSWER + SHA3_384 + b"\0", CHALLENGE + SHA3_384 + string(b"forty bytes that a new Python makes up..")
    behind = b"\x01" + string(pickle.dumps(MESSAGES[0]))
    for answer, challenge in (old, new, other):
        yield b"\0\0\0" + BYTE_BY_BYTE + answer + challenge + WELCOME + behind
        yield b"\x01\0\0" + IN_THREE + challenge + WELCOME + answer + behind
        yield b"\0\x01\x01" + WHOLE + answer + challenge + WELCOME
        yield b"\x01\x01\x01" + WHOLE + challenge + WELCOME + answer
        yield b"\0\0\0" + IN_THREE + answer + challenge + FAILURE
        yield b"\x01\0\0" + IN_THREE + challenge + FAILURE
    # Somebody in between lets two of ours use MD5.
    yield b"\0\0\0" + WHOLE + old[0] + OURS + b"\x01\x01" + WELCOME
    yield b"\x01\0\0" + WHOLE + OURS + b"\0\x01" + WELCOME + old[0]
    yield b"\x01\0\0" + WHOLE + CHALLENGE + SHA256 + string(bytes(255))
    for role, before in ((b"\0", new[0]), (b"\x01", b"")):
        for issuer in (b"\0", b"\x01"):
            yield role + b"\0\0" + WHOLE + before + OURS + issuer + b"\x01" + WELCOME
        yield role + b"\0\0" + BYTE_BY_BYTE + b"\0" + string(b"GET / HTTP/1.1\r\n\r\n")


def link() -> Iterable[bytes]:
    yield b"\0\0\0\0"
    yield b"\0\0\x01\x01" + bytes([0, 1, 80, 81]) * 20
    for kind in range(3):
        for place in (3, 20, 64, 72):
            edit = bytes([1, place, kind, 7])
            yield edit + b"\0" + b"\0\0"
            yield b"\0" + edit + b"\0\x01"


LISTENER, CLIENT, SECOND_LISTENER, SECOND_CLIENT = (bytes([place]) for place in range(4))


def reflection() -> Iterable[bytes]:
    said = b"\x02"
    relay = [
        (CLIENT, LISTENER, 0), (LISTENER, CLIENT, 0), (CLIENT, LISTENER, 1),
        (LISTENER, CLIENT, 1), (CLIENT, LISTENER, 2), (LISTENER, CLIENT, 2),
    ]  # fmt: skip
    yield b"\0" + b"".join(to + said + of + bytes([number]) for to, of, number in relay)
    attack = [(CLIENT, said + LISTENER + b"\0"), (CLIENT, b"\0")]
    attack += [(SECOND_CLIENT, said + CLIENT + b"\x01"), (CLIENT, said + SECOND_CLIENT + b"\0")]
    yield b"\0" + b"".join(to + frame for to, frame in attack)
    inventions = (b"{sha256}" + bytes(32), b"#CHALLENGE#{sha256}" + bytes(40), b"#WELCOME#")
    yield b"\0" + b"".join(LISTENER + b"\x01" + string(frame) for frame in inventions)
    yield b"\0" + LISTENER + said + SECOND_LISTENER + b"\0" + SECOND_LISTENER + said + LISTENER + b"\0"
    yield b"\x01" + CLIENT + b"\x04" + LISTENER + b"\0" + bytes([19]) + CLIENT + b"\0" + LISTENER + b"\x01\x02no"


def proxy_header() -> Iterable[bytes]:
    plain, summed = b"\0\0", b"\0\x01"
    inet = bytes([192, 0, 2, 1, 198, 51, 100, 7]) + (56324).to_bytes(2) + (443).to_bytes(2)
    mapped = bytes(10) + b"\xff\xff\xc0\0\x02\x01"
    addresses = {
        b"\x21\x11": inet, b"\x21\x21": mapped + bytes(15) + b"\x01\0\x07\0\x08", b"\x21\x12": inet,
        b"\x21\x31": b"/run/anna\0x".ljust(108, b"\0") + b"\0name".ljust(108, b"\0"), b"\x21\x00": b"",
        b"\x20\x00": b"", b"\x31\x11": inet, b"\x21\x13": inet, b"\x21\x41": inet,
    }  # fmt: skip
    values = b"\x04\0\0" + b"\x01\0\x02h2" + b"\x02\0\x09localhost"
    for kind, rest in addresses.items():
        for more in (b"", values):
            block = SIGNATURE + kind + len(rest + more).to_bytes(2) + rest + more
            yield plain + IN_THREE + block + b"behind"
            yield summed + BYTE_BY_BYTE + block + b"\r\nPROXY"
    inet_block = SIGNATURE + b"\x21\x11\0\x13" + inet
    yield plain + WHOLE + inet_block + b"\x03\0\x04four"
    yield plain + WHOLE + inet_block.replace(b"\x13", b"\x1a") + b"\x03\0\x04four" * 2
    yield plain + WHOLE + inet_block + b"\x04\0\x05cut_"
    yield b"\x01\0" + WHOLE + inet_block.replace(b"\0\x13", b"\x0f\0")
    for said in (
        b"TCP4 192.0.2.1 198.51.100.7 56324 443", b"TCP6 2001:DB8::1 ::ffff:1.2.3.4 0 65535", b"UNKNOWN", b"UNKNOWN x",
        b"TCP4 192.0.2.01 198.51.100.7 1 2", b"TCP4 192.0.2.1 198.51.100.7 01 2", b"TCP6 ::1 ::1 1 65536", b"UNKNOWNS",
        b"TCP4 ::1 ::1 1 2", b"UDP4 192.0.2.1 198.51.100.7 1 2", b"UNKNOWN " + b"x" * 92,
    ):  # fmt: skip
        yield plain + IN_THREE + b"PROXY " + said + b"\r\nbehind"
    yield plain + BYTE_BY_BYTE + b"GET / HTTP/1.1\r\n"


def json_codec() -> Iterable[bytes]:
    documents: list[Any] = [
        {"an": "object", "of": [1, 2.5, None, True]},
        "gr\u00fc\u00dfe \U0001f600",
        -(10**30),
        [[[]]],
    ]
    for document in documents:
        yield json.dumps(document).encode()
        yield json.dumps(document, ensure_ascii=False, indent=1).encode()
    yield from (b'"\\ud800"', b"[NaN, -Infinity]", b"1e999", b"[" * 900, '"\ufeff"'.encode("utf-16"), b"\x80")


def bytes_codec() -> Iterable[bytes]:
    yield b"\x01\x09\x01some bytes that are sent"
    yield b""


def restricted_pickle() -> Iterable[bytes]:
    for message in MESSAGES:
        for protocol in (0, 2, 4, 5):
            yield pickle.dumps(message, protocol)
    yield pickle.dumps(codecs.Forbidden, 0)
    yield pickle.dumps(codecs.Forbidden, 4)
    yield b"\x82\xf0."
    yield b"cos\nsystem\n(S'true'\ntR."
    allowed = f"c{codecs.__name__}\nAllowed\n".encode()
    yield allowed + b")\x81}S'a'\nK\x05sb."
    yield b"(i" + allowed[1:] + b"."
    yield allowed + b"N}S'a'\nK\x05s\x86b."


def addresses() -> Iterable[bytes]:
    for text in (
        "/run/socket",
        "\0abstract",
        "unix://relative",
        "tcp://[::1]:6000",
        "tcp://localhost:1",
        r"\\.\pipe\x",
    ):
        yield b"\0\0" + text.encode()
        yield b"\x03\x01" + text.encode()
    yield b"\0\x02" + (80).to_bytes(2) + b"user:word@localhost"
    localhost, port, number = b"\0" + string(b"localhost"), b"\x01" + (6000).to_bytes(2), b"\x01\0\x02"
    yield b"\0\x03\x02" + localhost + port
    yield b"\x01\x03\x02\x02" + string(b"xn--mnchen-3ya") + port
    yield b"\x02\x03\x04\0" + string(b"fe80::1") + port + number + number
    yield b"\0\x03\x02\0" + string(b"::1") + b"\x04\x05"


def excerpts() -> Iterable[bytes]:
    yield b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    yield "gr\u00fc\u00dfe, \u2028 and a bell \a".encode()
    yield b"\x1b[31m" * 60
    yield b"\xff\xfe'\"\\"


def output_queue() -> Iterable[bytes]:
    header, room = b"\0\x01", b"\x07" + (50).to_bytes(2)
    appended = b"\0" + string(b"appended bytes") + b"\x01" + string(b"a view of others")
    sources = b"".join(bytes([kind, 2]) + string(b"one") + string(b"two") for kind in (2, 3, 4))
    file = b"\x05" + string(b"0123456789") + b"\x03\x05"
    yield header + appended + room + sources.replace(b"two", b"two\0") + room + file + room * 3
    yield b"\x01\0" + file + appended + b"\x06" + string(b"in front") + b"\x08" + room + b"\x09" + appended
    yield b"\x02\0" + b"\x0b\x0b" + room + b"\x0b" + room
    yield b"\x03\0" + b"\x0c" + b"\x07\xff\xff"
    yield b"\x01\0\x02\x04" + string(bytes(200)) * 4 + b"\0" + room
    yield b"\x03\x01" + b"\x0a" * 4 + (b"\x07\xff\xff" + b"\x08") * 6
    for ending in (1, 2):
        yield header + b"\x02\x01" + string(b"one") + bytes([ending]) + appended + room * 2
    yield header + appended + b"\x0d" + appended + file + room


def timers() -> Iterable[bytes]:
    once, repeating = b"\0\0\x10\0", b"\0\0\x08\x01\0\x10"
    yield once + repeating + b"\x03\x20" + b"\0" + b"\x02\x01" + b"\x03\xff" + bytes(6)
    yield b"\x05\x02" + b"\x06\0\0" + b"\x03\x20" + bytes(100) + b"\x06\0\x01"
    yield b"".join(repeating + b"\x03\x20" + bytes([action]) for action in range(6))
    not_a_number, long_ago, second = (b"\x03" + struct.pack("!d", time) for time in (math.nan, -1e300, 1.0))
    yield b"\0" + not_a_number + b"\0" + b"\0" + long_ago + b"\x01" + second + b"\x03\x10"


def deadlines() -> Iterable[bytes]:
    set_each = b"".join(b"\x01" + bytes([owner]) + b"\x02\0\x64" for owner in range(6))
    yield set_each + b"\0" + (65).to_bytes(2) + bytes(6)
    yield set_each + b"\x01\x02\0" + b"\0" + (65).to_bytes(2) + b"\x03" + b"\x01\x04\x01\x10"
    yield b"\x01\0\x01\x3f" + b"\x01\0\0"
    yield set_each[:5] + b"\x01\x01\x02\x03\xe8" + b"\0\xff\xff" + b"\x01\x05\x02\0\x01"


def terminator(text: bytes) -> bytes:
    """Return a terminator as `any_terminator` reads it."""
    return bytes([7, len(text) - 1]) + text


COUNTED, ENDLESS = b"\x01", b"\0"


def splitter() -> Iterable[bytes]:
    lines = b"one\r\n\r\ntwo\r\r\n three aaabaaaab \r"
    crlf, as_http = terminator(b"\r\n"), terminator(b"\r\n\r\n") + COUNTED + b"\x07" + terminator(b"ab")
    for cutting in (WHOLE, BYTE_BY_BYTE, IN_THREE):
        for as_a_channel in (b"\0", b"\x01"):
            cut = as_a_channel + cutting
            yield b"\0\0" + crlf + cut + lines
            yield b"\0\x02" + as_http + cut + lines
            yield b"\x01\0" + terminator(b"aab") + cut + b"aaab aaaabaabxyzxyzxyzxyzxyzaab"
    yield b"\0\0" + COUNTED + b"\x05" + b"\0" + IN_THREE + lines
    yield b"\0\x01" + terminator(b"\n") + ENDLESS + b"\x01" + IN_THREE + lines


def terminators() -> Iterable[bytes]:
    take, change, drop, put_back = b"\x02\x01", b"\0", b"\x01", b"\x04"

    def feed(data: bytes) -> bytes:
        return b"\x05" + string(data)

    yield b"\0" + terminator(b"abc") + feed(b"xab") + take + change + terminator(b"b") + feed(b"cab")
    counting, for_ever = change + COUNTED + b"\x02", change + ENDLESS
    yield b"\0" + terminator(b"\n") + feed(b"1\n2\n3\n4") + take + counting + take + for_ever
    yield b"\x01" + terminator(b"aab") + feed(b"aaaa") + drop + feed(b"b" * 13) + put_back + feed(b"x")
    yield b"\0" + terminator(b"\n") + feed(b"1\n2\n3\n4") + drop + feed(b"5\n")


FIRST_END, OTHER_END = b"\0", b"\x01"
TURN, SAY, SAY_MUCH, END, JUNK, EDIT, BREAK = (bytes([action]) for action in (0, 4, 5, 6, 7, 8, 9))
"""What may be done with an end of a `TlsSocket`, or with what it receives."""
ALERTS = b"\x15\x03\x03\x00\x02\x02\x28", b"\x15\x03\x03\x00\x02\x01\x00"
HTTP_REQUEST = b"GET / HTTP/1.1\r\n\r\n"


def tls_socket() -> Iterable[bytes]:
    sizes = b"\0", string(bytes([3, 1, 20, 2, 5, 40, 1, 1, 9] * 12)), string(bytes([200, 30]) * 40)
    turns = (FIRST_END + TURN + OTHER_END + TURN) * 8
    said = FIRST_END + SAY + b"\x40" + OTHER_END + SAY_MUCH + b"\xff" + turns
    ends = FIRST_END + END + OTHER_END + END
    for version in (b"\0", b"\x01"):
        for each in sizes:
            yield version + each + turns + said * 2 + ends + turns
            yield version + each + turns + said
            yield version + each + said + FIRST_END + END + said + turns
        for junk in (*ALERTS, HTTP_REQUEST):
            yield version + b"\0" + OTHER_END + JUNK + string(junk) + turns
            yield version + b"\0" + turns + said + FIRST_END + JUNK + string(junk) + turns
        yield version + b"\0" + turns + said[:7] + OTHER_END + TURN + FIRST_END + EDIT + b"\0\x09\x01\x01x" + turns
        for kind in (b"\0", b"\x01"):
            yield version + b"\0" + turns + said[:7] + FIRST_END + BREAK + kind + turns


WAIT, PLAIN, PLAIN_MUCH, BEGIN, INJECT, SQUEEZE, STOP = (bytes([action]) for action in range(1, 8))
"""What may be done with an end of a connection that begins with TLS in its middle."""


def start_tls() -> Iterable[bytes]:
    calm = b"\0"
    begin = FIRST_END + BEGIN + OTHER_END + BEGIN
    says = FIRST_END + PLAIN + b"\x30" + OTHER_END + PLAIN_MUCH + b"\xff"
    wait = FIRST_END + WAIT
    yield calm + says + wait + begin + says + wait + says
    yield calm + says + begin + says
    yield calm + OTHER_END + PLAIN_MUCH + b"\xff" + OTHER_END + BEGIN + wait + FIRST_END + BEGIN + says
    yield calm + FIRST_END + BEGIN + wait + OTHER_END + BEGIN + says
    yield calm + FIRST_END + SQUEEZE + b"\x10" + OTHER_END + SQUEEZE + b"\0" + says + wait + begin + says
    yield b"\x08" + bytes(range(40, 56)) + says + wait + begin + says
    for junk in (*ALERTS, HTTP_REQUEST):
        yield calm + FIRST_END + INJECT + string(junk) + begin + says
        yield calm + begin + FIRST_END + INJECT + string(junk) + says
        yield calm + begin + wait + FIRST_END + INJECT + string(junk) + says
    for kind in (b"\0", b"\x01"):
        yield calm + begin + OTHER_END + STOP + kind + says
        yield calm + begin + wait + says + OTHER_END + STOP + kind


SEEDS = {
    seeds.__name__: seeds
    for seeds in (
        frames, handshake, link, reflection, proxy_header, json_codec, bytes_codec, restricted_pickle, addresses,
        excerpts, output_queue, timers, deadlines, splitter, terminators, telnet, telnet_link, smtp_server, smtp_client,
        tls_socket, start_tls,
    )
}  # fmt: skip
"""What makes the first inputs of each target."""
