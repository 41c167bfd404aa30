"""Certificates for the tests of TLS: an authority of its own, and what it has signed."""

from __future__ import annotations

import atexit
import datetime
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@functools.cache
def authority() -> trustme.CA:
    """The authority that the tests believe."""
    return trustme.CA()


@functools.cache
def stranger() -> trustme.CA:
    """An authority that nobody believes."""
    return trustme.CA()


@functools.cache
def directory() -> Path:
    """Where the files are, until the process ends."""
    path, owner = tempfile.mkdtemp(), os.getpid()

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(path)

    # A TemporaryDirectory goes with its last reference, and a child by fork drops those that its parent gave to atexit.
    atexit.register(remove)
    return Path(path)


@functools.cache
def authorities() -> str:
    """A file with the authority that is believed."""
    path = directory() / "authorities.pem"
    authority().cert_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def certificate(*names: str, by_stranger: bool = False, expired: bool = False) -> str:
    """A file with a certificate for `names`, by default that of this machine, and its key."""
    issuer = stranger() if by_stranger else authority()
    yesterday = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    options: dict[str, Any] = (
        {"not_before": yesterday - datetime.timedelta(days=9), "not_after": yesterday} if expired else {}
    )
    made = issuer.issue_cert(*(names or ("localhost", "127.0.0.1", "::1")), **options)
    path = directory() / f"{'-'.join(names) or 'localhost'}-{by_stranger}-{expired}.pem".replace("*", "any")
    made.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def steady_authority() -> trustme.CA:
    """The authority that simulated hosts believe."""
    return trustme.CA(key_type=trustme.KeyType.RSA)


@functools.cache
def steady_authorities() -> str:
    """A file with the authority that simulated hosts believe."""
    path = directory() / "steady-authorities.pem"
    steady_authority().cert_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def steady_certificate(name: str) -> str:
    """A file with a certificate for `name` and its key, with which all handshakes have the same number of bytes.

    A signature by ECDSA is now and then a byte shorter than another one, and so is a serial number.
    """
    serial_number = 0
    while serial_number.bit_length() <= 152:
        made = steady_authority().issue_cert(name, key_type=trustme.KeyType.RSA)
        serial_number = x509.load_pem_x509_certificate(made.cert_chain_pems[0].bytes()).serial_number
    path = directory() / f"steady-{name}.pem"
    made.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def certificate_and_key(*names: str) -> tuple[str, str]:
    """Two files: a certificate for `names`, by default that of this machine, and its key."""
    made = authority().issue_cert(*(names or ("localhost", "127.0.0.1", "::1")))
    name = "-".join(names).replace("*", "any") or "localhost"
    paths = directory() / f"{name}.crt", directory() / f"{name}.key"
    paths[0].write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    made.private_key_pem.write_to_path(str(paths[1]))
    return str(paths[0]), str(paths[1])


@functools.cache
def locked_key(password: str) -> tuple[str, str]:
    """Two files: a certificate, and its key, which `password` unlocks."""
    path, clear = certificate_and_key()
    key = serialization.load_pem_private_key(Path(clear).read_bytes(), None)
    locked = directory() / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(password.encode()),
        )
    )
    return path, str(locked)


@functools.cache
def certificate_of_tomorrow() -> str:
    """A file with a certificate for this machine that is not valid yet, and its key."""
    tomorrow = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    made = authority().issue_cert("localhost", not_before=tomorrow, not_after=tomorrow + datetime.timedelta(days=9))
    path = directory() / "tomorrow.pem"
    made.private_key_and_cert_chain_pem.write_to_path(str(path))
    return str(path)


@functools.cache
def self_signed_certificate() -> str:
    """A file with a certificate for this machine that nobody has signed but itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=9))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = directory() / "self-signed.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return str(path)
