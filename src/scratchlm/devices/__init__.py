"""The device, the ranks of torchrun, and tensors that ranks share."""
