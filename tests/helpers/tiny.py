"""Build a small model, a small tokenizer, or a small corpus."""

from __future__ import annotations

import random
from pathlib import Path

import torch

from scratchlm import BPETokenizer, ModelConfig, Transformer, train_bpe

SENTENCE = "the cat sat on a mat and saw 12 birds über 中文 fly away, then slept 😀 again"
WORDS = SENTENCE.split(" ")


def text(num_words: int, seed: int = 0) -> str:
    """Lines of words with some structure to learn: each word tends to follow the one before it."""
    rng = random.Random(seed)
    at, words = 0, []
    for _ in range(num_words):
        at = (at + 1) % len(WORDS) if rng.random() < 0.8 else rng.randrange(len(WORDS))
        words.append(WORDS[at] + ("\n" if rng.random() < 0.1 else ""))
    return " ".join(words)


def corpus(folder: Path, num_words: int = 4000, name: str = "corpus.txt") -> Path:
    path = folder / name
    path.write_text(text(num_words), encoding="utf-8", newline="")
    return path


def tokenizer(folder: Path, vocab_size: int = 300) -> BPETokenizer:
    return train_bpe(corpus(folder, name="tokenizer-corpus.txt"), vocab_size)


def config(**changes) -> ModelConfig:
    defaults = {
        "vocab_size": 300, "context_length": 32, "d_model": 32, "num_layers": 2, "num_heads": 4,
        "num_kv_heads": 2, "d_ff": 64,
    }  # fmt: skip
    return ModelConfig(**(defaults | changes))


def model(seed: int = 0, **changes) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(config(**changes))
