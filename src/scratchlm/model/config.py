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

    A SwiGLU has three matrices, and the other layers have two. So a SwiGLU with the width
    8/3 · d_model costs as much as another layer with 4 · d_model (arXiv 2002.05202). This function
    rounds the width of a SwiGLU up to a multiple of 64, which is fast on matrix units.
    """
    match ffn:
        case "swiglu":
            return math.ceil(d_model / 24) * 64
        case _:
            return 4 * d_model


@dataclass(frozen=True)
class RopeScaling:
    """Scaling of the rotary frequencies, for texts longer than the training texts.

    `linear` divides every frequency by `factor` (position interpolation, arXiv 2306.15595).
    `llama3` counts the turns of a pair within `original_context_length`. It divides the frequency
    by `factor` below `low_freq_factor` turns, keeps the frequency above `high_freq_factor` turns,
    and interpolates in between (arXiv 2407.21783).
    `yarn` interpolates by the number of the pair, between the pair with `beta_slow` turns and the
    pair with `beta_fast` turns. With `truncate`, both numbers are rounded outwards. It also
    multiplies the rotated vectors by `attention_factor`, so the scores are multiplied by its square
    (arXiv 2309.00071). None means 32, 1, true and 0.1 ln(factor) + 1.
    The `rope_type` llama3 and yarn of Hugging Face have these fields.

    The constructor raises ValueError for a value that is out of range or has no effect.
    """

    kind: Literal["linear", "llama3", "yarn"]
    factor: float
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_context_length: int | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    attention_factor: float | None = None
    truncate: bool | None = None

    def __post_init__(self) -> None:
        _require_choice("rope_scaling.kind", self.kind, ("linear", "llama3", "yarn"))
        _require_positive("rope_scaling.factor", self.factor, example=8)
        if self.kind == "yarn":
            defaults = {"beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
            defaults["attention_factor"] = 0.1 * math.log(max(self.factor, 1)) + 1
            for name, value in defaults.items():
                if getattr(self, name) is None:
                    object.__setattr__(self, name, value)
        examples = {
            "low_freq_factor": 1,
            "high_freq_factor": 4,
            "original_context_length": 8192,
            "beta_fast": 32,
            "beta_slow": 1,
            "attention_factor": 1.1,
        }
        for name in (*examples, "truncate"):
            value = getattr(self, name)
            if name not in _SCALING_FIELDS[self.kind] and value is not None:
                raise ValueError(
                    f"rope_scaling.{name} ({value}) has no effect with kind {self.kind}; "
                    "remove this setting"
                )
            if name in examples and name in _SCALING_FIELDS[self.kind]:
                _require_positive(f"rope_scaling.{name}", value, example=examples[name])
        if self.truncate is not None and not isinstance(self.truncate, bool):
            raise ValueError(
                f"rope_scaling.truncate must be a bool ({self.truncate!r}); use true or false"
            )
        self._require_order("low_freq_factor", "high_freq_factor", "use 1 and 4, as Llama 3 does")
        self._require_order("beta_slow", "beta_fast", "use 1 and 32")

    def _require_order(self, low: str, high: str, remedy: str) -> None:
        """Raise ValueError unless the first of two fields has the smaller value, or both none."""
        one, other = getattr(self, low), getattr(self, high)
        if one is not None and one >= other:
            raise ValueError(f"rope_scaling.{low} ({one}) must be below {high} ({other}); {remedy}")


_SCALING_FIELDS = {
    "linear": (),
    "llama3": ("low_freq_factor", "high_freq_factor", "original_context_length"),
    "yarn": ("original_context_length", "beta_fast", "beta_slow", "attention_factor", "truncate"),
}


@takes_synonyms()
@dataclass(frozen=True)
class MoEConfig:
    """A mixture of experts that replaces every feed-forward layer. `d_ff` is one expert's width.

    Each token goes through `num_active` of the `num_experts`, and also through `num_shared` experts
    that serve all tokens. `balance_weight` and `z_weight` multiply the router's two losses (arXiv
    2101.03961, 2202.08906). Training multiplies the router's input by random numbers in 1 ±
    `jitter`.

    The constructor raises ValueError for a value that is out of range.
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
                f"moe.num_active ({self.num_active}) must be at most moe.num_experts "
                f"({self.num_experts}); decrease num_active"
            )
        if type(self.num_shared) is not int or self.num_shared < 0:
            raise ValueError(
                f"moe.num_shared must be an integer of at least 0 ({self.num_shared!r}); "
                "use 0 for no shared experts"
            )
        for name in ("balance_weight", "z_weight"):
            value = getattr(self, name)
            if not (_is_number(value) and 0 <= value < math.inf):
                raise ValueError(
                    f"moe.{name} must be a finite number of at least 0 ({value!r}); "
                    "use 0 to turn this loss off"
                )
        _require_fraction("moe.jitter", self.jitter)


