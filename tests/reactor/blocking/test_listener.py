"""`Listener` and `Client` for programs that wait: any number of handshakes at once, and nothing that lasts for ever."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError as StandardAuthenticationError
from multiprocessing import connection as standard
from typing import Any

import pytest

import reactor
from reactor import blocking
from reactor.authentication import CHALLENGE, Handshake
from reactor.blocking import guests
from reactor.blocking import listener as module
from reactor.framing import SHORT, encode_frame
from reactor.limits import Limits
from tests.conftest import KEY, FakeClock, raw_client

InThread = Callable[..., threading.Thread]

OTHER_KEY = b"another long secret key"
ADDRESSES = {"tcp": ("127.0.0.1", 0), "unix": None, "abstract": f"\0reactor-{os.getpid()}"}


@contextlib.contextmanager
def calling(
    in_thread: InThread, address: Any, count: int = 1, which: Any = blocking, key: bytes | None = KEY
) -> Iterator[list[Any]]:
    """Connect to `address` from other threads, and collect the connections."""
    made: list[Any] = []
    threads = [in_thread(lambda: made.append(which.Client(address, authkey=key))) for _ in range(count)]
    yield made
    for thread in threads:
        thread.join(10)
    for connection in made:
        connection.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def waits_in_accept(listener: Any) -> bool:
    return bool(listener._reception.reactor.is_running)


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# Connecting and accepting


@pytest.mark.parametrize("key", [None, KEY], ids=["keyless", "key"])
@pytest.mark.parametrize("address", ADDRESSES.values(), ids=ADDRESSES)
@pytest.mark.parametrize(("here", "there"), [(blocking, standard), (standard, blocking), (blocking, blocking)])
def test_listener_and_client_talk_with_the_original_and_with_each_other(
    here: Any, there: Any, address: Any, key: bytes | None, in_thread: InThread
) -> None:
    with (
        here.Listener(address, authkey=key) as listener,
        calling(in_thread, listener.address, 1, there, key) as made,
        listener.accept() as connection,
    ):
        connection.send(["question"])
        until(lambda: bool(made))
        assert made[0].recv() == ["question"]
        made[0].send("answer")
        assert connection.recv() == "answer"
        assert type(listener.last_accepted) is (tuple if address == ADDRESSES["tcp"] else str)


def test_families_are_understood_as_by_the_original() -> None:
    for family, kind in (("AF_INET", tuple), ("AF_UNIX", str)):
        with blocking.Listener(family=family) as listener, blocking.Client(listener.address, family) as client:
            assert type(listener.address) is kind
            listener.accept().close()
            assert client.poll(5)
    for family in ("AF_PIPE", "AF_NONSENSE"):
        with pytest.raises(ValueError, match="AF_"):
            blocking.Listener(family=family)
        with pytest.raises(ValueError, match="AF_"):
            blocking.Client("path", family)


def test_listener_picks_a_directory_for_this_user_alone_and_leaves_nothing_behind() -> None:
    listener = blocking.Listener()
    directory = os.path.dirname(listener.address)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    listener.close()
    listener.close()
    assert not os.path.exists(directory)
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()


def test_address_that_is_taken_is_an_error_and_leaves_nothing_behind(socket_path: str) -> None:
    for address in (("127.0.0.1", 0), socket_path):
        with blocking.Listener(address) as listener, pytest.raises(OSError, match="somebody listens on"):
            blocking.Listener(listener.address)


def test_listener_that_is_forgotten_closes() -> None:
    listener = blocking.Listener()
    path = listener.address
    client = blocking.Client(path)
    del listener
    gc.collect()
    assert not os.path.exists(os.path.dirname(path))
    with client, pytest.raises((EOFError, ConnectionResetError)):
        client.recv(5)


def test_no_cycle_keeps_a_listener_alive() -> None:
    gc.disable()
    try:
        listener = blocking.Listener(authkey=KEY, strict=True)
        path = listener.address
        with raw_client(path) as peer:
            with contextlib.suppress(TimeoutError):
                listener.accept(0)
            peer.recv(1000)
        with contextlib.suppress(EOFError):
            listener.accept(5)
        del listener
        assert not os.path.exists(path)
    finally:
        gc.enable()


@pytest.mark.parametrize("make", [blocking.Listener, lambda authkey: blocking.Client("path", authkey=authkey)])
def test_key_that_is_none_is_refused(make: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match="authkey should be a byte string"):
        make(authkey="a long secret text")
    with pytest.raises(reactor.LocalError, match="an empty authkey protects nothing"):
        make(authkey=b"")


# Peers that are silent, wrong or strange


def test_good_peer_is_accepted_beside_a_thousand_silent_ones(in_thread: InThread) -> None:
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(blocking.Listener(("127.0.0.1", 0), authkey=KEY))
        with pytest.raises(TimeoutError):
            listener.accept(0)
        silent = []
        for _ in range(1000):
            silent.append(stack.enter_context(raw_client(listener.address)))
            if len(silent) % 50 == 0:
                with pytest.raises(TimeoutError):
                    listener.accept(0)
        made = stack.enter_context(calling(in_thread, listener.address))
        with listener.accept(10) as connection:
            connection.send("welcome")
        until(lambda: bool(made))
        assert made[0].recv() == "welcome"
        # Each of them was challenged, and the oldest one at the most had to make room.
        assert sum(peer.recv(4) == SHORT.pack(len(CHALLENGE) + 48) for peer in silent) == 1000


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def listener(told: list[Any]) -> Iterator[blocking.Listener]:
    """A listener that collects in `told` whom it has refused, and why."""

    class Telling(blocking.Listener):
        def handle_refused(self, error: reactor.ReactorError) -> None:
            told.append(error)
            super().handle_refused(error)

    with Telling(("127.0.0.1", 0), authkey=KEY) as listener:
        yield listener


def gone(address: Any) -> None:
    with raw_client(address) as sock:
        sock.recv(1000)  # closed with input unread, the socket would send a reset


def reset_at_once(address: Any) -> None:
    sock = raw_client(address)
    sock.recv(1)
    reset(sock)


def web_browser(address: Any) -> None:
    with raw_client(address) as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while sock.recv(1000):
            pass


def liar(address: Any) -> None:
    with raw_client(address) as sock, contextlib.suppress(ConnectionResetError):
        sock.sendall(encode_frame(b"I have no key, but let me in"))
        while sock.recv(1000):
            pass


def wrong_key(address: Any) -> None:
    with pytest.raises(StandardAuthenticationError):
        standard.Client(address, authkey=OTHER_KEY)


PEERS = {
    "gone": (gone, EOFError),
    "reset": (reset_at_once, ConnectionResetError),
    "browser": (web_browser, OSError),
    "liar": (liar, StandardAuthenticationError),
    "wrong key": (wrong_key, StandardAuthenticationError),
}


@pytest.mark.parametrize(("peer", "error"), PEERS.values(), ids=PEERS)
def test_peer_that_is_refused_is_told_to_the_hook_and_the_log_and_delays_nobody(
    peer: Callable[[Any], None],
    error: type[Exception],
    listener: blocking.Listener,
    told: list[Any],
    in_thread: InThread,
    caplog: pytest.LogCaptureFixture,
) -> None:
    thread = in_thread(peer, listener.address)
    while not told:
        with pytest.raises(TimeoutError, match="nobody came in time"):
            listener.accept(0.01)
    thread.join(10)
    (reason,) = told
    assert isinstance(reason, reactor.RemoteError)
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.WARNING, str(reason))]
    with calling(in_thread, listener.address):
        listener.accept(10).close()


@pytest.mark.parametrize(("peer", "error"), PEERS.values(), ids=PEERS)
def test_strict_listener_raises_what_the_original_raises(
    peer: Callable[[Any], None], error: type[Exception], in_thread: InThread
) -> None:
    for make in (blocking.Listener, standard.Listener):
        options = {"strict": True} if make is blocking.Listener else {}
        with make(("127.0.0.1", 0), authkey=KEY, **options) as listener:
            in_thread(peer, listener.address)
            with pytest.raises(error) as caught:
                listener.accept()
            assert isinstance(caught.value, OSError) is issubclass(error, OSError)
            del caught
            gc.collect()  # the original leaves its connection to the traceback


def test_strict_listener_goes_on_after_an_error(in_thread: InThread) -> None:
    with (
        blocking.Listener(authkey=KEY, strict=True, limits=Limits(maximum_unauthenticated=1)) as listener,
        raw_client(listener.address),
        raw_client(listener.address) as second,
    ):
        with pytest.raises(blocking.AuthenticationError, match="maximum_unauthenticated"):
            listener.accept(10)
        assert second.recv(1000)
        second.close()
        with pytest.raises(EOFError):
            listener.accept(10)
        with calling(in_thread, listener.address):
            listener.accept(10).close()


def test_clock_stands_still_while_nobody_waits(clock: FakeClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "time", types.SimpleNamespace(monotonic=clock))
    ours = guests.Clock()
    began = ours()
    for seconds in (1, 3, 6):
        clock.advance(100)
        ours.go()
        clock.advance(seconds)
        assert ours() > began
        ours.stop()
    assert ours() == began + 10


def test_peer_is_not_too_late_for_a_listener_that_was_not_there(
    in_thread: InThread, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "time", types.SimpleNamespace(monotonic=clock))
    with blocking.Listener(authkey=KEY, strict=True) as listener:
        with raw_client(listener.address) as slow:
            with pytest.raises(TimeoutError):
                listener.accept(0)
            clock.advance(1000)
            thread = in_thread(talk, slow, Handshake("client", KEY, os.urandom), b"")
            listener.accept(10).close()
            thread.join()

        def wait_for_nobody() -> None:
            with pytest.raises(blocking.AuthenticationError, match="authentication_timeout"):
                listener.accept()

        with raw_client(listener.address) as silent:
            waits = in_thread(wait_for_nobody)
            assert silent.recv(1000)
            clock.advance(1000)
            listener._reception.reactor.call_threadsafe(int)  # it looks at the clock when it wakes up
            waits.join()


def test_hook_that_raises_ends_accept_and_the_listener_goes_on(in_thread: InThread) -> None:
    class Complaining(blocking.Listener):
        def handle_refused(self, error: reactor.ReactorError) -> None:
            raise LookupError("a mistake in the hook")

    with Complaining(authkey=KEY) as listener:
        raw_client(listener.address).close()
        with pytest.raises(LookupError):
            listener.accept(10)
        with calling(in_thread, listener.address):
            listener.accept(10).close()


def test_connection_that_cannot_be_made_is_told_like_a_peer_that_was_refused(
    listener: blocking.Listener, told: list[Any], in_thread: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(sock: socket.socket) -> None:
        sock.close()
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(blocking.Connection, "_over", fail)
        with calling(in_thread, listener.address, 1, standard):
            while not told:
                with contextlib.suppress(TimeoutError):
                    listener.accept(0.01)
    assert [type(error) for error in told] == [reactor.ClosedHere]
    with calling(in_thread, listener.address):
        listener.accept(10).close()


# What comes together with the end of the handshake


def talk(sock: socket.socket, handshake: Handshake, behind: bytes) -> None:
    """Take part in a handshake; its last word goes out in one piece with `behind`."""
    output = handshake.start()
    while True:
        sock.sendall(output + behind if handshake.done else output)
        if handshake.done:
            return
        output = handshake.receive(sock.recv(1000))


def test_message_behind_the_last_word_of_the_handshake_is_for_the_connection(in_thread: InThread) -> None:
    messages = encode_frame(b"one") + encode_frame(b"two") + SHORT.pack(5) + b"th"
    with blocking.Listener(authkey=KEY) as listener, raw_client(listener.address) as client:
        in_thread(talk, client, Handshake("client", KEY, os.urandom), messages)
        with listener.accept(10) as connection:
            assert connection.recv_bytes() == b"one"
            assert connection.poll()
            assert connection.recv_bytes() == b"two"
            client.sendall(b"ree")
            assert connection.recv_bytes() == b"three"


def test_message_that_comes_while_the_last_word_of_the_client_leaves_is_for_the_connection(
    in_thread: InThread,
) -> None:
    # The listening side answers the client's challenge, and sends its first message without waiting for the welcome:
    # so it is there already when the client has still to send that.
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                handshake = Handshake("listener", KEY, os.urandom)
                sock.sendall(handshake.start())
                sock.sendall(handshake.receive(sock.recv(1000)))
                sock.sendall(handshake.receive(sock.recv(1000)) + encode_frame(b"early"))
                handshake.receive(sock.recv(1000))
                assert handshake.done
                sock.recv(1)

        in_thread(serve)
        with blocking.Client(server.getsockname(), authkey=KEY) as client:
            assert client.recv_bytes(timeout=5) == b"early"


# Timeouts


def test_accept_looks_who_is_there_even_without_time(in_thread: InThread) -> None:
    for timeout in (0, -1):
        with blocking.Listener() as listener, blocking.Client(listener.address) as client:
            with listener.accept(timeout) as connection:
                client.send("here")
                assert connection.recv() == "here"
            with pytest.raises(TimeoutError, match="nobody came in time"):
                listener.accept(timeout)


def test_accept_with_much_time_returns_who_is_there() -> None:
    with blocking.Listener() as listener, blocking.Client(listener.address):
        listener.accept(float("inf")).close()


def test_client_gives_up_when_the_time_is_over(in_thread: InThread) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for timeout in (-1, 0, 0.05):
            with pytest.raises(TimeoutError, match="no connection to 127.0.0.1:.* within"):
                blocking.Client(silent.getsockname(), authkey=KEY, timeout=timeout)


def test_time_of_a_client_is_for_its_caller_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(module.connecting, "connect", lambda *_, **options: told.append(options["limits"]))
    monkeypatch.setattr(module.Reactor, "loop", lambda _, timeout: told.append(timeout))
    with pytest.raises(TimeoutError):
        blocking.Client(("127.0.0.1", 1), timeout=0.5)
    limits, timeout = told
    assert (limits.connect_timeout, limits.authentication_timeout, timeout) == (None, None, 0.5)


def test_threads_that_resolve_names_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    joined: list[float | None] = []
    hangs, may_end = threading.Event(), threading.Event()

    def job() -> None:
        hangs.set()
        may_end.wait(10)

    pool = guests.HastyPool(1, "resolver")
    pool.submit(job)
    assert hangs.wait(10)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "join", lambda _, timeout: joined.append(timeout))
        pool.close()
    may_end.set()
    assert joined == [0.0]


# Errors of a client


def nobody() -> Any:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()


@pytest.mark.parametrize(
    "address",
    ["/no/such/directory/socket", nobody(), "x" * 200, ("no such name", 80)],
    ids=["no file", "nobody", "long", "no name"],
)
def test_client_raises_what_the_original_raises_where_nobody_answers(address: Any) -> None:
    found = []
    for which in (standard, blocking):
        with pytest.raises(OSError) as caught:
            which.Client(address)
        found.append((type(caught.value), caught.value.errno))
    assert found[0] == found[1]
    assert str(address[0] if isinstance(address, tuple) else address) in str(caught.value)


def closes(sock: socket.socket) -> None:
    pass


def closes_after_challenge(sock: socket.socket) -> None:
    sock.sendall(Handshake("listener", KEY, os.urandom).start())
    sock.recv(1000)


def resets(sock: socket.socket) -> None:
    reset(sock)


def talks_nonsense(sock: socket.socket) -> None:
    sock.sendall(b"220 mail.example.org ESMTP\r\n")
    with contextlib.suppress(ConnectionResetError):
        sock.recv(1000)


def asks_for_nothing(sock: socket.socket) -> None:
    sock.sendall(encode_frame(b"welcome, whoever you are"))
    with contextlib.suppress(ConnectionResetError):
        sock.recv(1000)


def has_another_key(sock: socket.socket) -> None:
    with blocking.Connection(sock.detach()) as connection, contextlib.suppress(StandardAuthenticationError):
        standard.deliver_challenge(connection, OTHER_KEY)


SERVERS = {
    "closes": (closes, EOFError),
    "closes later": (closes_after_challenge, EOFError),
    "resets": (resets, ConnectionResetError),
    "nonsense": (talks_nonsense, OSError),
    "no challenge": (asks_for_nothing, StandardAuthenticationError),
    "other key": (has_another_key, StandardAuthenticationError),
}


@pytest.mark.parametrize(("serve", "error"), SERVERS.values(), ids=SERVERS)
def test_client_raises_what_the_original_raises_where_the_handshake_fails(
    serve: Callable[[socket.socket], None], error: type[Exception], in_thread: InThread
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for which in (standard, blocking):

            def run() -> None:
                sock, _ = server.accept()
                with sock:
                    serve(sock)

            in_thread(run)
            with pytest.raises(error if which is blocking else (error, AssertionError)) as caught:  # so Python 3.11
                which.Client(server.getsockname(), authkey=KEY)
            assert isinstance(caught.value, OSError) is issubclass(error, OSError)
            del caught
            gc.collect()


def test_error_of_this_program_is_no_error_of_the_peer() -> None:
    error = reactor.LocalError("a mistake")
    assert module.as_the_original(error) is error


# Threads


def test_threads_that_accept_at_once_get_one_connection_each(in_thread: InThread) -> None:
    accepted: list[Any] = []
    with blocking.Listener(authkey=KEY) as listener:
        threads = [in_thread(lambda: accepted.append(listener.accept(10))) for _ in range(4)]
        with calling(in_thread, listener.address, count=4) as made:
            for thread in threads:
                thread.join(10)
        assert len(made) == len(accepted) == 4
        assert len({connection.fileno() for connection in accepted}) == 4
        for connection in accepted:
            connection.close()


def test_thread_that_waits_behind_another_one_gives_up_when_the_time_is_over(in_thread: InThread) -> None:
    with blocking.Listener() as listener:
        thread = in_thread(lambda: listener.accept().close())
        until(lambda: waits_in_accept(listener))
        for timeout in (-1, 0, 0.01):
            with pytest.raises(TimeoutError, match="another thread waits here"):
                listener.accept(timeout)
        blocking.Client(listener.address).close()
        thread.join()


def test_close_ends_accept_in_other_threads_although_a_peer_is_silent(in_thread: InThread) -> None:
    listener = blocking.Listener(authkey=KEY)
    ended: list[str] = []

    def accept() -> None:
        with pytest.raises(OSError, match="listener is closed"):
            listener.accept()
        ended.append("accept")

    with raw_client(listener.address) as silent:
        threads = [in_thread(accept) for _ in range(3)]
        assert silent.recv(4)
        listener.close()
        for thread in threads:
            thread.join(5)
        assert len(ended) == 3
        assert not os.path.exists(os.path.dirname(listener.address))
        while silent.recv(1000):
            pass


def test_close_that_comes_while_a_connection_is_handed_out_closes_all_the_same() -> None:
    listener = blocking.Listener()
    clients = [blocking.Client(listener.address) for _ in range(3)]
    listener._lock.acquire()  # as accept does
    listener.close()
    assert os.path.exists(listener.address)
    listener._lock.release()
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept(0)
    assert not os.path.exists(listener.address)
    for client in clients:
        client.close()


def test_close_in_the_hook_ends_accept() -> None:
    class Closing(blocking.Listener):
        def handle_refused(self, error: reactor.ReactorError) -> None:
            self.close()

    listener = Closing(authkey=KEY)
    raw_client(listener.address).close()
    with pytest.raises(OSError, match="listener is closed"):
        listener.accept()
    assert not os.path.exists(listener.address)


def test_close_twice_at_once_is_no_error() -> None:
    with blocking.Listener() as listener:
        listener._reception.close()  # the other thread's, which came first
        with listener._lock:
            listener.close()


def test_peers_that_nobody_fetched_hear_of_the_close() -> None:
    with blocking.Listener() as listener:
        clients = [blocking.Client(listener.address) for _ in range(5)]
        listener.accept(10).close()
    for client in clients:
        with client, pytest.raises((EOFError, ConnectionResetError)):
            client.recv(5)


# Named pipes of Windows


class Recording(types.SimpleNamespace):
    """Stands for the standard library's module, which has named pipes only on Windows."""

    def __init__(self) -> None:
        super().__init__(calls=[])

    def Listener(self, *args: Any, **options: Any) -> Any:
        self.calls.append(("Listener", args, options))
        self.address = r"\\.\pipe\chosen"
        return self

    def Client(self, *args: Any) -> str:
        self.calls.append(("Client", args))
        return "a connection"

    def accept(self) -> str:
        return "an accepted connection"

    def close(self) -> None:
        self.calls.append("close")


