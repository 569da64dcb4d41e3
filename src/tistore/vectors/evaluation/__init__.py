"""How good a direction is, measured on scenarios it was not fitted on."""