@takes_synonyms()
@dataclass(frozen=True)
class LoRAConfig:
    """Adapters of low rank beside frozen linear layers (arXiv 2106.09685, `model.lora`).

    An adapter adds alpha / r · B A x to the output of its layer, with A (r, in) and B (out, r).
    Training sets an element of the adapter's input to 0 with the probability `dropout`.

    `targets` are the ends of the layers' names, such as q_proj or ffn.down_proj. One text with
    commas is allowed too. The target all-linear means all linear layers except `lm_head` and the
    routers of experts. The stacked matrices of experts have no adapters.

    `full` are the ends of the names of weights that learn fully, without an adapter, such as
    embedding and lm_head. New special tokens need these two.

    The constructor raises ValueError for a value that is out of range.
    """

    r: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    full: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for key in ("targets", "full"):
            names = getattr(self, key)
            names = names.split(",") if isinstance(names, str) else names
            object.__setattr__(self, key, tuple(names))
            if not all(isinstance(each, str) and each for each in names):
                raise ValueError(f"lora.{key} must be names ({names!r}); use e.g. lm_head")
        _require_count("lora.r", self.r)
        _require_positive("lora.alpha", self.alpha, example=16)
        _require_fraction("lora.dropout", self.dropout)
        if not self.targets:
            raise ValueError("lora.targets must not be empty (()); use e.g. q_proj,v_proj")

    @property
    def scale(self) -> float:
        return self.alpha / self.r


_SECTIONS = {"rope_scaling": RopeScaling, "moe": MoEConfig, "lora": LoRAConfig}


