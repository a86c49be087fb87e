"""Show the tokens of a text, on a terminal and in a browser."""
