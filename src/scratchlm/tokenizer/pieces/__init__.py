"""Text to pieces: what BPE never merges across."""
