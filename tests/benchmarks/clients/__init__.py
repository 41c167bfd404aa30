"""Loads written in Python, for what `load.c` cannot speak. They print what it prints."""
