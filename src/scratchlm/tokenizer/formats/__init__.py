"""A tokenizer's files, both ways."""
