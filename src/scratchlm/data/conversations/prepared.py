"""Turn the dialogues that a user specifies into the examples of a run. Pairs of answers too."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from scratchlm.data.config import DataConfig
from scratchlm.data.conversations.batches import (
    DialogueBatches,
    DialogueEvalBatches,
    Examples,
    Pairs,
)
from scratchlm.data.conversations.dialogues import dialogue_files, read_dialogues
from scratchlm.data.conversations.examples import Counts, Learning, examples_of, number_of
from scratchlm.data.conversations.masks import Example
from scratchlm.data.conversations.pairs import Pair, PairCounts, pairs_of
from scratchlm.data.conversations.preferences import read_preferences
from scratchlm.data.packing import Numbers
from scratchlm.data.proportions import Part, decimal, parts_of
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.reading.unpacked import Progress
from scratchlm.data.sources import num_bytes, told_of_both
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.tokenizer.chat_template import ChatTemplate, template_for_training

_HELD_OUT = 10  # one of so many dialogues is validation data
_MOST = 1000  # times that an epoch reads a dialogue


@dataclass(frozen=True, eq=False)
class PreparedDialogues:
    """Store the examples of a run, as `PreparedData` does for text. `template` has the tokenizer.

    `context_length` is the model's, and `row_length` is the number of tokens in a row of a batch.
    `new_ids` are the ids that the template adds to the vocabulary of the weights. `end_ids` end an
    answer or a text, and `start_ids` begin a text of the weights.
    """

    train: Examples | Pairs
    val: Examples | Pairs
    template: ChatTemplate
    context_length: int
    row_length: int
    packing: bool
    new_ids: Sequence[int]
    data_id: dict[str, Any]
    val_id: dict[str, Any]
    end_ids: Sequence[int]
    start_ids: Sequence[int] = ()

    @property
    def tokenizer(self) -> BPETokenizer:
        return self.template.tokenizer

    @property
    def stored(self) -> dict[str, Any]:
        """What each checkpoint of the run contains about its data."""
        return {
            "tokenizer": self.tokenizer.to_json(),
            "template": self.template.name,
            "end_ids": list(self.end_ids),
            "start_ids": list(self.start_ids),
        }

    def train_batches(self, batch_size: int, seed: int) -> DialogueBatches:
        return DialogueBatches(self.train, batch_size, self.row_length, seed, self.packing)

    def eval_batches(self, batch_size: int, max_batches: int) -> DialogueEvalBatches:
        return DialogueEvalBatches(self.val, batch_size, self.row_length, max_batches)

    def prompt(self, text: str) -> list[int]:
        """Return the ids of a user's text and of the beginning of an answer."""
        return self.template.encode([{"role": "user", "content": text}])


def prepare_dialogues(
    config: DataConfig,
    context_length: int,
    folder: Path,
    say: Callable[[str], None] = print,
    own: BPETokenizer | None = None,
) -> PreparedDialogues:
    """Read and encode the dialogues of `config`. A row has `config.row_length` tokens, or
    `context_length` (the model's) without this setting.

    With `config.max_bad`, write the bad records to rejects.jsonl in `folder`.

    own: the tokenizer of the initial or resumed weights. The markers of the template are special
    tokens; a tokenizer without them gets them as new ids. Without validation data, the last
    dialogue is held out, and every tenth before it. In a mixture, the weight of a source says how
    often an epoch reads each of its dialogues. `say` receives a line for each decision, and the
    counts of each source. The same holds for pairs of answers.

    Raise ValueError for data without dialogues, without a tokenizer, with another tokenizer than
    `own`, or with a weight that is not a whole number. Raise ValueError for pairs if the tokenizer
    has no markers.
    """
    length = config.row_length or context_length
    template, new_ids = _template(config, own)
    about_new = _told_of_new(new_ids, template, has_weights=own is not None)
    say(f"the template of the dialogues is {template.name}{about_new}")
    with _rejects(config, folder, say) as rejects:
        made = functools.partial(
            _examples, config=config, template=template, row_length=length,
            rejects=rejects, say=say,
        )  # fmt: skip
        train, repeats = made(config.train)
        val = None if config.val is None else made(config.val)[0]
    numbers = np.arange(len(train))
    if val is None:
        val_numbers = _held_out(train, config, say)
        val, numbers = train.chosen(val_numbers), np.setdiff1d(numbers, val_numbers)
    for line in _told_of_both(train.chosen(numbers), val, config):
        say(line)
    train = train.chosen(np.repeat(numbers, repeats[numbers]))
    settings = ("train_on", "row_length", "too_long", "min_target_tokens", "packing")
    data_id = {
        "tokenizer": template.tokenizer.hash,
        "template": template.name,
        **{name: getattr(config, name) for name in settings},
        "dialogues": train.hash(),
    }
    val_id = {"dialogues": val.hash()}
    end_ids = [template.end_of_answer]
    return PreparedDialogues(
        train, val, template, context_length, length, config.packing, new_ids, data_id, val_id,
        end_ids,
    )  # fmt: skip


def _template(config: DataConfig, own: BPETokenizer | None) -> tuple[ChatTemplate, Sequence[int]]:
    """Return the template with its tokenizer, and the ids that are new for the weights."""
    tokenizer = _tokenizer(config, own)
    template = template_for_training(config.template, tokenizer)
    known = min(len(tokenizer), len(own or tokenizer))
    new_ids = range(known, len(template.tokenizer))
    if new_ids and config.kind == "dpo":
        raise ValueError(
            "a model must learn dialogues before it learns pairs of answers (its tokenizer has no "
            f"{template.tokenizer.decode([new_ids[0]])}, which {template.name} needs); fine-tune "
            "the model with --kind sft first, or choose --template plain_alpaca"
        )
    return template, new_ids