@takes_synonyms()
@dataclass(frozen=True)
class ModelConfig:
    """The shape of a `Transformer`.

    The constructor replaces `num_kv_heads=None` by `num_heads` and `d_ff=None` by `default_d_ff`. A
    saved config therefore describes the same model even if a default changes. To compute such a
    field for another size, pass None: `dataclasses.replace(config, d_model=..., d_ff=None)`.

    `head_dim` is the width of an attention head (None: d_model / num_heads). The embedding and
    `lm_head` have `vocab_size` rows, rounded up to a multiple of `vocab_multiple` (64 is fast on
    matrix units). The extra rows belong to no token, and the logits leave them out. A query attends
    to the last `window` keys, including the query's own key (None: to all keys so far). The
    feed-forward layer `silu` is SwiGLU without its gate. With `lora`, the model has adapters, and
    all other weights are frozen.

    With `attention_sinks`, each head learns one more logit, to which its weight can go instead of
    a key (gpt-oss). With `logit_softcap` c, the logits x of the head become c tanh(x/c), as in
    Gemma 2.

    Three settings make the attention of the layers different. `window_pattern` has a letter for
    each layer, and repeats over the layers: S for attention to the last `window` keys, and L for
    attention to all keys (arXiv 2408.00118). With `nope_every` n, the layers n, 2n, 3n, … have no
    rotary positions (arXiv 2501.18795). `local_rope_theta` is the rotary base of the layers with a
    window, which then do not use `rope_scaling` either (Gemma 3, arXiv 2503.19786).

    The constructor raises ValueError for a value that is out of range or has no effect.
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
    window_pattern: str | None = None
    nope_every: int | None = None
    local_rope_theta: float | None = None
    logit_softcap: float | None = None
    attention_sinks: bool = False
    moe: MoEConfig | None = None
    lora: LoRAConfig | None = None

    def __post_init__(self) -> None:
        for name, section in _SECTIONS.items():
            if isinstance(value := getattr(self, name), dict):  # from `asdict` or JSON
                try:
                    object.__setattr__(self, name, section(**value))
                except TypeError as error:
                    raise ValueError(
                        f"{name} has wrong keys ({error}); use the fields of {section.__name__}"
                    ) from None
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
        for name in ("num_kv_heads", "d_ff", "head_dim", "window", "nope_every"):
            if getattr(self, name) is not None:
                _require_count(name, getattr(self, name))
        for name in (
            *("rope_interleaved", "tie_embeddings", "bias", "qkv_bias", "qk_norm"),
            *("qk_norm_gain", "attention_sinks"),
        ):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(
                    f"{name} must be a bool ({getattr(self, name)!r}); use true or false"
                )
        for name, example in (("rope_theta", _ROPE_THETA), ("norm_eps", 1e-5)):
            _require_positive(name, getattr(self, name), example=example)
        for name, example in (("local_rope_theta", _ROPE_THETA), ("logit_softcap", 30)):
            if getattr(self, name) is not None:
                _require_positive(name, getattr(self, name), example=example)
        _require_fraction("dropout", self.dropout)
        self._check_heads()
        self._check_position()
        self._check_layers()
        self._check_effects()

    @property
    def d_head(self) -> int:
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def windows(self) -> list[int | None]:
        """The window of each layer; None: the layer attends to all keys so far."""
        pattern = self.window_pattern or "S"
        kinds = (pattern[layer % len(pattern)] for layer in range(self.num_layers))
        return [self.window if kind == "S" else None for kind in kinds]

    @property
    def rotary(self) -> list[bool]:
        """Whether each layer has rotary positions."""
        every = self.nope_every or self.num_layers + 1
        return [
            self.position == "rope" and layer % every != 0
            for layer in range(1, self.num_layers + 1)
        ]

    @property
    def derived(self) -> list[str]:
        """The fields that have the values for None: they follow from the other fields."""
        defaults = {
            "num_kv_heads": self.num_heads,
            "d_ff": default_d_ff(self.d_model, self.ffn),
        }
        return [name for name, value in defaults.items() if getattr(self, name) == value]

    @property
    def padded_vocab_size(self) -> int:
        """The number of rows of the embedding and of `lm_head`."""
        return math.ceil(self.vocab_size / self.vocab_multiple) * self.vocab_multiple

    def _check_heads(self) -> None:
        assert self.num_kv_heads is not None  # __post_init__ resolves it
        if self.head_dim is None and self.d_model % self.num_heads:
            above = math.ceil(self.d_model / self.num_heads) * self.num_heads
            raise ValueError(
                f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads}); "
                f"use d_model {above} or another num_heads, or set head_dim"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_heads ({self.num_heads}) must be a multiple of num_kv_heads "
                f"({self.num_kv_heads}); set num_kv_heads to a divisor of {self.num_heads}"
            )

    def _check_position(self) -> None:
        match self.position:
            case "rope":
                yarn = self.rope_scaling is not None and self.rope_scaling.kind == "yarn"
                if yarn and self.rope_theta <= 1:
                    raise ValueError(
                        f"rope_theta must be above 1 with yarn ({self.rope_theta}); use e.g. "
                        f"{_ROPE_THETA:g}"
                    )
                if self.d_head % 2:
                    raise ValueError(
                        f"the width of a head must be even with rope ({self.d_head}); change "
                        "d_model, num_heads or head_dim, or set position to none"
                    )
            case other:
                rope = (self.rope_theta, self.rope_interleaved, self.rope_scaling)
                for name in ("nope_every", "local_rope_theta"):
                    if getattr(self, name) is not None:
                        raise ValueError(
                            f"{name} ({getattr(self, name)}) has no effect with position {other}; "
                            f"remove {name}"
                        )
                if rope != (_ROPE_THETA, False, None):
                    raise ValueError(
                        f"rope_theta ({rope[0]}), rope_interleaved ({rope[1]}) and rope_scaling "
                        f"({rope[2]}) have no effect with position {other}; remove these settings, "
                        f"or set their defaults: {_ROPE_THETA:g}, false, none"
                    )

    def _check_layers(self) -> None:
        """Raise ValueError for settings of single layers that are wrong or have no effect."""
        pattern = self.window_pattern
        if pattern is not None:
            if not isinstance(pattern, str) or set(pattern) != {"S", "L"}:
                raise ValueError(
                    f"window_pattern must contain the letters S and L ({pattern!r}); use e.g. "
                    "'SSSL', or remove window_pattern if all layers are equal"
                )
            if self.window is None:
                raise ValueError(
                    f"window_pattern ({pattern}) has no effect without window; set window too"
                )
        if self.nope_every == 1:
            raise ValueError(
                "nope_every must be at least 2 (1); set position to none if no layer has positions"
            )
        if self.local_rope_theta is not None and pattern is None:
            raise ValueError(
                f"local_rope_theta ({self.local_rope_theta}) has no effect without window_pattern; "
                "set window_pattern, or use rope_theta"
            )

    def _check_effects(self) -> None:
        """Raise ValueError for a setting that has no effect."""
        if self.qkv_bias and self.bias:
            raise ValueError("qkv_bias (true) has no effect with bias (true); remove qkv_bias")
        if not self.qk_norm_gain and not self.qk_norm:
            raise ValueError(
                "qk_norm_gain (false) has no effect without qk_norm; remove qk_norm_gain"
            )
        if self.moe is not None and (self.ffn != "swiglu" or self.bias):
            raise ValueError(
                f"ffn ({self.ffn}) must be swiglu and bias ({self.bias}) must be false with moe; "
                "set these two values"
            )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _require_count(name: str, value: object) -> None:
    # In Python a bool is an int, and a tensor's shape cannot contain 256.0.
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a positive integer ({value!r}); use 1 or more")


def _require_positive(name: str, value: object, *, example: float) -> None:
    if not (_is_number(value) and 0 < value < math.inf):  # type: ignore[operator]
        raise ValueError(f"{name} must be positive and finite ({value!r}); use e.g. {example:g}")


def _require_fraction(name: str, value: object) -> None:
    if not (_is_number(value) and 0 <= value < 1):  # type: ignore[operator]
        kind = name.rpartition(".")[2]
        raise ValueError(f"{name} must be at least 0 and below 1 ({value!r}); use 0 for no {kind}")


def _require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = " or ".join(map(repr, choices))
        raise ValueError(f"{name} must be {known} ({value!r}); use e.g. {choices[0]!r}")
