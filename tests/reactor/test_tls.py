"""What is wanted of TLS, and the socket that encrypts: over a fake socket, with a peer in memory."""

from __future__ import annotations

import contextlib
import functools
import gc
import itertools
import os
import pickle
import shutil
import socket
import ssl
import subprocess
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import reactor
from reactor import ClientTls, LocalError, ServerTls, TlsError, TruncatedError
from reactor.channel import Origin
from reactor.errors import ConnectionLost
from reactor.tls import ENCRYPTED_AT_ONCE, HTTP_ANSWER, RECORD, UNASKED_ANSWERS, Tls, TlsSocket, meaning_of, tls_for
from tests import certificates
from tests.conftest import RecordingStream
from tests.tls_peers import (
    TLS_1_1,
    TLS_1_2,
    TLS_1_3,
    Forger,
    MemoryPeer,
    RawSocket,
    client_context,
    server_context,
)

FILES = certificates.certificate_and_key


class Side(Origin):
    """Where a channel comes from, and nothing else."""

    def __init__(self, role: str = "listener", host: str | None = None) -> None:
        self._role = role  # type: ignore[misc]
        self._host = host


class Notes:
    """Stands for a reactor: writes down what it is asked for."""

    def __init__(self) -> None:
        self.resumed = self.progress = 0

    def resume_soon(self, channel: Any) -> None:
        self.resumed += 1

    def note_progress(self, channel: Any) -> None:
        self.progress += 1


class End:
    """A `TlsSocket` over a fake socket, and its peer in memory."""

    def __init__(
        self,
        tls: Tls | None = None,
        context: ssl.SSLContext | None = None,
        *,
        host: str | None = "localhost",
        name: str | None = "localhost",
        notes: Any = None,
    ) -> None:
        self.notes: Any = notes or Notes()
        is_client = isinstance(tls, ClientTls)
        channel: Any = RecordingStream()
        channel.reactor = self.notes
        channel._origin = Side("client" if is_client else "listener", host)
        self.channel = channel
        self.raw = RawSocket()
        self.socket: TlsSocket = (tls or ServerTls(*FILES())).wrap(self.channel, self.raw)
        default = server_context if is_client else client_context
        self.peer = MemoryPeer(context or default(), is_client, name)

    def to_peer(self) -> bytes:
        """Give the peer what was sent; return its answer."""
        return self.peer.feed(self.raw.take())

    def shake(self) -> End:
        """Bring the handshake to its end, on both sides."""
        self.socket.greet()
        while not (self.socket.is_secure and self.peer.is_secure):
            answer = self.to_peer()
            if answer:
                self.raw.input.append(answer)
                self.socket.handshake()
        answer = self.to_peer()
        if answer:  # tickets
            self.raw.input.append(answer)
        while self.raw.input or self.socket.has_more:
            with contextlib.suppress(BlockingIOError):
                self.socket.recv(1 << 16)
        self.notes.progress = self.notes.resumed = 0
        return self

    def receive(self, data: bytes) -> bytes:
        """Return what the socket makes of `data`."""
        self.raw.input.append(data)
        return self.socket.recv(1 << 16)


def complaint(end: End) -> str:
    """Return what our side says when the handshake fails there."""
    with pytest.raises(TlsError) as caught:
        end.shake()
    return str(caught.value)


# What can be given as tls=


def test_listener_takes_two_files_one_file_a_context_and_a_server_tls() -> None:
    listener = Side()
    made = ServerTls(*FILES())
    assert tls_for(listener, made) is made
    assert isinstance(tls_for(listener, FILES()), ServerTls)
    assert isinstance(tls_for(listener, certificates.certificate()), ServerTls)
    assert isinstance(tls_for(listener, Path(certificates.certificate())), ServerTls)
    context = server_context()
    assert tls_for(listener, context).context is context


def test_connect_takes_true_a_context_and_a_client_tls() -> None:
    client = Side("client", "localhost")
    made = ClientTls(certificates.authorities())
    assert tls_for(client, made) is made
    assert tls_for(client, True).context.verify_mode == ssl.CERT_REQUIRED
    context = client_context()
    assert tls_for(client, context).context is context


@pytest.mark.parametrize("tls", [True, 1, ("one", "two", "three"), b"file", ClientTls])
def test_listener_says_what_it_takes(tls: Any) -> None:
    with pytest.raises(LocalError, match=r"^tls=.* is of no use for a listener; give \(certificate, key\), two files"):
        tls_for(Side(), tls)


@pytest.mark.parametrize("tls", [1, "authorities.pem", ("certificate", "key"), ServerTls])
def test_connect_says_what_it_takes(tls: Any) -> None:
    with pytest.raises(LocalError, match=r"^tls=.* is of no use for a connect; give True, a ClientTls, or an ssl"):
        tls_for(Side("client", "localhost"), tls)


def test_context_for_the_other_side_is_refused() -> None:
    with pytest.raises(LocalError, match="this SSLContext is for clients; a server's is one of"):
        tls_for(Side(), client_context())
    with pytest.raises(LocalError, match="this SSLContext is for servers; a client's is one of"):
        tls_for(Side("client", "localhost"), server_context())


def test_what_a_context_would_make_void_is_refused_beside_it() -> None:
    of_servers: list[dict[str, Any]] = [{"key": "k"}, {"password": "p"}, {"names": {"a": ("b", None)}},
                                        {"protocols": ["p"]}, {"client_authorities": "a.pem"}]  # fmt: skip
    for more in of_servers:
        with pytest.raises(LocalError, match="beside an SSLContext, nothing else is given: it has all that is wanted"):
            ServerTls(server_context(), **more)
    of_clients: list[dict[str, Any]] = [{"certificate": "c.pem"}, {"key": "k"}, {"password": "p"},
                                        {"protocols": ["p"]}, {"allow_unverified_server": True}]  # fmt: skip
    for more in of_clients:
        with pytest.raises(LocalError, match="beside an SSLContext, nothing else is given but server_name"):
            ClientTls(client_context(), **more)
    tls_for(Side("client"), ClientTls(client_context(), server_name="a.example"))


def test_root_of_both_makes_no_session(loop: reactor.Reactor) -> None:
    with pytest.raises(NotImplementedError):
        Tls().session(ssl.MemoryBIO(), ssl.MemoryBIO(), RecordingStream())


# Files


@pytest.fixture
def no_pem(tmp_path: Path) -> str:
    path = tmp_path / "no.pem"
    path.write_text("this is no PEM\n")
    return str(path)


