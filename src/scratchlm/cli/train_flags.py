"""What may be typed after `scratchlm-train`, and the keys of the configuration it sets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from scratchlm.cli.command import Once, Parser
from scratchlm.cli.foreign_flags import TRAIN
from scratchlm.cli.recipes import find_config
from scratchlm.config import MISSING, Key, keys, meant
from scratchlm.training.train_config import DEFAULT_ITERATIONS, DEFAULT_MODEL, TrainConfig

GROUPS = {
    "data": "data",
    "model": "model",
    "optim": "optimizer",
    "train": "run",
    "runtime": "runtime (device, precision, speed)",
}
# Every key of the configuration: its help, and its flag. A key without a flag is typed in full.
# Where a default is None, the help says what is done.
FLAGS: dict[str, tuple[str, ...]] = {
    "data.train": (
        "what to train on: a file, folder or glob of text, JSON or Parquet; or a token shard",
        "train_data",
    ),
    "data.val": ("the same to validate on (the last tenth of the training data)", "val_data"),
    "data.tokenizer": ("tokenizer.json of the text, or of shards that name none", "tokenizer_path"),
    "data.verify": ("hash the whole shards first", "verify"),
    "data.field": ("of JSON and Parquet documents: the key of the text", "field"),
    "data.separator": ("special token between documents", "separator"),
    "data.fit_context": ("shrink the context to what a short text allows (unless it is given)",),
    "data.dtype": ("the ids in a .bin without a sidecar (as its vocabulary needs)",),
    "model.vocab_size": (
        "ids that the model knows (the tokenizer's; a new one's by the size of the text)",
        "vocab_size",
    ),
    "model.context_length": ("tokens of a sequence", "max_seq_len"),
    "model.d_model": ("width", "d_model"),
    "model.num_layers": ("blocks", "num_layers"),
    "model.num_heads": ("query heads", "num_heads"),
    "model.num_kv_heads": ("key and value heads (as many as query heads)", "num_kv_heads"),
    "model.d_ff": (
        "width of the feed-forward layer (4 times d_model; 8/3 times for swiglu)",
        "d_ff",
    ),
    "model.rope_theta": ("base of the rotary angles", "rope_theta"),
    "model.rope_interleaved": ("rotate pairs of neighbours, as in the paper",),
    "model.norm_eps": ("added under the root in norms", "norm_eps"),
    "model.tie_embeddings": ("one matrix for embedding and head", "tie_embeddings"),
    "model.bias": ("biases in all linear layers",),
    "model.qk_norm": ("normalize queries and keys",),
    "model.dropout": ("dropout on the residual branches", "dropout"),
    "model.norm": ("kind of norm",),
    "model.position": ("how the model knows positions",),
    "model.ffn": ("kind of feed-forward layer",),
    "model.residual_init": ("scale of each branch's last matrix at the start",),
    "model.init": ("how weights begin",),
    "model.head_dim": ("width of a head (d_model / num_heads)",),
    "model.vocab_multiple": ("round the embedding's rows up to a multiple",),
    "model.rope_scaling.kind": ("stretch the rotary angles for a longer context (off)",),
    "model.rope_scaling.factor": ("how far",),
    "model.rope_scaling.low_freq_factor": ("llama3: below it, angles are stretched",),
    "model.rope_scaling.high_freq_factor": ("llama3: above it, angles are kept",),
    "model.rope_scaling.original_context_length": ("llama3: the context before",),
    "model.qkv_bias": ("biases of queries, keys and values only",),
    "model.qk_norm_gain": ("learned gains in the norms of queries and keys",),
    "model.gated_attention": ("gate on what attention gives",),
    "model.window": ("attend to the last N tokens only (all)",),
    "model.moe.num_experts": ("a mixture of so many experts (off)",),
    "model.moe.num_active": ("experts that each token goes through",),
    "model.moe.num_shared": ("experts that every token goes through besides",),
    "model.moe.balance_weight": ("weight of the loss that keeps experts equally busy",),
    "model.moe.z_weight": ("weight of the loss that keeps the router's logits small",),
    "model.moe.jitter": ("noise on the router's input in training",),
    "optim.optimizer": ("the update rule", "optimizer"),
    "optim.lr": ("peak learning rate", "lr"),
    "optim.adamw_lr": ("muon: the rate of all but the blocks' matrices (lr / 10)",),
    "optim.betas": ("adamw, muon: decay of the two averages (the optimizer's)",),
    "optim.eps": ("adamw, muon: added to the root (the optimizer's)",),
    "optim.momentum": ("muon, sgd (the optimizer's)",),
    "optim.nesterov": ("muon, sgd: look ahead (the optimizer's)",),
    "optim.weight_decay": ("decay of the matrices (0.1; sgddecay has none)", "weight_decay"),
    "optim.schedule": (
        "how the learning rate falls (cosine; constant for sgddecay, which decays itself)",
        "schedule",
    ),
    "optim.warmup_steps": (
        "steps of linear warm-up (a tenth of the run, 100 at most)",
        "warmup_steps",
    ),
    "optim.min_lr": ("learning rate at the end", "min_lr"),
    "optim.decay_fraction": ("wsd: the part of the run that decays (0.2)",),
    "optim.decay_steps": ("wsd: the steps that decay, instead",),
    "optim.decay_shape": ("wsd: how the rate falls (linear)",),
    "train.out": ("the run's folder (runs/<date-time>)", "out"),
    "train.init_from": (
        "begin with these weights: a run, a checkpoint, a folder of the hub",
        "init_from",
    ),
    "train.iterations": (f"optimizer steps ({DEFAULT_ITERATIONS})", "iterations"),
    "train.epochs": ("passes over the data, instead of steps", "epochs"),
    "train.minutes": ("time for the whole process, instead of steps", "minutes"),
    "train.batch_size": ("sequences of a micro-batch", "batch_size"),
    "train.accumulate": ("micro-batches of a step", "accumulate"),
    "train.ramp_from": ("micro-batches of the first step, where they grow",),
    "train.ramp_steps": ("steps in which they grow",),
    "train.max_grad_norm": ("clip the gradient to this norm", "max_grad_norm"),
    "train.z_loss": ("weight of the square of the logits' logsumexp", "z_loss"),
    "train.eval_every": ("steps between validations, 0 only at the end", "eval_every"),
    "train.eval_batches": ("batches of a validation, 0 all", "eval_batches"),
    "train.save_every": ("steps between checkpoints, 0 only at the end", "save_every"),
    "train.save_format": ("a folder for each checkpoint, or one .pt file", "save_format"),
    "train.keep_last": ("checkpoints kept beside the best, 0 all", "keep_last"),
    "train.log_every": ("steps between synchronizations with the GPU", "log_every"),
    "train.tensorboard": ("log for TensorBoard too", "tensorboard"),
    "train.sample_every": ("steps between samples of text, 0 none", "sample_every"),
    "train.sample_prompt": ("the start of each sample", "sample_prompt"),
    "train.sample_tokens": ("tokens of a sample", "sample_tokens"),
    "train.seed": ("of weights, dropout and batches", "seed"),
    "runtime.device": ("auto, cpu, cuda, cuda:N or mps", "device"),
    "runtime.dtype": ("of matrix products", "dtype"),
    "runtime.compile": ("by torch.compile", "compile"),
    "runtime.parallel": ("how the processes of torchrun share the work", "parallel"),
    "runtime.activation_checkpointing": (
        "compute blocks twice to save memory",
        "activation_checkpointing",
    ),
    "runtime.threads": ("of torch, on a CPU; 0 is its own choice",),
}
METAVARS = {
    "data.train": "PATH", "data.val": "PATH", "data.tokenizer": "FILE",
    "train.out": "DIR", "train.init_from": "PATH", "runtime.device": "DEVICE",
}  # fmt: skip


class _Help(argparse.RawDescriptionHelpFormatter):
    """`--d_model N`, and not `--model.d_model N` too."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        short = [name for name in action.option_strings if "." not in name]
        value = "" if action.nargs == 0 else f" {self._format_args(action, action.dest)}"
        return ", ".join(short or action.option_strings) + value


