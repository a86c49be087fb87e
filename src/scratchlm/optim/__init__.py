"""Update rules, learning-rate schedules, gradient clipping and parameter groups."""
