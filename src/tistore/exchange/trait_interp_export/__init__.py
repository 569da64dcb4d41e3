"""A store as an experiment of trait-interp's."""