def test_file_that_is_missing_is_named() -> None:
    with pytest.raises(LocalError, match=r"^no certificate with its key in 'nowhere.pem': No such file or directory$"):
        ServerTls("nowhere.pem")
    with pytest.raises(LocalError, match=r"in 'nowhere.pem' and 'nowhere.key': No such file or directory$"):
        ServerTls("nowhere.pem", "nowhere.key")
    with pytest.raises(LocalError, match=r"^no authorities in 'nowhere.pem': No such file or directory$"):
        ClientTls("nowhere.pem")
    with pytest.raises(LocalError, match=r"^no authorities in 'nowhere.pem': "):
        ServerTls(*FILES(), client_authorities="nowhere.pem")


def test_file_that_makes_no_sense_is_named(no_pem: str) -> None:
    with pytest.raises(LocalError, match=r"^no certificate with its key in '.*no.pem': this is no PEM"):
        ServerTls(no_pem)
    with pytest.raises(LocalError, match=r"^no authorities in '.*no.pem': there is none$"):
        ClientTls(no_pem)
    with pytest.raises(LocalError, match=r"this is no PEM, or the key is missing, or its password is wrong$"):
        ServerTls(FILES()[0])


def test_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(LocalError, match="the key is not the one of the certificate"):
        ServerTls(FILES()[0], FILES("b.example")[1])


def test_key_with_a_password() -> None:
    locked = certificates.locked_key("open sesame")
    ServerTls(*locked, password="open sesame")
    ServerTls(*locked, password=b"open sesame")
    with pytest.raises(LocalError, match=r"^the key '.*locked.key' needs a password, and none was given$"):
        ServerTls(*locked)
    with pytest.raises(LocalError, match=r"^no certificate with its key in .*: .*, or its password is wrong$"):
        ServerTls(*locked, password="open barley")


def test_authorities_can_be_a_directory(tmp_path: Path) -> None:
    shutil.copy(certificates.authorities(), tmp_path / "ours.pem")
    subprocess.run(["openssl", "rehash", str(tmp_path)], check=True)
    End(ClientTls(tmp_path)).shake()


def test_authorities_that_are_given_are_the_only_ones() -> None:
    assert len(ClientTls(certificates.authorities()).context.get_ca_certs()) == 1


# Defaults


def test_server_speaks_tls_1_2_and_1_3_and_nothing_older() -> None:
    for version, name in ((TLS_1_2, "TLSv1.2"), (TLS_1_3, "TLSv1.3")):
        end = End(None, client_context(version)).shake()
        assert end.socket.session.version() == name
    assert complaint(End(None, client_context(TLS_1_1))) == (
        "no TLS: the two sides speak no version of TLS in common; here it is 1.2 and newer"
    )


def test_client_speaks_tls_1_2_and_1_3_and_nothing_older() -> None:
    ours = ClientTls(certificates.authorities())
    for version, name in ((TLS_1_2, "TLSv1.2"), (TLS_1_3, "TLSv1.3")):
        assert End(ours, server_context(version)).shake().socket.session.version() == name
    end = End(ours, server_context(TLS_1_1))
    end.socket.greet()
    with pytest.raises(ssl.SSLError):
        end.to_peer()
    end.raw.input.append(end.peer.outgoing.read())
    with pytest.raises(TlsError, match="the two sides speak no version of TLS in common"):
        end.socket.handshake()


@pytest.mark.parametrize(
    "tls", [ServerTls(*FILES()), ClientTls(), ClientTls(certificates.authorities())], ids=["server", "system", "client"]
)
def test_renegotiation_and_compression_are_off(tls: Tls) -> None:
    assert tls.context.options & ssl.OP_NO_RENEGOTIATION
    assert tls.context.options & ssl.OP_NO_COMPRESSION
    assert tls.context.minimum_version == TLS_1_2


@pytest.mark.parametrize("make", [lambda: ServerTls(server_context()), lambda: ClientTls(client_context())])
def test_renegotiation_is_off_in_a_context_too(make: Callable[[], Tls]) -> None:
    assert make().context.options & ssl.OP_NO_RENEGOTIATION


@pytest.mark.parametrize("make", [lambda: ServerTls(*FILES(), protocols="h2"), lambda: ClientTls(protocols="h2")])
def test_one_protocol_is_a_list_of_one(make: Callable[[], Tls]) -> None:
    with pytest.raises(LocalError, match=r"protocols is a list of names: \['h2'\]"):
        make()


def test_key_without_its_certificate_is_refused() -> None:
    with pytest.raises(LocalError, match="without its certificate"):
        ClientTls(key=FILES()[1])


def test_nothing_is_compressed() -> None:
    assert End(None, client_context(TLS_1_2)).shake().socket.session.compression() is None


def test_client_verifies_by_default() -> None:
    for ours in (ClientTls(), ClientTls(certificates.authorities())):
        assert ours.context.check_hostname
        assert ours.context.verify_mode == ssl.CERT_REQUIRED


def test_client_believes_anybody_only_where_that_is_said() -> None:
    stranger = server_context(certificate=certificates.certificate("elsewhere.example", by_stranger=True))
    assert "nobody who is known here" in complaint(End(ClientTls(certificates.authorities()), stranger))
    end = End(ClientTls(allow_unverified_server=True), stranger).shake()
    assert end.receive(end.peer.write(b"trust me")) == b"trust me"
    End(ClientTls(certificates.authorities(), allow_unverified_server=True), stranger).shake()


# Names


def test_certificate_is_chosen_by_the_name_that_the_client_asks_for() -> None:
    ours = ServerTls(
        *FILES(),
        names={
            "B.example": FILES("b.example"),
            "*.c.example": (certificates.certificate("*.c.example"), None),
            "special.c.example": FILES("special.c.example"),
        },
    )
    asked = {
        "b.example": "b.example",
        "B.EXAMPLE": "b.example",
        "any.c.example": "*.c.example",
        "special.c.example": "special.c.example",
        "a.b.c.example": "localhost",
        "c.example": "localhost",
        "unknown.example": "localhost",
        None: "localhost",
    }
    for name, expected in asked.items():
        context = client_context()
        context.check_hostname = False
        certificate = End(ours, context, name=name).shake().peer.session.getpeercert()
        assert certificate is not None
        assert ("DNS", expected) in certificate["subjectAltName"], name


