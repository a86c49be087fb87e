"""A text as its tokens, on a terminal and in a browser."""
