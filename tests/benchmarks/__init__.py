"""What a message costs: this reactor beside what a user would pick instead, on the same work, in one run.

    python -m pip install -e '.[bench,test]'     # the libraries to compare with, and one that makes certificates
    python -m tests.benchmarks

What is missing is left out. It needs Linux and a C compiler, takes some ten minutes, and prints a table for each
work. The machine should have nothing else to do. ``--help`` lists the choices, for example:

    python -m tests.benchmarks --work frames-16 --rounds 9
    python -m tests.benchmarks --python python3.11 python3.13

**How it measures.** Each contestant is a small server program in `servers`, written as its users write
it, in a process of its own. The load comes from another process (`load.c`, compiled for the occasion, or a
program in `clients`), which reads the server's processor time from the kernel before and after. That
time a message is the figure to compare: throughput and latency also depend on the client, and on the
noise of the machine. Over TLS the client has encrypted everything before the time that counts.

Machines drift, so the contestants take turns (A B C, A B C, ...), each time in a fresh process, and what
is compared is one turn of ours with the turn of theirs in the same round. Of these ratios, and of all
other figures, the table shows the median, with the smallest and the largest in brackets. The column
"busy" is the share of a processor that the server got: an echo in which it is far below 100 was
disturbed, and should be measured again.

**How to add to it.** A contestant is a line in `contestants.py` and a program in `servers`, which prints
its port and serves until it is killed. A work is an entry in `workloads.py`.
"""
