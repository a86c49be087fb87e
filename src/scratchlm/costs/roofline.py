"""Compute, without a run, how fast a training step on many GPUs can be, and what limits it.

    plan = Plan(DEVICES["H100"], ranks=64, micro_batch=1, micro_steps=8, parallel="fsdp")
    print(roofline(config, plan).bound)

A step uses three units: the arithmetic units, the GPU's memory, and the links between GPUs. The
time of a unit is its FLOPs or bytes divided by its peak rate. If all three work at once, the
slowest unit sets the time of the step, and no program is faster (Williams, Waterman, Patterson,
"Roofline", CACM 52(4), 2009). The model ignores latency, the host and the data, and assumes that
every unit reaches its peak.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from scratchlm.costs.gpus import GPUS, peak_flops
from scratchlm.costs.model_costs import (
    GIB,
    RESERVED,
    Precision,
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
MFU = 0.4  # good runs reach 38 to 43% (Llama 3, arXiv 2407.21783, table 4)
BF16, FLOAT32 = 2, 4  # bytes


@dataclass(frozen=True)
class Device:
    """Describe one GPU in a node of `per_node` GPUs.

    `flops` is dense bf16 FLOP/s, `memory` is bytes, and the bandwidths are bytes/s. `link` connects
    the GPUs of a node. `network` is one GPU's part of the node's network. Both bandwidths count one
    direction.
    """

    name: str
    flops: float
    memory: int
    memory_bandwidth: float
    link: float
    network: float
    per_node: int = 8

    def ring(self, ranks: int) -> float:
        """Return the bytes/s of a ring through `ranks` GPUs.

        Within a node, this is the bandwidth of the link. Across nodes, a ring enters each node
        once, through one network card. NCCL runs one ring per card, so the rings together use the
        node's whole network.
        """
        if ranks <= self.per_node:
            return self.link
        return min(self.link, self.per_node * self.network)


def _device(name: str, row: str) -> Device:
    """Return the GPU of a row of the table. Choose the version with the most memory."""
    gpu = GPUS[row]
    flops = peak_flops(row, "bfloat16")
    assert flops is not None
    assert gpu.rates is not None
    memory_bandwidth, link, network = (rate * 1e9 for rate in gpu.rates)
    memory = max(gpu.memory.values()) * GIB
    return Device(name, flops, memory, memory_bandwidth, link, network)


# The SXM modules
DEVICES = {
    name: _device(name, row)
    for name, row in (("A100", "A100 SXM4"), ("H100", "H100"), ("H200", "H200"))
}


@dataclass(frozen=True)
class Plan:
    """Describe a step: each of `ranks` GPUs computes `micro_steps` times `micro_batch` sequences.

    The optimizer is AdamW. Weights, gradients and moments are float32, and matrix products bf16.
    """

    device: Device
    ranks: int
    micro_batch: int
    micro_steps: int
    parallel: Parallel = "ddp"
    activation_checkpointing: bool = False

    def __post_init__(self) -> None:
        for name in ("ranks", "micro_batch", "micro_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1 ({getattr(self, name)}); pass e.g. 1")


def share(batch_size: int, accumulate: int, ranks: int) -> tuple[int, int]:
    """Return (sequences per micro-batch, micro-batches per step) of one rank.

    A step has `accumulate` micro-batches of `batch_size` sequences. Raise ValueError if the ranks
    cannot divide the step evenly.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1 ({ranks}); pass e.g. 8")
    mine = Share.of(Ranks(size=ranks), accumulate, batch_size)
    return batch_size // mine.parts, accumulate // mine.groups


