"""Sharded parameters: a rank stores a part of each parameter. FSDP2 makes them as `DTensor`.

An elementwise update works on the parts. An update that needs a whole matrix joins the parts. The
functions import torch's `DTensor` only for a shard, because the import takes seconds and most runs
have no shard.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """Return this rank's part, which uses the tensor's memory. Return a whole tensor unchanged."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def assembled(part: Tensor, like: Tensor) -> Tensor:
    """Join the ranks' parts into the whole tensor. `like` has the same sharding as the parts. All
    ranks must call this function."""
    if not is_shard(like):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """Shard the tensor `whole` like `like`, which inverts `assembled`. Every rank has `whole`, so
    this needs no communication."""
    if not is_shard(like) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def summed_over_ranks(number: Tensor, like: Tensor) -> Tensor:
    """Sum the ranks' numbers in place, if `like` is sharded over the ranks."""
    if is_shard(like):
        dist.all_reduce(number, group=like.device_mesh.get_group())  # type: ignore[attr-defined]
    return number
