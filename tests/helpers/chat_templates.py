"""The chat templates as transformers has them, with the assistant's answers marked, and tokenizers
with the special tokens of these templates."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from helpers import tiny
from scratchlm import BPETokenizer, train_bpe_from_texts

CHATML = ["<|im_start|>", "<|im_end|>"]
LLAMA3 = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
SPECIALS = ["<|endoftext|>", *CHATML, *LLAMA3]
TEXTS = ["user\n\nhello\n\n\n the cat\n sat  on a mat\n" * 20, tiny.text(800)]

# The templates of model cards, with {% generation %} around what a model learns. The template of
# Qwen 2.5 adds its own system text if there is none, but this template does not.
JINJA = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n'}}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    "llama3": "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] | trim + '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
    "plain_alpaca": "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "{{ 'Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.' }}{% endif %}"
    "{% if message['role'] == 'system' %}{{ message['content'] }}"
    "{% elif message['role'] == 'user' %}{{ '\\n\\n### Instruction:\\n' + message['content'] }}"
    "{% else %}{{ '\\n\\n### Response:\\n' }}"
    "{% generation %}{{ message['content'] + '<|endoftext|>' }}{% endgeneration %}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\\n\\n### Response:\\n' }}{% endif %}",
}


def tokenizer_with(*specials: str, pattern: str = "gpt2") -> BPETokenizer:
    size = 256 + 80 + len(specials)
    return train_bpe_from_texts(TEXTS, size, specials, pattern=pattern)


def in_transformers(tokenizer: BPETokenizer, name: str, folder: Path) -> Any:
    """Return the tokenizer of transformers with the template of this name."""
    from transformers import PreTrainedTokenizerFast

    tokenizer.save(folder / "tokenizer.json")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        bos_token="<|begin_of_text|>",
        chat_template=JINJA[name],
    )


_PARTS = ["the cat", " sat", "\n", "\n\n", " ", "  ", "\t", "é", "中文", "😀", "### Response:",
          "\n\n### ", "user", "assistant\n", "'s", "12345", ".", ":", "{content}", "{role}",
          "x" * 9, "\u0301", "\r\n", "im_start", "<|", "|"]  # fmt: skip


def dialogue(chance: random.Random, *, parts: tuple[str, ...] = ()) -> list[dict[str, str]]:
    """Return a dialogue of 1 to 5 pairs of messages, and in half of the cases a system text."""

    def text() -> str:
        return "".join(chance.choices([*_PARTS, *parts], k=chance.randrange(1, 9)))

    roles = ["system"] * chance.randrange(2) + ["user", "assistant"] * chance.randrange(1, 6)
    return [{"role": role, "content": text()} for role in roles]
