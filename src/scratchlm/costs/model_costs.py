"""Compute a model's parameters, FLOPs and memory before building it, and list suitable GPUs.

    print(training_report(config, batch_size=16, optimizer="adamw", precision="half"))
    print(generation_report(config))

The functions count the shapes of a model on device "meta", and the tensors that autograd keeps for
backward. The byte counts include only tensors; a device's libraries use some hundred MB more.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from scratchlm.costs.gpus import GPUS
from scratchlm.devices.runtime_config import Dtype
from scratchlm.kernels.linear_cross_entropy import CHUNK
from scratchlm.model.config import ModelConfig
from scratchlm.model.kv_cache import stored_positions
from scratchlm.model.transformer import Transformer
from scratchlm.optim.groups import muon_groups
from scratchlm.optim.muon import stacks

Optimizer = Literal["adamw", "muon", "sgd", "sgddecay"]
Precision = Literal["float32", "half", "fp8"]  # of matrix products; half: 16 bits
GIB = 1 << 30

RESERVED = 0.08  # fraction of a GPU's memory for its libraries and for fragmentation


_NARROW = {"float32": 4, "half": 2, "fp8": 2}  # bytes


def precision_of(dtype: Dtype) -> Precision:
    """Return the precision of a run's dtype; of auto, it is float32."""
    match dtype:
        case "bfloat16" | "float16":
            return "half"
        case "fp8":
            return "fp8"
        case _:
            return "float32"


@dataclass(frozen=True)
class Parameters:
    """Store the number of parameters by part. `active` is the number that one token uses, and
    `trainable` is the number that training changes."""

    embedding: int
    attention: int
    feed_forward: int
    norms: int
    head: int
    active: int
    trainable: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.feed_forward + self.norms + self.head


@functools.cache
def count_parameters(config: ModelConfig) -> Parameters:
    """Count the parameters by part. A tied head adds nothing, because it is the embedding."""
    counts = dict.fromkeys(("embedding", "attention", "feed_forward", "norms", "head"), 0)
    idle = 0.0
    with torch.device("meta"):
        model = Transformer(config)
    for name, weight in model.named_parameters():
        counts[_part(name)] += weight.numel()
        if ".experts." in name and config.moe is not None:
            idle += weight.numel() * (1 - config.moe.num_active / config.moe.num_experts)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    return Parameters(**counts, active=round(sum(counts.values()) - idle), trainable=trainable)


def _part(name: str) -> str:
    if ".attn." in name:
        return "attention"
    if ".ffn." in name:
        return "feed_forward"
    if "norm" in name:
        return "norms"
    return "head" if name.startswith("lm_head") else "embedding"


def flops_per_token(config: ModelConfig) -> float:
    """Return the FLOPs per token of a forward pass at full context.

    Each weight in a matrix product takes 2 FLOPs; a tied head counts, an embedding does not.
    Attention takes 2 · 2 · d_head for each head and key. A token attends to T/2 keys on average, or
    to w − w²/2T keys with a window of w.  arXiv 2204.02311, appendix B
    """
    context = config.context_length
    reach = [min(window or context, context) for window in config.windows]
    keys = sum(each * (1 - each / (2 * context)) for each in reach)
    attention = config.num_heads * config.d_head * keys
    return 2 * _multiplying(config) + 4 * attention


def _multiplying(config: ModelConfig) -> int:
    """Return the number of weights in the matrix products of one token."""
    counts = count_parameters(config)
    head = config.d_model * config.padded_vocab_size
    return counts.active - counts.embedding - counts.norms - counts.head + head


def training_flops_per_token(config: ModelConfig, *, reference: bool = False) -> float:
    """Return the FLOPs per token of a training step: 3 forward passes, and one more for a reference
    model.

    Backward computes the gradients of each product's input and of each product's weight. With
    adapters, only the weights of the adapters have gradients.
    """
    frozen = 0 if config.lora is None else _multiplying(config) - count_parameters(config).trainable
    return (3 + reference) * flops_per_token(config) - 2 * frozen


