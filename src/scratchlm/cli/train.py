"""scratchlm-train: train a model on token shards or text.

scratchlm-train --train_data corpus.bin --d_model 256 --num_layers 4 --num_heads 8 --iterations 1000
scratchlm-train --config shakespeare --train_data shakespeare.txt --optim.lr 1e-3
scratchlm-train --resume runs/2026-01-31-120000
torchrun --standalone --nproc_per_node 8 -m scratchlm.cli.train --config gpt2-124m ...

Every key of a config file is also a flag by its full name (--optim.lr 1e-3 is --lr 1e-3). Flags of
nanoGPT, LLMs-from-scratch and Hugging Face with the same meaning work as they are (--n_embd,
--block_size, --max_iters, --learning_rate). A flag overrides the file; `none` unsets a key. The
command prints the resolved config and saves it in the run's folder.
"""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from scratchlm.cli import recipes
from scratchlm.cli.command import command, exit_code
from scratchlm.cli.train_flags import parse
from scratchlm.errors import Interrupted, NumericalError, OtherRankError

if TYPE_CHECKING:
    from scratchlm.devices.ranks import Ranks


@command()
def main(argv: Sequence[str] | None = None) -> None:
    began = time.monotonic()  # before torch is imported, because --minutes limits the whole process
    given = parse(sys.argv[1:] if argv is None else argv, __doc__ or "")
    from scratchlm.devices.ranks import agreed, joined  # here, so that --help answers at once
    from scratchlm.files.lock import locked
    from scratchlm.training import recipe, run_config

    if given.lists_recipes:
        print(recipes.listing())
        return
    if given.dry_run:
        if given.resume is not None:
            raise ValueError(
                f"--dry_run reads no run ({given.resume}); give the run's --config DIR/config.toml"
            )
        print(run_config.costs(given.file, given.flags))
        return
    with ExitStack() as stack:
        ranks = stack.enter_context(joined())
        stack.enter_context(said_once(ranks))
        say = print if ranks.first else lambda line: None
        with agreed(ranks):
            plan = run_config.resolve(given.file, given.flags, given.resume, say=say)
        config, checkpoint = ranks.gather(plan)[0]  # all ranks use one name for the run's folder
        assert config.train.out is not None
        with agreed(ranks):
            if ranks.first:  # lock it before anything in the folder changes
                stack.enter_context(locked(Path(config.train.out)))
        trainer = recipe.build(
            config, resume=checkpoint, ranks=ranks, say=say, typed=given.flags, began=began
        )
        done = trainer.step >= trainer.iterations and trainer.pending is None
        trainer.fit()
        if done:
            say(f"nothing to do: at step {trainer.step} already; --iterations N goes further")
            return
        say(f"trained: {trainer.saved}")
        length = min(200, config.model.context_length // 2)
        tokenizer = "" if "tokenizer" in trainer.extra else "--tokenizer_path tokenizer.json "
        words = f'--model_path {shlex.quote(str(trainer.out))} {tokenizer}--prompt "..."'
        say(f"generate: scratchlm-generate {words} --max_tokens {length}")


@contextmanager
def said_once(ranks: Ranks) -> Iterator[None]:
    """Let only the first rank report an error that ends all ranks.

    A signal and a loss that is not finite end all ranks alike. The first rank reports it, and the
    others exit with its exit code. A rank that learns of another rank's error exits with its code
    too. Any other error may be a rank's own, so each rank reports it.
    """
    try:
        yield
    except OtherRankError as error:
        sys.exit(exit_code(error.error) or 1)
    except (Interrupted, NumericalError) as error:
        if ranks.first:
            raise
        sys.exit(exit_code(error))


if __name__ == "__main__":
    sys.exit(main())
