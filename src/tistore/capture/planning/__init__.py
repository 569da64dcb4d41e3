"""What a run would take, and what is refused before any weights are loaded."""
