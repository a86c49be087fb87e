"""How fast a training step can be on many GPUs, and what stands in the way: arithmetic, no run.

    plan = Plan(DEVICES["H100"], ranks=64, micro_batch=1, micro_steps=8, parallel="fsdp")
    print(roofline(config, plan).bound)

A step needs the arithmetic units, the GPU's memory and the links between GPUs. Each alone takes so
many bytes or FLOPs, at so many a second; where all three work at once the slowest is the step's
time, and no program is faster (Williams, Waterman, Patterson, "Roofline", CACM 52(4), 2009). Left
out: latency, the host, the data, and that no unit reaches its peak.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scratchlm.costs.model_costs import (
    GIB,
    GPUS,
    RESERVED,
    TrainingMemory,
    activation_bytes,
    count_parameters,
    flops_per_token,
    loss_bytes,
    training_memory,
)
from scratchlm.devices.ranks import Ranks, Share
from scratchlm.model.config import ModelConfig

Parallel = Literal["ddp", "fsdp"]
MFU = 0.4  # what good runs reach: 38 to 43% (Llama 3, arXiv 2407.21783, table 4)
BF16, FLOAT32 = 2, 4  # bytes


@dataclass(frozen=True)
class Device:
    """One GPU of a node of `per_node`: FLOP/s of dense bf16, bytes, and bytes/s. `link` (to the
    GPUs of its node) and `network` (its share of the node's network) count one direction."""

    name: str
    flops: float
    memory: int
    memory_bandwidth: float
    link: float
    network: float
    per_node: int = 8

    def ring(self, ranks: int) -> float:
        """Bytes/s at which a ring through `ranks` GPUs passes data on.

        Within a node it is the link's. Beyond, one ring enters each node once, by one network card;
        NCCL runs as many rings as there are cards, and all together have the node's whole network.
        """
        if ranks <= self.per_node:
            return self.link
        return min(self.link, self.per_node * self.network)


# NVIDIA's datasheets of the SXM modules: bf16 without sparsity, NVLink halved to one direction. The
# network is that of DGX A100 (a card of 200 Gb/s for each GPU), DGX H100 and DGX H200 (400 Gb/s).
DEVICES = {
    "A100": Device("A100", 312e12, GPUS["A100 80"] * GIB, 2.039e12, 300e9, 25e9),
    "H100": Device("H100", 989e12, GPUS["H100"] * GIB, 3.35e12, 450e9, 50e9),
    "H200": Device("H200", 989e12, GPUS["H200"] * GIB, 4.8e12, 450e9, 50e9),
}


@dataclass(frozen=True)
class Plan:
    """Who computes what: in a step each of `ranks` GPUs takes `micro_steps` times `micro_batch`
    sequences. AdamW; weights, gradients and moments in float32, matrix products in bf16."""

    device: Device
    ranks: int
    micro_batch: int
    micro_steps: int
    parallel: Parallel = "ddp"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("ranks", "micro_batch", "micro_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1 ({getattr(self, name)}); raise it")


def share(batch_size: int, accumulate: int, ranks: int) -> tuple[int, int]:
    """(sequences a micro-batch, micro-batches a step) of each of the `ranks` that share a step of
    `accumulate` micro-batches of `batch_size` sequences; ValueError where they cannot, evenly."""
    if ranks < 1:
        raise ValueError(f"ranks is at least 1 ({ranks}); raise it")
    mine = Share.of(Ranks(size=ranks), accumulate, batch_size)
    return batch_size // mine.parts, accumulate // mine.groups


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step: of each unit alone at its peak, and of the step at `MFU`; bytes.

    `tokens_to_hide`: the least tokens of a GPU's micro-batch for which communication takes no
    longer than the computing beside it, both at their peaks.
    """

    compute: float
    memory: float
    interconnect: float
    at_mfu: float
    tokens_to_hide: int
    needed: TrainingMemory
    fits: bool

    @property
    def bound(self) -> str:
        """The unit that takes longest."""
        times = {name: getattr(self, name) for name in ("compute", "memory", "interconnect")}
        return max(times, key=times.__getitem__)


def roofline(config: ModelConfig, plan: Plan) -> Roofline:
    """What a step of `plan` takes of each unit, and of each GPU's memory."""
    tokens = plan.micro_batch * plan.micro_steps * config.context_length
    flops = 3 * flops_per_token(config) * tokens
    needed = device_memory(config, plan)
    return Roofline(
        compute=(4 / 3 if plan.activation_checkpointing else 1) * flops / plan.device.flops,
        memory=memory_traffic(config, plan) / plan.device.memory_bandwidth,
        interconnect=communication_seconds(config, plan),
        at_mfu=flops / (MFU * plan.device.flops),
        tokens_to_hide=tokens_to_hide(config, plan),
        needed=needed,
        fits=needed.peak <= plan.device.memory * (1 - RESERVED),
    )


def device_memory(config: ModelConfig, plan: Plan) -> TrainingMemory:
    """Bytes of one GPU.

    ddp: all of it, and the gradients stay where they are, in the buckets that are reduced. fsdp: of
    weights, gradients and moments 1/ranks (ZeRO-3, arXiv 1910.02054, section 5); beside them in
    bf16 the layer at work, the next one on its way and what is outside the layers, which is
    gathered all along, and in float32 the largest gradient of these.
    """
    memory = training_memory(config, plan.micro_batch, half=True, accumulate=plan.micro_steps)
    memory = dataclasses.replace(memory, accumulated=plan.ranks > 1 or memory.accumulated)
    if plan.activation_checkpointing:
        kept = checkpointed_bytes(config, plan.micro_batch * config.context_length, half=True)
        memory = dataclasses.replace(memory, activations=kept)
    if plan.parallel == "ddp":
        return memory
    layer, outside = _split(config, lambda shape: count_parameters(shape).total)
    return dataclasses.replace(
        memory,
        weights=math.ceil(memory.weights / plan.ranks),
        gradients=math.ceil(memory.gradients / plan.ranks),
        optimizer=math.ceil(memory.optimizer / plan.ranks),
        copies=round(BF16 * (2 * layer + outside) + FLOAT32 * max(layer, outside)),
    )


def checkpointed_bytes(config: ModelConfig, tokens: int, *, half: bool = False) -> int:
    """Of `tokens` at once, where each layer keeps its input alone (arXiv 1604.06174): those inputs,
    and the head and the loss; or after these the one layer that is computed again, with gradients
    that come by: of the residual stream, and of what the feed-forward's first matrices gave."""
    assert config.d_ff is not None  # ModelConfig resolves it
    layer, outside = _split(config, lambda shape: activation_bytes(shape, half=half))
    paths = 1 if config.moe is None else config.moe.num_active + config.moe.num_shared
    wide = paths * config.d_ff * (2 if config.ffn == "swiglu" else 1)
    coming = config.d_model * FLOAT32 + wide * (BF16 if half else FLOAT32)
    inputs = config.num_layers * config.d_model * FLOAT32
    at_the_loss = tokens * outside + loss_bytes(config, tokens, half=half)
    return round(tokens * inputs + max(tokens * (layer + coming), at_the_loss))


def _split(config: ModelConfig, cost: Callable[[ModelConfig], float]) -> tuple[float, float]:
    """A cost that grows by the layer: (of one layer, of what is outside the layers)."""
    one, two = (cost(dataclasses.replace(config, num_layers=n)) for n in (1, 2))
    return two - one, 2 * one - two


def memory_traffic(config: ModelConfig, plan: Plan) -> float:
    """Bytes that a step moves between a GPU and its memory: about the least it can.

    Each micro-step reads the bf16 weights forward and backward, writes a gradient and reads it for
    the sum, and writes and reads what is kept for the way back (a chunk's logits are not, and need
    not leave the chip); AdamW reads four numbers a weight and writes three, each rank its share of
    them with fsdp.
    """
    total = count_parameters(config).total
    kept = plan.micro_batch * config.context_length * activation_bytes(config, half=True)
    micro_step = (2 * BF16 + 2 * FLOAT32) * total + 2 * kept
    owned = total / plan.ranks if plan.parallel == "fsdp" else total
    return plan.micro_steps * micro_step + 7 * FLOAT32 * owned


def pass_seconds(plan: Plan, size: float) -> float:
    """Of `size` bytes once around a ring of n ranks, each of which sends (n − 1)/n of them: an
    all-gather or a reduce-scatter; an all-reduce is both (Patarasuk, Yuan, "Bandwidth optimal
    all-reduce algorithms", JPDC 69, 2009)."""
    return (plan.ranks - 1) / plan.ranks * size / plan.device.ring(plan.ranks)


def communication_seconds(config: ModelConfig, plan: Plan) -> float:
    """ddp: one all-reduce of the float32 gradients a step, 2 · (n − 1)/n · 4N bytes. fsdp: in each
    micro-step the bf16 weights are gathered forward and again backward, and the float32 gradients
    reduce-scattered, (n − 1)/n · (2 + 2 + 4)N bytes: gradients that waited for the last micro-step
    would have to be held whole.  arXiv 1910.02054, section 7"""
    total = count_parameters(config).total
    gather, scatter = pass_seconds(plan, BF16 * total), pass_seconds(plan, FLOAT32 * total)
    if plan.parallel == "ddp":
        return 2 * scatter
    return plan.micro_steps * (2 * gather + scatter)


def tokens_to_hide(config: ModelConfig, plan: Plan) -> int:
    """The least tokens of a GPU's micro-batch whose computing takes as long as what is sent beside.

    ddp: the all-reduce has the last backward pass to hide behind. fsdp: the gather forward has the
    forward pass, gather and reduce-scatter the backward pass. Backward takes twice forward's FLOPs
    (Kaplan et al., arXiv 2001.08361, section 2.1), three times with checkpointing.
    """
    total = count_parameters(config).total
    gather, scatter = pass_seconds(plan, BF16 * total), pass_seconds(plan, FLOAT32 * total)
    forward = flops_per_token(config) / plan.device.flops
    backward = (3 if plan.activation_checkpointing else 2) * forward
    if plan.parallel == "ddp":
        return math.ceil(2 * scatter / backward)
    return math.ceil(max(gather / forward, (gather + scatter) / backward))
