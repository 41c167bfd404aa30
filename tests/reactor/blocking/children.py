"""What needs processes of its own.

``python -m tests.reactor.blocking.children NAME`` runs one of the functions and prints what it returns, as JSON.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import importlib
import json
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reactor import ClientTls, blocking
from tests.certificates import authorities, certificate, directory
from tests.conftest import KEY, open_descriptors


def in_child(work: Callable[[], Any]) -> int:
    """Run `work` in the child of a fork; return its exit code: 0 if `work` was done, 1 if it raised."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def until(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it took too long"
        time.sleep(0.001)


def fork_between_two_messages() -> Any:
    """Receive one message, and have a child receive those that came together with it."""
    first, second = blocking.Pipe()
    second.send_many(["one", "two", "three", "four"])
    received = [first.recv()]

    def work() -> None:
        assert [first.recv(), first.recv(), first.recv()] == ["two", "three", "four"]
        assert not first.poll()
        first.send("done")

    code = in_child(work)
    first.close()
    return [code, received, second.recv(5)]


def listener_in_a_child() -> Any:
    """Accept in a child, while a silent peer of the parent's is in the handshake; then in the parent."""
    listener = blocking.Listener(authkey=KEY)
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(listener.address)
    with pytest.raises(TimeoutError):
        listener.accept(0)
    assert silent.recv(1000).startswith(b"\0\0\0")

    def greet(greeting: str) -> None:
        with listener.accept(10) as connection:
            connection.send(greeting)

    greetings = []

    def call() -> None:
        with blocking.Client(listener.address, authkey=KEY, timeout=10) as client:
            greetings.append(client.recv(10))

    def work() -> None:
        before = len(open_descriptors())
        greet("from the child")
        # The child has a selector and a waker of its own now, and the silent peer is the parent's alone.
        assert len(open_descriptors()) == before + 3 - 1
        listener.close()
        listener.close()
        assert os.path.exists(listener.address)
        with pytest.raises(OSError, match="listener is closed"):
            listener.accept(0)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there is another thread at the fork
        thread = threading.Thread(target=call)
        thread.start()
        codes = [in_child(work)]
        thread.join()
    thread = threading.Thread(target=call)
    thread.start()
    greet("from the parent")
    thread.join()
    silent.setblocking(False)
    with pytest.raises(BlockingIOError):  # it is still connected
        silent.recv(1000)
    codes.append(in_child(listener.close))  # without having accepted anything there
    path = listener.address
    exists = [os.path.exists(path)]
    listener.close()
    exists.append(os.path.exists(path))
    codes.append(in_child(listener.close))  # closed before the fork
    silent.close()
    return [codes, greetings, exists]


def fork_in_the_middle_of_accept() -> Any:
    """Fork while another thread waits in accept: the child accepts, and forgets the listener."""
    listener = blocking.Listener(authkey=KEY)
    accepted: list[Any] = []
    thread = threading.Thread(target=lambda: accepted.append(listener.accept(20)))
    thread.start()
    until(lambda: listener._reception.reactor.is_running)

    def work() -> None:
        with pytest.raises(TimeoutError, match="nobody came in time$"):
            listener.accept(0.01)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        code = in_child(work)
    with blocking.Client(listener.address, authkey=KEY, timeout=10) as client:
        thread.join(10)
        accepted[0].send("from the parent")
        received = client.recv(10)
        accepted[0].close()
    listener.close()
    return [code, received]


def forgotten_in_a_child() -> Any:
    """Forget in a child a listener that it has inherited: its descriptors are closed there, its file stays."""
    holder = [blocking.Listener(authkey=KEY)]
    path = holder[0].address
    silent = socket.socket(socket.AF_UNIX)
    silent.connect(path)
    with pytest.raises(TimeoutError):
        holder[0].accept(0)

    def work() -> None:
        holder.clear()
        gc.collect()
        sockets = [number for number, what in open_descriptors().items() if what.startswith("socket:")]
        assert sockets == [silent.fileno()]

    code = in_child(work)
    exists = os.path.exists(path)
    silent.close()
    holder.clear()
    return [code, exists, os.path.exists(path)]


def exit_without_a_word() -> Any:
    """End with connections and a listener open, in places that are torn down late."""
    listener = blocking.Listener()
    builtins.kept = [listener, *blocking.Pipe(), *blocking.Pipe(False), blocking.Client(listener.address)]  # type: ignore[attr-defined]
    sys.kept = [*blocking.Pipe()]  # type: ignore[attr-defined]
    return listener.address


def echo(connection: Any) -> None:
    while (message := connection.recv()) is not None:
        connection.send(message)
    connection.close()


