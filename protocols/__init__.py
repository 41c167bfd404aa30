"""Protocols on top of the reactor, one package each."""