@dataclass(frozen=True)
class TrainingMemory:
    """Store the bytes that one process needs."""

    weights: int
    copies: int  # bf16 copies of the weights under autocast
    gradients: int
    optimizer: int
    activations: int
    accumulated: bool
    update: int = 0  # temporary tensors of the optimizer's step
    reference: int = 0  # the weights of a frozen model, without those that it shares

    @property
    def peak(self) -> int:
        """Return the larger of two peaks: at the start of backward, and in the update.

        At the start of backward, memory contains all activations and the gradients of earlier
        micro-batches. In the update, memory contains all gradients and no activations.
        """
        before = self.activations + self.accumulated * self.gradients
        passing = max(before, self.gradients + self.update)
        return self.weights + self.reference + self.copies + self.optimizer + passing

    @property
    def fixed(self) -> int:
        """Return the bytes that a step needs in any case, with the smallest batch."""
        return self.weights + self.gradients + self.optimizer + self.reference


def training_memory(
    config: ModelConfig,
    batch_size: int,
    optimizer: Optimizer = "adamw",
    *,
    precision: Precision = "float32",
    accumulate: int = 1,
    momentum: float = 0.0,
    reference: bool = False,
) -> TrainingMemory:
    """Return the memory of a step with `accumulate` batches of `batch_size` full-length sequences.

    `precision` half means bf16 autocast. With fp8, the matrices of the blocks have no bf16 copies,
    and backward keeps their inputs in 8 bits. `momentum` is the momentum of SGD. `reference` means
    that a frozen copy of the model runs too. It shares the weights that do not learn. For a model
    with adapters, the activations are an upper bound: a frozen matrix does not need its input for
    backward.
    """
    counts = count_parameters(config)
    total, gradients = counts.total, 4 * counts.trainable
    update = 0
    match optimizer:
        case "adamw":
            state = 2 * gradients
        case "muon":
            with torch.device("meta"):
                model = Transformer(config)
            by_muon, *_ = muon_groups(model.named_parameters())
            state = 2 * gradients - 4 * sum(matrix.numel() for matrix in by_muon["params"])
            update = max(_muon_bytes(some, precision) for some in stacks(by_muon["params"]))
        case "sgd":
            state = gradients if momentum else 0
        case "sgddecay":
            state = 0
    blocks = counts.attention + counts.feed_forward
    copied = {"float32": 0, "half": total, "fp8": total - blocks}[precision]
    tokens = batch_size * config.context_length
    return TrainingMemory(
        weights=4 * total,
        copies=2 * copied,
        gradients=gradients,
        optimizer=state,
        activations=round(tokens * activation_bytes(config, precision=precision))
        + loss_bytes(config, tokens, precision=precision),
        accumulated=accumulate > 1,
        update=update,
        reference=gradients if reference else 0,
    )


def _muon_bytes(matrices: list[Tensor], precision: Precision) -> int:
    """Return the bytes to orthogonalize a stack of matrices.

    The bytes include the updates, the stack before and after an iteration, and two Gram matrices.
    If there are several matrices, the bytes include a stacked copy.
    """
    number = sum(matrix.numel() for matrix in matrices)
    grams = number * min(matrices[0].shape[-2:]) // max(matrices[0].shape[-2:])
    copies = 2 if len(matrices) > 1 else 1
    return 4 * copies * number + _NARROW[precision] * 2 * (number + grams)


