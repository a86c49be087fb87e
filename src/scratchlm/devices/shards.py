"""Parameters of which a rank holds a part: FSDP2's, torch's `DTensor`.

An update by elements is computed on the parts; what needs a whole matrix assembles it. The class is
not imported here before one is seen: that takes seconds, and most runs have none.
"""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def is_shard(tensor: Tensor) -> bool:
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """This rank's part, in the memory of the tensor; the tensor itself where it is whole."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def assembled(part: Tensor, like: Tensor) -> Tensor:
    """The whole of which each rank gives its part, spread as `like`; all ranks call it at once."""
    if not is_shard(like):
        return part
    from torch.distributed.tensor import DTensor

    assert isinstance(like, DTensor)
    return DTensor.from_local(
        part, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    ).full_tensor()


def spread(whole: Tensor, like: Tensor) -> Tensor:
    """The inverse, without communication: `whole`, which every rank has, spread as `like`."""
    if not is_shard(like) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(
        whole.to(like.device), like.device_mesh, like.placements, src_data_rank=None
    )


def summed_over_ranks(number: Tensor, like: Tensor) -> Tensor:
    """The sum of the ranks' numbers, in place, where `like` is spread over them."""
    if is_shard(like):
        dist.all_reduce(number, group=like.device_mesh.get_group())  # type: ignore[attr-defined]
    return number
