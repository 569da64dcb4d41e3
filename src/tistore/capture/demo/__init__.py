"""Tiny organisms made on the spot, and what they show."""
