"""A calculator that any Python process can ask.

The server, and a client that needs nothing but the standard library:

    python -m examples.calculator
    python -m examples.calculator --client add 2 3

Messages are pickles, which can run code: give the key to nobody whom you would not let do that.
"""

from __future__ import annotations

import operator
from multiprocessing.connection import Client
from pathlib import Path
from typing import Any

import reactor

from ._command_line import Mistake, errors_on_one_line, make_parser, read_key, read_or_make_key, serve

OPERATORS = {"add": operator.add, "subtract": operator.sub, "multiply": operator.mul, "divide": operator.truediv}


class Calculator(reactor.Connection):
    """Answers ("add", 2, 3) with 5, and what makes no sense with the exception that says so."""

    def handle_message(self, message: Any) -> None:
        try:
            name, *numbers = message
            if name not in OPERATORS:
                raise ValueError(f"there is no operator {name!r}; there are {', '.join(OPERATORS)}")
            answer = OPERATORS[name](*numbers)
        except Exception as error:
            answer = error
        self.send(answer)


def ask(host: str, port: int, key_file: Path, name: str, *numbers: float) -> Any:
    """Return the server's answer to one question."""
    with Client((host, port), authkey=read_key(key_file)) as connection:
        connection.send((name, *numbers))
        answer = connection.recv()
    if isinstance(answer, Exception):
        raise Mistake(answer)
    return answer


def number(text: str) -> float:
    """Return the number that `text` means, an int if it can be one."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise Mistake(f"{text!r} is no number") from None


def main() -> None:
    parser = make_parser(__doc__, port=6000)
    parser.add_argument(
        "--client",
        nargs=3,
        metavar=("OPERATOR", "NUMBER", "NUMBER"),
        help=f"ask a server; the operators are {', '.join(OPERATORS)}",
    )
    arguments = parser.parse_args()
    host, port, key_file = arguments.host, arguments.port, arguments.authkey_file
    with errors_on_one_line(arguments):
        if arguments.client:
            name, *texts = arguments.client
            print(ask(host, port, key_file, name, *map(number, texts)))
        else:
            listener = reactor.Listener((host, port), Calculator, authkey=read_or_make_key(key_file))
            serve(listener, key_file)


if __name__ == "__main__":
    main()
