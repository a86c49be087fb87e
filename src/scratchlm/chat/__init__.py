"""Hold conversations with a model."""
