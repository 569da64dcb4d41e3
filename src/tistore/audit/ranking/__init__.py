"""The parts of a ranking: who is compared with whom, what is tested, what a row says."""
