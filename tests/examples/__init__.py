"""Tests of the examples, each as somebody would run it."""
