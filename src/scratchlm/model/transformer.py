"""The decoder-only transformer: GPT-2, Llama and Mixtral are configurations of one class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from scratchlm.config import takes_synonyms
from scratchlm.errors import knows_names
from scratchlm.model.attention import Attend, MultiHeadAttention, sdpa
from scratchlm.model.config import ModelConfig
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
)
from scratchlm.model.moe import MixtureOfExperts
from scratchlm.model.rope import RotaryEmbedding

__all__ = ["ModelConfig", "Transformer", "TransformerBlock"]

Ids = Sequence[int] | Sequence[Sequence[int]] | npt.NDArray[np.integer]


@takes_synonyms()
class TransformerBlock(nn.Module):
    """x (..., seq, d_model) -> (..., seq, d_model), in two residual steps.

    x + attn(attn_norm(x)), then x + ffn(ffn_norm(x)).  Pre-norm: arXiv 2002.04745
    """

    def __init__(
        self, config: ModelConfig, *, rope: RotaryEmbedding | None = None, attend: Attend = sdpa
    ) -> None:
        super().__init__()
        assert config.d_ff is not None  # ModelConfig resolves it
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
            window=config.window,
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
    ) -> Tensor:
        """x (..., seq, d_model) -> (..., seq, d_model); see `MultiHeadAttention` for the rest."""
        attended = self.attn(self.attn_norm(x), cache=cache, positions=positions, mask=mask)
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

    The module `initialization` lists the initial weights. `attend` computes attention; no
    checkpoint holds it. Under `with torch.device("meta"):` the weights have shapes and no memory.
    `allocate` then gives them memory, for example to load a checkpoint.
    """

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise ValueError(f"a Transformer takes a ModelConfig ({config!r:.40}); make one first")
        self.config = config
        with torch.device("meta"):  # no memory yet, so that each weight is drawn once
            self.embedding = Embedding(config.padded_vocab_size, config.d_model)
            match config.position:
                case "learned":
                    self.position_embedding: nn.Module = LearnedPositions(
                        config.context_length, config.d_model
                    )
                case "rope" | "none":
                    self.position_embedding = NoPositions()
            self.dropout = nn.Dropout(config.dropout)
            rope = _new_rope(config)  # one table, shared by all layers
            self.layers = nn.ModuleList(
                TransformerBlock(config, rope=rope, attend=attend) for _ in range(config.num_layers)
            )
            self.norm = _new_norm(config)
            self.lm_head = Linear(config.d_model, config.padded_vocab_size)
        self._tie()
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
        self.allocate("cpu")  # builds the rotary table; untouched memory costs nothing
        if self.config.tie_embeddings:
            weights = {**weights, "lm_head.weight": weights["embedding.weight"]}
        self.load_state_dict(weights, assign=True)
        self._tie()

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Set new initial weights, by `config.init` and `config.residual_init`."""
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
    ) -> Tensor:
        """ids (..., seq) -> logits (..., seq, vocab), of the token that follows each.

        ids: a tensor, lists or an array.
        targets: the model refuses them; the loss is `cross_entropy(model(ids), targets)`.
        cache: ids (batch, seq) continue its tokens, and the pass adds them to it.
        positions: (seq,) or (..., seq); by default 0…seq−1, or onward from the cache's length.
        mask: boolean, (seq, key) or (..., 1 or head, seq, key), True where a query may attend. The
        causal mask applies too. The keys are the cached tokens, then those of ids.

        Raises ValueError if the tokens do not fit in `context_length` or in the cache.
        """
        if targets is not None:
            raise ValueError(
                "a model takes no targets (it gives logits); write cross_entropy(model(ids), "
                "targets), or F.cross_entropy(model(ids).flatten(0, 1), targets.flatten())"
            )
        if not isinstance(ids, Tensor):
            ids = as_ids(ids, self.embedding.weight.device)
        try:
            return self.logits(self.hidden(ids, cache=cache, positions=positions, mask=mask))
        except IndexError:
            if ids.min() >= 0 and ids.max() < self.config.padded_vocab_size:
                raise  # the ids are valid, so the cause is another
            raise ValueError(
                f"an id is not in the vocabulary (from {ids.min()} to {ids.max()}, of "
                f"{self.config.vocab_size}); use the tokenizer the model was trained with"
            ) from None

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model), from `hidden` -> logits (..., vocab): only the head."""
        return self.lm_head(hidden)[..., : self.config.vocab_size]  # drops the padding rows

    def hidden(
        self,
        ids: Tensor,
        *,
        cache: KVCache | ConstantShapes | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> (..., seq, d_model): `forward` without the head, but with `norm`."""
        start = 0 if cache is None else cache.length
        self._check(ids, start, mask)
        if positions is None:
            positions = torch.arange(start, start + ids.shape[-1], device=ids.device)
        x = self.dropout(self.position_embedding(self.embedding(ids), positions))
        caches = [None] * len(self.layers) if cache is None else cache.layers
        for layer, layer_cache in zip(self.layers, caches, strict=True):
            x = layer(x, cache=layer_cache, positions=positions, mask=mask)
        if cache is not None:
            cache.advance(ids.shape[-1])
        return self.norm(x)

    def _check(self, ids: Tensor, start: int, mask: Tensor | None) -> None:
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"ids must be int64 or int32 ({ids.dtype}); convert them with .long()")
        end = start + ids.shape[-1]
        if end > self.config.context_length:
            raise ValueError(
                f"the text is longer than context_length ({end} > {self.config.context_length}); "
                f"drop its beginning, or train with a longer context"
            )
        if mask is not None and mask.ndim not in (2, ids.ndim + 2):
            raise ValueError(
                f"mask must be (seq, key) or (batch, 1 or head, seq, key) ({tuple(mask.shape)}); "
                f"reshape a mask of keys with mask[:, None, None, :]"
            )

    def new_cache(
        self,
        batch_size: int,
        context_length: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """Return an empty cache on the model's device. Under autocast, pass autocast's dtype."""
        assert self.config.num_kv_heads is not None  # ModelConfig resolves it
        weight = self.embedding.weight
        return KVCache(
            self.config.num_layers,
            batch_size,
            self.config.num_kv_heads,
            self.config.context_length if context_length is None else context_length,
            self.config.d_head,
            device=weight.device,
            dtype=weight.dtype if dtype is None else dtype,
        )

    def auxiliary_loss(self) -> Tensor | None:
        """Return the routers' loss in the last forward pass, averaged over the layers.

        Return None for a model without experts.
        """
        losses = [mixture.auxiliary_loss for mixture in self._mixtures()]
        return torch.stack(losses).mean() if losses else None

    def expert_load(self) -> list[list[float]]:
        """Return each expert's share of the last forward pass, per layer, to 4 digits."""
        return [[round(share, 4) for share in m.load.tolist()] for m in self._mixtures()]

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, MixtureOfExperts)]

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """Count the parameters. Without `embeddings`, leave out the embedding and lm_head.

        That smaller count is the N of arXiv 2001.08361.
        """
        total = sum(p.numel() for p in self.parameters())  # a tied weight appears once
        if embeddings:
            return total
        vocabulary = {self.embedding.weight, self.lm_head.weight}
        return total - sum(weight.numel() for weight in vocabulary)


def as_ids(ids: Ids, device: torch.device) -> Tensor:
    """ids (..., seq), as lists or an array -> an int64 tensor on the device."""
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if not array.ndim or (array.size and array.dtype.kind not in "iu"):
        shown = " ".join(f"{ids!r:.40}".split())
        raise ValueError(
            f"ids are whole numbers, in rows of one length ({shown}); encode text with the "
            "tokenizer, and take rows of other lengths one by one"
        )
    return torch.from_numpy(array.astype(np.int64)).to(device)


def _new_rope(config: ModelConfig) -> RotaryEmbedding | None:
    match config.position:
        case "rope":
            return RotaryEmbedding(
                config.d_head,
                config.context_length,
                config.rope_theta,
                config.rope_interleaved,
                scaling=config.rope_scaling,
            )
        case "learned" | "none":
            return None


def _new_norm(config: ModelConfig) -> nn.Module:
    match config.norm:
        case "rmsnorm":
            return RMSNorm(config.d_model, config.norm_eps)
        case "layernorm":
            return LayerNorm(config.d_model, config.norm_eps, config.bias)
