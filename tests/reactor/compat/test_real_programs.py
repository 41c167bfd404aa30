"""Programs from the package index that Python 3.12 broke run on ours, unchanged: an FTP server and a mail server.

They are installed into a temporary directory; where the index cannot be reached, the tests are skipped.
"""

from __future__ import annotations

import contextlib
import ftplib
import io
import os
import resource
import smtplib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

CONNECTIONS = 2000
PROGRAMS = ("pyftpdlib==1.5.7", "standard-smtpd==3.13.0")

FTP_SERVER = """
import sys
import reactor.compat
reactor.compat.install()
from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler
from pyftpdlib.servers import FTPServer
import asyncore
assert asyncore is reactor.compat.asyncore
authorizer = DummyAuthorizer()
authorizer.add_user("somebody", "secret", sys.argv[1], perm="elradfmwMT")
FTPHandler.authorizer = authorizer
server = FTPServer(("127.0.0.1", 0), FTPHandler)
print(server.socket.getsockname()[1], flush=True)
server.serve_forever()
"""

MAIL_SERVER = """
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
import reactor.compat
reactor.compat.install()
import asyncore, smtpd

class Printing(smtpd.SMTPServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **options):
        print(mailfrom, *rcpttos, data.splitlines()[-1].decode(), flush=True)

server = Printing(("127.0.0.1", 0), None)
assert asyncore is reactor.compat.asyncore
assert isinstance(server, asyncore.dispatcher)
print(server.socket.getsockname()[1], flush=True)
asyncore.loop()
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory into which the programs are installed."""
    directory = tmp_path_factory.mktemp("programs")
    # The last release of the FTP server that relies on the standard library; CPython's smtpd.py, which is a package
    # by now. Without what they depend on, which is copies of the lost modules.
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--retries", "1", "--timeout", "15"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(directory), *PROGRAMS],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["pip says nothing"])[-1]
        pytest.skip(f"the programs cannot be installed from the package index: {reason}")
    return directory


@pytest.fixture
def room_for_clients() -> Iterator[None]:
    """Let this process have as many descriptors as the system allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    if before[1] < CONNECTIONS + 200:
        pytest.skip(f"this system allows only {before[1]} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Server:
    """A program that serves, in a process of its own; it says first which port it has got."""

    def __init__(self, source: str, programs: Path, *arguments: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
        self.log = tempfile.TemporaryFile("w+")  # a pipe would fill up, and hold the program
        self.process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            stdout=subprocess.PIPE,
            stderr=self.log,
            env={**clean, "PYTHONPATH": os.pathsep.join((str(ROOT), str(programs)))},
            text=True,
        )
        self.port = int(self.line())

    def line(self) -> str:
        """Return what the program prints next."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().rstrip()
        if not line:
            self.process.wait(20)
            self.log.seek(0)
            pytest.fail(f"the program has ended: {self.log.read()}")
        return line

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)
        self.log.close()


def converse(port: int, greeting: bytes, question: bytes, answer: bytes) -> None:
    """Hold two thousand connections at once, and have each one greeted and answered."""
    with contextlib.ExitStack() as stack:
        clients, files = [], []
        for _ in range(CONNECTIONS):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            file = stack.enter_context(client.makefile("rb"))
            # These programs have a backlog of five: who does not wait for this may have to try again a second later.
            assert file.readline()[:4] == greeting
            clients.append(client)
            files.append(file)
        for client in clients:
            client.sendall(question)
        assert {file.readline()[:4] for file in files} == {answer}


@pytest.mark.skipif(sys.version_info < (3, 12), reason="this Python still has asyncore and asynchat")
@pytest.mark.parametrize("name", ["pyftpdlib.servers", "smtpd"])
def test_programs_do_not_run_without_the_old_modules(programs: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import {name}"],  # whoever measures beside pyasyncore has that installed
        env={**os.environ, "PYTHONPATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "ModuleNotFoundError: No module named 'async" in done.stderr


@pytest.mark.timeout(180)
def test_ftp_server_that_lost_asyncore_serves_files(programs: Path, tmp_path: Path) -> None:
    content = bytes(range(256)) * 4000  # about a megabyte
    with Server(FTP_SERVER, programs, str(tmp_path)) as server:
        with ftplib.FTP() as client:
            client.connect("127.0.0.1", server.port, timeout=30)
            client.login("somebody", "secret")
            client.storbinary("STOR there", io.BytesIO(content))
            received = io.BytesIO()
            client.retrbinary("RETR there", received.write)
            assert received.getvalue() == content
            assert client.nlst() == ["there"]
            client.quit()
        assert (tmp_path / "there").read_bytes() == content


@pytest.mark.timeout(180)
def test_mail_server_that_lost_asyncore_takes_mail_and_holds_two_thousand_connections(
    programs: Path, room_for_clients: None
) -> None:
    with Server(MAIL_SERVER, programs) as server:
        for number in range(2):
            with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
                client.sendmail("me@here", ["you@there", "all@there"], f"Subject: x\r\n\r\nletter {number}\r\n")
            assert server.line() == f"me@here you@there all@there letter {number}"
        converse(server.port, b"220 ", b"NOOP\r\n", b"250 ")
        with smtplib.SMTP("127.0.0.1", server.port, timeout=30) as client:
            client.sendmail("me@here", ["you@there"], "Subject: x\r\n\r\nafterwards\r\n")
        assert server.line() == "me@here you@there afterwards"
