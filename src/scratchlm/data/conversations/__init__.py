"""Read conversations, and decide which of their tokens a model learns."""
