"""Attention inside each document of a row: the fast form of `first`.

`first` contains, for each query, the first key that the query may attend to. If a row contains
several documents, they divide the row into segments: all queries of a segment may attend from its
beginning on. So causal attention to each segment alone gives the same result as a mask over the
whole row. For documents that are much shorter than the row, almost all of the mask is False, and
the segments need a fraction of the time.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

# Up to this length, torch's 16-bit attention on a CPU takes up to five times as long as fp32.
_SHORT = 512

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def positions_from(start: int, seq: int, first: Tensor | None, device: torch.device) -> Tensor:
    """Return the positions start…start + seq − 1: (seq,). With `first` (..., seq), each document
    counts from 0: (..., seq)."""
    positions = torch.arange(start, start + seq, device=device)
    return positions if first is None else positions - first


def keys_from(first: Tensor, q: Tensor, key: int) -> Tensor:
    """Return the mask of `first` for queries `q` and `key` keys: True from the first key on."""
    own = torch.arange(key, device=q.device) >= first.unsqueeze(-1)  # (..., query, key)
    return own if q.ndim == 2 else own.unsqueeze(-3)  # the same for all heads


def by_documents(attend: Attend, q: Tensor, k: Tensor, v: Tensor, first: Tensor) -> Tensor | None:
    """q, k, v (..., head, seq, d) -> (..., head, seq, d_v): `attend` to each segment alone.

    Return None if q and k have different lengths or no axis of heads, or if `first` does not divide
    the rows into segments.
    """
    # The lengths of documents differ in each batch, so each batch would need a new compiled graph.
    # As a decorator, `disable` would import the compiler (2 s).
    compiling = torch.compiler.is_compiling()
    run = torch.compiler.disable(_by_documents) if compiling else _by_documents
    return run(attend, q, k, v, first)


def _by_documents(attend: Attend, q: Tensor, k: Tensor, v: Tensor, first: Tensor) -> Tensor | None:
    lengths = segment_lengths(first) if q.ndim > 2 and q.shape[-2] == k.shape[-2] else None
    if lengths is None:
        return None
    # Neighbours of equal length need only one call, such as rows that contain one document each.
    runs = [(length, len(list(group))) for length, group in itertools.groupby(lengths)]
    # (..., head, seq, d) -> (... · seq, head, d). `split` is one node of the graph: its backward
    # joins the gradients once, but slices would add up a whole gradient for each run.
    sizes = [length * count for length, count in runs]
    parts = (x.transpose(-3, -2).flatten(0, -3).split(sizes) for x in (q, k, v))
    attended = []
    for (length, count), qkv in zip(runs, zip(*parts, strict=True), strict=True):
        dtype = torch.promote_types(q.dtype, torch.float32) if length <= _SHORT else q.dtype
        # (count · length, head, d) -> (count, head, length, d)
        own = (x.to(dtype).unflatten(0, (count, length)).transpose(1, 2) for x in qkv)
        with torch.autocast(q.device.type, enabled=False):
            y = attend(*own)
        attended.append(y.transpose(1, 2).flatten(0, 1).to(q.dtype))
    return torch.cat(attended).unflatten(0, (*q.shape[:-3], q.shape[-2])).transpose(-3, -2)


def segment_lengths(first: Tensor) -> list[int] | None:
    """first (..., seq) -> the length of each segment, row by row.

    Return None if `first` does not divide the rows into segments, as for a sliding window.
    """
    places = torch.arange(first.shape[-1], device=first.device)
    begins = first == places
    if not torch.equal(torch.where(begins, places, 0).cummax(-1).values, first.long()):
        return None
    starts = begins.flatten().nonzero().flatten()
    return starts.diff(append=starts.new_tensor([first.numel()])).tolist()
