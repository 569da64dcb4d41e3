"""Thin commands: they parse arguments, call one function, and print."""
