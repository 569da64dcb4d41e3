"""Frozen records and Arrow schemas: the vocabulary the other floors speak."""
