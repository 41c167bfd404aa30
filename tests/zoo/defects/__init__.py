"""All defects of the zoo, and the table of known failures that they come from.

The table says how systems of this kind were seen to fail, and where.
"""

from __future__ import annotations

from tests.zoo.catching import Defect
from tests.zoo.defects import datagrams, descriptors, introductions, tls, traffic, turns

ROWS = {
    "event reaches a channel closed, or a descriptor reused, in the same batch": (
        "libuv invalidate_fd; redis#4877; cpython#75114"
    ),
    "descriptor closed before it was unregistered; its successor is never armed": (
        "twisted#12681; cpython#88968, #130141"
    ),
    "accept spins at EMFILE": "libuv#690; cpython#151615",
    "listener closes for good at EMFILE": "asyncore; pyftpdlib#5",
    "an errno from accept kills the server": "CVE-2010-3492, CVE-2010-3494",
    "peer gone between accept and getpeername/setsockopt": "CVE-2024-49769",
    "descriptors above 1023": "cpython#44752; pyftpdlib#203",
    "output queue without bound": "CVE-2025-21605; CVE-2024-12254",
    "tail of a short write lost or reordered": "cpython#103462",
    "input without a terminator": "CVE-2022-21716; pyftpdlib#3",
    "allocation by announced length": "CVE-2025-13836",
    "a fast peer starves the others": "libuv caps its reads",
    "recursion through callbacks": "libuv callback_stack",
    "a handler's exception ends the process": "waitress GHSA-f5x9",
    "cycles and tracebacks hold sockets": "cpython#106503",
    "half-close spins or loses the reply": "waitress 3.0.1; libuv shutdown_eof",
    "wall clock jumps": "tornado#2035; twisted#2424",
    "timer order, timer overflow": "libuv timer_order, timer_huge_timeout",
    "EINTR, SIGPIPE": "libuv eintr_handling",
    "fork shares the epoll": "cpython#130442; eventlet#68",
    "wakeup from a thread is lost": "cpython#156054",
    "slow loris": "CVE-2007-6750",
    "one silent or keyless peer blocks all": "cpython#76425, #123736",
    "decoding split across packets": "akheron/cpython#2",
    "TLS data decrypted but invisible to select": "websockify#504; cassandra-driver#485",
    "TLS handshake at 100 % CPU": "pyftpdlib#613, #683; Supervisor#807",
    "plaintext trusted before the handshake": "CVE-2023-40217",
    "plaintext left over at STARTTLS is executed": "CVE-2024-34083",
    "log injection": "cpython#100001",
    "predictable or abstract socket and pickle": "CVE-2022-42919",
    "UDP: ICMP error, empty datagram, ENOBUFS": "libuv udp_*",
    "stale Unix socket file": "everybody",
}
"""The rows of the table, and where each was seen."""

BY_ROW: dict[str, list[Defect]] = {}
for part in (descriptors, traffic, tls, introductions, datagrams, turns):
    for row, defects in part.DEFECTS.items():
        BY_ROW.setdefault(row, []).extend(defects)
DEFECTS = {defect.name: defect for defects in BY_ROW.values() for defect in defects}