@dataclass(frozen=True)
class Roofline:
    """Store the times of a step in seconds, and the memory that the step needs.

    `compute`, `memory` and `interconnect` are the times of each unit alone at its peak. `at_mfu` is
    the time of the step at `MFU`, or the longest of these three times if it is longer. See
    `tokens_to_hide` for the field of that name.
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
        """Return the unit that takes longest."""
        times = {name: getattr(self, name) for name in ("compute", "memory", "interconnect")}
        return max(times, key=times.__getitem__)


def roofline(config: ModelConfig, plan: Plan) -> Roofline:
    """Return the time of a step of `plan` on each unit, and the memory of each GPU."""
    tokens = plan.micro_batch * plan.micro_steps * config.context_length
    flops = 3 * flops_per_token(config) * tokens
    needed = device_memory(config, plan)
    compute = (4 / 3 if plan.activation_checkpointing else 1) * flops / plan.device.flops
    memory = memory_traffic(config, plan) / plan.device.memory_bandwidth
    interconnect = communication_seconds(config, plan)
    return Roofline(
        compute=compute,
        memory=memory,
        interconnect=interconnect,
        at_mfu=max(compute, memory, interconnect, flops / (MFU * plan.device.flops)),
        tokens_to_hide=tokens_to_hide(config, plan),
        needed=needed,
        fits=needed.peak <= plan.device.memory * (1 - RESERVED),
    )


def device_memory(config: ModelConfig, plan: Plan) -> TrainingMemory:
    """Return the bytes that one GPU needs.

    ddp: each GPU stores everything. The gradients stay in the buckets that the GPUs reduce.
    fsdp: each GPU stores 1/ranks of the weights, gradients and moments (ZeRO-3, arXiv 1910.02054,
    section 5). It also stores the current layer, the next layer and the parts outside the layers in
    bf16, and the largest gradient of these in float32.
    """
    memory = training_memory(
        config, plan.micro_batch, precision="half", accumulate=plan.micro_steps
    )
    memory = dataclasses.replace(memory, accumulated=plan.ranks > 1 or memory.accumulated)
    if plan.activation_checkpointing:
        kept = checkpointed_bytes(
            config, plan.micro_batch * config.context_length, precision="half"
        )
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


def checkpointed_bytes(
    config: ModelConfig, tokens: int, *, precision: Precision = "float32"
) -> int:
    """Return the activation bytes of `tokens` if each layer keeps only its input.

    This is activation checkpointing (arXiv 1604.06174). The peak has these inputs and the larger of
    two parts. One part is the head and the loss. The other is the layer that backward
    recomputes, with the gradients of the residual stream and of the outputs of the feed-forward's
    first matrices.
    """
    assert config.d_ff is not None  # ModelConfig resolves it
    layer, outside = _split(config, lambda shape: activation_bytes(shape, precision=precision))
    paths = 1 if config.moe is None else config.moe.num_active + config.moe.num_shared
    wide = paths * config.d_ff * (2 if config.ffn == "swiglu" else 1)
    coming = config.d_model * FLOAT32 + wide * (FLOAT32 if precision == "float32" else BF16)
    inputs = config.num_layers * config.d_model * FLOAT32
    at_the_loss = tokens * outside + loss_bytes(config, tokens, precision=precision)
    return round(tokens * inputs + max(tokens * (layer + coming), at_the_loss))


def _split(config: ModelConfig, cost: Callable[[ModelConfig], float]) -> tuple[float, float]:
    """Split a cost that is linear in the layers: (one layer, everything outside the layers)."""
    one, two = (cost(dataclasses.replace(config, num_layers=n)) for n in (1, 2))
    return two - one, 2 * one - two


def memory_traffic(config: ModelConfig, plan: Plan) -> float:
    """Estimate the fewest bytes that a step moves between a GPU and its memory.

    Each micro-step reads the bf16 weights in forward and backward. It writes a gradient, and reads
    the gradient to add it to the sum. It writes and reads the activations that backward needs. A
    chunk's logits do not count, because they need not leave the chip. AdamW reads four numbers for
    each weight and writes three; with fsdp, each rank updates only its part of the weights.
    """
    total = count_parameters(config).total
    kept = plan.micro_batch * config.context_length * activation_bytes(config, precision="half")
    micro_step = (2 * BF16 + 2 * FLOAT32) * total + 2 * kept
    owned = total / plan.ranks if plan.parallel == "fsdp" else total
    return plan.micro_steps * micro_step + 7 * FLOAT32 * owned


def pass_seconds(plan: Plan, size: float) -> float:
    """Return the seconds that an all-gather or a reduce-scatter of `size` bytes takes in a ring.

    The ring has n ranks, and each rank sends (n − 1)/n of the bytes. An all-reduce is a
    reduce-scatter and an all-gather (Patarasuk, Yuan, "Bandwidth optimal all-reduce algorithms",
    JPDC 69, 2009).
    """
    return (plan.ranks - 1) / plan.ranks * size / plan.device.ring(plan.ranks)


def communication_seconds(config: ModelConfig, plan: Plan) -> float:
    """Return the seconds that a step of n ranks takes to send data for N parameters.

    ddp: each step all-reduces the float32 gradients once, 2 · (n − 1)/n · 4N bytes.
    fsdp: each micro-step gathers the bf16 weights in forward and again in backward, and
    reduce-scatters the float32 gradients, (n − 1)/n · (2 + 2 + 4)N bytes. The reduce-scatter does
    not wait for the last micro-step, because each rank would then need memory for all gradients.
    arXiv 1910.02054, section 7
    """
    total = count_parameters(config).total
    gather, scatter = pass_seconds(plan, BF16 * total), pass_seconds(plan, FLOAT32 * total)
    if plan.parallel == "ddp":
        return 2 * scatter
    return plan.micro_steps * (2 * gather + scatter)


def tokens_to_hide(config: ModelConfig, plan: Plan) -> int:
    """Return the fewest tokens in a GPU's micro-batch for which compute hides communication.

    Compute and communication run at their peaks. ddp: the last backward pass hides the all-reduce.
    fsdp: the forward pass hides its gather, and the backward pass hides its gather and the
    reduce-scatter. Backward takes twice the FLOPs of forward (Kaplan et al., arXiv 2001.08361,
    section 2.1), and three times with checkpointing.
    """
    total = count_parameters(config).total
    gather, scatter = pass_seconds(plan, BF16 * total), pass_seconds(plan, FLOAT32 * total)
    forward = flops_per_token(config) / plan.device.flops
    backward = (3 if plan.activation_checkpointing else 2) * forward
    if plan.parallel == "ddp":
        return math.ceil(2 * scatter / backward)
    return math.ceil(max(gather / forward, (gather + scatter) / backward))
