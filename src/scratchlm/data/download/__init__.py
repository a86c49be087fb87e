"""Download texts, evaluation sets, models and tokenizers by name."""
