"""Compare training with an installed peer, in one run: `python scripts/bench_model.py`.

The script needs the extra `dev`. Ours and the peer take turns, and the ratio is the median over the
rounds, because times on a shared machine are noise and ratios within one run are not. No model here
trains to a useful result.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from transformers.utils import logging

from scratchlm import AdamW, ModelConfig, Transformer
from scratchlm.model.config import MoEConfig

ROUNDS = 5
Job = Callable[[], object]


def measure(name: str, ours: Job, peer_name: str, peer: Job, amount: float, unit: str) -> None:
    """Print one row: `amount` of `unit` per second for both, and the ratio of their speeds."""
    taken: list[tuple[float, float]] = []
    for _ in range(ROUNDS):
        pair = []
        for job in (ours, peer):
            start = time.perf_counter()
            job()
            pair.append(time.perf_counter() - start)
        taken.append((pair[0], pair[1]))
    our_speed, peer_speed = (
        amount / statistics.median(times) for times in zip(*taken, strict=True)
    )
    ratio = statistics.median(theirs / mine for mine, theirs in taken)
    cells = (f"{our_speed:,.1f}", f"{peer_speed:,.1f}", unit, f"{ratio:.2f}x")
    print(f"| {name} | {peer_name} | " + " | ".join(cells) + " |", flush=True)


VOCAB, LENGTH, WIDTH, LAYERS, HEADS, BATCH = 4096, 256, 256, 4, 4, 8
EXPERTS, ACTIVE = 8, 2
STEP = f"train: d{WIDTH}, {LAYERS} layers, {BATCH} x {LENGTH} tokens, AdamW"


def peer_model(name: str, **sizes: int) -> Any:
    """Return a model of `transformers` in the same shape."""
    config = getattr(transformers, f"{name}Config")(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, max_position_embeddings=LENGTH, tie_word_embeddings=False,
        **sizes,
    )  # fmt: skip
    return getattr(transformers, f"{name}ForCausalLM")(config)


def training_step(model: Any, optimizer: type[torch.optim.Optimizer], ids: torch.Tensor) -> Job:
    """Return one whole step: forward, backward, optimizer."""
    steps = optimizer(model.parameters(), lr=1e-4)  # type: ignore[call-arg]

    def step() -> None:
        output = model(ids[:, :-1])
        logits = output if isinstance(output, torch.Tensor) else output.logits
        loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        routers = model.auxiliary_loss() if isinstance(model, Transformer) else None
        (loss if routers is None else loss + routers).backward()
        steps.step()
        steps.zero_grad()

    return step


def compare() -> None:
    torch.manual_seed(0)
    logging.set_verbosity_error()
    shape = (VOCAB, LENGTH, WIDTH, LAYERS, HEADS)
    ids = torch.randint(0, VOCAB, (BATCH, LENGTH + 1))
    dense = Transformer(ModelConfig(*shape, d_ff=704))
    peer = peer_model("Llama", intermediate_size=704)
    our_step = training_step(dense, AdamW, ids)
    measure(STEP, our_step, "transformers' Llama",
            training_step(peer, torch.optim.AdamW, ids), BATCH * LENGTH, "tokens/s")  # fmt: skip
    # Each token uses two experts of half the width, so only the router adds active parameters.
    experts = ModelConfig(*shape, d_ff=704 // ACTIVE, moe=MoEConfig(EXPERTS, ACTIVE))
    their_experts = peer_model(
        "Mixtral",
        intermediate_size=704 // ACTIVE,
        num_local_experts=EXPERTS,
        num_experts_per_tok=ACTIVE,
    )
    mixture_step = training_step(Transformer(experts), AdamW, ids)
    name = f"the same step with {EXPERTS} experts, {ACTIVE} active"
    measure(name, mixture_step, "our dense model of the same active parameters",
            our_step, BATCH * LENGTH, "tokens/s")  # fmt: skip
    measure(name, mixture_step, "transformers' Mixtral",
            training_step(their_experts, torch.optim.AdamW, ids), BATCH * LENGTH,
            "tokens/s")  # fmt: skip


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("\n| job | peer | ours | peer's | unit | ratio |\n|---|---|---:|---:|---|---:|")
    compare()


if __name__ == "__main__":
    main()
