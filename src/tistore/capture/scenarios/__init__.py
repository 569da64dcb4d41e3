"""Contrast scenarios: continued by a model, read by it, and turned into vectors."""
