"""scratchlm-convert: convert Hugging Face folders to checkpoints, and back.

scratchlm-convert --from Qwen3-0.6B --to qwen3        a Hugging Face folder -> a checkpoint
scratchlm-convert --from runs/shakespeare --to out    a run, a checkpoint -> a Hugging Face folder
scratchlm-convert --from runs/lora --to merged        the same; the adapters of LoRA are merged
scratchlm-convert --from runs/lora --to a --adapter_only     the adapters alone -> a folder of peft
scratchlm-convert --from Qwen3-0.6B --adapter a --to tuned   a model, and a folder of peft, in one
"""

from __future__ import annotations

import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from scratchlm.cli.command import Once, Parser, command


@command()
def main(argv: Sequence[str] | None = None) -> None:
    args = _parse(argv)
    # These imports are slow, and --help does not need them.
    from scratchlm.checkpoint.models import is_hf_folder, load_parts
    from scratchlm.checkpoint.save_and_load import save_checkpoint
    from scratchlm.convert.hf_config import hub_architecture
    from scratchlm.convert.hf_folder import to_hf
    from scratchlm.convert.hf_tokenizer import (
        read_adapter_template,
        special_ids,
        tokenizer_files,
    )
    from scratchlm.convert.peft_folder import from_peft, to_peft
    from scratchlm.errors import Notice
    from scratchlm.files.atomic import is_taken

    # The weights are memory-mapped from the source, so the target must be another path.
    target = Path(args.target)
    if is_taken(target):
        raise ValueError(f"the target must be a new path ({target}); choose another path with --to")
    model, tokenizer, ends, starts, template = load_parts(args.source, args.tokenizer_path)
    if args.adapter is not None:
        from_peft(model, args.adapter)
        if tokenizer is not None:
            template = read_adapter_template(args.adapter, tokenizer) or template
            ends, _ = special_ids(tokenizer, ends, starts, template)
    if args.adapter_only:
        how = (model.config.context_length, ends, starts, template)
        to_peft(model, target, {} if tokenizer is None else tokenizer_files(tokenizer, *how))
        print(f"{target}: the adapters in the format of peft")
        return
    if is_hf_folder(args.source):
        text = None if tokenizer is None else tokenizer.to_json()
        more = {"tokenizer": text, "end_ids": ends, "start_ids": starts, "template": template}
        save_checkpoint(args.target, model, None, 0, **more)
        kind = "a checkpoint"
    else:
        to_hf(model, args.target, tokenizer, ends, starts, template)
        kind = f"{hub_architecture(model.config)} in the Hugging Face format"
    if tokenizer is None:
        warnings.warn(
            f"the source has no tokenizer.json ({args.source}), so the target has none; "
            "add a tokenizer with --tokenizer_path FILE",
            Notice,
            stacklevel=2,
        )
    print(f"{args.target}: {kind} with {model.num_parameters():,} parameters")


def _parse(argv: Sequence[str] | None) -> Namespace:
    summary, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser("scratchlm-convert", summary, examples)
    parser.add_argument("--from", dest="source", action=Once, required=True, metavar="DIR",
                        help="a Hugging Face folder, a run, a checkpoint, a .pt file")  # fmt: skip
    parser.add_argument("--to", dest="target", action=Once, required=True, metavar="DIR",
                        help="the path to write: a checkpoint, a .pt file, or a Hugging Face "
                        "folder")  # fmt: skip
    parser.add_argument("--adapter", action=Once, metavar="DIR",
                        help="add the adapters in a folder of peft to the model")  # fmt: skip
    parser.add_argument("--adapter_only", action="store_true",
                        help="write only the adapters, as a folder of peft")  # fmt: skip
    parser.add_argument("--tokenizer_path", action=Once, metavar="FILE",
                        help="tokenizer.json (default: the one beside the weights)")  # fmt: skip
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
