"""Stores made of others: a part of one, or its scores alone."""
