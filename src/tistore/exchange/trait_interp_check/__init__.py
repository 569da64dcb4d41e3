"""An experiment's own scores beside the store's."""
