"""Readers of activations, responses and vectors that other tools wrote."""