def test_package_can_be_imported_where_names_are_missing_that_windows_has_not() -> None:
    program = """
import os, select, socket
missing = {os: ["fork", "register_at_fork", "writev", "sendfile", "geteuid", "getuid"],
           socket: ["AF_UNIX", "MSG_DONTWAIT", "SO_PEERCRED"], select: ["poll", "POLLIN", "epoll"]}
for module, names in missing.items():
    for name in names:
        vars(module).pop(name, None)
import reactor.blocking
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_named_pipes_of_windows_are_handed_over_to_the_standard_library(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Recording()
    monkeypatch.setattr(module, "original", original)
    monkeypatch.setattr(module, "sys", types.SimpleNamespace(platform="win32"))
    pipe = r"\\.\pipe\name"
    with blocking.Listener(pipe, authkey=KEY) as listener:
        assert listener.accept() == "an accepted connection"
        assert listener.address == r"\\.\pipe\chosen"
    blocking.Listener(None, "AF_PIPE").close()
    blocking.Listener().close()
    assert blocking.Client(pipe, None, KEY) == "a connection"
    assert original.calls == [
        ("Listener", (pipe, None, 1024), {"authkey": KEY}),
        "close",
        ("Listener", (None, "AF_PIPE", 1024), {"authkey": None}),
        "close",
        ("Listener", (None, None, 1024), {"authkey": None}),
        "close",
        ("Client", (pipe, None, KEY)),
    ]
