"""scratchlm-train: train a model on token shards or text.

scratchlm-train --train_data corpus.bin --d_model 256 --num_layers 4 --num_heads 8 --iterations 1000
scratchlm-train --config shakespeare --train_data shakespeare.txt --optim.lr 1e-3
scratchlm-train --resume runs/2026-01-31-120000
torchrun --standalone --nproc_per_node 8 -m scratchlm.cli.train --config gpt2-124m ...

Every key of a config file is a flag by its full name, too (--optim.lr 1e-3 is --lr 1e-3), and the
flags of nanoGPT, LLMs-from-scratch and Hugging Face that mean the same work as they are (--n_embd,
--block_size, --max_iters, --learning_rate). A flag wins over the file; `none` unsets a key. The
resolved config is printed, and saved in the run's folder.
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
    began = time.monotonic()  # before torch is imported, because the time is for the whole process
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
        config, checkpoint = ranks.gather(plan)[0]  # one name for the run's folder
        assert config.train.out is not None
        with agreed(ranks):
            if ranks.first:  # before anything in the folder changes
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
    """A signal and a loss that is not finite end all ranks alike: the first says it, and the others
    end with its exit code; so do those that were told of another rank's error. Any other error may
    be a rank's own, and is heard from each."""
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
