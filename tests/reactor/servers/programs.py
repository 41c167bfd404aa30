"""Servers in processes of their own: those that fork, and those that change the whole process.

``python -m tests.reactor.servers.programs NAME OPTIONS`` runs one of the functions, with options as JSON.
"""

from __future__ import annotations

import functools
import json
import os
import resource
import signal
import socketserver
import sys
import time
import warnings
from typing import Any

import reactor
from reactor import servers
from tests.conftest import open_descriptors

LOCAL = ("127.0.0.1", 0)


class Commanded(socketserver.StreamRequestHandler):
    """Does what each line says."""

    def handle(self) -> None:
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            answer = getattr(self, f"do_{word}")(rest)
            self.wfile.write(f"{answer}\n".encode())

    def do_echo(self, text: str) -> str:
        return text

    def do_pid(self, _: str) -> int:
        return os.getpid()

    def do_fail(self, text: str) -> None:
        raise ValueError(text)

    def do_exit(self, _: str) -> None:
        sys.exit()

    def do_print(self, text: str) -> str:
        print(text)
        return text

    def do_send(self, size: str) -> str:
        self.wfile.write(b"x" * int(size))
        return "sent"

    def do_descriptors(self, _: str) -> str:
        found = sorted(what.partition(":")[0] for number, what in open_descriptors().items() if number > 2)
        return json.dumps(found)


class CommandedDatagram(socketserver.DatagramRequestHandler):
    """Tells the number of its process, and what came."""

    def handle(self) -> None:
        self.wfile.write(b"%d %s" % (os.getpid(), self.rfile.read()))


class ForkingServer(servers.ForkingTCPServer):
    """Prints when it is closed."""

    def server_close(self) -> None:
        super().server_close()
        print("closed", flush=True)


def forking(
    limits: dict[str, Any] | None = None,
    with_pidfd: bool = True,
    is_interrupted: bool | str = False,
    stays: bool = False,
    **options: Any,
) -> None:
    """Serve in children until SIGINT, which may come by itself in the middle of a fork; stay until the next one.

    Say where it listens, and in the end how many children are left.
    """
    if is_interrupted:
        interrupt = functools.partial(signal.raise_signal, signal.SIGINT)
        if is_interrupted == "in the child":
            os.register_at_fork(after_in_child=interrupt)
        else:
            os.register_at_fork(after_in_parent=interrupt)
    attributes = {name: options.pop(name) for name in list(options) if hasattr(servers.ForkingTCPServer, name)}
    if not with_pidfd:
        del os.pidfd_open
    if "tls" in options:
        options["tls"] = tuple(options["tls"])
    if "authkey" in options:
        options["authkey"] = options["authkey"].encode()
    server = ForkingServer(LOCAL, Commanded, limits=reactor.Limits(**(limits or {})), **options)
    for name, value in attributes.items():
        setattr(server, name, value)
    print(server.server_address[1], flush=True)
    print("printed before the fork", end=" ")  # it waits in the buffer
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        if stays:  # the next one waits for the end of this
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        server.server_close()
    if stays:
        signal.sigwait({signal.SIGINT})
    print(json.dumps({"children": len(server.active_children or ())}), flush=True)


def forking_with_grace() -> None:
    """Serve in children on a reactor that SIGTERM shuts down, with little grace."""
    loop = reactor.get_reactor()
    with servers.ForkingTCPServer(LOCAL, Commanded, reactor=loop) as server:
        loop.shutdown_on_signal(grace=0.01)
        print(server.server_address[1], flush=True)
        loop.loop()


def inherited(cls: str) -> None:
    """Serve one request; at SIGUSR1, serve one more in a child."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads
    with getattr(servers, cls)(LOCAL, Commanded) as server:
        server.max_threads = server.max_children = 1
        print(server.server_address[1], flush=True)
        server.handle_request()
        signal.sigwait({signal.SIGUSR1})
        pid = os.fork()
        if not pid:
            server.handle_request()
            server.server_close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        assert status == 0


def forking_datagrams() -> None:
    """Serve datagrams in children until SIGINT."""
    with servers.ForkingUDPServer(LOCAL, CommandedDatagram) as server:
        print(server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def prefork(count: int) -> None:
    """Serve in so many processes that share the server."""
    server = servers.TCPServer(LOCAL, Commanded)
    server.timeout = 0
    server.handle_request()  # the parent has served already when it forks
    children = []
    for _ in range(count):
        pid = os.fork()
        if not pid:
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                os._exit(0)
        children.append(pid)
    print(server.server_address[1], *children, flush=True)
    for pid in children:
        os.waitpid(pid, 0)
    server.server_close()


def out_of_descriptors() -> None:
    """Serve with a table of 40 descriptors, on threads, until SIGINT."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
    with servers.ThreadingTCPServer(LOCAL, Commanded) as server:
        print(server.server_address[1], flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass


def requests_one_by_one() -> None:
    """Handle requests in children with `handle_request`, and nothing else."""
    with servers.ForkingTCPServer(LOCAL, Commanded) as server:
        print(server.server_address[1], flush=True)
        for _ in range(3):
            server.handle_request()
        server.timeout = 0.01
        deadline = time.monotonic() + 20
        while server.active_children and time.monotonic() < deadline:
            server.handle_request()
        print(json.dumps({"children": len(server.active_children or ())}), flush=True)


if __name__ == "__main__":
    globals()[sys.argv[1]](**json.loads(sys.argv[2] if len(sys.argv) > 2 else "{}"))
