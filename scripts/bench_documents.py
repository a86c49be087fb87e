"""Compare attention document by document with a mask: `python scripts/bench_documents.py`.

Rows of 512 tokens contain documents of 64 tokens. Both forms give the same result, and take turns
in one run. A ratio is the median over the rounds, as in bench_model.py. Other programs on the
machine disturb short operations on several threads: set OMP_NUM_THREADS=1 there. The lines with
"attention" measure forward and backward of attention alone. The lines with "step" measure whole
optimizer steps of `Trainer`. The peer "no documents" ignores documents.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from bench_model import ROUNDS, Job, measure
from torch import Tensor

from scratchlm import AdamW, ModelConfig, Transformer
from scratchlm.data.batches import TrainBatches
from scratchlm.data.rows import Documents
from scratchlm.devices.runtime import resolve_dtype
from scratchlm.model.attention import Attend, sdpa
from scratchlm.model.segments import keys_from
from scratchlm.optim.groups import adamw_groups
from scratchlm.training.trainer import Trainer
from scratchlm.training.trainer_config import TrainerConfig

BATCH, SEQ, DOCUMENT = 8, 512, 64
DTYPE = resolve_dtype("auto", torch.device("cpu"))
SIZES = {"d256, 4 layers, 8 heads": (256, 4, 8), "d384, 6 layers, 6 heads": (384, 6, 6)}


def masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    first: Tensor | None = None,
) -> Tensor:
    """The same attention by a mask."""
    return sdpa(q, k, v, None if first is None else keys_from(first, q, k.shape[-2]), causal=causal)


def attention(attend: Attend, first: Tensor | None, heads: int, d_head: int) -> Job:
    torch.manual_seed(0)
    shape = (BATCH, heads, SEQ, d_head)
    q, k, v = (torch.randn(shape, dtype=DTYPE, requires_grad=True) for _ in range(3))
    direction = torch.randn(shape, dtype=DTYPE)

    def job() -> None:
        y = attend(q, k, v, causal=True, first=first)
        torch.autograd.grad(y, (q, k, v), direction)

    return job


def step(attend: Attend, documents: Documents | None, size: tuple[int, int, int]) -> Job:
    torch.manual_seed(0)
    d_model, layers, heads = size
    model = Transformer(ModelConfig(2000, SEQ, d_model, layers, heads), attend=attend)
    ids = np.random.default_rng(0).integers(1, 2000, 200_000).astype(np.uint16)
    ids[DOCUMENT - 1 :: DOCUMENT] = 0
    trainer = Trainer(
        model,
        AdamW(adamw_groups(model.named_parameters(), 0.1), lr=1e-4),
        TrainBatches(ids, BATCH, SEQ, 0, documents=documents),
        TrainerConfig(iterations=10**6, batch_size=BATCH),
        dtype=DTYPE,
    )
    return trainer.train_step


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {ROUNDS} rounds, {DTYPE}")
    print("\n| job | peer | ours | peer's | unit | ratio |\n|---|---|---:|---:|---|---:|")
    tokens = BATCH * SEQ
    first = (torch.arange(SEQ) // DOCUMENT * DOCUMENT).int().expand(BATCH, SEQ)
    separate = Documents(0, separate=True)
    for name, size in SIZES.items():
        d_model, _, heads = size
        forms = partial(attention, heads=heads, d_head=d_model // heads)
        for peer, theirs in (("a mask", forms(masked, first)), ("no documents", forms(sdpa, None))):
            measure(f"attention: {name}", forms(sdpa, first), peer, theirs, tokens, "tokens/s")
        steps = partial(step, size=size)
        for peer, theirs in (
            ("a mask", steps(masked, separate)),
            ("no documents", steps(sdpa, None)),
        ):
            measure(f"step: {name}", steps(sdpa, separate), peer, theirs, tokens, "tokens/s")


if __name__ == "__main__":
    main()
