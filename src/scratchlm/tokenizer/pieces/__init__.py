"""Cut text into pieces. BPE never merges across the border of a piece."""
