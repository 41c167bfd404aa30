"""A peer that has nothing but the standard library, for Python 2.7 and for 3.6 and later.

It does what the lines on its standard input say, one after the other, and answers each with a line
on its standard output; both are JSON. Nothing of the package under test is imported here.

A line holds ``role`` ("client" or "listener"), ``address``, ``key`` (or null), ``act`` (a function
below) and ``patience``, the seconds after which the peer gives up. A listener answers twice: with
its address, and with what became of the one connection that it accepted.
"""
# ruff: noqa: UP010, UP024

from __future__ import print_function, unicode_literals

import json
import signal
import sys
import zlib
from multiprocessing.connection import Client, Listener

OBJECTS = [
    None,
    True,
    0,
    -1,
    2**100,
    1.5,
    "",
    "Gr\xfc\xdfe, \u4f60\u597d, \U0001f40d",
    [],
    ("add", 2, 3),
    {"nested": [{"deep": ({"er": [None, [[["\u20ac"]]]]},)}], "empty": {}, 7: frozenset([1, 2])},
    bytearray(range(256)),
    list(range(5000)),
]
"""What every Python pickles so that every other one reads the same."""

OBJECTS_OF_PYTHON_3 = OBJECTS + ([b"\x00\xff bytes", {b"key": {"a", "b"}}] if sys.version_info >= (3,) else [])
"""Beside them what Python 2, whose bytes are its text, pickles as something else."""

SIZES = [0, 1, 16384, 16385, 10 * 1000 * 1000]
"""Python 3 sends header and body together up to 16384 bytes, and apart above."""

PATTERN = bytes(bytearray(range(251)))
"""Its length is prime: a piece of a usual size that is lost, doubled or misplaced always shows."""


class OutOfPatience(Exception):
    """The test on the other side has failed, or forgotten this peer."""


def payload(size):
    """Return `size` bytes that look different at every place."""
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


# Acts: each takes a connection and returns what is reported of it.


def exchange_objects(connection):
    """Send objects, one after the other, and compare what comes back."""
    different = []
    for sent in OBJECTS_OF_PYTHON_3:
        connection.send(sent)
        received = connection.recv()
        if received != sent or type(received) is not type(sent):
            different.append(repr(received)[:200])
    return {"different": different}


def exchange_payloads(connection):
    """Send bytes, one payload after the other, and compare what comes back."""
    different = []
    for size in SIZES:
        sent = payload(size)
        connection.send_bytes(sent)
        received = connection.recv_bytes()
        if received != sent:
            different.append([size, len(received)])
    return {"different": different}


def echo_objects(connection):
    """Send back every object until the other side ends."""
    echoed = 0
    try:
        while True:
            connection.send(connection.recv())
            echoed += 1
    except EOFError:
        return {"echoed": echoed}


def echo_payloads(connection):
    """Send back the bytes of every frame until the other side ends."""
    echoed = 0
    try:
        while True:
            connection.send_bytes(connection.recv_bytes())
            echoed += 1
    except EOFError:
        return {"echoed": echoed}


def hear(connection):
    """Say nothing, and report the first bytes of every frame until the other side ends."""
    heard = []
    try:
        while True:
            heard.append(connection.recv_bytes()[:11].decode("ascii"))
    except (EOFError, IOError):
        return {"heard": heard}


def speak(connection):
    """Send an object before anything else, as a program does that knows of no handshake; then `hear`."""
    connection.send("is anybody there?")
    return hear(connection)


def send_large(connection):
    """Send a frame of more than 3 GiB."""
    data = PATTERN * ((3 << 30) // len(PATTERN) + 1)
    connection.send_bytes(data)
    return {"size": len(data), "checksum": zlib.crc32(data)}


def receive_large(connection):
    """Receive a frame of any size."""
    data = connection.recv_bytes()
    return {"size": len(data), "checksum": zlib.crc32(data)}


ACTS = {
    act.__name__: act
    for act in (
        exchange_objects,
        exchange_payloads,
        echo_objects,
        echo_payloads,
        hear,
        speak,
        send_large,
        receive_large,
    )
}


def answer(what):
    print(json.dumps(what))
    sys.stdout.flush()


def address_of(command):
    """Return the address in the form that ``multiprocessing`` wants: Python 2 insists on `str`."""
    address = command["address"]
    return (str(address[0]), address[1]) if isinstance(address, list) else str(address)


def be_client(command, key):
    connection = Client(address_of(command), authkey=key)
    try:
        return ACTS[command["act"]](connection)
    finally:
        connection.close()


def be_listener(command, key):
    listener = Listener(address_of(command), authkey=key)
    try:
        answer({"address": listener.address})
        connection = listener.accept()
        try:
            return ACTS[command["act"]](connection)
        finally:
            connection.close()
    finally:
        listener.close()


def give_up(signum, frame):
    raise OutOfPatience("nothing has happened for too long")


def obey(line):
    """Do what `line` says; whatever goes wrong is the answer."""
    command = json.loads(line)
    key = None if command["key"] is None else command["key"].encode("ascii")
    signal.alarm(command["patience"])
    try:
        answer({"client": be_client, "listener": be_listener}[command["role"]](command, key))
    except Exception as error:
        answer({"error": type(error).__name__, "message": str(error)})
    finally:
        signal.alarm(0)


def main():
    signal.signal(signal.SIGALRM, give_up)
    while True:
        line = sys.stdin.readline()
        if not line:
            return
        obey(line)


if __name__ == "__main__":
    main()
