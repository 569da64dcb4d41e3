"""Readers of trait-interp's files, tensors left out: what each historical form says, typed."""
