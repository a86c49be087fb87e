"""The ranks of a run that `torchrun` started, and what they tell each other.

One process is rank 0 of 1, and every call here is then free of communication: the trainer has one
path for a laptop and for many nodes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from inspect import signature
from math import gcd
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from scratchlm.errors import Interrupted, OtherRankError, WorkerError
from scratchlm.functional import IGNORED

Batch = tuple[Tensor, Tensor]  # inputs, targets: (batch, seq)

_PATIENCE = timedelta(days=30)  # a rank that dies is noticed at once, however long the wait

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True)
class Ranks:
    """This process: `rank` of `size`, and `local_rank` of `local_size` on its node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    aside: Any = field(default=None, compare=False, repr=False)  # a group for a thread's own talk

    @property
    def first(self) -> bool:
        """Whether this is the one that prints, logs and names checkpoints."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def total(self, mine: int, device: torch.device) -> int | Tensor:
        """The sum of a number over all ranks; a tensor on the device where there are several."""
        return mine if self.size == 1 else self.sum(torch.tensor(float(mine), device=device))

    def any(self, mine: bool, device: torch.device) -> bool:
        """Whether it is true of one of the ranks; waits for the device."""
        return bool(self.total(mine, device))

    def gather(self, mine: Any, *, aside: bool = False) -> list[Any]:
        """What each rank gave, in the order of the ranks, on every rank. aside: beside what the
        main thread says, from one other; and with no end to the wait for a rank at work."""
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
    """Join the ranks that torchrun started, leave at the end; alone where it did not start this
    process. CUDA devices talk by NCCL, CPUs by gloo. timeout: of a step's talk; the wait for a text
    to be tokenized, or a checkpoint written, is as long as that takes."""
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
    """What is raised within on any rank is raised on all, at its end: on the first of those that
    raised it as it was, and on the others as an OtherRankError."""
    own = None
    try:
        yield
    except Interrupted:
        raise  # a signal is each rank's own, and nobody waits for more
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
    """A WorkerError where a collective failed because one of its ranks is gone, for which gloo and
    NCCL have no class of their own; else the error itself."""
    signs = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    lost = isinstance(error, RuntimeError) and any(sign in str(error) for sign in signs)
    if ranks.size == 1 or not lost:
        return error
    return WorkerError(f"a rank was lost, or its network ({error}); start all again")


@dataclass(frozen=True)
class Share:
    """What one rank takes of a step's micro-batches, so that a step is the same on any number.

    The ranks form as many groups as divide the micro-batches evenly; a group takes every so-many-th
    micro-batch, and each of its `parts` ranks one part of the rows.
    """

    group: int
    groups: int
    part: int
    parts: int

    @classmethod
    def of(cls, ranks: Ranks, micro_batches: int, batch_size: int) -> Share:
        """ValueError where the rows of a micro-batch cannot be shared evenly."""
        groups = gcd(ranks.size, micro_batches)
        parts = ranks.size // groups
        if batch_size % parts:
            raise ValueError(
                f"a step of {micro_batches} x {batch_size} sequences is not shared evenly by the "
                f"ranks ({ranks.size}); give a --batch_size or --accumulate that is a multiple of "
                f"{parts}"
            )
        return cls(ranks.rank // parts, groups, ranks.rank % parts, parts)

    def indices(self, first: int, micro_batches: int) -> range:
        """Which of the micro-batches `first`, `first` + 1, … are this rank's."""
        return range(first + self.group, first + micro_batches, self.groups)

    def rows(self, batch: Batch) -> Batch:
        """This rank's rows of a micro-batch: inputs, targets (batch, seq)."""
        each = len(batch[0]) // self.parts
        mine = slice(self.part * each, (self.part + 1) * each)
        return batch[0][mine], batch[1][mine]


def shared(batches: Iterable[Batch], ranks: Ranks) -> Iterator[Batch]:
    """Every size-th batch. All ranks get as many, since a sharded model computes on all at once:
    what the last round lacks is the first batch again, with no target that counts."""
    number, uncounted = 0, None
    for inputs, targets in batches:
        if uncounted is None:
            uncounted = (inputs, torch.full_like(targets, IGNORED))
        if number % ranks.size == ranks.rank:
            yield inputs, targets
        number += 1
    if uncounted is not None and 0 < number % ranks.size <= ranks.rank:
        yield uncounted


def data_parallel(module: nn.Module, device: torch.device) -> nn.Module:
    """DDP: every rank holds the whole model, and gradients are averaged as backward makes them."""
    wrap = nn.parallel.DistributedDataParallel
    places = [device] if device.type == "cuda" else None
    # Buffers are constants here, and not sent at each step; from torch 2.13 on, that flag is new.
    names = signature(wrap).parameters
    flag = "forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"
    constant: dict[str, Any] = {flag: False}
    return wrap(module, device_ids=places, gradient_as_bucket_view=True, **constant)


def fully_sharded(
    module: nn.Module, blocks: nn.ModuleList, ranks: Ranks, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """FSDP2, in place: each rank keeps 1/size of every parameter, block by block (2304.11277).

    Parameters stay float32; `dtype` is what they are gathered and multiplied in, and gradients are
    summed in float32.
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
    """Whether the backward inside sums gradients over the ranks: DDP's, once a step. FSDP always
    does, for a rank cannot hold the gradient of all that is sharded."""
    if isinstance(module, nn.parallel.DistributedDataParallel) and not now:
        return module.no_sync()
    return contextlib.nullcontext()
