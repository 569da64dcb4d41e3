"""What comes out of a model: states, log probabilities, heads, responses."""
