"""Where an organism departs from a baseline: by token, turn, position, prompt, group, trigger."""
