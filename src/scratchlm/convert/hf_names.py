"""Map our weights' names and layouts to Hugging Face's and back. Each architecture has one table.

A rule pairs our tensors with Hugging Face tensors that contain the same numbers:

    same        ours = theirs
    transposed  ours = theirsᵀ                       GPT-2 stores matrices as (in, out)
    fused       ours 1, 2, 3 = rows of theirsᵀ       GPT-2 stores query, key, value as one
    stacked     ours[e] = theirs e                   their files have one tensor per expert

Every result is contiguous, because a matrix is multiplied row by row. With a transposed view,
torch's int8 product raises an error, and its bf16 product takes five times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scratchlm.model.config import ModelConfig

HEAD = "lm_head.weight"
_LLAMAS = ("llama", "qwen2", "qwen3", "mixtral", "mistral", "ministral", "smollm3", "mellum")
EMBEDDINGS = {  # HEAD is tied to these; in a base model they lack the first word
    "gpt2": "transformer.wte.weight",
    **dict.fromkeys(_LLAMAS, "model.embed_tokens.weight"),
}
_STACKED = {"gate_up_proj": (1, 3), "down_proj": (2,)}


@dataclass(frozen=True)
class Rule:
    """`ours` and `theirs` are names of tensors that contain the same numbers."""

    kind: Literal["same", "transposed", "fused", "stacked"]
    ours: tuple[str, ...]
    theirs: tuple[str, ...]

    def to_ours(self, tensors: list[Tensor]) -> list[Tensor]:
        match self.kind:
            case "same":
                return tensors
            case "transposed":
                return [tensors[0].mT.contiguous()]  # raises an error if there is one axis
            case "fused":  # a bias has one axis, but .mT needs two
                return [each.contiguous() for each in tensors[0].movedim(-1, 0).chunk(3)]
            case "stacked":
                return [torch.stack(tensors)]

    def to_theirs(self, tensors: list[Tensor]) -> list[Tensor]:
        match self.kind:
            case "same":
                return tensors
            case "transposed":
                return [tensors[0].T.contiguous()]
            case "fused":
                return [torch.cat(tensors).movedim(0, -1).contiguous()]
            case "stacked":
                return list(tensors[0])


def rules(architecture: str, config: ModelConfig) -> list[Rule]:
    """Return rules that cover every tensor of a model once."""
    found = list(_outside_layers(architecture, config))
    for layer in range(config.num_layers):
        found += _gpt2_layer(layer) if architecture == "gpt2" else _llama_layer(layer, config)
    return found


def split_experts(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a Mixtral's weights with one tensor per expert, as in Hugging Face files.

    transformers 5 and files of its state_dict stack the experts of a layer: gate_up_proj
    (expert, 2 · d_ff, d_model) and down_proj (expert, d_model, d_ff).
    """
    found: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        layer, _, kind = name.partition(".mlp.experts.")
        if kind not in _STACKED or tensor.ndim != 3:
            found[name.replace(".mlp.gate.", ".block_sparse_moe.gate.")] = tensor
            continue
        numbers = _STACKED[kind]
        for expert, matrices in enumerate(tensor):
            for number, matrix in zip(numbers, matrices.chunk(len(numbers)), strict=False):
                found[f"{layer}.block_sparse_moe.experts.{expert}.w{number}.weight"] = matrix
    return found


def _outside_layers(architecture: str, config: ModelConfig) -> Iterator[Rule]:
    yield _same("embedding.weight", EMBEDDINGS[architecture])
    if architecture == "gpt2":
        yield _same("position_embedding.weight", "transformer.wpe.weight")
        yield _same("norm.weight", "transformer.ln_f.weight")
        yield _same("norm.bias", "transformer.ln_f.bias")
    else:
        yield _same("norm.weight", "model.norm.weight")
    if not config.tie_embeddings:
        yield _same("lm_head.weight", HEAD)


def _gpt2_layer(layer: int) -> Iterator[Rule]:
    ours, theirs = f"layers.{layer}", f"transformer.h.{layer}"
    projections = tuple(f"{ours}.attn.{name}_proj" for name in "qkv")
    for kind in ("weight", "bias"):
        yield _same(f"{ours}.attn_norm.{kind}", f"{theirs}.ln_1.{kind}")
        yield _same(f"{ours}.ffn_norm.{kind}", f"{theirs}.ln_2.{kind}")
        yield Rule(
            "fused",
            tuple(f"{projection}.{kind}" for projection in projections),
            (f"{theirs}.attn.c_attn.{kind}",),
        )
    matrices = {
        "attn.o_proj": "attn.c_proj",
        "ffn.up_proj": "mlp.c_fc",
        "ffn.down_proj": "mlp.c_proj",
    }
    for our_name, their_name in matrices.items():
        yield Rule("transposed", (f"{ours}.{our_name}.weight",), (f"{theirs}.{their_name}.weight",))
        yield _same(f"{ours}.{our_name}.bias", f"{theirs}.{their_name}.bias")


def _llama_layer(layer: int, config: ModelConfig) -> Iterator[Rule]:
    ours, theirs = f"layers.{layer}", f"model.layers.{layer}"
    yield _same(f"{ours}.attn_norm.weight", f"{theirs}.input_layernorm.weight")
    yield _same(f"{ours}.ffn_norm.weight", f"{theirs}.post_attention_layernorm.weight")
    for name in "qkvo":
        yield _same(f"{ours}.attn.{name}_proj.weight", f"{theirs}.self_attn.{name}_proj.weight")
    for name in "qkv" if config.qkv_bias else "":
        yield _same(f"{ours}.attn.{name}_proj.bias", f"{theirs}.self_attn.{name}_proj.bias")
    for name in "qk" if config.qk_norm else "":
        yield _same(f"{ours}.attn.{name}_norm.weight", f"{theirs}.self_attn.{name}_norm.weight")
    if config.moe is None:
        for name in ("gate", "up", "down"):
            yield _same(f"{ours}.ffn.{name}_proj.weight", f"{theirs}.mlp.{name}_proj.weight")
        return
    experts = f"{theirs}.block_sparse_moe"
    yield _same(f"{ours}.ffn.router.weight", f"{experts}.gate.weight")
    for name, number in (("gate", 1), ("down", 2), ("up", 3)):
        each = (f"{experts}.experts.{e}.w{number}.weight" for e in range(config.moe.num_experts))
        yield Rule("stacked", (f"{ours}.ffn.experts.{name}_proj",), tuple(each))


def _same(ours: str, theirs: str) -> Rule:
    return Rule("same", (ours,), (theirs,))