def test_client_asks_for_the_host_and_for_another_name_if_told_so() -> None:
    asked = []
    context = server_context(certificate=certificates.certificate("b.example"))
    context.sni_callback = lambda session, name, _: asked.append(name)
    End(ClientTls(certificates.authorities()), context, host="b.example").shake()
    End(ClientTls(certificates.authorities(), server_name="b.example"), context, host="10.1.2.3").shake()
    End(ClientTls(certificates.authorities(), server_name="b.example"), context, host=None).shake()
    End(ClientTls(allow_unverified_server=True), context, host=None).shake()
    assert asked == ["b.example", "b.example", "b.example", None]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "LOCALHOST"])
def test_name_and_address_in_the_certificate_are_found(host: str) -> None:
    End(ClientTls(certificates.authorities()), host=host).shake()


@pytest.mark.parametrize("host", ["elsewhere.example", "127.0.0.2", "::2"])
def test_certificate_for_another_name_is_refused(host: str) -> None:
    end = End(ClientTls(certificates.authorities()), host=host)
    assert complaint(end) == f"no TLS: the certificate of the server is not for {host!r}"


def test_unix_socket_needs_a_name_or_the_word_that_none_is_needed() -> None:
    with pytest.raises(LocalError, match=r"a Unix socket has no name .*; give tls=ClientTls\(server_name=...\)$"):
        tls_for(Side("client"), True)
    with pytest.raises(LocalError, match="a Unix socket has no name"):
        tls_for(Side("client"), client_context())
    tls_for(Side("client"), ClientTls(server_name="localhost"))
    tls_for(Side("client"), ClientTls(allow_unverified_server=True))


@pytest.mark.parametrize("name", [".example", "a" * 70 + ".example", "a\0b"])
def test_name_that_is_none_is_refused_at_once(name: str) -> None:
    with pytest.raises(LocalError, match="^.* is no name for which a certificate could be: "):
        tls_for(Side("client", "localhost"), ClientTls(server_name=name))


# Protocols on top (ALPN)


@pytest.mark.parametrize(("offered", "spoken"), [(("h2", "chat/2"), "chat/2"), (("chat/1",), "chat/1"), ((), None)])
def test_protocol_is_the_best_that_both_sides_speak(offered: tuple[str, ...], spoken: str | None) -> None:
    server = End(ServerTls(*FILES(), protocols=["chat/2", "chat/1"]), client_context(protocols=offered)).shake()
    assert server.socket.session.selected_alpn_protocol() == spoken
    client = End(
        ClientTls(certificates.authorities(), protocols=["chat/2", "chat/1"]), server_context(protocols=offered)
    )
    assert client.shake().socket.session.selected_alpn_protocol() == spoken


# Certificates of clients


def test_certificate_of_a_client_is_shown() -> None:
    ours = ServerTls(*FILES(), client_authorities=certificates.authorities())
    end = End(ours, client_context(certificate=certificates.certificate("alice.example"))).shake()
    end.channel.socket = end.socket
    certificate = end.channel.tls.getpeercert()
    assert ("DNS", "alice.example") in certificate["subjectAltName"]


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_client_without_a_certificate_is_refused(version: ssl.TLSVersion) -> None:
    ours = ServerTls(*FILES(), client_authorities=certificates.authorities())
    assert complaint(End(ours, client_context(version))) == (
        "no TLS: the client has no certificate, and here it needs one"
    )


def test_client_with_the_certificate_of_a_stranger_is_refused() -> None:
    ours = ServerTls(*FILES(), client_authorities=certificates.authorities())
    stranger = client_context(certificate=certificates.certificate("alice.example", by_stranger=True))
    assert complaint(End(ours, stranger)) == (
        "no TLS: the certificate of the client was signed by nobody who is known here; "
        "ServerTls(client_authorities=...) says whom to believe"
    )


def test_certificate_is_required_for_every_name() -> None:
    ours = ServerTls(*FILES(), names={"b.example": FILES("b.example")}, client_authorities=certificates.authorities())
    assert "the client has no certificate" in complaint(End(ours, client_context(), name="b.example"))


def test_our_client_shows_its_certificate() -> None:
    context = server_context()
    context.load_verify_locations(certificates.authorities())
    context.verify_mode = ssl.CERT_REQUIRED
    certificate, key = FILES("alice.example")
    end = End(ClientTls(certificates.authorities(), certificate=certificate, key=key), context).shake()
    shown = end.peer.session.getpeercert()
    assert shown is not None
    assert ("DNS", "alice.example") in shown["subjectAltName"]


# To read the files again


def copy_of(tmp_path: Path, *names: str) -> tuple[Path, Path]:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    shutil.copy(FILES(*names)[0], certificate)
    shutil.copy(FILES(*names)[1], key)
    return certificate, key


def name_shown(ours: ServerTls) -> str:
    context = client_context()
    context.check_hostname = False
    shown: Any = End(ours, context).shake().peer.session.getpeercert()
    return str(shown["subjectAltName"][0][1])


def test_reload_shows_the_new_certificate_and_drops_nobody(tmp_path: Path) -> None:
    ours = ServerTls(*copy_of(tmp_path, "old.example"))
    context = client_context()
    context.check_hostname = False
    connected = End(ours, context).shake()
    begun = End(ours, context)
    begun.raw.input.append(begun.to_peer())
    begun.socket.handshake()
    copy_of(tmp_path, "new.example")
    assert name_shown(ours) == "old.example"
    ours.reload()
    assert name_shown(ours) == "new.example"
    assert connected.receive(connected.peer.write(b"still here")) == b"still here"
    begun.raw.input.append(begun.to_peer())
    assert begun.socket.handshake()


@pytest.mark.parametrize("what", ["certificate", "key", "name"])
def test_reload_that_fails_keeps_all_that_was(tmp_path: Path, what: str) -> None:
    other = tmp_path / "other.pem"
    shutil.copy(certificates.certificate("other.example"), other)
    files = copy_of(tmp_path, "old.example")
    ours = ServerTls(*files, names={"other.example": (other, None)})
    copy_of(tmp_path, "new.example")
    {"certificate": files[0], "key": files[1], "name": other}[what].write_text("half writt")
    with pytest.raises(LocalError):
        ours.reload()
    assert name_shown(ours) == "old.example"
    End(ours, client_context(), name="other.example").shake()


def test_reload_of_a_context_leaves_it_alone() -> None:
    context = server_context()
    ours = ServerTls(context)
    ours.reload()
    assert ours.context is context


# The handshake


