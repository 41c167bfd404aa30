"""Small complete programs on top of the reactor; each runs with ``python -m examples.NAME``, and has ``--help``."""
