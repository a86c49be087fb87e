"""Files on disk: a file is complete, or it does not exist."""
