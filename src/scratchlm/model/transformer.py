"""The decoder-only transformer: GPT-2, Llama and Mixtral are configurations of one class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.errors import knows_names
from scratchlm.model.attention import Attend, MultiHeadAttention, sdpa
from scratchlm.model.config import LoRAConfig, ModelConfig
from scratchlm.model.feed_forward import new_feed_forward
from scratchlm.model.initialization import initialize
from scratchlm.model.kv_cache import ConstantShapes, KVCache, LayerCache
from scratchlm.model.layers import (
    Embedding,
    LayerNorm,
    LearnedPositions,
    Linear,
    NoPositions,
    RMSNorm,
    SoftCap,
)
from scratchlm.model.lora import LoRALinear, add_adapters, merge_adapters
from scratchlm.model.moe import MixtureOfExperts
from scratchlm.model.rope import RotaryEmbedding
from scratchlm.model.segments import positions_from

Ids = Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer]


@takes_synonyms()
class TransformerBlock(nn.Module):
    """x (..., seq, d_model) -> (..., seq, d_model), in two residual steps.

    x + attn(attn_norm(x)), then x + ffn(ffn_norm(x)).  Pre-norm: arXiv 2002.04745

    `layer` is the number of the block, which determines the window of its attention.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        layer: int = 0,
        rope: RotaryEmbedding | None = None,
        attend: Attend = sdpa,
    ) -> None:
        super().__init__()
        assert config.d_ff is not None  # ModelConfig replaces None
        self.attn_norm = _new_norm(config)
        self.attn = MultiHeadAttention(
            config.d_model,
            config.num_heads,
            config.num_kv_heads,
            d_head=config.d_head,
            rope=rope,
            attend=attend,
            bias=config.bias,
            qkv_bias=config.qkv_bias,
            qk_norm=config.qk_norm,
            qk_norm_gain=config.qk_norm_gain,
            gate=config.gated_attention,
            window=config.windows[layer],
            sinks=config.attention_sinks,
            norm_eps=config.norm_eps,
        )
        self.ffn_norm = _new_norm(config)
        self.ffn = (
            new_feed_forward(config.ffn, config.d_model, config.d_ff, config.bias)
            if config.moe is None
            else MixtureOfExperts(config.d_model, config.d_ff, **asdict(config.moe))
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        *,
        cache: LayerCache | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """x (..., seq, d_model) -> (..., seq, d_model). `MultiHeadAttention` explains the rest."""
        attended = self.attn(
            self.attn_norm(x), cache=cache, positions=positions, mask=mask, first=first
        )
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


# Names from other libraries, and their replacements here.
FOREIGN = {
    "generate": "generate(model, ids, max_tokens)",
    "save": "save_checkpoint(path, model, optimizer, step)",
    "save_pretrained": "to_hf(model, folder)",
    "get_num_params": "num_parameters()",
    "crop_block_size": "dataclasses.replace(config, context_length=…)",
    "configure_optimizers": "adamw_groups(model.named_parameters(), weight_decay)",
}


@takes_synonyms()
@knows_names(FOREIGN)
class Transformer(nn.Module):
    """ids (..., seq) -> logits (..., seq, vocab).

    The module `initialization` lists the initial weights. `attend` computes attention, and
    checkpoints do not contain it. Under `with torch.device("meta"):` the weights have shapes but no
    memory. `allocate` then allocates their memory, for example to load a checkpoint.
    """

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise ValueError(
                f"config must be a ModelConfig ({config!r:.40}); make a ModelConfig first"
            )
        self.config = config
        with torch.device("meta"):  # without memory, so that each weight is initialized only once
            self.embedding = Embedding(config.padded_vocab_size, config.d_model)
            match config.position:
                case "learned":
                    self.position_embedding: nn.Module = LearnedPositions(
                        config.context_length, config.d_model
                    )
                case "rope" | "none":
                    self.position_embedding = NoPositions()
            self.dropout = nn.Dropout(config.dropout)
            self.layers = nn.ModuleList(
                TransformerBlock(config, layer=layer, rope=rope, attend=attend)
                for layer, rope in enumerate(_new_ropes(config))
            )
            self.norm = _new_norm(config)
            self.lm_head = Linear(config.d_model, config.padded_vocab_size)
            cap = config.logit_softcap
            self.softcap = nn.Identity() if cap is None else SoftCap(cap)
            self._tie()
            if config.lora is not None:
                self.add_lora(config.lora)
        device = torch.get_default_device()
        if device.type != "meta":
            self.allocate(device)
            self.reset_parameters()

    def allocate(self, device: torch.device | str) -> None:
        """Allocate every weight on a device, without initial values."""
        # `to_empty` does the same, but its empty_like of meta tensors imports the compiler (2 s).
        self._apply(lambda each: torch.empty(each.shape, dtype=each.dtype, device=device))
        self._tie()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Use these CPU tensors as the weights. Copy nothing, and keep each dtype."""
        self.allocate("cpu")  # builds the rotary table; memory that nobody fills costs nothing
        if self.config.tie_embeddings:
            weights = {**weights, "lm_head.weight": weights["embedding.weight"]}
        self.load_state_dict(weights, assign=True)
        self._tie()

    def add_lora(self, config: LoRAConfig) -> None:
        """Add new adapters to the model, and freeze all its other weights (the module `lora`)."""
        add_adapters(self, config)
        self.config = replace(self.config, lora=config)

    def merge_lora(self) -> None:
        """Merge the adapters into the weights, so that the model is a model without adapters."""
        merge_adapters(self)
        self.config = replace(self.config, lora=None)

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Set new initial weights, which depend on `config.init` and `config.residual_init`."""
        match self.config.residual_init:
            case "scaled":
                residual_scale = 1 / math.sqrt(2 * self.config.num_layers)
            case "zero":
                residual_scale = 0.0
        initialize(self, self.config.init, residual_scale)

    def forward(
        self,
        ids: Tensor | Ids,
        targets: None = None,
        *,
        cache: KVCache | ConstantShapes | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> logits (..., seq, vocab) for the token that follows each id.

        ids: a tensor, lists or an array.
        targets: must be None. The loss is `cross_entropy(model(ids), targets)`.
        cache: ids (batch, seq) follow the cached tokens, and the pass adds them to the cache.
        positions: (seq,) or (..., seq). The default positions start at 0, or at the cache's length.
        mask: boolean, (seq, key) or (..., 1 or head, seq, key), True where a query may attend. The
        causal mask applies too. With a cache, the keys of `ids` follow the cached keys.
        first: whole numbers (..., seq), the first key that each token may attend to. The default
        positions then count from this key. So a row may contain several documents, and the
        logits of each document are the same as for the document alone. Each number must be from 0
        to the place of its token. The model does not check this, because the GPU would wait.

        Raise ValueError if the tokens do not fit in `context_length` or in the cache.
        """
        if targets is not None:
            raise ValueError(
                "targets must be None, because a model returns logits; write cross_entropy("
                "model(ids), targets), or F.cross_entropy(model(ids).flatten(0, 1), "
                "targets.flatten())"
            )
        if not isinstance(ids, Tensor):
            ids = as_ids(ids, self.embedding.weight.device)
        try:
            hidden = self.hidden(ids, cache=cache, positions=positions, mask=mask, first=first)
            return self.logits(hidden)
        except IndexError:
            if ids.min() >= 0 and ids.max() < self.config.padded_vocab_size:
                raise  # the ids are valid, so the error has another cause
            raise ValueError(
                f"ids must be in 0…{self.config.vocab_size - 1}, the vocabulary ({ids.min()} to "
                f"{ids.max()}); use the tokenizer of this model"
            ) from None

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model), the result of `hidden` -> logits (..., vocab)."""
        logits = self.lm_head(hidden)[..., : self.config.vocab_size]  # without the padding rows
        return self.softcap(logits)

    def head(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """hidden (..., d_model) -> z (..., width), W (vocab, width), with W z = `logits(hidden)`.

        With `config.logit_softcap`, the logits are the soft-cap of W z. A loss that fuses the head
        needs this method. z is `hidden`, unless the head has an adapter.
        """
        head = self.lm_head
        z, weight = head.as_one(hidden) if isinstance(head, LoRALinear) else (hidden, head.weight)
        return z, weight[: self.config.vocab_size]

    def hidden(
        self,
        ids: Tensor,
        *,
        cache: KVCache | ConstantShapes | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        first: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> (..., seq, d_model): `forward` up to `norm`, without `lm_head`."""
        start = 0 if cache is None else cache.length
        self._check(ids, start, mask, first)
        if positions is None:
            positions = positions_from(start, ids.shape[-1], first, ids.device)
        x = self.dropout(self.position_embedding(self.embedding(ids), positions))
        caches = [None] * len(self.layers) if cache is None else cache.layers
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache=layer_cache, positions=positions, mask=mask, first=first)
        if cache is not None:
            cache.advance(ids.shape[-1])
        return self.norm(x)

    def _check(self, ids: Tensor, start: int, mask: Tensor | None, first: Tensor | None) -> None:
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32 ({ids.dtype}); convert ids with .long()")
        end = start + ids.shape[-1]
        if end > self.config.context_length:
            raise ValueError(
                f"the text must have at most context_length tokens ({end} > "
                f"{self.config.context_length}); remove the beginning of the text, or train a "
                "model with a longer context"
            )
        if mask is not None and mask.ndim not in (2, ids.ndim + 2):
            raise ValueError(
                "the shape of mask must be (seq, key) or (batch, 1 or head, seq, key) "
                f"({tuple(mask.shape)}); reshape a mask of keys with mask[:, None, None, :]"
            )
        if first is not None and (first.is_floating_point() or first.shape != ids.shape):
            raise ValueError(
                f"first must contain a whole number for each token ({first.dtype}, shape "
                f"{tuple(first.shape)}, not {tuple(ids.shape)}); use the axes of ids"
            )

    def new_cache(
        self,
        batch_size: int,
        context_length: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """Return an empty cache on the model's device. Under autocast, pass the autocast dtype."""
        assert self.config.num_kv_heads is not None  # ModelConfig replaces None
        weight = self.embedding.weight
        return KVCache(
            self.config.num_layers,
            batch_size,
            self.config.num_kv_heads,
            self.config.context_length if context_length is None else context_length,
            self.config.d_head,
            device=weight.device,
            dtype=weight.dtype if dtype is None else dtype,
            windows=self.config.windows,
        )

    def auxiliary_loss(self) -> Tensor | None:
        """Return the mean of the layers' `auxiliary_loss` in the last forward pass.

        Return None for a model without experts.
        """
        losses = [mixture.auxiliary_loss for mixture in self._mixtures()]
        return torch.stack(losses).mean() if losses else None

    def expert_load(self) -> list[list[float]]:
        """Return the `load` of every layer in the last forward pass, rounded to 4 digits."""
        return [[round(share, 4) for share in m.load.tolist()] for m in self._mixtures()]

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, MixtureOfExperts)]

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Count the parameters. With `embeddings=False`, leave out the embedding and `lm_head`.

        The count without embeddings is the N of arXiv 2001.08361.
        """
        total = sum(p.numel() for p in self.parameters())  # a tied weight appears once
        if embeddings:
            return total
        vocabulary = {self.embedding.weight, self.lm_head.weight}
        return total - sum(weight.numel() for weight in vocabulary)


def as_ids(ids: Ids, device: torch.device) -> Tensor:
    """ids (..., seq), as lists or an array -> an int64 tensor (..., seq) on the device."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if not array.ndim or (array.size and array.dtype.kind not in "iu"):
        shown = " ".join(f"{ids!r:.40}".split())
        raise ValueError(
            f"ids must be whole numbers, in rows of one length ({shown}); encode text with the "
            "tokenizer, and pass rows of different lengths one by one"
        )
    return torch.from_numpy(array.astype(np.int64)).to(device)


def _new_ropes(config: ModelConfig) -> list[RotaryEmbedding | None]:
    """Return the rotary positions of each layer. All layers of one kind use the same table."""
    new = partial(
        RotaryEmbedding,
        config.d_head,
        config.context_length,
        interleaved=config.rope_interleaved,
    )
    ropes = {}
    if True in config.rotary:
        ropes["all"] = new(theta=config.rope_theta, scaling=config.rope_scaling)
        ropes["window"] = ropes["all"]
    if config.local_rope_theta is not None:
        ropes["window"] = new(theta=config.local_rope_theta)
    return [
        ropes["all" if window is None else "window"] if rotary else None
        for window, rotary in zip(config.windows, config.rotary, strict=True)
    ]


def _new_norm(config: ModelConfig) -> nn.Module:
    match config.norm:
        case "rmsnorm":
            return RMSNorm(config.d_model, config.norm_eps)
        case "layernorm":
            return LayerNorm(config.d_model, config.norm_eps, config.bias)
