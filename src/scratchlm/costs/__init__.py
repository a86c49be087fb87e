"""What a model takes, before it is built."""
