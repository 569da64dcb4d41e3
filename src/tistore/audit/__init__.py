"""What changed in an organism, where, and how sure that is."""
