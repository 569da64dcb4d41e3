"""Reading models: the only floor that imports torch model code."""
