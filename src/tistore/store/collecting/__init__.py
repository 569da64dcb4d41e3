"""Taking away what a store no longer needs."""
