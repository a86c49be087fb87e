"""`ModelConfig`: the settings of a model. This module needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from scratchlm.config import takes_synonyms

Norm = Literal["rmsnorm", "layernorm"]
Position = Literal["rope", "learned", "none"]
FeedForward = Literal["swiglu", "gelu", "relu2", "silu"]
Gate = Literal["none", "elementwise", "headwise"]
Init = Literal["truncated", "gpt2", "xavier", "kaiming"]
ResidualInit = Literal["scaled", "zero"]

_ROPE_THETA = 10_000.0


def default_d_ff(d_model: int, ffn: FeedForward = "swiglu") -> int:
    """Return the usual width of a feed-forward layer: 8/3 or 4 times d_model.

    SwiGLU has three matrices and the others have two, so its 8/3 · d_model costs as much as their
    4 · d_model (arXiv 2002.05202). It is a multiple of 64, which is fast on matrix units.
    """
    match ffn:
        case "swiglu":
            return math.ceil(d_model / 24) * 64
        case _:
            return 4 * d_model


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies, for texts longer than those of the training.

    `linear` divides every frequency by `factor` (position interpolation, arXiv 2306.15595).
    `llama3` counts the turns of a pair within `original_context_length`. It divides the frequency
    by `factor` below `low_freq_factor` turns, keeps it above `high_freq_factor` turns, and
    interpolates in between (arXiv 2407.21783; the fields of the hub's `rope_type: llama3`).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_context_length: int | None = None

    def __post_init__(self) -> None:
        _require_choice("rope_scaling.kind", self.kind, ("linear", "llama3"))
        _require_positive("rope_scaling.factor", self.factor)
        names = ("low_freq_factor", "high_freq_factor", "original_context_length")
        for name in names:
            value = getattr(self, name)
            if self.kind == "linear" and value is not None:
                raise ValueError(
                    f"rope_scaling.{name} has no effect on linear ({value}); leave it out"
                )
            if self.kind == "llama3":
                _require_positive(f"rope_scaling.{name}", value)
        if self.kind == "llama3":
            assert self.low_freq_factor is not None
            assert self.high_freq_factor is not None
            if self.low_freq_factor >= self.high_freq_factor:
                raise ValueError(
                    "rope_scaling.low_freq_factor must be below high_freq_factor "
                    f"({self.low_freq_factor}, {self.high_freq_factor}); Llama 3 uses 1 and 4"
                )


@takes_synonyms()
@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts that replaces every feed-forward layer; `d_ff` is one expert's width.

    Each token goes through `num_active` of the `num_experts`, and also through `num_shared` experts
    that serve all tokens. `balance_weight` and `z_weight` multiply the router's two losses (arXiv
    2101.03961, 2202.08906). Training multiplies the router's input by random numbers in 1 ±
    `jitter`.
    """

    num_experts: int
    num_active: int
    num_shared: int = 0
    balance_weight: float = 0.01
    z_weight: float = 0.001
    jitter: float = 0.0

    def __post_init__(self) -> None:
        _require_count("moe.num_experts", self.num_experts)
        _require_count("moe.num_active", self.num_active)
        if self.num_active > self.num_experts:
            raise ValueError(
                f"moe.num_active is at most num_experts ({self.num_active} of "
                f"{self.num_experts}); lower it"
            )
        if type(self.num_shared) is not int or self.num_shared < 0:
            raise ValueError(f"moe.num_shared is 0 or more ({self.num_shared!r}); raise it")
        for name in ("balance_weight", "z_weight"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(f"moe.{name} is 0 or more ({value!r}); 0 turns it off")
        if not (_is_number(self.jitter) and 0 <= self.jitter < 1):
            raise ValueError(
                f"moe.jitter is at least 0 and below 1 ({self.jitter!r}); 0 turns it off"
            )


@takes_synonyms()
@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`.

    The constructor replaces `num_kv_heads=None` by `num_heads` and `d_ff=None` by `default_d_ff`. A
    saved config therefore describes the same model even if a default changes. To compute such a
    field again, pass None: `dataclasses.replace(config, d_model=..., d_ff=None)`.

    `head_dim` is the width of a head (None: d_model / num_heads). The embedding and the head have
    `vocab_size` rows, rounded up to a multiple of `vocab_multiple` (64 is fast on matrix units).
    The extra rows belong to no token, and the logits leave them out. `window` is the number of last
    keys that a query attends to, its own included. The feed-forward `silu` is SwiGLU without its
    gate.
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
    init: Init = "truncated"
    head_dim: int | None = None
    vocab_multiple: int = 1
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    qk_norm_gain: bool = True
    gated_attention: Gate = "none"
    window: int | None = None
    moe: MoEConfig | None = None

    def __post_init__(self) -> None:
        for name, section in (("rope_scaling", RopeScaling), ("moe", MoEConfig)):
            if isinstance(value := getattr(self, name), dict):  # from `asdict` or JSON
                try:
                    object.__setattr__(self, name, section(**value))
                except TypeError as error:
                    raise ValueError(f"{name} has wrong keys ({error}); see {section}") from None
        _require_choice("norm", self.norm, get_args(Norm))
        _require_choice("position", self.position, get_args(Position))
        _require_choice("ffn", self.ffn, get_args(FeedForward))
        _require_choice("gated_attention", self.gated_attention, get_args(Gate))
        _require_choice("init", self.init, get_args(Init))
        _require_choice("residual_init", self.residual_init, get_args(ResidualInit))
        for name in (
            *("vocab_size", "context_length", "d_model", "num_layers", "num_heads"),
            "vocab_multiple",
        ):
            _require_count(name, getattr(self, name))
        if self.num_kv_heads is None:
            object.__setattr__(self, "num_kv_heads", self.num_heads)
        if self.d_ff is None:
            object.__setattr__(self, "d_ff", default_d_ff(self.d_model, self.ffn))
        for name in ("num_kv_heads", "d_ff", "head_dim", "window"):
            if getattr(self, name) is not None:
                _require_count(name, getattr(self, name))
        for name in (
            *("rope_interleaved", "tie_embeddings", "bias", "qkv_bias", "qk_norm"),
            "qk_norm_gain",
        ):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be a bool ({getattr(self, name)!r}); use true or false"
                )
        for name in ("rope_theta", "norm_eps"):
            _require_positive(name, getattr(self, name))
        if not (_is_number(self.dropout) and 0 <= self.dropout < 1):
            raise ValueError(
                f"dropout must be at least 0 and below 1 ({self.dropout!r}); 0 turns it off"
            )
        self._check_heads()
        self._check_position()
        self._check_effects()

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def padded_vocab_size(self) -> int:
        """The number of rows of the embedding and of the head."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    def _check_heads(self) -> None:
        assert self.num_kv_heads is not None  # __post_init__ resolves it
        if self.head_dim is None and self.d_model % self.num_heads:
            above = math.ceil(self.d_model / self.num_heads) * self.num_heads
            raise ValueError(
                f"d_model must be a multiple of num_heads ({self.d_model}, {self.num_heads}); "
                f"take d_model {above}, another num_heads, or give head_dim"
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
            case other:
                rope = (self.rope_theta, self.rope_interleaved, self.rope_scaling)
                if rope != (_ROPE_THETA, False, None):
                    raise ValueError(
                        "rope_theta, rope_interleaved and rope_scaling do nothing with "
                        f'position="{other}" ({", ".join(map(str, rope))}); leave them out, or '
                        f"give their defaults: {_ROPE_THETA:g}, false, none"
                    )

    def _check_effects(self) -> None:
        """Raise ValueError for a setting that has no effect."""
        if self.qkv_bias and self.bias:
            raise ValueError("qkv_bias does nothing with bias (true, true); leave one out")
        if not self.qk_norm_gain and not self.qk_norm:
            raise ValueError("qk_norm_gain does nothing without qk_norm (false); leave it out")
        if self.moe is not None and (self.ffn != "swiglu" or self.bias):
            raise ValueError(
                f"experts are SwiGLUs without biases (ffn {self.ffn}, bias {self.bias}); "
                "leave both out with moe"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_count(name: str, value: object) -> None:
    # In Python a bool is an int, and a tensor's shape cannot hold 256.0.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer ({value!r}); give 1 or more")


def _require_positive(name: str, value: object) -> None:
    if not (_is_number(value) and 0 < value < math.inf):  # type: ignore[operator]
        raise ValueError(f"{name} must be positive ({value!r}); see the default")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"{name} has no such value ({value!r}); use {known}")
