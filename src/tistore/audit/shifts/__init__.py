"""How far an organism's response means lie from a baseline's: along vectors, layer by layer."""