def spawned() -> Any:
    """Hand a connection over to a process that is started afresh, in the middle of messages that came together."""
    context = multiprocessing.get_context("spawn")
    first, second = blocking.Pipe()
    second.send_many(["one", "two", "three", None])
    received = [first.recv()]
    process = context.Process(target=echo, args=(first,))
    process.start()
    first.close()
    received += [second.recv(20), second.recv(20)]
    process.join(20)
    with pytest.raises(EOFError):
        second.recv(0)
    second.close()
    return [process.exitcode, received]


def sent_over_a_connection() -> Any:
    """Send the two ends of a pipe over a connection to a child, each in the middle of a message."""
    ours, theirs = blocking.Pipe()
    pid = os.fork()
    if pid == 0:
        ours.close()
        reader, writer = theirs.recv(10), theirs.recv(10)
        assert (reader.readable, reader.writable) == (True, False)
        assert (writer.readable, writer.writable) == (False, True)
        message = reader.recv_bytes(timeout=10)
        writer.send_bytes(message.upper())
        os._exit(0)
    theirs.close()
    down, up = blocking.Pipe(duplex=False), blocking.Pipe(duplex=False)
    os.write(down[1].fileno(), b"\0\0\0\7mes")
    with pytest.raises(TimeoutError):
        down[0].recv(0)
    ours.send(down[0])
    ours.send(up[1])
    os.write(down[1].fileno(), b"sage")
    answer = up[0].recv_bytes(timeout=10).decode()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    for connection in (ours, *down, *up):
        connection.close()
    return [code, answer]


@contextlib.contextmanager
def encrypted(listener: Any) -> Iterator[tuple[Any, Any]]:
    """The two ends of a connection over TLS: what the listener has accepted, and its peer."""
    made: list[Any] = []
    tls = ClientTls(authorities(), server_name="localhost")
    thread = threading.Thread(target=lambda: made.append(blocking.Client(listener.address, timeout=10, tls=tls)))
    thread.start()
    with listener.accept(10) as accepted:
        thread.join(10)
        with made[0] as client:
            yield accepted, client


def encrypted_in_a_child() -> Any:
    """Have a connection over TLS in a child, also while another thread of the parent is at work with it."""
    with blocking.Listener(tls=certificate()) as listener, encrypted(listener) as (connection, peer):
        connection.fileno()

        def close() -> None:
            signal.alarm(10)
            before = len(open_descriptors())
            connection.close()
            assert len(open_descriptors()) == before - 3

        def work() -> None:
            uses = (connection.recv, connection.poll, connection.fileno, lambda: connection.send("from the child"))
            for use in uses:
                with pytest.raises(OSError, match="belongs to the process that made it"):
                    use()
            close()

        codes = [in_child(work)]
        may_end, is_at_work = threading.Event(), threading.Event()

        def hold() -> None:
            with connection._lock:
                is_at_work.set()
                may_end.wait(20)

        thread = threading.Thread(target=hold)
        thread.start()
        is_at_work.wait(10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there is another thread at the fork
            codes.append(in_child(close))
        may_end.set()
        thread.join()
        connection.send("from the parent")
        peer.send("from the peer")
        return [codes, [peer.recv(10), connection.recv(10)]]


def encrypted_listener_in_a_child() -> Any:
    """Accept in a child that may not read the key of the server any more, and see that the parent says nothing."""
    path = directory() / "for-the-parent-alone.pem"
    path.write_bytes(Path(certificate()).read_bytes())
    listener = blocking.Listener(tls=path)
    os.remove(path)
    # At the fork no other thread may be inside of OpenSSL: the child would have its locks, and nobody to release them.
    hearing, telling = os.pipe()

    def work() -> None:
        os.write(telling, b"!")
        with listener.accept(10) as connection:
            connection.send("from the child")
            with pytest.raises(EOFError):
                connection.recv(10)

    made: list[Any] = []

    def call() -> None:
        os.read(hearing, 1)
        tls = ClientTls(authorities(), server_name="localhost")
        with blocking.Client(listener.address, timeout=10, tls=tls) as client:
            made.append(client.recv(10))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        thread = threading.Thread(target=call)
        thread.start()
        code = in_child(work)
    thread.join(10)
    listener.close()
    os.close(hearing)
    os.close(telling)
    return [code, made[0]]


def exit_with_encryption() -> Any:
    """End with connections over TLS open, in places that are torn down late."""
    listener = blocking.Listener(tls=certificate())
    with contextlib.ExitStack() as stack:
        builtins.kept = [listener, *stack.enter_context(encrypted(listener))]  # type: ignore[attr-defined]
        sys.kept = [*stack.enter_context(encrypted(listener))]  # type: ignore[attr-defined]
        builtins.stack = stack.pop_all()  # type: ignore[attr-defined]


if __name__ == "__main__":
    module = importlib.import_module("tests.reactor.blocking.children")  # under the name by which others find it
    print(json.dumps(getattr(module, sys.argv[1])()))
