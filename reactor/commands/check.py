"""``python -m reactor check``: Look whether a server would run with these settings, and start nothing.

The handler is imported; files, addresses, the key and the certificate are looked at. Each problem is one line.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import resource
import shlex
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from typing import Any

from ..addresses import Endpoint, parse_address
from ..binding import bind_inet, close_socket
from ..daemons import PidFile, SyslogHandler, find_user
from ..errors import AddressInUseError, LocalError
from ..inheriting import descriptor_in, socket_from_descriptor
from ..limits import DEFAULT_LIMITS
from ..settings import Problem, Settings
from .console import ExitCode, Parser, add_settings, in_words, settings_of, tell_problems
from .material import check_trust, find_handler, load_key, load_tls

EXAMPLES = """examples:
  python -m reactor check --config server.toml

"""

SOON = 14 * 86400.0
"""Seconds before a certificate expires in which that is worth a warning."""

NO_CHECK_TIME = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which the module `ssl` has no name for."""

LONGEST_PATH = 107
"""Bytes in the path of a Unix socket (unix(7))."""


def add_options(parser: Parser) -> None:
    """Describe the command line."""
    add_settings(parser)


def run(options: argparse.Namespace) -> int:
    """Say what is wrong."""
    settings, problems = settings_of(options)
    said = {problem.place for problem in problems}
    problems += [problem for problem in examine(settings) if problem.place not in said]
    if tell_problems(problems):
        return ExitCode.MISTAKE
    if not problems:
        print("nothing is wrong")
    return ExitCode.DONE


def examine(settings: Settings) -> Iterator[Problem]:
    """Look at what the settings name."""

    def problem(name: str, message: object, is_warning: bool = False) -> Problem:
        return Problem(settings.place(name), str(message), is_warning)

    for name, look in LOOKS.items():
        if getattr(settings, name.replace("-", "_")):
            try:
                for message in look(settings):
                    yield problem(name, message, is_warning=True)
            except (LocalError, OSError) as error:
                yield problem(name, in_words(error))
    for url in settings.listen or ():
        try:
            for message in look_at_address(url):
                if not runs(settings):  # else it is no wonder
                    yield problem("listen", message, is_warning=True)
        except (LocalError, OSError) as error:
            yield problem("listen", f"{url}: {in_words(error)}")
    if settings.handler is not None:
        try:
            # What is wrong with the key is said already, and is no fault of the handler.
            authkey = None if settings.authkey_file is None else read_key_or(bytes(32), settings)
            check_trust(settings, find_handler(settings.handler), authkey)
        except LocalError as error:
            yield problem("handler", error)


def read_key_or(other: bytes, settings: Settings) -> bytes | None:
    """Return the key, or `other` where it is none."""
    try:
        return load_key(settings)
    except LocalError:
        return other


def look_at_address(url: str) -> Iterator[str]:
    """See that somebody could listen there."""
    number = descriptor_in(url)
    if number is not None:
        socket_from_descriptor(number).detach()
        return
    endpoint = parse_address(url)
    if endpoint.is_unix:
        yield from look_at_socket_file(endpoint.location)
        return
    try:
        close_socket(bind_inet(endpoint, Deaf, socket.getaddrinfo, 1, reuse_port=False))
    except AddressInUseError as error:
        yield f"{url}: {in_words(error)}"


class Deaf(socket.socket):
    """A socket that finds out whether an address is free, and attracts no connection meanwhile."""

    def listen(self, backlog: int = 0, /) -> None:
        """Nobody is to connect."""


