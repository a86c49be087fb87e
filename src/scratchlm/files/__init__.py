"""Files on disk: a file is whole, or it does not exist."""
