"""The device, the ranks of torchrun, and tensors that are sharded over ranks."""
