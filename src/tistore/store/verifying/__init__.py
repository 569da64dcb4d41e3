"""Reading every committed byte, and what it says about a store's health."""
