"""Rotary position embedding from tables: the fast twin of `functional.rotate`."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scratchlm.model.layers import Device


class RotaryEmbedding(nn.Module):
    """x (..., seq, d_head), positions (seq,) or (..., seq) -> (..., seq, d_head), in x's dtype.

    Pair i of the vector at position p turns by the angle p · theta^(−2i / d_head) radians.
    Positions broadcast over x's leading axes. The pairs are halves apart, as in Llama weights on
    the hub, or neighbours with `interleaved`, as in the paper (arXiv 2104.09864).

    A position below 0 or from `max_seq_len` on raises ValueError; on a GPU, where looking would
    make every call wait, it is a device assertion.
    """

    table: Tensor  # (position, cos and then sin of each pair)

    def __init__(
        self,
        d_head: int,
        max_seq_len: int,
        theta: float = 10_000.0,
        interleaved: bool = False,
        *,
        device: Device = None,
    ) -> None:
        super().__init__()
        if d_head % 2:
            raise ValueError(f"d_head must be even, for its pairs turn ({d_head}); add or drop one")
        self.d_head = d_head
        self.max_seq_len = max_seq_len
        self.theta = theta
        self.interleaved = interleaved
        self._build(torch.get_default_device() if device is None else torch.device(device))

    def _build(self, device: torch.device) -> None:
        # In fp64 on the CPU: the same table everywhere, and fp32 angles past 10⁵ lose three digits.
        exponents = (
            -torch.arange(0, self.d_head, 2, dtype=torch.float64, device="cpu") / self.d_head
        )
        positions = torch.arange(self.max_seq_len, dtype=torch.float64, device="cpu")
        angles = torch.outer(positions, self.theta**exponents)  # (position, pair)
        table = torch.cat((angles.cos(), angles.sin()), -1).float()
        self.register_buffer("table", table.to(device), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> RotaryEmbedding:
        """Follow `.to(device)` and `.to_empty`, but stay fp32 under `.bfloat16()`.

        In bf16 a table would be wrong in its third digit, and after `to_empty` it would be noise,
        for no checkpoint holds it.
        """
        device = fn(self.table.new_empty(0)).device
        if device != self.table.device:
            self._build(device)
        return self

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        if x.shape[-1] != self.d_head:
            raise ValueError(
                f"x must end in d_head ({x.shape[-1]}, not {self.d_head}); split the heads first"
            )
        try:  # embedding, for it refuses −1 where indexing would read the last row
            cos, sin = F.embedding(positions, self.table).chunk(2, -1)
        except IndexError:
            raise ValueError(
                f"positions must lie in 0…{self.max_seq_len - 1} ({positions.min().item()} to "
                f"{positions.max().item()}); shorten the text or raise max_seq_len"
            ) from None
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.interleaved:
            # (..., seq, pair · 2) -> two of (..., seq, pair)
            a, b = wide.unflatten(-1, (-1, 2)).unbind(-1)
            return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)
        # (..., seq, 2 · pair) -> two of (..., seq, pair)
        a, b = wide.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    def extra_repr(self) -> str:
        layout = ", interleaved" if self.interleaved else ""
        return f"{self.d_head}, {self.max_seq_len}, theta={self.theta}{layout}"
