"""`ModelConfig`: what a model is, in numbers and names, without torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Norm = Literal["rmsnorm", "layernorm"]
Position = Literal["rope", "none"]
FeedForward = Literal["swiglu", "relu2"]
ResidualInit = Literal["scaled", "zero"]

_ROPE_THETA = 10_000.0


def default_d_ff(d_model: int, ffn: FeedForward = "swiglu") -> int:
    """The usual width of a feed-forward layer: 8/3 or 4 times d_model.

    SwiGLU has three matrices where ReLU² has two, so 8/3 · d_model costs what 4 · d_model does
    (arXiv 2002.05202); it is rounded up to a multiple of 64, which matrix units like.
    """
    match ffn:
        case "swiglu":
            return math.ceil(d_model / 24) * 64
        case "relu2":
            return 4 * d_model


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`.

    `num_kv_heads=None` becomes `num_heads` and `d_ff=None` becomes `default_d_ff` at construction,
    so that a saved config says what the model is even if a default changes. Name such a field again
    in `dataclasses.replace(config, d_model=..., d_ff=None)` to have it worked out anew.
    """

    vocab_size: int
    context_length: int
    d_model: int
    num_layers: int
    num_heads: int
    num_kv_heads: int | None = None
    d_ff: int | None = None
    rope_theta: float = _ROPE_THETA
    rope_interleaved: bool = False
    norm_eps: float = 1e-5
    tie_embeddings: bool = False
    bias: bool = False
    qk_norm: bool = False
    dropout: float = 0.0
    norm: Norm = "rmsnorm"
    position: Position = "rope"
    ffn: FeedForward = "swiglu"
    residual_init: ResidualInit = "scaled"

    def __post_init__(self) -> None:
        _require_choice("norm", self.norm, get_args(Norm))
        _require_choice("position", self.position, get_args(Position))
        _require_choice("ffn", self.ffn, get_args(FeedForward))
        _require_choice("residual_init", self.residual_init, get_args(ResidualInit))
        for name in ("vocab_size", "context_length", "d_model", "num_layers", "num_heads"):
            _require_count(name, getattr(self, name))
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", default_d_ff(self.d_model, self.ffn))
        for name in ("num_kv_heads", "d_ff"):
            _require_count(name, getattr(self, name))
        for name in ("rope_interleaved", "tie_embeddings", "bias", "qk_norm"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be a bool ({getattr(self, name)!r}); use true or false"
                )
        for name in ("rope_theta", "norm_eps"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 < value < math.inf):
                raise ValueError(f"{name} must be positive ({value!r}); see the default")
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise ValueError(
                f"dropout must be at least 0 and below 1 ({self.dropout!r}); 0 turns it off"
            )
        self._check_heads()
        self._check_position()

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads

    def _check_heads(self) -> None:
        assert self.num_kv_heads is not None  # resolved above
        if self.d_model % self.num_heads:
            above = math.ceil(self.d_model / self.num_heads) * self.num_heads
            raise ValueError(
                f"d_model must be a multiple of num_heads ({self.d_model}, {self.num_heads}); "
                f"take d_model {above} or another num_heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads must be a multiple of num_kv_heads ({self.num_heads}, "
                f"{self.num_kv_heads}); take num_kv_heads from the divisors of {self.num_heads}"
            )

    def _check_position(self) -> None:
        match self.position:
            case "rope":
                if self.d_head % 2:
                    raise ValueError(
                        f"d_model / num_heads must be even with rope ({self.d_head}); "
                        f'change one of them, or set position="none"'
                    )
            case "none":
                if self.rope_theta != _ROPE_THETA or self.rope_interleaved:
                    raise ValueError(
                        f'rope_theta and rope_interleaved do nothing with position="none" '
                        f"({self.rope_theta}, {self.rope_interleaved}); leave them out"
                    )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_count(name: str, value: object) -> None:
    # A bool is an int to Python, and 256.0 fits no tensor's shape.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer ({value!r}); give 1 or more")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"{name} is not one of its values ({value!r}); use {known}")
