"""Split dialogues into training data and a held-out tenth.

    python scripts/split_dialogues.py FOLDER FILE…

The files may have any form that `scratchlm-train --kind sft` reads. The script writes
FOLDER/held-out.jsonl, FOLDER/train.jsonl, and FOLDER/train.txt: the texts of the training
dialogues, for a tokenizer. A hash of the first question chooses the part of a dialogue. So two
dialogues with the same first question are always in the same part. FOLDER/rejected.jsonl has the
records that are no dialogues. Published sets have some, such as the 28 empty answers of Alpaca.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

from scratchlm.cli.command import command
from scratchlm.data.conversations.dialogues import read_dialogues
from scratchlm.data.reading.rejects import Rejects
from scratchlm.files.atomic import write_file
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.chat_template import Message
from scratchlm.tokenizer.special_tokens import END_OF_TEXT

ONE_IN = 10  # one dialogue in 10 is held out
MAX_BAD = 100  # records that are no dialogues


def is_held_out(messages: Sequence[Message]) -> bool:
    question = next(each["content"] for each in messages if each["role"] == "user")
    return zlib.crc32(question.encode()) % ONE_IN == 0


def split(folder: Path, paths: Sequence[StrPath]) -> None:
    """Write the files, each whole or not at all. train.jsonl is the last file.

    Raise ValueError if a part has no dialogue, or if more than MAX_BAD records are no dialogues.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[bool, list[Sequence[Message]]] = {True: [], False: []}
    with Rejects(folder / "rejected.jsonl", MAX_BAD) as rejects:
        for messages, _ in read_dialogues(paths, rejects=rejects):
            parts[is_held_out(messages)].append(messages)
    if not all(parts.values()):
        raise ValueError(
            f"both parts must have a dialogue ({len(parts[False])} for training, "
            f"{len(parts[True])} held out); use more dialogues"
        )
    texts = ("\n".join(each["content"] for each in messages) for messages in parts[False])
    write_file(folder / "train.txt", END_OF_TEXT.join(texts).encode())
    for name, held_out in (("held-out", True), ("train", False)):
        write_file(folder / f"{name}.jsonl", _lines(parts[held_out]))
        print(f"{folder / name}.jsonl: {len(parts[held_out]):,} dialogues")
    print(f"{rejects.path}: {rejects.count:,} records that are no dialogues")


def _lines(dialogues: Iterable[Sequence[Message]]) -> bytes:
    return "".join(json.dumps({"messages": list(each)}) + "\n" for each in dialogues).encode()


@command()
def main(argv: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if argv is None else argv
    if len(words) < 2:
        raise ValueError(
            f"a folder and a file are necessary ({len(words)} paths); write split_dialogues.py "
            "FOLDER FILE"
        )
    folder, *paths = words
    split(Path(folder), paths)


if __name__ == "__main__":
    sys.exit(main())
