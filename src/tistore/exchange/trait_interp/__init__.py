"""Import of trait-interp's experiments: what lies in the files, placed where the store has it."""
