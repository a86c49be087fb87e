"""Learn merges from pieces."""
