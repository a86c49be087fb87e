"""The steps of a datatrove pipeline: read documents, encode them to parts, merge the parts.

    read = ReadDocuments("data/*.jsonl.zst")
    encode = EncodeDocuments(read, "tokenizer.json", "parts")
    LocalPipelineExecutor([read, encode], tasks=30, workers=8, logging_dir="logs/encode").run()
    merge = MergeParts(read, "tokenizer.json", "parts", "shards")
    LocalPipelineExecutor([merge], logging_dir="logs/merge").run()

Task number r of n processes the input files r, r + n, r + 2n, … A part belongs to one input file,
so the result does not depend on n. A task that died runs again and writes its parts again.

This module needs the extra `distributed`. See docs/scaling.md for Slurm and Ray.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scratchlm.data.cleaning.kinds import names_of, read_steps
from scratchlm.data.cleaning.step import Comparison, Edit, Filter
from scratchlm.data.corpus_folder import MANIFEST, PROGRESS
from scratchlm.data.corpus_writer import CorpusSettings
from scratchlm.data.distributed.merging import merge_parts
from scratchlm.data.distributed.parts import paths_of, write_part
from scratchlm.data.documents import read_documents
from scratchlm.data.reading.rejects import Rejects
from scratchlm.data.sources import find_files
from scratchlm.files.paths import StrPath
from scratchlm.tokenizer.bpe import BPETokenizer

try:
    from datatrove.data import Document
    from datatrove.pipeline.base import PipelineStep
except ImportError as error:
    raise ImportError(
        "many machines need a package that is not installed (datatrove); run pip install "
        "'scratchlm[distributed]'"
    ) from error

FILE = "scratchlm_file"  # the key of a document's metadata: the number of its input file


class ReadDocuments(PipelineStep):
    """Yield the documents of this task's files, as `read_documents` reads them.

    `settings` are the settings of the whole corpus. The list of files is made once, where the
    pipeline is built. A document of several gigabytes must fit into memory, because datatrove
    passes whole documents.
    """

    name, type = "scratchlm", "📖 - READER"

    def __init__(
        self,
        paths: StrPath | Sequence[StrPath],
        settings: CorpusSettings | None = None,
    ) -> None:
        super().__init__()
        self.files, self.settings = find_files(paths), settings or CorpusSettings()
        self.accounts: dict[int, Rejects] = {}  # what it read of each file of this task

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        self.accounts = {number: Rejects() for number in range(rank, len(self.files), world_size)}
        for number, account in self.accounts.items():
            chunks = read_documents(
                self.files[number],
                self.settings.reading,
                account,
                max_documents=self.settings.max_documents,
            )
            for document, group in itertools.groupby(chunks, key=lambda chunk: chunk.document):
                text = "".join(chunk.text for chunk in group)
                self.stat_update("documents")
                yield Document(text, f"{number:05}/{document}", metadata={FILE: number})


class CleanDocuments(PipelineStep):
    """Edit and drop documents by the steps of a config, as `scratchlm-data clean` does.

    Its statistics count the dropped documents by step and reason. Steps that compare documents with
    each other need all documents at once, so it refuses them.
    """

    name, type = "scratchlm", "🔻 - FILTER"

    def __init__(self, config: StrPath) -> None:
        super().__init__()
        steps = read_steps(config)
        self.steps = list(zip(names_of(steps), steps, strict=True))
        for name, step in self.steps:
            if isinstance(step, Comparison):
                raise ValueError(
                    f"a task sees only its own documents, so no step may compare documents "
                    f"({config}: {name}); compare them before, or with datatrove's MinHash"
                )

    def run(
        self, data: Iterable[Document], rank: int = 0, world_size: int = 1
    ) -> Iterator[Document]:
        for _, step in self.steps:
            step.prepare()
        for document in data:
            dropped_by = self._clean(document)
            if dropped_by is None:
                yield document
            else:
                self.stat_update(f"dropped by {dropped_by}")

    def _clean(self, document: Document) -> str | None:
        """Edit the document. Return None, or the step and the reason that drop it."""
        for name, step in self.steps:
            if not document.text:
                break
            if isinstance(step, Edit):
                document.text = step.edit(document.text)
            elif isinstance(step, Filter) and (reason := step.reason(document.text)):
                return f"{name}: {reason}"
        return None if document.text else "empty text"


class EncodeDocuments(PipelineStep):
    """Write a part for each of this task's files: the ids of the documents of the file.

    `read` must be the first step of the same pipeline. Steps between the two may change and drop
    documents. They must keep the order of the documents and their metadata.
    """

    name, type = "scratchlm", "🔢 - TOKENIZER"

    def __init__(self, read: ReadDocuments, tokenizer_path: StrPath, parts: StrPath) -> None:
        super().__init__()
        self.read = read  # a copy of the pipeline keeps this reference
        self.tokenizer_path, self.parts = Path(tokenizer_path), Path(parts)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        self._tokenizer = BPETokenizer.load(self.tokenizer_path)
        written = set()
        for number, documents in itertools.groupby(data, key=lambda each: each.metadata[FILE]):
            if number in written:
                paths_of(self.parts, number)[1].unlink()  # the part is not complete
                raise ValueError(
                    "the documents of a file must follow each other "
                    f"({self.read.files[number]}); use no step that changes their order"
                )
            self._write(number, (document.text for document in documents))
            written.add(number)
        for number in self.read.accounts.keys() - written:  # no document is left of these files
            self._write(number, ())

    def _write(self, number: int, texts: Iterable[str]) -> None:
        part = write_part(
            self._tokenizer,
            texts,
            self.read.accounts[number],
            self.read.files[number],
            number,
            self.parts,
            self.read.settings,
        )
        self.stat_update("tokens", value=part.tokens, unit="file")


class MergeParts(PipelineStep):
    """Merge the parts into the corpus that `scratchlm-tokenize --output FOLDER` writes.

    Run it as one task, after all tasks of `EncodeDocuments`. It continues a killed merge.
    """

    name, type = "scratchlm", "🔢 - MERGE"

    def __init__(
        self, read: ReadDocuments, tokenizer_path: StrPath, parts: StrPath, output: StrPath
    ) -> None:
        super().__init__()
        self.files, self.settings = read.files, read.settings
        self.tokenizer_path, self.parts = Path(tokenizer_path), Path(parts)
        self.output = Path(output)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> None:
        if rank:
            return
        tokenizer, output = BPETokenizer.load(self.tokenizer_path), self.output
        begun = any((output / name).exists() for name in (PROGRESS, MANIFEST))
        info = merge_parts(tokenizer, self.files, self.parts, output, self.settings, resume=begun)
        for split in (info.train, info.val):
            self.stat_update("tokens", value=split.tokens, unit="split")
