"""What the command lines of the examples have in common: an address, a key, and errors on one line."""

from __future__ import annotations

import argparse
import logging
import math
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from pathlib import Path

import reactor

KEY_FILE = "~/.reactor-authkey"
SHORTEST_KEY = 16
GRACE = 3.0
"""Seconds that peers have at shutdown to take what is queued for them."""


class Mistake(Exception):
    """Something that whoever typed the command can put right."""


def make_parser(description: str | None, port: int, has_key: bool = True) -> argparse.ArgumentParser:
    """Return a parser for `--host`, `--port` and, if there is a key, `--authkey-file`, ready for more."""
    parser = argparse.ArgumentParser(
        prog=f"python -m examples.{Path(sys.argv[0]).stem}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--host", default="localhost", help="where the server listens (default: %(default)s)")
    parser.add_argument("--port", type=port_number, default=port, help="0 picks a free one (default: %(default)s)")
    if has_key:
        parser.add_argument(
            "--authkey-file",
            type=user_path,
            default=KEY_FILE,
            metavar="FILE",
            help="the key that server and clients share, byte for byte the content of this file; "
            "a server makes one that only you can read where there is none (default: %(default)s)",
        )
    return parser


def add_tls_options(parser: argparse.ArgumentParser, purpose: str) -> None:
    """Let the server have a certificate; `purpose` says what for."""
    parser.add_argument("--certificate", type=user_path, metavar="FILE",
                        help=f"{purpose}; the certificate and those that lead to its authority, as PEM")  # fmt: skip
    parser.add_argument("--key", type=user_path, metavar="FILE",
                        help="its private key, as PEM (default: it stands in the file of the certificate)")  # fmt: skip


def server_tls(arguments: argparse.Namespace) -> reactor.ServerTls | None:
    """Return what the options of `add_tls_options` say, or None.

    Raises:
        Mistake: there is a key without a certificate.
        LocalError: a file cannot be read, or makes no sense.
    """
    if arguments.certificate is None:
        if arguments.key is not None:
            raise Mistake("a key is of no use without a certificate; give --certificate as well")
        return None
    return reactor.ServerTls(arguments.certificate, arguments.key)


def port_number(text: str) -> int:
    """Return the port that `text` means, for argparse."""
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; give a number from 0 to 65535")
    return int(text)


def count(text: str) -> int:
    """Return the number that `text` means, for argparse."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no count; give a whole number, 0 or more")
    return int(text)


def at_least_one(text: str) -> int:
    """Return the number that `text` means, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def seconds(text: str) -> float:
    """Return the time that `text` means, for argparse."""
    try:
        time = float(text)
    except ValueError:
        time = math.nan
    if not 0 < time < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give a number of seconds above 0")
    return time


def user_path(text: str) -> Path:
    """Return the path that `text` means, for argparse."""
    return Path(os.path.expanduser(text))


def file_path(text: str) -> Path:
    """Return the path of a file that `text` means, for argparse. It need not be there yet."""
    path = user_path(text)
    if path.exists() and not path.is_file():
        raise argparse.ArgumentTypeError(f"{path} is no file")
    return path


def read_key(path: Path) -> bytes:
    """Return the key in the file `path`, for a client.

    Raises:
        Mistake: there is none, or it would protect nothing.
    """
    if not path.exists():
        raise Mistake(f"there is no key in {path}; start the server first, or bring its file here")
    if path.stat().st_mode & 0o077:
        raise Mistake(f"others can read {path}; say: chmod 600 {path}")
    key = path.read_bytes()
    if len(key) < SHORTEST_KEY:
        raise Mistake(f"the key in {path} has {len(key)} bytes; it needs at least {SHORTEST_KEY}")
    return key


def read_or_make_key(path: Path) -> bytes:
    """Return the key in the file `path`, for a server: a new one if there is no such file."""
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32))
    return read_key(path)


def printable(text: str) -> str:
    """Return `text`, which somebody else chose, without what could take control of a terminal."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else "?" for character in text)


def serve(listener: reactor.Listener | reactor.Datagram, key_file: Path | None = None) -> None:
    """Say where `listener` listens, and the key is, and run the loop until SIGTERM or Ctrl-C."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    reactor.shutdown_on_signal(signal.SIGTERM, signal.SIGINT, grace=GRACE)
    print(f"listening on {reactor.format_address(listener.address)}", flush=True)
    if key_file is not None:
        print(f"the key is in {key_file}", flush=True)
    reactor.loop()


@contextmanager
def errors_on_one_line(arguments: argparse.Namespace) -> Iterator[None]:
    """End the program with one line and exit code 2 for what its user can put right, quietly for Ctrl-C."""
    server = getattr(arguments, "path", None) or f"{arguments.host}:{arguments.port}"
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    except (Mistake, reactor.LocalError) as error:
        complaint = getattr(error, "strerror", None) or str(error)
    except AuthenticationError:
        complaint = f"{server} has another key than {arguments.authkey_file}"
    except EOFError:
        complaint = f"{server} closed the connection"
    except OSError as error:
        complaint = f"{error.filename or server}: {error.strerror or error}"
    else:
        return
    print(f"error: {complaint}", file=sys.stderr)
    sys.exit(2)
