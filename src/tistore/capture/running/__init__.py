"""The parts of a run: what is left to do, who reads it, how it is written."""