def look_at_socket_file(path: str) -> Iterator[str]:
    """See that a Unix socket could be there."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise LocalError(f"the path is longer than {LONGEST_PATH} bytes")
    need_place_for(path)
    if os.path.exists(path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            number = probe.connect_ex(path)
        if number in (errno.ENOTSOCK, errno.ECONNREFUSED) and not is_socket(path):
            raise LocalError("there is a file, and no socket; it would be left alone")
        if number != errno.ECONNREFUSED:
            yield f"unix://{path}: somebody listens there already"


def is_socket(path: str) -> bool:
    """Return whether the file is that of a socket."""
    import stat

    return stat.S_ISSOCK(os.stat(path).st_mode)


def need_place_for(path: str) -> None:
    """See that a file can be made."""
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise LocalError(f"there is no directory {directory}")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise LocalError(f"nothing can be written in {directory}")


def need_file(path: str) -> None:
    """See that a file can be written, or made."""
    if not os.path.lexists(path):
        need_place_for(path)
    elif os.path.isdir(path):
        raise LocalError(f"{path} is a directory")
    elif not os.access(path, os.W_OK):
        raise LocalError(f"{path} cannot be written")


def look_at_key(settings: Settings) -> Iterator[str]:
    """See that the key is one."""
    key = load_key(settings)
    if key is not None and key[-1:] in (b"\n", b"\r"):
        yield "the end of the line at its end is part of the key; whoever types the key has to know that"


def look_at_certificate(settings: Settings) -> Iterator[str]:
    """See that the certificate is one, that the key is its own, and for whom and how long it is good."""
    tls = load_tls(settings)
    if tls is None or settings.tls_cert is None:
        return
    certificate = described(tls.context, settings.tls_cert)
    now = time.time()
    begin, end = (ssl.cert_time_to_seconds(certificate[name]) for name in ("notBefore", "notAfter"))
    if end < now:
        raise LocalError(f"the certificate has expired, {certificate['notAfter']}")
    if begin > now:
        raise LocalError(f"the certificate is not valid before {certificate['notBefore']}")
    if end < now + SOON:
        yield f"the certificate expires in {(end - now) / 86400:.0f} days, {certificate['notAfter']}"
    names = [name for kind, name in certificate.get("subjectAltName", ()) if kind in ("DNS", "IP Address")]
    for url in settings.listen or ():
        endpoint = parse_address(url) if descriptor_in(url) is None else None
        if endpoint is not None and not endpoint.is_unix and not is_for(names, endpoint):
            yield f"the certificate is for {', '.join(names) or 'nobody'}, not for {endpoint.location[0]}"
    file = settings.tls_key or settings.tls_cert
    if os.stat(file).st_mode & 0o077 & ~0o040:
        yield f"others can read the private key; say: chmod 600 {shlex.quote(file)}"


def is_for(names: list[str], endpoint: Endpoint) -> bool:
    """Return whether a certificate for `names` is good where a client asks for the host of `endpoint`."""
    host = endpoint.location[0].lower()
    if host in ("", "0.0.0.0", "::"):
        return True  # clients know it by another name
    return any(host == name.lower() or ("*." + host.partition(".")[2]) == name.lower() for name in names)


def described(context: ssl.SSLContext, file: str) -> dict[str, Any]:
    """Return what stands in the certificate that `context` shows to clients.

    Only a handshake makes `ssl` tell; this one is with itself, in memory.
    """
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.load_verify_locations(file)
    client_context.verify_flags = ssl.VerifyFlags(ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME)
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(one, other, server_side=True)
    client = client_context.wrap_bio(other, one)
    for _ in range(4):
        for side in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    found: dict[str, Any] | None = client.getpeercert()
    assert found
    return found


def look_at_user(settings: Settings) -> Iterator[str]:
    """See that it can become that user, and what that one cannot do to the files."""
    uid, _, groups = find_user(settings.user, settings.group)
    if os.geteuid() not in (0, uid):
        raise LocalError("only root can become somebody else; start it as root")
    left = [settings.pid_file, *(url.removeprefix("unix://") for url in settings.listen or () if "unix://" in url)]
    for file in left if settings.workers is None else ():  # else the parent stays root, and removes them
        if file and not may_write_in(os.path.dirname(file), uid, groups):
            yield f"{file} stays there in the end: {settings.user} may not write in its directory"
    if settings.log_file and not may_write_in(os.path.dirname(settings.log_file), uid, groups):
        yield f"{settings.log_file} may not be renamed: {settings.user} may not write in its directory"


def may_write_in(directory: str, uid: int, groups: list[int]) -> bool:
    """Return whether the user `uid`, of these `groups`, may make and remove files there."""
    try:
        status = os.stat(directory)
    except OSError:  # that is said elsewhere
        return True
    bits = 0o200 if status.st_uid == uid else 0o020 if status.st_gid in groups else 0o002
    return uid == 0 or bool(status.st_mode & bits)


def look_at_group(settings: Settings) -> Iterator[str]:
    """See that it can have that group."""
    _, gid, _ = find_user(None, settings.group)
    if os.geteuid() != 0 and gid != os.getegid():
        raise LocalError("only root can have another group; start it as root")
    yield from ()


def look_at_pid_file(settings: Settings) -> Iterator[str]:
    """See that the file can be there, and whether it runs."""
    assert settings.pid_file is not None
    need_file(settings.pid_file)
    owner = PidFile(settings.pid_file).owner()
    if owner is not None:
        yield f"it runs already, with pid {owner}"


def runs(settings: Settings) -> bool:
    """Return whether the server runs already, as far as its files tell."""
    with contextlib.suppress(LocalError, OSError):  # that is said elsewhere
        if settings.pid_file is not None and PidFile(settings.pid_file).owner() is not None:
            return True
        if settings.handover is not None and any(look_at_socket_file(settings.handover)):
            return True
    return False


def look_at_handover(settings: Settings) -> Iterator[str]:
    """See that the socket can be there, and whether there is somebody to take over from."""
    assert settings.handover is not None
    for _ in look_at_socket_file(settings.handover):
        yield "it runs already; a server with these settings takes over from it"


def look_at_log_file(settings: Settings) -> Iterator[str]:
    """See that the file can be there."""
    assert settings.log_file is not None
    need_file(settings.log_file)
    yield from ()


def look_at_syslog(settings: Settings) -> Iterator[str]:
    """See that somebody listens."""
    SyslogHandler(settings.syslog_address).close()
    yield from ()


def look_at_limits(settings: Settings) -> Iterator[str]:
    """See that there are descriptors for all connections."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = settings.limits.maximum_connections
    if wanted != DEFAULT_LIMITS.maximum_connections and hard != resource.RLIM_INFINITY and wanted > hard:
        yield f"maximum_connections is {wanted}; there are descriptors for {hard}"


LOOKS: dict[str, Callable[[Settings], Iterator[str]]] = {
    "authkey-file": look_at_key,
    "tls-cert": look_at_certificate,
    "limits": look_at_limits,
    "user": look_at_user,
    "group": look_at_group,
    "handover": look_at_handover,
    "pid-file": look_at_pid_file,
    "log-file": look_at_log_file,
    "syslog": look_at_syslog,
    "syslog-address": look_at_syslog,
}
"""By setting, what looks at it: it yields warnings, and raises what would keep a server from running."""
