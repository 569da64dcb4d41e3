"""How large a difference is: effect sizes by named definitions, with intervals by prompt."""