def test_handshake_wants_bytes_and_says_so() -> None:
    end = End()
    end.socket.greet()
    assert not end.raw.taken
    with pytest.raises(BlockingIOError):
        end.socket.handshake()
    assert end.socket.progress == "nothing came; does the peer speak TLS on this port?"
    end.raw.input.append(end.to_peer()[:10])
    assert not end.socket.handshake()
    assert end.socket.progress == "it was not brought to its end"


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
@pytest.mark.parametrize("side", ["server", "client"])
def test_handshake_byte_by_byte_both_ways(side: str, version: ssl.TLSVersion) -> None:
    if side == "server":
        end = End(None, client_context(version))
    else:
        end = End(ClientTls(certificates.authorities()), server_context(version))
    end.raw.room = [1] * 100_000
    end.socket.greet()
    for _ in range(20_000):
        end.raw.input += [bytes([byte]) for byte in end.to_peer()]
        try:
            if end.socket.handshake():
                break
        except BlockingIOError:
            pass
    end.raw.room = []
    end.raw.input += [bytes([byte]) for byte in end.to_peer()]
    assert end.peer.is_secure
    while end.raw.input:  # tickets
        with pytest.raises(BlockingIOError):
            end.socket.recv(100)
    assert end.receive(end.peer.write(b"hello")) == b"hello"
    assert end.socket.send(b"world") == 5
    end.to_peer()
    assert end.peer.received == b"world"


def test_full_socket_in_the_handshake_waits_for_room() -> None:
    end = End()
    end.raw.is_full = True
    end.raw.input.append(end.to_peer())
    assert not end.socket.handshake()
    assert end.socket.has_unsent
    with pytest.raises(BlockingIOError):
        end.socket.handshake()
    end.raw.is_full = False
    assert not end.socket.handshake()
    assert not end.socket.has_unsent
    end.shake()


def test_client_whose_greeting_finds_no_room_sends_it_later() -> None:
    end = End(ClientTls(certificates.authorities()))
    end.raw.is_full = True
    end.socket.greet()
    assert end.socket.has_unsent
    end.raw.is_full = False
    end.shake()


def test_what_came_behind_the_handshake_outlives_another_greeting() -> None:
    """A flush may come while the last flight still waits for room."""
    tls = ServerTls(*FILES())
    tls.context.num_tickets = 2  # which make the last flight of a server
    end = End(tls, client_context(TLS_1_3))
    end.raw.input.append(end.to_peer())
    end.socket.handshake()
    flight = end.to_peer() + end.peer.write(b"early")
    end.raw.is_full = True
    end.raw.input.append(flight)
    assert not end.socket.handshake()
    assert end.socket.is_secure
    with pytest.raises(BlockingIOError):
        end.socket.handshake()
    end.socket.greet()
    end.raw.is_full = False
    assert end.socket.handshake()
    assert end.socket.has_more
    assert end.socket.recv(100) == b"early"
    assert not end.socket.has_more


def test_end_in_the_handshake_is_told_apart() -> None:
    end = End()
    end.raw.input.append(b"")
    with pytest.raises(TlsError, match=r"the peer closed the connection in the handshake of TLS: nothing came"):
        end.socket.handshake()
    end = End()
    end.raw.input += [end.to_peer(), b""]
    end.socket.handshake()
    with pytest.raises(TlsError, match=r"in the handshake of TLS: it was not brought to its end$"):
        end.socket.handshake()


def test_error_of_the_socket_in_the_handshake_is_that_of_the_socket() -> None:
    end = End()
    end.raw.input.append(ConnectionResetError(104, "reset"))
    with pytest.raises(ConnectionResetError):
        end.socket.handshake()


