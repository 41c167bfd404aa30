"""The contestants: each prints its port on 127.0.0.1 and serves until it is killed; the argument is the mode.

raw            sends back whatever comes in
frames         sends back each message that comes in, 4 bytes of length in front of it
frames-joined  the same, and joins by hand what it has to send
messages       sends back each object, to clients of `multiprocessing.connection` that know the key
"""

BACKLOG = 4096
"""Thousands connect at once here; what a full backlog costs is not what is measured."""

KEY = b"a key that only the benchmark uses"
