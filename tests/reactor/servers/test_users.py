"""What stands on ``socketserver`` in the standard library runs on ours: our class in front, or our module in place."""

from __future__ import annotations

import http.client
import http.server
import json
import logging
import logging.handlers
import pickle
import shutil
import socketserver
import struct
import subprocess
import sys
import threading
import wsgiref.simple_server
import xmlrpc.client
import xmlrpc.server
from pathlib import Path
from typing import Any

import pytest

from reactor import servers
from tests import certificates, tls_peers
from tests.conftest import ROOT, raw_client
from tests.reactor.servers.serving import entrance_of, serving, wait_until

LOCAL = ("127.0.0.1", 0)

# http.server


class HttpServer(servers.ThreadingTCPServer, http.server.HTTPServer):
    """The whole change: our class in front."""

    client_speaks_first = True
    daemon_threads = True


class Hello(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.answer(f"{self.path} for {self.client_address[0]}\n".encode())

    def do_POST(self) -> None:
        self.answer(self.rfile.read(int(self.headers["Content-Length"])).upper())

    def answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


def test_http_server_keeps_connections_and_its_silent_clients_take_no_threads() -> None:
    with serving(HttpServer(LOCAL, Hello)) as server:
        assert server.server_name
        assert server.server_port == server.server_address[1]
        silent = [raw_client(server.server_address) for _ in range(10)]
        client = http.client.HTTPConnection(*server.server_address, timeout=10)
        for number in range(3):
            client.request("GET", f"/{number}")
            assert client.getresponse().read() == b"/%d for 127.0.0.1\n" % number
        client.request("POST", "/", b"abc" * 100_000)
        assert client.getresponse().read() == b"ABC" * 100_000
        assert len(server._threads) == 1
        client.close()
        for sock in silent:
            sock.close()


def test_http_server_serves_the_library_over_tls() -> None:
    with serving(HttpServer(LOCAL, Hello, tls=certificates.certificate_and_key())) as server:
        context = tls_peers.client_context()
        client = http.client.HTTPSConnection("localhost", server.server_address[1], context=context, timeout=10)
        for number in range(3):
            client.request("GET", f"/{number}")
            assert client.getresponse().read() == b"/%d for 127.0.0.1\n" % number
        client.close()
        wait_until(lambda: entrance_of(server).connections == 0)


curl = shutil.which("curl")
needs_curl = pytest.mark.skipif(curl is None, reason="curl is not installed")


def run_curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl, and return what has become of it."""
    assert curl is not None
    return subprocess.run([curl, "-sS", "--max-time", "20", *arguments], capture_output=True, check=False)


@needs_curl
def test_curl_gets_files_and_is_posted_to_over_tls(tmp_path: Path) -> None:
    content = bytes(range(256)) * 20_000
    (tmp_path / "file").write_bytes(content)

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    authorities = ["--cacert", certificates.authorities()]
    with serving(HttpServer(LOCAL, Files, tls=certificates.certificate())) as server:
        url = f"https://localhost:{server.server_address[1]}"
        for version in ("--tlsv1.2", "--tlsv1.3"):
            result = run_curl(*authorities, version, f"{url}/file", f"{url}/file")
            assert (result.returncode, result.stderr) == (0, b"")
            assert result.stdout == content * 2
        assert run_curl(*authorities, "-o", "/dev/null", "-w", "%{http_code}", f"{url}/nothing").stdout == b"404"
        refused = run_curl(f"{url}/file")
        assert refused.returncode == 60  # the certificate is signed by nobody whom it knows
        plain = run_curl("-w", "%{http_code}", url.replace("https", "http"))
        assert plain.stdout.endswith(b"400")
        assert b"This port speaks TLS" in plain.stdout
    (tmp_path / "upload").write_bytes(b"abc" * 300_000)
    with serving(HttpServer(LOCAL, Hello, tls=certificates.certificate())) as server:
        url = f"https://localhost:{server.server_address[1]}/"
        result = run_curl(*authorities, "--data-binary", f"@{tmp_path / 'upload'}", url)
        assert (result.returncode, result.stdout) == (0, b"ABC" * 300_000)


@needs_curl
def test_many_curls_at_once_are_served_by_few_threads() -> None:
    class Brief(Hello):
        protocol_version = "HTTP/1.0"  # a thread for each connection that is kept would not be few

    server = HttpServer(LOCAL, Brief, tls=certificates.certificate())
    server.max_threads = 3
    with serving(server):
        url = f"https://localhost:{server.server_address[1]}/[1-40]"
        result = run_curl("--cacert", certificates.authorities(), "-Z", "--parallel-max", "10", url)
        assert result.returncode == 0, result.stderr
        lines = sorted(result.stdout.split(b"\n")[:-1])
        assert lines == sorted(b"/%d for 127.0.0.1" % number for number in range(1, 41))
        assert len(server._threads) <= 3


def test_wsgi_runs_on_ours() -> None:
    class WsgiServer(servers.ThreadingTCPServer, wsgiref.simple_server.WSGIServer):
        pass

    class Quiet(wsgiref.simple_server.WSGIRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [environ["PATH_INFO"].encode()]

    server = WsgiServer(LOCAL, Quiet, tls=certificates.certificate())
    server.set_app(application)
    with serving(server):
        context = tls_peers.client_context()
        client = http.client.HTTPSConnection("localhost", server.server_address[1], context=context, timeout=10)
        client.request("GET", "/path")
        assert client.getresponse().read() == b"/path"
        client.close()


# xmlrpc.server, which calls the constructor of the original by its name


class XmlRpcServer(servers.ThreadingTCPServer, xmlrpc.server.SimpleXMLRPCServer):
    def __init__(self, address: Any, **options: Any) -> None:
        self.options = options
        xmlrpc.server.SimpleXMLRPCServer.__init__(self, address, logRequests=False)


def test_server_works_though_its_constructor_is_passed_by() -> None:
    server = XmlRpcServer(LOCAL)
    server.register_function(pow)
    with serving(server), xmlrpc.client.ServerProxy(f"http://127.0.0.1:{server.server_address[1]}") as proxy:
        assert [proxy.pow(2, number) for number in range(3)] == [1, 2, 4]


def test_xmlrpc_runs_over_tls() -> None:
    class Secure(servers.ThreadingTCPServer, xmlrpc.server.SimpleXMLRPCDispatcher):
        _send_traceback_header = False
        logRequests = False

        def __init__(self, address: Any, **options: Any) -> None:
            xmlrpc.server.SimpleXMLRPCDispatcher.__init__(self)
            super().__init__(address, xmlrpc.server.SimpleXMLRPCRequestHandler, **options)

    server = Secure(LOCAL, tls=certificates.certificate())
    server.register_function(pow)
    with serving(server):
        url = f"https://localhost:{server.server_address[1]}"
        with xmlrpc.client.ServerProxy(url, context=tls_peers.client_context()) as proxy:
            assert [proxy.pow(2, number) for number in range(3)] == [1, 2, 4]
            with pytest.raises(xmlrpc.client.Fault, match="unsupported operand"):
                proxy.pow("a", "b")


# logging


class Records(socketserver.StreamRequestHandler):
    """Receives records as `logging.handlers.SocketHandler` sends them: the receiver of CPython's documentation."""

    def handle(self) -> None:
        while len(head := self.connection.recv(4)) == 4:
            (size,) = struct.unpack(">L", head)
            data = self.rfile.read(size)
            self.server.records.append(logging.makeLogRecord(pickle.loads(data)))  # type: ignore[attr-defined]


def test_receiver_of_log_records_runs_on_ours() -> None:
    class Receiver(servers.ThreadingTCPServer):
        def __init__(self, *args: Any) -> None:
            self.records: list[logging.LogRecord] = []
            super().__init__(*args)

    class Unbuffered(Records):
        rbufsize = 0

    with serving(Receiver(LOCAL, Unbuffered)) as server:
        log = logging.getLogger("tests.servers.sent")
        log.propagate = False
        handlers = [logging.handlers.SocketHandler(*server.server_address) for _ in range(3)]
        for handler in handlers:
            log.addHandler(handler)
        for number in range(10):
            log.warning("record %d", number)
        wait_until(lambda: len(server.records) == 30)
        for handler in handlers:
            log.removeHandler(handler)
            handler.close()
    texts = sorted(record.getMessage() for record in server.records)
    assert texts == sorted(f"record {number}" for number in range(10) for _ in range(3))


# Our module in place of the original


def test_module_stands_in_for_the_original_for_who_imports_it_later() -> None:
    program = """
import json, sys, threading
from reactor import servers
sys.modules["socketserver"] = servers
import http.client, http.server, logging.config, xmlrpc.client, xmlrpc.server
server = xmlrpc.server.SimpleXMLRPCServer(("127.0.0.1", 0), logRequests=False)
server.register_function(pow)
threading.Thread(target=server.serve_forever).start()
with xmlrpc.client.ServerProxy("http://127.0.0.1:%d" % server.server_address[1]) as proxy:
    results = [proxy.pow(2, 5)]
server.shutdown()
server.server_close()
configured = logging.config.listen(0)
configured.start()
configured.ready.wait()
logging.config.stopListening()
configured.join()
results += [issubclass(cls, servers.BaseServer) for cls in (http.server.ThreadingHTTPServer, type(server))]
print(json.dumps(results))
"""
    argv = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    result = subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert result.stderr == b""
    assert json.loads(result.stdout) == [32, True, True]


def test_processes_that_fork_serve_http(tmp_path: Path) -> None:
    program = """
import http.server
from reactor import servers
class Server(servers.ForkingTCPServer, http.server.HTTPServer):
    pass
class Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
with Server(("127.0.0.1", 0), Handler) as server:
    print(server.server_address[1], flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass
"""
    (tmp_path / "file").write_bytes(b"x" * 1_000_000)
    argv = [sys.executable, "-X", "dev", "-W", "error", "-c", program]
    process = subprocess.Popen(
        argv, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        for _ in range(3):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            client.request("GET", "/file")
            assert client.getresponse().read() == b"x" * 1_000_000
            client.close()
        process.send_signal(2)
        _, complaints = process.communicate(timeout=20)
        assert (process.returncode, complaints) == (0, b"")


def test_threads_of_a_test_are_none_when_it_is_over() -> None:
    assert [thread for thread in threading.enumerate() if "Server-" in thread.name] == []
