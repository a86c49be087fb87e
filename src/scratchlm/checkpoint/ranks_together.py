"""Checkpoints of a model that is spread over ranks: whole tensors, each written by one of them.

    step-00000100/
      model-00001-of-00004.safetensors   a quarter of the weights, by bytes; whole ones
      state-00001-of-00004.safetensors   and of the moments
      …
      state.json, config.json, manifest.json   as ever, by the first rank

So a checkpoint does not know how many ranks it came from, and any number goes on from it.
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

T = TypeVar("T")


def is_sharded(module: nn.Module) -> bool:
    return any(map(is_shard, module.parameters()))


def whole(state: Any, ranks: Ranks) -> Any:
    """Plain data with its tensors whole and copied to the CPU, each on the rank that will write it;
    on the others it is on the meta device. All ranks call this at once, and hold no more than their
    share and one tensor."""
    held = [0] * ranks.size
    taken: dict[tuple[Any, ...], Tensor] = {}

    def take(each: Any) -> Any:
        if isinstance(each, Tensor):
            # Tied weights are one storage: on a rank whose part is empty, too.
            own = local(each)
            storage = own.untyped_storage()._cdata
            place = (storage, own.storage_offset(), own.stride(), each.shape, each.dtype)
            if place not in taken:
                taken[place] = gathered(each.detach())
            return taken[place]
        if isinstance(each, dict):
            return {key: take(item) for key, item in each.items()}
        if isinstance(each, list | tuple):
            return type(each)(take(item) for item in each)
        return each

    def gathered(tensor: Tensor) -> Tensor:
        owner = 0
        if is_shard(tensor):
            owner = held.index(min(held))
            held[owner] += tensor.numel() * tensor.element_size()
            tensor = tensor.full_tensor()  # type: ignore[attr-defined]
        if owner == ranks.rank:
            return tensor.to("cpu", copy=True)
        return torch.empty_like(tensor, device="meta")

    return take(state)


def write_together(path: Path, payload: dict[str, Any], ranks: Ranks) -> None:
    """Write what `whole` gave, from a thread of each rank, on a file system that all of them see.
    What goes wrong for one is raised by all, and leaves nothing."""
    with naming(path), contextlib.ExitStack() as stack:
        # None but on the first rank, whose folder it is to make and to name.
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
                stack.close()  # takes its name


def _all_or_none(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """What each rank's work gave; the first error of any."""
    with agreed(ranks):
        result = work()
    return ranks.gather(result, aside=True)


def spread_state(state: dict[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A state_dict whose moments are whole, as `optimizer` holds them."""
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
