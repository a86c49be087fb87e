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
    """x (..., seq, d_model) -> (..., seq, d_model), each half added to what it read.

    x + attn(attn_norm(x)), then x + ffn(ffn_norm(x)).  Norms first: arXiv 2002.04745
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
        """x (..., seq, d_model) -> (..., seq, d_model); the rest as for `MultiHeadAttention`."""
        attended = self.attn(self.attn_norm(x), cache=cache, positions=positions, mask=mask)
        x = x + self.dropout(attended)
        return x + self.dropout(self.ffn(self.ffn_norm(x)))


# Names that people look for in a model.
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

    `initialization` tabulates where the weights start. `attend` computes attention. It is no part
    of the model, and no checkpoint holds it. Under `with torch.device("meta"):` the weights have
    shapes and no memory. `allocate` gives them memory, for weights that come from elsewhere.
    """

    def __init__(self, config: ModelConfig, attend: Attend = sdpa) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise ValueError(f"a Transformer takes a ModelConfig ({config!r:.40}); make one first")
        self.config = config
        with torch.device("meta"):  # without memory at first, so that each weight is drawn once
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
        """Give every weight memory on a device, with anything in it."""
        # As `to_empty` does; but its empty_like of meta tensors imports 2 s of torch's compiler.
        self._apply(lambda each: torch.empty(each.shape, dtype=each.dtype, device=device))
        self._tie()

    def adopt(self, weights: Mapping[str, Tensor]) -> None:
        """Take these CPU tensors for the weights, as they are: no copy, and each in its dtype."""
        self.allocate("cpu")  # for the rotary table; memory that nobody touches costs nothing
        if self.config.tie_embeddings:
            weights = {**weights, "lm_head.weight": weights["embedding.weight"]}
        self.load_state_dict(weights, assign=True)
        self._tie()

    def _tie(self) -> None:
        if self.config.tie_embeddings:
            self.lm_head.weight = self.embedding.weight

    def reset_parameters(self) -> None:
        """Start anew, as `config.init` and `config.residual_init` say."""
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

        ids may be lists, or an array. targets are refused: the loss is
        `cross_entropy(model(ids), targets)`.
        cache: ids continue the tokens it holds, and are added to it; ids are then (batch, seq).
        positions (seq,) or (..., seq): by default 0…seq−1, or onward from the cache's length.
        mask: boolean, (seq, key) or (..., 1 or head, seq, key), True where a query may attend, in
        addition to causality; key counts the cache's tokens and then ids'.

        Raises ValueError for more tokens than `context_length` or the cache have room for.
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
                raise  # not of an id
            raise ValueError(
                f"an id is not in the vocabulary (from {ids.min()} to {ids.max()}, of "
                f"{self.config.vocab_size}); use the tokenizer the model was trained with"
            ) from None

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model), what `hidden` gives -> logits (..., vocab): the head alone."""
        return self.lm_head(hidden)[..., : self.config.vocab_size]  # without the rows of padding

    def hidden(
        self,
        ids: Tensor,
        *,
        cache: KVCache | ConstantShapes | None = None,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """ids (..., seq) -> (..., seq, d_model): `forward` up to the head, behind the last norm."""
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
                f"mask[:, None, None, :] gives a mask of keys the two axes"
            )

    def new_cache(
        self,
        batch_size: int,
        context_length: int | None = None,
        *,
        dtype: torch.dtype | None = None,
    ) -> KVCache:
        """An empty cache on the model's device, in its dtype (give autocast's where it is on)."""
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
        """The routers' losses of the last forward pass, their mean over the layers; None without
        experts."""
        losses = [mixture.auxiliary_loss for mixture in self._mixtures()]
        return torch.stack(losses).mean() if losses else None

    def expert_load(self) -> list[list[float]]:
        """The share of the last forward pass that each expert of each layer had, to 4 digits."""
        return [[round(share, 4) for share in m.load.tolist()] for m in self._mixtures()]

    def _mixtures(self) -> list[MixtureOfExperts]:
        return [layer.ffn for layer in self.layers if isinstance(layer.ffn, MixtureOfExperts)]

    def num_parameters(self, *, embeddings: bool = True) -> int:
        """How many numbers are trained; without `embeddings`, neither embedding nor lm_head count.

        The smaller count is the N of arXiv 2001.08361.
        """
        total = sum(p.numel() for p in self.parameters())  # a tied weight appears once
        if embeddings:
            return total
        vocabulary = {self.embedding.weight, self.lm_head.weight}
        return total - sum(weight.numel() for weight in vocabulary)


def as_ids(ids: Ids, device: torch.device) -> Tensor:
    """Lists or an array of ids, (..., seq) -> int64 on the device."""
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