def test_client_that_may_speak_no_version_says_so() -> None:
    context = client_context(TLS_1_3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.options |= ssl.OP_NO_TLSv1_3
    end = End(ClientTls(context))
    with pytest.raises(TlsError, match="OpenSSL says no protocols available"):
        end.socket.greet()


# What a person reads


@pytest.mark.parametrize(
    ("certificate", "text"),
    [
        (lambda: certificates.certificate(expired=True), "the certificate of the server has expired"),
        (
            certificates.certificate_of_tomorrow,
            "the certificate of the server is not valid yet; the clock of one side may be wrong",
        ),
        (
            lambda: certificates.certificate(by_stranger=True),
            "the certificate of the server was signed by nobody who is known here; "
            "ClientTls(authorities=...) says whom to believe",
        ),
        (
            certificates.self_signed_certificate,
            "the certificate of the server was signed by itself, and by nobody who is known here; "
            "ClientTls(authorities=...) says whom to believe",
        ),
        (
            lambda: certificates.certificate("b.example"),
            "the certificate of the server is not for 'localhost'",
        ),
    ],
)
def test_client_says_what_is_wrong_with_a_certificate(certificate: Callable[[], str], text: str) -> None:
    end = End(ClientTls(certificates.authorities()), server_context(certificate=certificate()))
    with pytest.raises(TlsError) as caught:
        end.shake()
    assert str(caught.value) == f"no TLS: {text}"
    assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
    assert isinstance(caught.value, ConnectionLost)
    assert isinstance(caught.value, OSError)
    end.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(ssl.SSLError, match="ALERT"):
        end.to_peer()


def told_by(client: ssl.SSLContext, ours: ServerTls | None = None, name: str = "localhost") -> str:
    """Return what our server says when `client` does not like it."""
    end = End(ours, client, name=name)
    end.raw.input.append(end.to_peer())
    end.socket.handshake()
    with pytest.raises(ssl.SSLError):
        end.to_peer()
    end.raw.input.append(end.peer.outgoing.read())
    with pytest.raises(TlsError) as caught:
        end.socket.handshake()
    return str(caught.value)


def test_server_says_what_its_client_does_not_like() -> None:
    stranger = ssl.create_default_context()
    assert told_by(stranger) == "no TLS: the peer does not know who has signed the certificate of this side"
    expired = ServerTls(certificates.certificate(expired=True))
    assert told_by(client_context(), expired) == "no TLS: the certificate of this side has expired, says the peer"
    assert told_by(client_context(), name="b.example") == (
        "no TLS: the peer does not believe the certificate of this side"
    )


def test_no_cipher_in_common_is_told_on_both_sides() -> None:
    text = "no TLS: the two sides have no cipher in common, or no kind of certificate"
    weak = client_context(TLS_1_2)
    weak.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")  # and the certificates here are of ECDSA
    assert complaint(End(None, weak)) == text
    end = End(ClientTls(weak))
    end.socket.greet()
    with pytest.raises(ssl.SSLError):
        end.to_peer()
    end.raw.input.append(end.peer.outgoing.read())
    with pytest.raises(TlsError) as caught:
        end.socket.handshake()
    assert str(caught.value) == text + "; or the peer wants a certificate of this side"


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_client_hears_that_it_needs_a_certificate(version: ssl.TLSVersion) -> None:
    context = server_context(version)
    context.verify_mode = ssl.CERT_REQUIRED
    end = End(ClientTls(certificates.authorities()), context)
    end.socket.greet()
    with pytest.raises(ssl.SSLError):
        for _ in range(3):
            end.raw.input.append(end.to_peer())
            end.socket.handshake()
    data = end.peer.outgoing.read()
    end.raw.input.append(data)
    with pytest.raises(TlsError) as caught:
        if version == TLS_1_3:  # the handshake is done for the client when the server refuses
            end.socket.recv(1 << 16)
        else:
            end.socket.handshake()
    assert (
        str(caught.value)
        == {
            TLS_1_2: "no TLS: the two sides have no cipher in common, or no kind of certificate; "
            "or the peer wants a certificate of this side",
            TLS_1_3: "no TLS: the peer wants a certificate; ClientTls(certificate=...) has one",
        }[version]
    )


@pytest.mark.parametrize(("alert", "text"), [(112, "the server is not the one of this name, it says"),
                                             (120, "the two sides speak no protocol in common on top of TLS (ALPN)"),
                                             (44, "the certificate of this side was revoked, says the peer"),
                                             (46, "the peer does not believe the certificate of this side"),
                                             (80, "OpenSSL says tlsv1 alert internal error")])  # fmt: skip
def test_alert_is_put_in_words(alert: int, text: str) -> None:
    end = End(ClientTls(certificates.authorities()))
    end.socket.greet()
    end.raw.input.append(bytes([21, 3, 3, 0, 2, 2, alert]))
    with pytest.raises(TlsError) as caught:
        end.socket.handshake()
    assert str(caught.value) == f"no TLS: {text}"


def test_certificate_with_a_trouble_that_has_no_words_of_ours_gets_those_of_openssl() -> None:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message = 26, "unsuitable certificate purpose"
    session = End().socket.session
    assert meaning_of(error, session) == "the certificate of the client: unsuitable certificate purpose"


def test_error_of_openssl_without_a_reason_is_told_as_it_is() -> None:
    error = ssl.SSLError(1, "[SSL] something odd (_ssl.c:1234)")
    error.reason = ""
    assert meaning_of(error, End().socket.session) == "OpenSSL says something odd"


@pytest.mark.parametrize("pieces", ["at once", "byte by byte", "in two"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "PUT", "OPTIONS", "CONNECT"])
def test_http_request_gets_its_answer_complete(method: str, pieces: str) -> None:
    end = End()
    request = f"{method} / HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    cut = {"at once": [request], "byte by byte": [bytes([b]) for b in request], "in two": [request[:2], request[2:]]}
    end.raw.input += cut[pieces]
    with pytest.raises(TlsError, match="the peer speaks an HTTP request, not TLS: b'" + method[:3]):
        while True:
            end.socket.handshake()
    end.socket.shutdown(socket.SHUT_WR)
    assert end.raw.take() == HTTP_ANSWER
    head, _, body = HTTP_ANSWER.partition(b"\r\n\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert end.raw.ended == [socket.SHUT_WR]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"EHLO client.example\r\n", r"the peer speaks an SMTP client, not TLS: b'EHLO client.example\\r\\n'"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"the peer speaks an SSH peer, not TLS: b'SSH-2.0-OpenSSH_9.2\\r\\n'"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", r"the peer speaks an HTTP/2 request, not TLS: b'PRI \* HTTP/2.0"),
        (b"\0\0\0\5hello world", r"the peer speaks no TLS: b'\\x00\\x00\\x00\\x05hello world'"),
        (b"\xff\xfb\x1f\xff\xfb\x20\r\n\x1b[2J", r"the peer speaks no TLS: b'\\xff\\xfb\\x1f\\xff\\xfb "),
    ],
)
def test_whoever_speaks_something_else_gets_no_answer(data: bytes, text: str) -> None:
    end = End()
    end.raw.input.append(data)
    with pytest.raises(TlsError, match=f"^{text}"):
        end.socket.handshake()
    assert not end.socket.has_unsent
    assert end.raw.take() == b""


def test_server_of_something_else_is_told_to_the_client() -> None:
    for data, text in (
        (b"220 mail.example ESMTP\r\n", r"the peer speaks no TLS: b'220 mail.example ESMTP\r\n'"),
        (
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            r"the peer speaks an HTTP response, not TLS: b'HTTP/1.1 400 Bad Request'",
        ),
        (b"GET / HTTP/1.1\r\n", r"the peer speaks an HTTP request, not TLS: b'GET / HTTP/1.1\r\n'"),
    ):
        end = End(ClientTls(certificates.authorities()))
        end.socket.greet()
        end.raw.take()
        end.raw.input.append(data)
        with pytest.raises(TlsError) as caught:
            end.socket.handshake()
        assert str(caught.value) == text
        assert not end.socket.has_unsent


def test_garbage_that_looks_like_tls_gets_an_alert() -> None:
    end = End()
    end.raw.input.append(b"\x16\x03\x01\x00\x05garbage")
    with pytest.raises(TlsError, match="^no TLS: "):
        end.socket.handshake()
    assert end.raw.take() or end.socket.has_unsent


def test_errors_can_be_pickled() -> None:
    for error in (TlsError("no TLS: what", "REASON"), TlsError("no TLS: what"), TruncatedError("cut")):
        again = pickle.loads(pickle.dumps(error))
        assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
    assert pickle.loads(pickle.dumps(TlsError("no TLS: what", "REASON"))).reason == "REASON"


# To receive


def test_several_records_are_one_receive() -> None:
    end = End().shake()
    assert end.receive(b"".join(end.peer.write(bytes([n]) * 100) for n in range(20))) == b"".join(
        bytes([n]) * 100 for n in range(20)
    )
    assert not end.socket.has_more


