"""Restoring what can be proven, and keeping what is whole."""