def activation_bytes(config: ModelConfig, *, precision: Precision = "float32") -> float:
    """Return the bytes per token that forward keeps for backward.

    `wide` is the item size of the residual stream and the norms, which are always fp32. `narrow` is
    the item size of matrix products, which are bf16 under autocast. `read` is the item size of what
    a matrix of a block reads, which has 8 bits with fp8. Sums and reshapes keep nothing,
    because their backward does not need their outputs.
    """
    assert config.num_kv_heads is not None  # ModelConfig resolves both
    assert config.d_ff is not None
    wide, narrow = 4, _NARROW[precision]
    read = 1 if precision == "fp8" else narrow
    d, heads = config.d_model, config.num_heads
    queries, keys = heads * config.d_head, config.num_kv_heads * config.d_head

    # Under autocast each matrix keeps its own cast input. Otherwise all keep one tensor.
    def read_by(matrices: int, size: int = read) -> int:
        return d * wide if precision == "float32" else matrices * d * size

    # RMSNorm keeps its input and the normalized tensor. LayerNorm keeps only its input.
    norm = (2 if config.norm == "rmsnorm" else 1) * d * wide
    gated = {"none": 0, "headwise": heads, "elementwise": queries}[config.gated_attention]
    attention: float = norm + read_by(3 + bool(gated))
    # Sinks make a head wider by 8 elements (`model.sinks`).
    wider = 1 + 8 / config.d_head if config.attention_sinks else 1
    attention += (queries + 2 * keys) * narrow * wider  # rotated queries and keys, and values
    attention += config.qk_norm * 2 * (queries + keys) * wide
    # The output by head and concatenated, the gate, and each head's log-sum-exp.
    attention += queries * (narrow * wider + read) + gated * narrow + heads * 4
    kept = 4 if config.ffn == "swiglu" else 2  # gate, up, silu, product; or in, out
    if config.moe is None:
        feed_forward = norm + read_by(kept // 2) + config.d_ff * ((kept - 1) * narrow + read)
    else:
        paths = config.moe.num_active + config.moe.num_shared
        feed_forward = norm + paths * (2 * d + kept * config.d_ff) * narrow
    dropout = 2 * d * (1 + wide) if config.dropout else 0
    layers = config.num_layers * (attention + feed_forward + dropout)
    return layers + norm + read_by(2, narrow)  # the head's input and its gradient


def loss_bytes(config: ModelConfig, tokens: int, *, precision: Precision = "float32") -> int:
    """Return the bytes of the fused head and loss: the logits of one chunk in both dtypes, and the
    head's gradient, which the forward pass already computes unless the head is frozen. A soft-cap
    needs the logits of one chunk once more."""
    rows = min(tokens, CHUNK)
    size = 4 + (0 if precision == "float32" else 2) + (4 if config.logit_softcap else 0)
    logits = rows * config.padded_vocab_size * size
    names = () if config.lora is None else config.lora.targets + config.lora.full
    heads = ("lm_head", "embedding") if config.tie_embeddings else ("lm_head",)
    frozen = config.lora is not None and not set(heads) & set(names)
    return logits + (0 if frozen else 4 * config.d_model * config.padded_vocab_size)


def cache_bytes(config: ModelConfig, context_length: int, batch_size: int, itemsize: int) -> int:
    """Return the bytes of a KV cache: keys and values of every layer, position and sequence.

    A layer with a window stores only the positions that its window reaches, and a few more.
    """
    assert config.num_kv_heads is not None  # ModelConfig resolves it
    positions = sum(stored_positions(window, context_length) for window in config.windows)
    return 2 * positions * config.num_kv_heads * config.d_head * batch_size * itemsize


def training_report(
    config: ModelConfig,
    batch_size: int,
    optimizer: Optimizer = "adamw",
    *,
    precision: Precision = "float32",
    accumulate: int = 1,
    momentum: float = 0.0,
    reference: bool = False,
) -> str:
    """Describe the parameters, the FLOPs, and the memory of a training step."""
    memory, in_float32 = (
        training_memory(
            config, batch_size, optimizer, precision=each, accumulate=accumulate,
            momentum=momentum, reference=reference,
        )
        for each in (precision, "float32")
    )  # fmt: skip
    a_token = training_flops_per_token(config, reference=reference)
    batch = f"{batch_size} sequences of {config.context_length}"
    times = f", {accumulate} times" if accumulate > 1 else ""
    computed = {"half": "bf16 autocast, as on a GPU", "fp8": "fp8 in the blocks"}
    step = a_token * batch_size * config.context_length * accumulate
    rows = {
        "weights": memory.weights,
        "reference": memory.reference,
        "bf16 copies": memory.copies,
        "gradients": memory.gradients,
        optimizer: memory.optimizer,
        "activations": memory.activations,
        "update": memory.update,
    }
    order = "" if memory.accumulated else "    (backward frees activations as it makes gradients)"
    return "\n".join(
        [
            _parameters(config),
            f"FLOPs to train  {_short(a_token)} a token, {_short(step)} a step: {batch}{times}",
            f"memory to train {batch} at once, {computed.get(precision, precision)}:",
            *(f"  {name:<14}{size_text(size):>11}" for name, size in rows.items() if size),
            f"  {'peak':<14}{size_text(memory.peak):>11}{order}",
            _fits("to train", memory.peak, in_float32.peak, fp8=precision == "fp8"),
            _fits("to run in 16 bits", 2 * count_parameters(config).total),
        ]
    )


def generation_report(config: ModelConfig) -> str:
    """Describe parameters, FLOPs, and memory of weights and caches by dtype, context and batch."""
    total = count_parameters(config).total
    lengths = sorted({min(n, config.context_length) for n in (1024, 8192, config.context_length)})
    lines = [
        _parameters(config),
        f"FLOPs to run    {_short(flops_per_token(config))} a token",
        "memory to run   weights"
        + "".join(f"{f'cache {n} x {batch}':>18}" for n in lengths for batch in (1, 16)),
    ]
    for name, itemsize in (("float32", 4), ("bfloat16", 2)):
        caches = [cache_bytes(config, n, batch, itemsize) for n in lengths for batch in (1, 16)]
        sizes = "".join(f"{size_text(size):>18}" for size in caches)
        lines.append(f"  {name:<10}{size_text(total * itemsize):>11}{sizes}")
    size = 2 * total + cache_bytes(config, lengths[-1], 1, 2)
    return "\n".join([*lines, _fits("to run in 16 bits with a full cache", size)])


def _parameters(config: ModelConfig) -> str:
    counts = count_parameters(config)
    parts = {
        "embedding": counts.embedding,
        "attention": counts.attention,
        "feed-forward": counts.feed_forward,
        "norms": counts.norms,
        "head": counts.head,
    }
    named = ", ".join(f"{name} {count:,}" for name, count in parts.items() if count)
    active = f", {counts.active:,} active" if counts.active != counts.total else ""
    learn = f", {counts.trainable:,} trainable" if counts.trainable != counts.total else ""
    return f"parameters      {counts.total:,}{active}{learn}: {named}"


def _fits(what: str, size: float, without_bf16: float | None = None, *, fp8: bool = False) -> str:
    gpus = [gpu for gpu in GPUS.values() if gpu.fp8 or not fp8]
    versions = [(name, gib, gpu) for gpu in gpus for name, gib in gpu.memory.items()]
    versions.sort(key=lambda version: version[1])
    holding = [
        f"{name} ({gib})"
        for name, gib, gpu in versions
        if (size if gpu.bf16 else without_bf16 or size) <= gib * GIB * (1 - RESERVED)
    ]
    usual = "the usual GPUs with FP8" if fp8 else "the usual GPUs"
    if len(holding) == len(versions):
        holding = [f"all of {usual}, with {versions[0][1]} GiB or more"]
    names = ", ".join(holding) or f"none of {usual}; shard the model over several GPUs"
    return f"GPUs with enough memory {what} ({RESERVED:.0%} stays free): {names}"


def size_text(size: float) -> str:
    """Format bytes in a fitting unit: `0.46 GiB`, `3.2 MiB`, `0.4 KiB`."""
    if size >= GIB / 10:
        return f"{size / GIB:,.2f} GiB"
    kib = size / 1024
    return f"{kib / 1024:,.1f} MiB" if kib >= 100 else f"{kib:,.1f} KiB"


def _short(number: float) -> str:
    for unit, power in (("P", 15), ("T", 12), ("G", 9), ("M", 6)):
        if number >= 10**power:
            return f"{number / 10**power:.2f} {unit}"
    return f"{number:.0f}"
