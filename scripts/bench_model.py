"""Training and generating beside an installed peer, in one run: `python scripts/bench_model.py`.

Needs the extra `dev`. Ours and the peer take turns, and the ratio is the median of the rounds':
times on a shared machine are noise, ratios within one run are not. Nothing is trained to a result
here.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from scratchlm import AdamW, ModelConfig, Transformer, generate

ROUNDS = 5
Job = Callable[[], object]


def measure(name: str, ours: Job, peer_name: str, peer: Job, amount: float, unit: str) -> None:
    """One row: `amount` of `unit` a second for both, and the ratio of their speeds."""
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


def compare() -> None:
    vocab, length, width, layers, heads, batch = 4096, 256, 256, 4, 4, 8
    torch.manual_seed(0)
    ours = Transformer(ModelConfig(vocab, length, width, layers, heads, d_ff=704))
    logging.set_verbosity_error()
    peer: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocab, hidden_size=width, intermediate_size=704, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=heads, max_position_embeddings=length,
            tie_word_embeddings=False,
        )
    )  # fmt: skip
    ids = torch.randint(0, vocab, (batch, length + 1))
    inputs, targets = ids[:, :-1], ids[:, 1:]
    our_optimizer = AdamW(ours.parameters(), lr=1e-4)
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4)

    def step(logits: Callable[[], torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        F.cross_entropy(logits().flatten(0, 1), targets.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    measure(
        "train: d256, 4 layers, 8 x 256 tokens, AdamW",
        lambda: step(lambda: ours(inputs), our_optimizer),
        "transformers' Llama", lambda: step(lambda: peer(inputs).logits, peer_optimizer),
        batch * length, "tokens/s",
    )  # fmt: skip
    prompt = inputs[:1, :32]
    measure(
        "generate 128 tokens, greedy", lambda: generate(ours, prompt[0], 128, temperature=0),
        "transformers' generate",
        lambda: peer.generate(prompt, max_new_tokens=128, do_sample=False, eos_token_id=None,
                              pad_token_id=0),
        128, "tokens/s",
    )  # fmt: skip


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds")
    print("\n| job | peer | ours | peer's | unit | ratio |\n|---|---|---:|---:|---|---:|")
    compare()


if __name__ == "__main__":
    main()
