"""A queue of jobs: clients put them in and fetch the results, workers do them.

    python -m examples.job_queue
    python -m examples.job_queue --work
    python -m examples.job_queue --submit ls -l

The queue does not look into jobs and results: they are any plain values. Here they are commands, so whoever
holds the key can have the workers run anything. Each request below is answered ("ok", value) or ("error", text):

    ("submit", job)     the job's number
    ("fetch", number)   the result, once there is one; the queue keeps it
    ("forget", number)  the number again; the result is dropped
    ("work",)           a job, once there is one
    ("done", result)    the number of the job that is done

A job goes to another worker when its worker is gone before it is done. So no job is lost, and some may be
done twice. The queue lives in memory: it ends with the server.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import itertools
import subprocess
import sys
from collections import deque
from multiprocessing.connection import Client, Connection
from typing import Any

import reactor

from ._command_line import Mistake, at_least_one, errors_on_one_line, make_parser, read_key, read_or_make_key, serve

MAXIMUM_ATTEMPTS = 5
"""A job that outlived so many workers is what killed them."""
LONGEST_OUTPUT = 256 * 1024
LIMITS = reactor.Limits(maximum_frame=1024 * 1024, idle_timeout=None)
"""Who waits for a job or for a result is silent for as long as it takes."""


@dataclasses.dataclass(eq=False)
class Job:
    """A job, from its submission until its result is forgotten."""

    number: int
    task: Any
    attempts: int = 0
    answer: tuple[str, Any] | None = None
    fetchers: set[Member] = dataclasses.field(default_factory=set)


class JobQueue:
    """The jobs, and the workers that have nothing to do."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.numbers = itertools.count(1)
        self.jobs: dict[int, Job] = {}
        self.waiting: deque[Job] = deque()
        self.idle: deque[Member] = deque()

    def add(self, task: Any) -> Job:
        job = Job(next(self.numbers), task)
        self.jobs[job.number] = job
        self.waiting.append(job)
        self.assign()
        return job

    def assign(self) -> None:
        """Bring waiting jobs and idle workers together."""
        while self.waiting and self.idle:
            worker, job = self.idle.popleft(), self.waiting.popleft()
            worker.job = job
            job.attempts += 1
            worker.send(("ok", job.task))

    def put_back(self, job: Job) -> None:
        """The worker of `job` is gone."""
        if job.attempts < MAXIMUM_ATTEMPTS:
            self.waiting.appendleft(job)
            self.assign()
        else:
            self.settle(job, ("error", f"{job.attempts} workers were lost while they worked at it"))

    def settle(self, job: Job, answer: tuple[str, Any]) -> None:
        """`job` has come to its end."""
        job.answer = answer
        for client in job.fetchers:
            client.send(answer)
        job.fetchers.clear()


class Member(reactor.Connection):
    """A client or a worker, or both."""

    codec = reactor.RestrictedPickle()

    def __init__(self, job_queue: JobQueue) -> None:
        self.job_queue = job_queue
        self.job: Job | None = None

    def handle_message(self, message: Any) -> None:
        match message:
            case ("submit", task):
                self.submit(task)
            case ("fetch", int(number)):
                self.fetch(number)
            case ("forget", int(number)):
                self.forget(number)
            case ("work",):
                self.work()
            case ("done", result):
                self.done(result)
            case _:
                self.send(("error", "this is no request of the job queue"))

    def handle_close(self, reason: reactor.ReactorError) -> None:
        if self in self.job_queue.idle:
            self.job_queue.idle.remove(self)
        for job in self.job_queue.jobs.values():
            job.fetchers.discard(self)
        if self.job is not None:
            self.job_queue.put_back(self.job)

    def submit(self, task: Any) -> None:
        if len(self.job_queue.jobs) < self.job_queue.capacity:
            self.send(("ok", self.job_queue.add(task).number))
        else:
            self.send(("error", f"the queue is full: {self.job_queue.capacity} jobs and results are in it"))

    def fetch(self, number: int) -> None:
        job = self.job_queue.jobs.get(number)
        if job is None:
            self.send(("error", f"there is no job {number}"))
        elif job.answer is None:
            job.fetchers.add(self)
        else:
            self.send(job.answer)

    def forget(self, number: int) -> None:
        job = self.job_queue.jobs.get(number)
        if job is None or job.answer is None:
            self.send(("error", f"there is no result of a job {number}"))
        else:
            del self.job_queue.jobs[number]
            self.send(("ok", number))

    def work(self) -> None:
        if self.job is not None or self in self.job_queue.idle:
            self.send(("error", "one job after the other"))
        else:
            self.job_queue.idle.append(self)
            self.job_queue.assign()

    def done(self, result: Any) -> None:
        if self.job is None:
            self.send(("error", "no job was given to this worker"))
        else:
            job, self.job = self.job, None
            self.job_queue.settle(job, ("ok", result))
            self.send(("ok", job.number))


def ask(connection: Connection, *request: Any) -> Any:
    """Send a request, and return the value that answers it."""
    connection.send(request)
    word, value = connection.recv()
    if word == "error":
        raise Mistake(value)
    return value


def work(connection: Connection) -> None:
    """Run the commands that the queue gives, one after the other."""
    while True:
        command = ask(connection, "work")
        ask(connection, "done", run(command))


def run(command: Any) -> tuple[int, str]:
    """Return the exit code and the end of the output of `command`; other programs may submit what is none."""
    if not isinstance(command, list) or not command or not all(isinstance(word, str) for word in command):
        return 127, f"{command!r} is no command\n"
    try:
        process = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    except (OSError, ValueError) as error:
        return 127, f"{command!r} cannot be run: {error}\n"
    return process.returncode, process.stdout.decode(errors="replace")[-LONGEST_OUTPUT:]


def submit(connection: Connection, command: list[str]) -> int:
    """Have a worker run `command`, print its output, and return its exit code."""
    number = ask(connection, "submit", command)
    code, output = ask(connection, "fetch", number)
    ask(connection, "forget", number)
    print(output, end="")
    return int(code)


def main() -> None:
    parser = make_parser(__doc__, port=6002)
    parser.add_argument("--capacity", type=at_least_one, default=1000, help="jobs and results (default: %(default)s)")
    roles = parser.add_mutually_exclusive_group()
    roles.add_argument("--work", action="store_true", help="run the commands that others submit")
    roles.add_argument("--submit", nargs=argparse.REMAINDER, help="have a worker run this command; must come last")
    arguments = parser.parse_args()
    address, key_file = (arguments.host, arguments.port), arguments.authkey_file
    with errors_on_one_line(arguments):
        if arguments.work:
            with Client(address, authkey=read_key(key_file)) as connection:
                work(connection)
        elif arguments.submit is not None:
            if not arguments.submit:
                raise Mistake("--submit needs a command")
            with Client(address, authkey=read_key(key_file)) as connection:
                sys.exit(submit(connection, arguments.submit))
        else:
            member = functools.partial(Member, JobQueue(arguments.capacity))
            listener = reactor.Listener(address, member, authkey=read_or_make_key(key_file), limits=LIMITS)
            serve(listener, key_file)


if __name__ == "__main__":
    main()
