"""Reading again, to show that rows are what they claim to be."""