def _held_out(train: Examples | Pairs, config: DataConfig, say: Callable[[str], None]) -> Numbers:
    """Return the numbers of the validation data: the last, and every tenth before it."""
    held_out = np.arange(len(train))[::-1][::_HELD_OUT]
    if len(held_out) == len(train):
        raise ValueError(
            f"validation needs {train.KIND}s that are not training data ({config.train} has only "
            f"{len(train)}); add {train.KIND}s, or set --val_data FILE"
        )
    more = ", and every tenth before it" if len(held_out) > 1 else ""
    say(
        f"without validation data, {len(held_out):,} of {len(train):,} {train.KIND}s are held out: "
        f"the last{more}"
    )
    return held_out


@contextlib.contextmanager
def _rejects(config: DataConfig, folder: Path, say: Callable[[str], None]) -> Iterator[Rejects]:
    """Yield what receives bad records. At the end, print how many there are."""
    path = folder / "rejects.jsonl" if config.max_bad else None
    if path is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with Rejects(path, config.max_bad, "--max_bad N") as rejects:
        yield rejects
    if rejects.count:
        say(f"{number_of(rejects.count, 'bad record')} of {rejects.records:,}: {path}")


def _told_of_both(
    train: Examples | Pairs, val: Examples | Pairs, config: DataConfig
) -> Iterator[str]:
    """Yield warnings about validation data that is also training data."""
    if config.val is not None:
        sources = config.train, config.val
        files = ([file for part in parts_of(text) for file in dialogue_files(part.name)]
                 for text in sources)  # fmt: skip
        yield from told_of_both(*files)
    learned = set(train.hashes())
    if count := sum(each in learned for each in val.hashes()):
        yield (
            f"{count:,} of {number_of(len(val), train.KIND)} for validation are equal to training "
            "data, so the validation loss is too low"
        )


def _told_of_new(new_ids: Sequence[int], template: ChatTemplate, *, has_weights: bool) -> str:
    names = [f"{template.tokenizer.decode([id])} (id {id})" for id in new_ids]
    if not names:
        return ""
    begin = "; their rows begin as the mean of the other rows" if has_weights else ""
    return f"; new special tokens: {', '.join(names)}{begin}"


def _tokenizer(config: DataConfig, own: BPETokenizer | None) -> BPETokenizer:
    if config.tokenizer is None:
        if own is None:
            raise no_tokenizer(config.train)
        return own
    tokenizer = BPETokenizer.load(config.tokenizer)
    if own is not None and not _extends(tokenizer, own):
        raise ValueError(
            "the tokenizer must be the tokenizer of the weights, or the same tokenizer with more "
            f"ids at the end ({config.tokenizer}), because a model has learned the meaning of each "
            "id; remove --tokenizer_path"
        )
    return tokenizer


def _extends(tokenizer: BPETokenizer, own: BPETokenizer) -> bool:
    return all(tokenizer.vocab.get(id) == token for id, token in own.vocab.items())


def no_tokenizer(name: str) -> ValueError:
    return ValueError(
        f"dialogues need a tokenizer ({name}, no tokenizer of a model); begin from a model with "
        "--init_from MODEL, or set --tokenizer_path FILE"
    )


def _examples(
    text: str,
    config: DataConfig,
    template: ChatTemplate,
    row_length: int,
    rejects: Rejects,
    say: Callable[[str], None],
) -> tuple[Examples | Pairs, Numbers]:
    """Return the examples of all sources in order, and how often an epoch reads each example."""
    repeats: list[int] = []
    store: Any = Pairs if config.kind == "dpo" else Examples

    def encoded() -> Iterator[Example | Pair]:
        for part in parts_of(text):
            times = _times(part)
            size = num_bytes(dialogue_files(part.name))
            with tqdm(total=size, desc="encoding", unit="B", unit_scale=True, disable=None) as bar:
                found, counts = _encoded(
                    part.name, config, template, row_length, rejects, bar.update
                )
                for example in found:
                    repeats.append(times)
                    yield example
            for line in counts.lines():
                say(f"{part.name}: {line}")
            if times > 1:
                say(f"{part.name}: an epoch reads its {store.KIND}s {times} times")

    examples = store(encoded(), template.tokenizer.dtype)
    return examples, np.array(repeats)


def _encoded(
    name: str,
    config: DataConfig,
    template: ChatTemplate,
    row_length: int,
    rejects: Rejects,
    progress: Progress,
) -> tuple[Iterator[Example | Pair], Counts | PairCounts]:
    """Return the examples of a source, or its pairs, and what happened to them. The counts are
    complete after the last example."""
    if config.kind == "dpo":
        of_pairs = PairCounts()
        pairs = read_preferences(name, config.system, rejects, progress)
        return pairs_of(pairs, template, row_length, config.too_long, of_pairs, name), of_pairs
    learning = Learning(config.train_on, config.too_long, config.min_target_tokens)
    counts = Counts()
    dialogues = read_dialogues(name, config.format, config.system, rejects, progress)
    return examples_of(dialogues, template, row_length, learning, counts, name), counts


def _times(part: Part) -> int:
    if part.weight.denominator != 1 or part.weight > _MOST:
        raise ValueError(
            "the weight of dialogues must be how often an epoch reads them, a whole number up to "
            f"{_MOST} ({part.name}:{decimal(part.weight)}); write e.g. {part.name}:2"
        )
    return int(part.weight)
