"""Write checkpoints of a model that is sharded over ranks. One rank writes each whole tensor.

    step-00000100/
      model-00001-of-00004.safetensors   a quarter of the weights, by bytes
      state-00001-of-00004.safetensors   a quarter of the moments
      …
      state.json, config.json, manifest.json   the first rank writes them

The whole tensors do not depend on the number of ranks, so any number of ranks can resume.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from scratchlm.checkpoint.directory import contents, write_files, write_manifest
from scratchlm.devices.ranks import Ranks, agreed
from scratchlm.devices.shards import is_shard, local, spread
from scratchlm.files.atomic import naming, replacing_directory
from scratchlm.files.plain_values import map_tensors

T = TypeVar("T")


def is_sharded(module: nn.Module) -> bool:
    return any(map(is_shard, module.parameters()))


def whole(state: Any, ranks: Ranks) -> Any:
    """Return a copy of plain data with whole tensors.

    A tensor is on the CPU of the rank that will write it, and on the meta device of the other
    ranks. All ranks must call this function at the same time. A rank stores at most its own part of
    the tensors and one more tensor.
    """
    held = [0] * ranks.size
    taken: dict[tuple[Any, ...], Tensor] = {}

    def take(each: Tensor) -> Tensor:
        # Tied weights share one storage, also on a rank whose part is empty.
        own = local(each)
        storage = own.untyped_storage()._cdata
        place = (storage, own.storage_offset(), own.stride(), each.shape, each.dtype)
        if place not in taken:
            taken[place] = gathered(each.detach())
        return taken[place]

    def gathered(tensor: Tensor) -> Tensor:
        owner = 0
        if is_shard(tensor):
            owner = held.index(min(held))
            held[owner] += tensor.numel() * tensor.element_size()
            tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        if owner == ranks.rank:
            return tensor.to("cpu", copy=True)
        return torch.empty_like(tensor, device="meta")

    return map_tensors(state, take)


def write_together(path: Path, payload: dict[str, Any], ranks: Ranks) -> None:
    """Write the result of `whole`. A thread of each rank must call this function.

    All ranks must have the same file system. If one rank fails, all ranks raise an error, and no
    files remain.
    """
    with naming(path), contextlib.ExitStack() as stack:
        # Only the first rank makes and renames the folder. The other ranks have None here.
        made = _all_or_none(
            ranks,
            lambda: stack.enter_context(replacing_directory(path)) if ranks.first else None,
        )
        folder = made[0]
        assert folder is not None
        part = (ranks.rank + 1, ranks.size)
        entries = _all_or_none(ranks, lambda: write_files(folder, contents(payload, part)))

        with agreed(ranks):
            if ranks.first:
                write_manifest(folder, {name: one for own in entries for name, one in own.items()})
                stack.close()  # rename the folder


def _all_or_none(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Return the results of `work` on all ranks. If one rank fails, all ranks raise an error."""
    with agreed(ranks):
        result = work()
    return ranks.gather(result, aside=True)


def spread_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return an optimizer's state_dict. Its whole moments are sharded as in `optimizer`."""
    params = [param for group in optimizer.param_groups for param in group["params"]]
    if not any(map(is_shard, params)) or not isinstance(state.get("state"), dict):
        return state
    moments = {
        index: {
            name: spread(value, params[index]) if isinstance(value, Tensor) else value
            for name, value in each.items()
        }
        for index, each in state["state"].items()
        if index < len(params)
    }
    return {**state, "state": moments}
