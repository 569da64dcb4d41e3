"""Methods: from the rows of both sides to a direction, each a plain function."""