def test_one_record_of_full_size() -> None:
    end = End().shake()
    data = os.urandom(RECORD)
    record = end.peer.write(data)
    assert record[3:5] > b"\x40\x00"
    assert end.receive(record) == data


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_records_byte_by_byte(version: ssl.TLSVersion) -> None:
    end = End(None, client_context(version)).shake()
    received = b""
    data = end.peer.write(b"one") + end.peer.write(b"two")
    for number, byte in enumerate(data):
        try:
            received += end.receive(bytes([byte]))
        except BlockingIOError:
            assert end.notes.progress == number + 1 - (received != b"")
    assert received == b"onetwo"


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=6), st.lists(st.integers(1, 30_000), max_size=8))
def test_records_cut_anywhere_are_whole_again(sizes: list[int], cuts: list[int]) -> None:
    end = End().shake()
    sent = [os.urandom(size) for size in sizes]
    data = b"".join(map(end.peer.write, sent))
    received = b""
    for cut in [*cuts, len(data)]:
        piece, data = data[:cut], data[cut:]
        while piece or end.socket.has_more:
            part, piece = piece[: 1 << 16], piece[1 << 16 :]
            try:
                received += end.receive(part) if part else end.socket.recv(1)
            except BlockingIOError:
                pass
    assert received == b"".join(sent)


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_data_together_with_the_last_flight_waits_for_a_receive(version: ssl.TLSVersion) -> None:
    end = End(None, client_context(version))
    end.raw.input.append(end.to_peer())
    end.socket.handshake()
    last = end.to_peer()
    if version == TLS_1_3:
        end.raw.input.append(last + end.peer.write(b"early") + end.peer.goodbye())
    else:
        end = End(ClientTls(certificates.authorities()), server_context(version))
        end.socket.greet()
        end.raw.input.append(end.to_peer())
        end.socket.handshake()
        last = end.to_peer()
        end.raw.input.append(last + end.peer.write(b"early") + end.peer.goodbye())
    assert end.socket.handshake()
    assert end.socket.has_more
    assert end.socket.recv(100) == b"early"
    assert end.notes.resumed == 1
    assert end.socket.has_more
    assert end.socket.recv(100) == b""


def test_data_together_with_the_end_come_one_after_the_other() -> None:
    end = End().shake()
    assert end.receive(end.peer.write(b"last") + end.peer.goodbye()) == b"last"
    assert end.socket.has_more
    assert end.notes.resumed == 1
    for _ in range(3):
        assert end.socket.recv(100) == b""


def test_end_alone_is_an_end() -> None:
    end = End().shake()
    assert end.receive(end.peer.goodbye()) == b""


def test_end_of_the_connection_without_a_word_is_told_apart() -> None:
    end = End().shake()
    assert end.receive(end.peer.write(b"data")) == b"data"
    with pytest.raises(TruncatedError, match="the connection ended without the last word of TLS: something may be"):
        end.receive(b"")
    end = End().shake()
    with pytest.raises(BlockingIOError):
        end.receive(end.peer.write(b"cut off")[:-1])
    with pytest.raises(TruncatedError):
        end.receive(b"")


def test_bytes_behind_the_end_are_dropped_and_harm_no_other_connection() -> None:
    notes = Notes()
    one, other = End(notes=notes).shake(), End(notes=notes).shake()
    assert one.socket._incoming is other.socket._incoming
    behind = one.peer.write(b"last") + one.peer.goodbye() + b"whatever else"
    assert one.receive(behind) == b"last"
    assert other.receive(other.peer.write(b"unharmed")) == b"unharmed"
    assert one.socket.recv(100) == b""


def test_bytes_behind_the_end_after_ours_harm_no_other_connection() -> None:
    notes = Notes()
    one, other = End(notes=notes).shake(), End(notes=notes).shake()
    one.socket.shutdown(socket.SHUT_WR)
    assert one.receive(one.peer.goodbye() + b"whatever else") == b""
    assert other.receive(other.peer.write(b"unharmed")) == b"unharmed"


@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_byte_that_was_changed_on_its_way_is_found(version: ssl.TLSVersion) -> None:
    end = End(None, client_context(version)).shake()
    good, bad = end.peer.write(b"good"), bytearray(end.peer.write(b"bad"))
    bad[-1] ^= 1
    assert end.receive(good + bad) == b"good"
    assert end.notes.resumed == 1
    with pytest.raises(TlsError, match="what came was changed on its way, or is not from this connection"):
        end.socket.recv(100)
    end.socket.say_goodbye()
    with pytest.raises(ssl.SSLError, match="BAD_RECORD_MAC"):
        end.to_peer()


def test_broken_connection_harms_no_other_one() -> None:
    notes = Notes()
    one, other = End(notes=notes).shake(), End(notes=notes).shake()
    with pytest.raises(TlsError):
        one.receive(b"\x17\x03\x03\x00\x20" + b"x" * 100)
    assert other.receive(other.peer.write(b"unharmed")) == b"unharmed"


def test_after_a_failure_nothing_more_is_data() -> None:
    end = End().shake()
    for _ in range(3):
        with pytest.raises(TlsError):
            end.receive(b"GET / HTTP/1.1\r\n\r\n")


def test_after_a_handshake_that_failed_the_rest_is_read_until_its_end() -> None:
    """So that the answer is not destroyed by a reset."""
    end = End()
    end.raw.input.append(b"GET / HTTP/1.1\r\n")
    with pytest.raises(TlsError):
        end.socket.handshake()
    with pytest.raises(BlockingIOError):
        end.receive(b"Host: localhost\r\n\r\n")
    assert end.receive(b"") == b""


def test_plaintext_behind_the_handshake_is_no_data() -> None:
    end = End(None, client_context(TLS_1_3))
    end.raw.input.append(end.to_peer())
    end.socket.handshake()
    end.raw.input.append(end.to_peer() + b"DELETE EVERYTHING\r\n")
    assert end.socket.handshake()
    with pytest.raises(TlsError):
        end.socket.recv(100)


def test_want_of_the_socket_passes_through() -> None:
    end = End().shake()
    with pytest.raises(BlockingIOError):
        end.socket.recv(100)
    assert end.notes.progress == 0
    end.raw.input.append(ConnectionResetError())
    with pytest.raises(ConnectionResetError):
        end.socket.recv(100)


# New keys (RFC 8446, section 4.6.3)


@pytest.fixture
def forged(tmp_path: Path) -> tuple[End, Forger]:
    """A connection of TLS 1.3 whose client goes on by hand."""
    context = client_context(TLS_1_3)
    context.keylog_filename = str(tmp_path / "keys")
    end = End(None, context).shake()
    context.keylog_filename = None  # type: ignore[assignment]
    return end, Forger(tmp_path / "keys")


