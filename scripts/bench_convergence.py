"""Compare with nanoGPT's CPU recipe: `python scripts/bench_convergence.py --corpus FILE`.

FILE is tinyshakespeare. It is ASCII, so a byte is a character and both losses are nats per
character. Each run is a whole process, with start-up and compilation from an empty cache. Both runs
validate on the same last tenth of the text, in full. Our run also validates on its way, and that
time counts. Only the encoding of the text is done in advance, for both. The peer and our short run
take turns, and the ratio is the median over the rounds. The ten-minute recipe runs once.

The peer is the model and the loop that nanoGPT documents for a CPU (`train.py
config/train_shakespeare_char.py --block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128
--max_iters=2000 --lr_decay_iters=2000 --dropout=0.0`). It is rewritten here in torch's own modules,
without its checkpoints and the validations on its way, which would cost it time.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CONFIG = Path(__file__).parents[1] / "configs" / "shakespeare.toml"
# A smaller recipe to pass the peer: the run is too short to compile or to overfit.
SHORT = ("--d_model", "96", "--num_heads", "2", "--max_seq_len", "64", "--dropout", "0",
         "--lr", "0.02", "--optim.adamw_lr", "0.02", "--optim.momentum", "0.9",
         "--iterations", "240", "--eval_every", "0")  # fmt: skip

CONTEXT, BATCH, LAYERS, HEADS, WIDTH = 64, 12, 4, 4, 128
LR, MIN_LR, WARMUP, BETAS, DECAY, MAX_NORM = 1e-3, 1e-4, 100, (0.9, 0.99), 0.1, 1.0


class PeerBlock(nn.Module):
    """x (batch, seq, d_model) -> the same: GPT-2's block, without biases."""

    def __init__(self) -> None:
        super().__init__()
        self.attn_norm, self.ffn_norm = (nn.LayerNorm(WIDTH, bias=False) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attn_out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.ffn_out = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # (batch, seq, 3 · head · d_head) -> q, k, v (batch, head, seq, d_head)
        qkv = self.qkv(self.attn_norm(x)).unflatten(-1, (3, HEADS, -1))
        q, k, v = qkv.transpose(1, 3).unbind(2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_out(attended.transpose(1, 2).flatten(2))
        return x + self.ffn_out(F.gelu(self.up(self.ffn_norm(x))))


class Peer(nn.Module):
    """ids (batch, seq) -> logits (batch, seq, vocab): a small GPT-2, its head tied."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(PeerBlock() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH, bias=False)
        for name, weight in self.named_parameters():
            if weight.ndim == 2:
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * LAYERS if "_out" in name else 1))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids) + self.positions.weight[: ids.shape[1]]
        return F.linear(self.norm(self.blocks(x)), self.embedding.weight)


def peer_lr(step: int, steps: int) -> float:
    """Return the rate of a step, counted from 0: linear warm-up, then a cosine."""
    if step < WARMUP:
        return LR * (step + 1) / (WARMUP + 1)
    progress = (step - WARMUP) / max(1, steps - WARMUP)
    return MIN_LR + 0.5 * (1 + math.cos(math.pi * progress)) * (LR - MIN_LR)


def train_peer(corpus: Path, steps: int) -> float:
    """Train for `steps` on the text without its last tenth. Return nats per character on that."""
    text = corpus.read_text(encoding="utf-8")
    characters = {character: i for i, character in enumerate(sorted(set(text)))}
    ids = torch.tensor([characters[character] for character in text])
    train, validation = ids.split((len(ids) - len(ids) // 10, len(ids) // 10))
    torch.manual_seed(1337)
    model = Peer(len(characters))
    matrices = [weight for weight in model.parameters() if weight.ndim == 2]
    gains = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": gains, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS)
    for step in range(steps):
        starts = torch.randint(len(train) - CONTEXT, (BATCH,)).tolist()
        windows = torch.stack([train[start : start + CONTEXT + 1] for start in starts])
        for group in optimizer.param_groups:
            group["lr"] = peer_lr(step, steps)
        logits = model(windows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()  # its log shows the loss of each step
    return peer_loss(model, validation)


@torch.no_grad()
def peer_loss(model: Peer, ids: Tensor) -> float:
    """Return the mean loss over all ids but the first, in adjacent windows of the context."""
    nats = 0.0
    whole = (len(ids) - 1) // CONTEXT * CONTEXT
    inputs, targets = ids[:whole].view(-1, CONTEXT), ids[1 : whole + 1].view(-1, CONTEXT)
    pairs = [*zip(inputs.split(128), targets.split(128), strict=True)]
    if whole < len(ids) - 1:
        pairs.append((ids[None, whole:-1], ids[None, whole + 1 :]))
    for inputs, targets in pairs:
        logits = model(inputs).flatten(0, 1)
        nats += F.cross_entropy(logits, targets.flatten(), reduction="sum").item()
    return nats / (len(ids) - 1)


class Run(NamedTuple):
    """`validations`: (seconds since the process started, loss). `seconds`: of the whole run."""

    validations: list[tuple[float, float]]
    seconds: float

    @property
    def loss(self) -> float:
        return self.validations[-1][1]

    def reaches(self, loss: float) -> float:
        """Return the seconds until a validation loss is at most `loss`, or infinity."""
        return next((at for at, found in self.validations if found <= loss), math.inf)


def watch(arguments: Sequence[str | Path]) -> Run:
    """Run `python ARGUMENTS` and record when it prints a `val_loss`."""
    with (
        tempfile.TemporaryDirectory() as cache
    ):  # an empty cache of compiled code, as in a first run
        env = {**os.environ, "PYTHONUNBUFFERED": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
        start = time.perf_counter()
        validations = []
        command = [sys.executable, *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if found := re.search(r"\bval_loss (\S+)", line):
                    validations.append((time.perf_counter() - start, float(found[1])))
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return Run(validations, time.perf_counter() - start)


def prepare(corpus: Path, folder: Path) -> Path:
    """Encode a text to the ids of its bytes with `scratchlm-tokenize`, without merges."""
    tokenizer, shard = folder / "tokenizer.json", folder / "corpus.bin"
    for words in (
        ["--corpus", corpus, "--vocab_size", "257", "--output_tokenizer", tokenizer],
        ["--tokenizer_path", tokenizer, "--encode", corpus, "--output", shard],
    ):
        command = [sys.executable, "-m", "scratchlm.cli.tokenize", *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return shard


def run_peer(corpus: Path, steps: int) -> Run:
    return watch([__file__, "--corpus", corpus, "--peer_steps", str(steps)])


def run_ours(shard: Path, out: Path, flags: Sequence[str]) -> Run:
    return watch(["-m", "scratchlm.cli.train", "--config", CONFIG, "--train_data", shard,
                  "--out", out, "--device", "cpu", *flags])  # fmt: skip


def row(name: str, run: Run, peer: Run | None) -> None:
    cells = [name, f"{run.loss:.4f}", f"{run.seconds:.0f} s", "", ""]
    if peer is not None:
        at = run.reaches(peer.loss)
        ratio = at / peer.seconds
        cells[3:] = ["never", ""] if at == math.inf else [f"{at:.0f} s", f"{ratio:.2f}x"]
    print(f"| {' | '.join(cells)} |", flush=True)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpus", type=Path, required=True, metavar="FILE")
    parser.add_argument(
        "--rounds", type=int, default=3, help="rounds of the peer and our short run"
    )
    parser.add_argument("--parts", nargs="+", choices=("short", "full"), default=("short", "full"))
    parser.add_argument("--flags", nargs=argparse.REMAINDER, default=[],
                        help="more flags for all our runs")  # fmt: skip
    parser.add_argument("--peer_steps", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peer_steps:
        print(f"val_loss {train_peer(args.corpus, args.peer_steps):.4f}")
        return
    load = os.getloadavg()[0]
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {load:.2f} before")
    print("\n| run | loss, nats a character | seconds | passes the peer's loss | of its time |\n"
          "|---|---:|---:|---:|---:|")  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shard = prepare(args.corpus, folder)
        peer, ratios = None, []
        for i in range(args.rounds):
            peer = run_peer(args.corpus, 2000)
            row("nanoGPT's recipe, 2,000 steps", peer, None)
            if "short" in args.parts:
                short = run_ours(shard, folder / f"short-{i}", (*SHORT, *args.flags))
                ratios.append(short.reaches(peer.loss) / peer.seconds)
                row(f"`shakespeare.toml {' '.join(SHORT)}`", short, peer)
        if "full" in args.parts:
            row("`shakespeare.toml`", run_ours(shard, folder / "full", args.flags), peer)
    if ratios:
        print(f"\nmedian ratio of {len(ratios)} rounds: {statistics.median(ratios):.2f}x")


if __name__ == "__main__":
    main()