class _Parser(Parser):
    def hint(self, name: str) -> str:
        """The keys of the configuration that end so, where there are any."""
        last = name.lstrip("-").replace("-", "_").rpartition(".")[2]
        ends: dict[str, list[str]] = {}
        for key in FLAGS:
            ends.setdefault(key.rpartition(".")[2], []).append(f"--{key}")
        own = last if last in ends else meant(last, ends)
        if own is None or last in TRAIN:
            return super().hint(name)
        return f"write {' or '.join(ends[own])}"


def _parser(description: str) -> Parser:
    summary, _, examples = description.partition("\n\n")
    parser = _Parser("scratchlm-train", summary, examples)
    parser.formatter_class = _Help
    parser.usage = "scratchlm-train [--config NAME] --train_data PATH [flags]"
    parser.add_argument("--config", action=Once, metavar="NAME|FILE",
                        help="a recipe's name, or a TOML file; list shows the recipes")  # fmt: skip
    parser.add_argument("--resume", action=Once, metavar="auto|PATH",
                        help="go on with a run: its folder or a checkpoint of it; auto: the run "
                        "in --out, else the newest, else a new one")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true",
                        help="print what it costs, and on which GPUs; train nothing")  # fmt: skip
    known = {key.name: key for key in keys(TrainConfig)}
    sections = {name.rpartition(".")[0] for name in known if name.count(".") > 1}
    for section, title in GROUPS.items():
        flag = parser.add_argument_group(title).add_argument
        for name, key in known.items():
            if name.startswith(section + "."):
                text, *names = FLAGS[name]
                flag(*(f"--{each}" for each in [*names, name]), dest=name, action=Once,
                     help=text.replace("%", "%%") + _default(key), **_form(key))  # fmt: skip
        for name in sections:
            if name.startswith(section + "."):  # `none` leaves out what a file has
                flag(f"--{name}", action=Once, help=argparse.SUPPRESS)
    return parser


