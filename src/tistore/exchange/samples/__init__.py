"""Activations of other tools, as readings of a store."""
