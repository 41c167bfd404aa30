"""A service with workers, clients that count what becomes of them, and what befalls a service in its life.

``python -m tests.service`` kills, reloads and hands over under load, as often as it is told; the tests do it a few
times.
"""