def test_new_keys_are_taken_and_answered(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    assert end.receive(forger.record(b"old ") + forger.new_keys() + forger.record(b"new")) == b"old new"
    assert end.socket.send(b"answer") == 6
    assert len(end.raw.take()) == 27 + 5 + 6 + 17  # the announcement of our new keys goes first


def test_new_keys_without_a_wish_are_taken(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    for _ in range(40):
        with pytest.raises(BlockingIOError):
            end.receive(forger.new_keys(False))
    assert not end.raw.taken
    assert end.receive(forger.record(b"data")) == b"data"


def test_answer_to_new_keys_waits_behind_what_is_encrypted_already(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    end.raw.room = [10]
    assert end.socket.send(b"x" * 100) == 10
    assert end.socket.begun == 90
    with pytest.raises(BlockingIOError):
        end.receive(forger.new_keys() + forger.new_keys(False))  # OpenSSL answers with what it does next
    assert len(end.raw.take()) == 10
    assert end.socket.send(b"x" * 90) == 90
    assert len(end.raw.take()) == 100 + 22 - 10 + 27
    assert end.socket.begun == 0


def test_answer_to_new_keys_that_found_no_room_leaves_in_front_of_what_is_sent_next(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    end.raw.is_full = True
    with pytest.raises(BlockingIOError):
        end.receive(forger.new_keys() + forger.new_keys(False))
    assert end.socket.has_unsent
    end.raw.is_full = False
    assert end.socket.send(b"data") == 4
    assert len(end.raw.take()) == 27 + 22 + 4


def test_peer_that_asks_for_new_keys_and_takes_no_answer_is_given_up(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    end.raw.is_full = True
    for _ in range((UNASKED_ANSWERS + ENCRYPTED_AT_ONCE) // 27):
        with pytest.raises(BlockingIOError):
            end.receive(forger.new_keys())
    with pytest.raises(TlsError, match="the peer asks for new keys over and over, and takes no answer"):
        for _ in range(3):
            try:
                end.receive(forger.new_keys())
            except BlockingIOError:
                pass


def test_empty_records_do_not_go_on_for_ever(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    with pytest.raises(TlsError):
        end.receive(b"".join(forger.record(b"") for _ in range(1000)))


def test_records_of_one_byte_are_put_together(forged: tuple[End, Forger]) -> None:
    end, forger = forged
    assert end.receive(b"".join(forger.record(b"x") for _ in range(2000))) == b"x" * 2000


# To send


def test_what_is_sent_arrives() -> None:
    end = End().shake()
    assert end.socket.send(b"hello") == 5
    assert end.socket.sendmsg([b"one", b"two", memoryview(b"three")]) == 11
    end.to_peer()
    assert end.peer.received == b"helloonetwothree"


def test_buffers_share_records_and_leave_together_up_to_a_bound() -> None:
    end = End().shake()
    assert end.socket.sendmsg([b"x" * 100] * 10) == 1000
    assert len(end.raw.take()) == 1022
    end = End().shake()
    header, body = b"head", b"y" * 300_000
    left = memoryview(header + body)
    told = end.socket.sendmsg([header, body, b"z"])
    while told == ENCRYPTED_AT_ONCE:
        left = left[told:]
        told = end.socket.sendmsg([left, b"z"])
    assert told == len(left) + 1
    end.to_peer()
    assert end.peer.received == header + body + b"z"


def test_nothing_is_nothing() -> None:
    assert End().shake().socket.send(b"") == 0


@pytest.mark.parametrize("size", [1, 2, 100, RECORD, RECORD + 1, 3 * RECORD + 5])
@pytest.mark.parametrize("taken", [1, 7, 1000, RECORD])
def test_socket_that_takes_so_many_bytes_loses_none(size: int, taken: int) -> None:
    end = End().shake()
    data = os.urandom(size)
    end.raw.room = [taken] * 100_000
    rest = data
    calls = 0
    while rest:
        try:
            told = end.socket.send(rest)
        except BlockingIOError:
            pass
        else:
            assert 0 < told <= len(rest)
            rest = rest[told:]
        assert end.socket.begun <= len(rest)
        assert bool(end.socket.begun) == bool(rest)
        calls += 1
    end.to_peer()
    assert end.peer.received == data
    assert calls <= (size + 22 * (size // RECORD + 1)) // taken + 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 50_000), min_size=1, max_size=5), st.lists(st.integers(0, 70_000), max_size=60))
def test_buffers_over_a_socket_that_takes_what_it_likes(sizes: list[int], room: list[int]) -> None:
    end = End().shake()
    waiting: list[bytes | memoryview] = [os.urandom(size) for size in sizes]
    expected = b"".join(waiting)
    end.raw.room = room
    while waiting:
        try:
            told = end.socket.sendmsg(waiting)
        except BlockingIOError:
            continue
        assert told > 0
        while told:
            if len(waiting[0]) > told:
                waiting[0] = memoryview(waiting[0])[told:]
                break
            told -= len(waiting.pop(0))
    end.to_peer()
    assert end.peer.received == expected


def test_error_of_the_socket_while_sending_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    end = End().shake()

    def reset(data: bytes) -> int:
        raise ConnectionResetError

    monkeypatch.setattr(end.raw, "send", reset)
    with pytest.raises(ConnectionResetError):
        end.socket.send(b"data")


def test_sending_after_the_last_word_is_an_error() -> None:
    end = End().shake()
    end.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsError, match="protocol is shutdown"):
        end.socket.send(b"too late")


def test_after_a_failure_of_sending_nothing_that_is_not_encrypted_is_data() -> None:
    end = End().shake()
    end.socket.shutdown(socket.SHUT_WR)
    with pytest.raises(TlsError):
        end.socket.send(b"too late")
    for data in (b"DELETE EVERYTHING\r\n", b""):
        with pytest.raises(TlsError, match="protocol is shutdown"):
            end.receive(data)


# To end


def test_shutdown_says_the_last_word_and_then_ends_the_direction() -> None:
    end = End().shake()
    end.socket.send(b"last")
    end.socket.shutdown(socket.SHUT_WR)
    end.to_peer()
    assert (bytes(end.peer.received), end.peer.has_ended) == (b"last", True)
    assert end.raw.ended == [socket.SHUT_WR]


def test_shutdown_waits_for_room_and_says_the_last_word_once() -> None:
    end = End().shake()
    end.raw.is_full = True
    for _ in range(3):
        with pytest.raises(BlockingIOError):
            end.socket.shutdown(socket.SHUT_WR)
    end.raw.is_full = False
    end.raw.room = [3]
    with pytest.raises(BlockingIOError):
        end.socket.shutdown(socket.SHUT_WR)
    end.socket.shutdown(socket.SHUT_WR)
    assert len(end.raw.taken) == 5 + 2 + 17
    end.to_peer()
    assert end.peer.has_ended


def test_data_still_comes_in_after_our_last_word() -> None:
    end = End().shake()
    end.socket.shutdown(socket.SHUT_WR)
    assert end.receive(end.peer.write(b"still here")) == b"still here"
    assert end.receive(end.peer.goodbye()) == b""


def test_goodbye_reaches_the_peer_if_there_is_room_and_never_raises() -> None:
    end = End().shake()
    end.socket.say_goodbye()
    end.to_peer()
    assert end.peer.has_ended
    end = End().shake()
    end.raw.is_full = True
    end.socket.say_goodbye()
    end.socket.close()
    assert end.raw.is_closed
    end = End()
    end.socket.say_goodbye()
    assert end.raw.take() == b""


def test_it_has_the_face_of_the_socket_under_it() -> None:
    end = End()
    assert end.socket.family == socket.AF_UNIX
    assert end.socket.fileno() == 7
    assert end.socket.getpeername() == "the peer"
    assert end.socket.getsockname() == "this side"
    assert end.socket.getsockopt(1, 2, 3) == (1, 2, 3)
    end.socket.setsockopt(1, 2, 3)
    assert end.raw.options == [(1, 2, 3)]


# Memory


def test_connections_of_one_reactor_share_two_buffers_that_are_empty_between_calls() -> None:
    notes = Notes()
    ends = [End(notes=notes).shake() for _ in range(3)]
    other = End().shake()
    assert len({id(end.socket._incoming) for end in ends}) == 1
    assert len({id(end.socket._outgoing) for end in ends}) == 1
    assert ends[0].socket._incoming is not other.socket._incoming
    for end in ends:
        record = end.peer.write(b"data")
        with pytest.raises(BlockingIOError):
            end.receive(record[:7])
    for end in ends:
        assert not end.socket._incoming.pending
        assert not end.socket._outgoing.pending


@contextlib.contextmanager
def interrupted_at(number: int) -> Iterator[list[int]]:
    """Press Ctrl-C once, at the step `number` of what is done in `reactor.tls`; tell how many steps there were."""
    steps = [0]

    def profile(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_filename == reactor.tls.__file__ and code.co_name != "_named":  # ssl lets nothing through from there
            steps[0] += 1
            if steps[0] == number:
                sys.setprofile(None)
                raise KeyboardInterrupt

    sys.setprofile(profile)
    try:
        yield steps
    finally:
        sys.setprofile(None)


@pytest.mark.parametrize("doing", ["greet", "handshake", "receive", "receive a part", "receive the end", "send", "end"])
@pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3])
def test_connection_that_is_interrupted_harms_no_other_one(doing: str, version: ssl.TLSVersion) -> None:
    for number in itertools.count(1):
        notes = Notes()
        if doing == "greet":
            one = End(ClientTls(certificates.authorities()), server_context(version), notes=notes)
        else:
            one = End(None, client_context(version), notes=notes)
        other = End(None, client_context(version), notes=notes).shake()
        act: Callable[[], object] = one.socket.greet
        if doing == "handshake":
            one.raw.input.append(one.to_peer())
            act = one.socket.handshake
        elif doing != "greet":
            record = one.shake().peer.write(b"of one connection" * 2000)
            received = {"receive a part": record[:-5], "receive the end": record + one.peer.goodbye()}
            act = {
                "send": functools.partial(one.socket.send, b"of one connection"),
                "end": one.socket.say_goodbye,
            }.get(doing, functools.partial(one.receive, received.get(doing, record)))
        with contextlib.suppress(KeyboardInterrupt, BlockingIOError), interrupted_at(number) as steps:
            act()
        assert other.receive(other.peer.write(b"unharmed")) == b"unharmed"
        other.socket.send(b"unharmed, too")
        other.to_peer()
        assert other.peer.received == b"unharmed, too"
        assert not other.socket._incoming.pending
        assert not other.socket._outgoing.pending
        if steps[0] < number:
            break
    assert number > 3


def test_channel_that_leaves_its_reactor_has_buffers_of_its_own() -> None:
    class Leaving(RecordingStream):
        _shares_tls_buffers = False

    end = End().shake()
    channel: Any = Leaving()
    channel.reactor, channel._origin = end.notes, Side()
    alone = ServerTls(*FILES()).wrap(channel, end.raw)
    assert alone._incoming is not end.socket._incoming
    end.socket.leave_channel()
    with pytest.raises(BlockingIOError):
        end.receive(end.peer.write(b"x")[:3])
    assert end.notes.progress == 0


def test_errors_hold_no_connection() -> None:
    """What OpenSSL raised has frames, and those would keep the socket and the channel alive."""
    gc.collect()
    gc.disable()
    try:
        end = End()
        end.raw.input.append(b"no TLS at all")
        errors: list[Exception] = []
        try:
            end.socket.handshake()
        except TlsError as error:
            errors.append(error.with_traceback(None))
        gone = [weakref.ref(end.channel)]
        end = End().shake()
        try:
            end.receive(b"no TLS any more")
        except TlsError as error:
            errors.append(error.with_traceback(None))
        gone.append(weakref.ref(end.channel))
        end.channel.socket = None
        del end
        assert [channel() for channel in gone] == [None, None]
        assert len(errors) == 2
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ServerTls(None),  # type: ignore[arg-type]
        lambda: ServerTls(*FILES(), client_authorities=123),  # type: ignore[arg-type]
        lambda: ServerTls(*FILES(), password=5),  # type: ignore[arg-type]
        lambda: ServerTls(*FILES(), protocols=[""]),
        lambda: ClientTls(123),  # type: ignore[arg-type]
        lambda: ClientTls(protocols=[5]),  # type: ignore[list-item]
    ],
)
def test_argument_of_another_kind_is_told_in_words(make: Callable[[], Tls]) -> None:
    with pytest.raises(LocalError):
        make()


def test_name_may_have_one_file_for_certificate_and_key() -> None:
    one = ServerTls(*FILES(), names={"b.example": certificates.certificate("b.example")})
    assert one._others["b.example"] is not one.context
