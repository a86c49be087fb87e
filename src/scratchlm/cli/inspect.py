"""scratchlm-inspect: show a checkpoint or a Hugging Face folder, or change a checkpoint's config.

scratchlm-inspect runs/shakespeare                       the run's best checkpoint, or its last
scratchlm-inspect runs/shakespeare/checkpoints/last
scratchlm-inspect model.pt --json
scratchlm-inspect Qwen3-0.6B                             a Hugging Face folder
scratchlm-inspect step-00001000 --set context_length=512 --set rope_theta=500000
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence

from scratchlm.cli.command import Parser, command


@command(stops_with_its_reader=True)
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    changes = _changes(args.set)
    # These imports are slow, and --help does not need them.
    from scratchlm.checkpoint.edit import changes_text, set_config
    from scratchlm.checkpoint.models import is_hf_folder
    from scratchlm.checkpoint.pointers import find_checkpoint
    from scratchlm.checkpoint.report import as_json, describe, report

    if not changes:
        found = describe(args.path)
        print(as_json(found) if args.json else report(found))
        return
    if is_hf_folder(args.path):
        raise ValueError(
            f"--set changes checkpoints, not Hugging Face folders ({args.path}); convert the "
            "folder first: scratchlm-convert --from FOLDER --to DIR"
        )
    path = find_checkpoint(args.path)
    changed = set_config(path, changes)
    if args.json:
        pairs = {key: {"from": old, "to": new} for key, (old, new) in changed.items()}
        print(as_json({"path": str(path), "changed": pairs}))
    else:
        print(changes_text(path, changed))


def _changes(words: list[str]) -> dict[str, str]:
    """Turn ["a=1"] into {"a": "1"}. Raise ValueError for two values of one key."""
    changes: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        key = key.replace("-", "_")
        if not key or not equals:
            raise ValueError(f"--set needs KEY=VALUE ({word}); write e.g. --set context_length=512")
        if changes.setdefault(key, value) != value:
            raise ValueError(f"two values for one key ({key} {changes[key]}, {value}); keep one")
    return changes


def _parse(argv: Sequence[str] | None) -> Namespace:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-inspect", summary, examples)
    parser.add_argument("path", metavar="PATH",
                        help="a run, a checkpoint, a .pt file, a Hugging Face folder")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, for scripts")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE",
                        help="change the stored model config; may be repeated")  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
