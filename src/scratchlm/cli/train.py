"""scratchlm-train: train a model on token files or text.

scratchlm-train --train_data corpus.bin --d_model 256 --num_layers 4 --num_heads 8 --iterations 1000
scratchlm-train --config shakespeare --train_data shakespeare.txt --optim.lr 1e-3
scratchlm-train --resume runs/2026-01-31-120000
torchrun --standalone --nproc_per_node 8 -m scratchlm.cli.train --config gpt2-124m ...

Every key of a config file is also a flag (--optim.lr 1e-3); many have a short form (--lr 1e-3).
The command accepts flags of nanoGPT, LLMs-from-scratch and Hugging Face that have the same meaning
(--n_embd, --block_size, --max_iters, --learning_rate). A flag overrides the file; `none` unsets a
key. The command prints the resolved config and saves it in the run's folder.
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
    from scratchlm.training.train_config import TrainConfig
    from scratchlm.training.trainer import Trainer


@command()
def main(argv: Sequence[str] | None = None) -> None:
    began = time.monotonic()  # before torch is imported, because --minutes limits the whole process
    given = parse(sys.argv[1:] if argv is None else argv, __doc__ or "")
    from scratchlm.devices.ranks import agreed, joined  # --help does not need it
    from scratchlm.files.lock import locked
    from scratchlm.training import recipe, run_config

    if given.lists_recipes:
        print(recipes.listing())
        return
    if given.dry_run:
        if given.resume is not None:
            raise ValueError(
                f"--dry_run cannot read a run ({given.resume}); set --config DIR/config.toml"
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
            if ranks.first:  # lock the folder before anything in it changes
                stack.enter_context(locked(Path(config.train.out)))
        trainer = recipe.build(
            config, resume=checkpoint, ranks=ranks, say=say, typed=given.flags, began=began
        )
        done = trainer.step >= trainer.iterations and trainer.pending is None
        trainer.fit()
        if done:
            say(
                f"nothing to do: the run is at step {trainer.step}; to continue, add --iterations N"
            )
            return
        say(f"trained: {trainer.saved}")
        say(_what_now(trainer, config))


def _what_now(trainer: Trainer, config: TrainConfig) -> str:
    """Return the command that uses the trained model."""
    path = f"--model_path {shlex.quote(str(trainer.out))}"
    if "template" in trainer.extra:
        system = config.data.system
        return f"talk to it: scratchlm-chat {path}" + (
            f" --system {shlex.quote(system)}" if system else ""
        )
    tokenizer = "" if "tokenizer" in trainer.extra else "--tokenizer_path tokenizer.json "
    length = min(200, config.model.context_length // 2)
    return f'generate: scratchlm-generate {path} {tokenizer}--prompt "..." --max_tokens {length}'


@contextmanager
def said_once(ranks: Ranks) -> Iterator[None]:
    """Let only the first rank report an error that ends all ranks.

    A signal, or a loss that is not finite, ends all ranks. The first rank reports this error, and
    the other ranks exit with the same code. A rank that gets another rank's error also exits with
    that error's code. Any other error may belong to one rank alone, so each rank reports its own.
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
