"""Loading models and adapters, and what tells one from another."""
