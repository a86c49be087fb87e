"""Rotary position embedding from a table: the fast version of `functional.rotate`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.model.config import RopeScaling


@takes_synonyms()
class RotaryEmbedding(nn.Module):
    """x (..., seq, d_head), positions (seq,) or (..., seq) -> (..., seq, d_head), in x's dtype.

    Pair i of the vector at position p turns by p · theta^(−2i / d_head) radians. `scaling` changes
    these angles, and for YaRN also the length of the result. Positions broadcast over x's leading
    axes. Pair i is elements i and i + d_head/2, as in Llama weights of Hugging Face. With
    `interleaved`, pair i is elements 2i and 2i + 1, as in the paper (arXiv 2104.09864).

    A position outside 0…max_seq_len − 1 raises ValueError. On a GPU, such a position fails a device
    assertion instead, because a check would make every call wait for the GPU.
    """

    table: Tensor  # (position, 2 · d_head): cosines of each element's angle, then signed sines

    def __init__(
        self,
        d_head: int,
        max_seq_len: int,
        theta: float = 10_000.0,
        interleaved: bool = False,
        *,
        scaling: RopeScaling | None = None,
    ) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"d_head must be even ({d_head}), to form pairs; add 1 or subtract 1")
        self.d_head = d_head
        self.max_seq_len = max_seq_len
        self.theta = theta
        self.interleaved = interleaved
        self.swap = _swap_neighbours if interleaved else _swap_halves
        self.scaling = scaling
        self._build(torch.get_default_device())

    def _build(self, device: torch.device) -> None:
        if device.type == "meta":  # a shape without values
            table = torch.empty(self.max_seq_len, 2 * self.d_head, device=device)
            self.register_buffer("table", table, persistent=False)
            return
        # fp64 on the CPU gives every device the same table. fp32 angles above 10⁵ lose 3 digits.
        exponents = (
            -torch.arange(0, self.d_head, 2, dtype=torch.float64, device="cpu") / self.d_head
        )
        frequencies = scaled_frequencies(self.theta**exponents, self.scaling, self.theta)
        positions = torch.arange(self.max_seq_len, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, frequencies)  # (position, pair)
        # (a, b) turns to (a cos - b sin, b cos + a sin), so both elements use the same cosine.
        cos = self._spread(angles.cos(), angles.cos())
        sin = self._spread(-angles.sin(), angles.sin())
        factor = None if self.scaling is None else self.scaling.attention_factor
        table = (torch.cat((cos, sin), -1) * (1.0 if factor is None else factor)).float()
        self.register_buffer("table", table.to(device), persistent=False)

    def _spread(self, first: Tensor, second: Tensor) -> Tensor:
        """first, second (..., pair): the elements of each pair -> (..., d_head), in x's order."""
        if self.interleaved:
            return torch.stack((first, second), -1).flatten(-2)
        return torch.cat((first, second), -1)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryEmbedding:
        """Follow `.to(device)` and `.to_empty`, but stay fp32 under `.bfloat16()`.

        In bf16 the table would be wrong in its third digit. After `to_empty` the table would be
        noise, because no checkpoint contains the table.
        """
        device = fn(self.table.new_empty(0)).device
        if device != self.table.device:
            self._build(device)
        return self

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if x.shape[-1] != self.d_head:
            raise ValueError(
                f"the last axis of x ({x.shape[-1]}) must be d_head ({self.d_head}); "
                "split the heads first"
            )
        try:  # F.embedding refuses −1, but indexing would read the last row
            cos, sin = F.embedding(positions, self.table).chunk(2, -1)
        except IndexError:
            raise ValueError(
                f"positions must be in 0…{self.max_seq_len - 1} ({positions.min().item()} to "
                f"{positions.max().item()}); shorten the text or increase max_seq_len"
            ) from None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return torch.addcmul(wide * cos, self.swap(wide), sin).to(x.dtype)

    def turn(self, q: Tensor, k: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """q, k (..., head, seq, d_head) -> both rotated. q and k may have different heads.

        One call for q and k needs half as many lookups and kernel launches as two calls.
        """
        turned = self(torch.cat((q, k), -3), positions)
        q, k = turned.split((q.shape[-3], k.shape[-3]), -3)
        return q, k

    def extra_repr(self) -> str:
        layout = ", interleaved" if self.interleaved else ""
        return f"{self.d_head}, {self.max_seq_len}, theta={self.theta}{layout}"


def _swap_halves(x: Tensor) -> Tensor:
    """x (..., 2 · pair) -> the same shape, with the elements of each pair exchanged."""
    a, b = x.chunk(2, -1)
    return torch.cat((b, a), -1)


def _swap_neighbours(x: Tensor) -> Tensor:
    """x (..., pair · 2) -> the same shape, with the elements of each pair exchanged."""
    return x.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def scaled_frequencies(
    frequencies: Tensor, scaling: RopeScaling | None, theta: float = 10_000.0
) -> Tensor:
    """frequencies (pair,), radians per position -> (pair,), scaled as `RopeScaling` describes.

    `theta` is the base of the frequencies. Only YaRN needs it.
    """
    if scaling is None:
        return frequencies
    slow = frequencies / scaling.factor
    match scaling.kind:
        case "linear":
            return slow
        case "llama3":
            kept = _kept_by_llama3(frequencies, scaling)
        case "yarn":
            kept = _kept_by_yarn(frequencies, scaling, theta)
    return kept * frequencies + (1 - kept) * slow


def _kept_by_llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Return for each pair 1 (unchanged), 0 (slow), or a number in between."""
    assert scaling.low_freq_factor is not None
    assert scaling.high_freq_factor is not None
    assert scaling.original_context_length is not None
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    width = scaling.high_freq_factor - scaling.low_freq_factor
    return ((turns - scaling.low_freq_factor) / width).clamp(0, 1)


def _kept_by_yarn(frequencies: Tensor, scaling: RopeScaling, theta: float) -> Tensor:
    """Return for each pair 1 (unchanged), 0 (slow), or a number in between.

    Pair i makes n = T / (2π) · theta^(−i / pairs) turns in T positions. So the pair with n turns
    has the number i = pairs · ln(T / (2π n)) / ln theta.
    """
    assert scaling.beta_fast is not None
    assert scaling.beta_slow is not None
    assert scaling.original_context_length is not None
    pairs = len(frequencies)
    most = scaling.original_context_length / (2 * math.pi)
    first, last = (
        pairs * math.log(most / turns) / math.log(theta)
        for turns in (scaling.beta_fast, scaling.beta_slow)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    # The limit of `last` is the width of a head, and not the number of pairs, as in the code of
    # the paper and in Hugging Face.
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    last += 0.001 if first == last else 0
    number = torch.arange(pairs, dtype=frequencies.dtype, device=frequencies.device)
    return 1 - ((number - first) / (last - first)).clamp(0, 1)
