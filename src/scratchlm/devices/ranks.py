"""The ranks of a run that `torchrun` started, and their communication.

A single process is rank 0 of 1, and its calls here need no communication. So the trainer runs the
same code on a laptop and on many nodes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from inspect import signature
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scratchlm.devices.batch import Batch
from scratchlm.errors import Interrupted, OtherRankError, WorkerError
from scratchlm.functional import IGNORED

_PATIENCE = timedelta(days=30)  # the ranks notice a dead rank at once, also with this long timeout

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Ranks:
    """This process: `rank` of `size`, and `local_rank` of `local_size` on its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    aside: Any = field(default=None, compare=False, repr=False)  # a second process group

    @property
    def first(self) -> bool:
        """Return whether this is rank 0, which prints, logs and manages the checkpoints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum the tensor over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, mine: int, device: torch.device) -> int | Tensor:
        """Sum a number over all ranks; with several ranks, return a tensor on the device."""
        return mine if self.size == 1 else self.sum(torch.tensor(float(mine), device=device))

    def any(self, mine: bool, device: torch.device) -> bool:
        """Return whether `mine` is true on any rank. Wait for the device."""
        return bool(self.total(mine, device))

    def gather(self, mine: Any, *, aside: bool = False) -> list[Any]:
        """Return the values of all ranks, in the order of the ranks, on every rank. aside: use the
        second process group, so that one other thread may communicate at the same time as the main
        thread. The call waits for a busy rank."""
        if self.size == 1:
            return [mine]
        everyones = [None] * self.size
        dist.all_gather_object(everyones, mine, group=self.aside if aside else None)
        return everyones


ALONE = Ranks()


def started_by_torchrun() -> bool:
    return all(name in os.environ for name in _VARIABLES)


@contextlib.contextmanager
def joined(timeout: timedelta = timedelta(minutes=30)) -> Iterator[Ranks]:
    """Join the ranks that torchrun started, and leave at the end. Yield ALONE if torchrun did not
    start this process. CUDA devices communicate by NCCL, CPUs by gloo. timeout: the limit for the
    communication of a step. Ranks wait without this limit while one rank tokenizes a text or writes
    a checkpoint."""
    if not started_by_torchrun():
        yield ALONE
        return
    rank, size, local_rank = (int(os.environ[name]) for name in _VARIABLES)
    local_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=timeout)
    try:
        aside = dist.new_group(backend="gloo", timeout=_PATIENCE)
        yield Ranks(rank, size, local_rank, local_size, aside)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def agreed(ranks: Ranks) -> Iterator[None]:
    """If any rank raises inside the block, all ranks raise at its end. The lowest rank that
    failed raises its own error. The other ranks raise an OtherRankError with this error."""
    own = None
    try:
        yield
    except Interrupted:
        raise  # each rank gets its own signal, and no rank waits for another
    except Exception as caught:
        own = caught
    try:
        errors = ranks.gather(own, aside=True)
    except Exception as error:  # a rank is gone
        raise own or as_lost_rank(error, ranks) from None
    for rank, each in enumerate(errors):
        if each is not None:
            raise own if rank == ranks.rank and own else OtherRankError(each)


def as_lost_rank(error: Exception, ranks: Ranks) -> Exception:
    """Return a WorkerError if a collective failed because a rank is gone, else the error itself.
    gloo and NCCL have no error class for a lost rank, so this reads the message."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    if ranks.size == 1 or not lost:
        return error
    return WorkerError(f"a rank was lost, or its network failed ({error}); restart all ranks")


@dataclass(frozen=True)
class Share:
    """Describe the part of a step that one rank computes.

    A step is the same for any number of ranks. The ranks form `groups` groups, and `groups` divides
    the number of micro-batches. A group computes every `groups`-th micro-batch. Each of the `parts`
    ranks of the group computes one part of the rows.
    """

    group: int
    groups: int
    part: int
    parts: int

    @classmethod
    def of(cls, ranks: Ranks, micro_batches: int, batch_size: int) -> Share:
        """Return this rank's part. Raise ValueError if the ranks cannot split the rows evenly."""
        groups = gcd(ranks.size, micro_batches)
        parts = ranks.size // groups
        if batch_size % parts:
            raise ValueError(
                f"the ranks must divide a step of {micro_batches} x {batch_size} sequences evenly "
                f"({ranks.size} ranks); use a --batch_size or --accumulate that is a multiple of "
                f"{parts}"
            )
        return cls(ranks.rank // parts, groups, ranks.rank % parts, parts)

    def indices(self, first: int, micro_batches: int) -> range:
        """Return which of the micro-batches `first`, `first` + 1, … this rank computes."""
        return range(first + self.group, first + micro_batches, self.groups)

    def rows(self, batch: Batch) -> Batch:
        """Return this rank's rows of a micro-batch."""
        number = len(batch.inputs) // self.parts
        mine = slice(self.part * number, (self.part + 1) * number)
        return batch.each(lambda tensor: tensor[mine])


def shared(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch]:
    """Yield every `size`-th batch. All ranks get the same number of batches, because all ranks must
    compute with a sharded model at the same time. A rank without a batch in the last round gets the
    first batch, with all targets ignored."""
    number, uncounted = 0, None
    for batch in batches:
        if uncounted is None:
            uncounted = replace(batch, targets=torch.full_like(batch.targets, IGNORED))
        if number % ranks.size == ranks.rank:
            yield batch
        number += 1
    if uncounted is not None and 0 < number % ranks.size <= ranks.rank:
        yield uncounted


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """Wrap in DDP: every rank stores the whole model, and backward averages the gradients."""
    wrap = nn.parallel.DistributedDataParallel
    places = [device] if device.type == "cuda" else None
    # Our buffers are constant, so no step sends them. torch 2.13 has a new name for this flag.
    names = signature(wrap).parameters
    flag = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    constant: dict[str, Any] = {flag: False}
    return wrap(module, device_ids=places, gradient_as_bucket_view=True, **constant)


def fully_sharded(
    module: nn.Module, blocks: nn.ModuleList, ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Shard by FSDP2, in place: each rank keeps 1/size of every parameter (arXiv 2304.11277).

    It shards block by block. Parameters stay float32. FSDP gathers and multiplies them in `dtype`,
    and sums gradients in float32.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (ranks.size,))
    low = None if dtype == torch.float32 else dtype
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32)
    for block in blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(module, mesh=mesh, mp_policy=policy)
    return module


def reducing(module: nn.Module, now: bool) -> contextlib.AbstractContextManager[Any]:
    """Return a context in which backward sums DDP's gradients over the ranks only if `now` is true,
    once per step. FSDP sums the gradients in each backward, because a rank cannot store all
    gradients of a sharded model."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
        return module.no_sync()
    return contextlib.nullcontext()
