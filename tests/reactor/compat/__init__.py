"""Tests of the drop-in modules `reactor.compat.asyncore` and `reactor.compat.asynchat`."""
