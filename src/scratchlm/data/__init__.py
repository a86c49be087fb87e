"""Token files and the batches read from them."""