def _default(key: Key) -> str:
    value = DEFAULT_MODEL.get(key.name.removeprefix("model."), key.default)
    if value is None or value is MISSING:
        return ""
    shown = {str: value or '""', bool: str(value).lower()}.get(type(value), str(value))
    return f" ({shown!r})" if shown == "\n" else f" ({shown})"


def _form(key: Key) -> dict[str, Any]:
    """How a value is written; true may be left out."""
    if key.type is bool:
        return {"metavar": "true|false", "nargs": "?", "const": "true"}
    if get_origin(key.type) is Literal:
        return {"metavar": "|".join(map(str, get_args(key.type)))}
    if get_origin(key.type) is tuple:
        return {"metavar": ",".join("X" for _ in get_args(key.type))}
    kinds: dict[Any, str] = {int: "N", float: "X"}
    return {"metavar": METAVARS.get(key.name) or kinds.get(key.type, "TEXT")}


class Parsed(NamedTuple):
    """--config as a file, {dotted key: value}, --resume, --dry_run, --config list."""

    file: Path | None
    flags: dict[str, Any]
    resume: str | None
    dry_run: bool
    lists_recipes: bool


def parse(argv: Sequence[str], description: str) -> Parsed:
    """What was typed; ValueError where two flags of one key differ, and for nothing to train on."""
    args = vars(_parser(description).parse_args(argv))
    flags = {name: value for name, value in args.items() if "." in name and value is not None}
    config, resume, dry_run = args["config"], args["resume"], args["dry_run"]
    if not (config or resume or dry_run or "data.train" in flags):
        raise ValueError(
            "no training data is given (--train_data); give text, or token shards: "
            "scratchlm-train --train_data book.txt --config tiny (--config list shows the recipes, "
            "--help all flags)"
        )
    lists_recipes = config == "list"
    file = None if config is None or lists_recipes else find_config(config)
    return Parsed(file, flags, resume, dry_run, lists_recipes)
