"""Generate text from a model's logits."""
