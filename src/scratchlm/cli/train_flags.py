"""The flags of `scratchlm-train`, and the configuration keys that they set."""

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
# {key of the configuration: (help, short flag)}. A key without a short flag has only
# its full flag. If a default is None, the help says what happens then.
FLAGS: dict[str, tuple[str, ...]] = {
    "data.train": (
        "training data: a file, folder or glob of text, JSON, Parquet or token files; or a mixture "
        "with weights, such as books/:0.7,code.h5:0.3",
        "train_data",
    ),
    "data.val": (
        "validation data of the same kinds (the held-out documents in a folder of "
        "scratchlm-tokenize, or the last tenth of the training data; none unsets a recipe's data)",
        "val_data",
    ),
    "data.tokenizer": (
        "tokenizer.json for text, or for a token file without a tokenizer",
        "tokenizer_path",
    ),
    "data.verify": ("check the hash of each whole token file first", "verify"),
    "data.field": ("key of the text in JSON and Parquet documents, such as meta.body", "field"),
    "data.join": (r"text between the strings of a list, such as '\n\n' (no lists)", "join"),
    "data.separator": ("special token between documents", "separator"),
    "data.documents": (
        "separate: each token attends only to its own document, with positions from 0",
        "documents",
    ),
    "data.rows": (
        "aligned: rows begin at the start of a document, and padding fills them",
        "rows",
    ),
    "data.fit_context": ("shrink the context to fit a short text; true if no context is set",),
    "data.dtype": ("dtype of the ids in a .bin without a sidecar (the vocabulary decides)",),
    "data.kind": (
        "text; sft: the data is dialogues, and the model learns the answers; dpo: the data is "
        "pairs of answers, and the model learns to prefer the chosen ones",
        "kind",
    ),
    "data.template": (
        "dialogues: the markers of the turns (auto: the tokenizer decides, else chatml)",
        "template",
    ),
    "data.format": ("dialogues: the form of the records (auto: the first record)", "format"),
    "data.train_on": (
        "dialogues: what the model learns: each answer, the last answer, or all tokens",
        "train_on",
    ),
    "data.row_length": ("dialogues: tokens in a row (the model's context)", "row_length"),
    "data.too_long": ("dialogues: what happens to one that is longer than a row", "too_long"),
    "data.min_target_tokens": (
        "dialogues: drop one with fewer tokens that the model learns",
        "min_target_tokens",
    ),
    "data.packing": ("dialogues: put several into a row; each attends only to itself", "packing"),
    "data.system": ("dialogues: the system text of dialogues that have none", "system"),
    "data.max_bad": (
        "dialogues: write up to N bad records to data/rejects.jsonl in the run's folder, and "
        "continue",
        "max_bad",
    ),
    "model.vocab_size": (
        "number of ids (the tokenizer decides; for a new tokenizer, the size of the text)",
        "vocab_size",
    ),
    "model.context_length": ("tokens in a sequence; --max_seq_len is the same", "context_length"),
    "model.d_model": ("width of the model", "d_model"),
    "model.num_layers": ("number of blocks", "num_layers"),
    "model.num_heads": ("number of query heads", "num_heads"),
    "model.num_kv_heads": (
        "number of key and value heads (as many as query heads)",
        "num_kv_heads",
    ),
    "model.d_ff": (
        "width of the feed-forward layer (4 times d_model; 8/3 times for swiglu)",
        "d_ff",
    ),
    "model.rope_theta": ("base of the rotary angles", "rope_theta"),
    "model.rope_interleaved": ("rotate pairs of neighbours, as in the paper",),
    "model.norm_eps": ("number added under the square root in norms", "norm_eps"),
    "model.tie_embeddings": ("one matrix for embedding and head", "tie_embeddings"),
    "model.bias": ("biases in all linear layers",),
    "model.qk_norm": ("normalize queries and keys",),
    "model.dropout": ("dropout on the residual branches", "dropout"),
    "model.norm": ("kind of norm",),
    "model.position": ("how the model gets positions",),
    "model.ffn": ("kind of feed-forward layer",),
    "model.residual_init": ("scale of each branch's last matrix at the start",),
    "model.init": ("initialization of the weights",),
    "model.head_dim": ("width of a head (d_model / num_heads)",),
    "model.vocab_multiple": ("round the number of embedding rows up to a multiple of N",),
    "model.rope_scaling.kind": ("stretch the rotary angles for a longer context (off)",),
    "model.rope_scaling.factor": ("factor of the stretch",),
    "model.rope_scaling.low_freq_factor": ("llama3: stretch the angles below this factor",),
    "model.rope_scaling.high_freq_factor": ("llama3: keep the angles above this factor",),
    "model.rope_scaling.original_context_length": ("llama3, yarn: the original context length",),
    "model.rope_scaling.beta_fast": ("yarn: keep the angles of pairs with more turns (32)",),
    "model.rope_scaling.beta_slow": ("yarn: stretch the angles of pairs with fewer turns (1)",),
    "model.rope_scaling.attention_factor": (
        "yarn: factor of queries and keys (0.1 ln factor + 1)",
    ),
    "model.rope_scaling.truncate": ("yarn: round the numbers of the two pairs (true)",),
    "model.qkv_bias": ("biases of queries, keys and values only",),
    "model.qk_norm_gain": ("learned gains in the norms of queries and keys",),
    "model.gated_attention": ("gate on the output of attention",),
    "model.window": ("attend to the last N tokens only (all)",),
    "model.window_pattern": ("layers with (S) and without (L) the window, such as SSSL (S)",),
    "model.nope_every": ("every Nth layer has no rotary positions (off)",),
    "model.attention_sinks": ("one more logit for each head in attention, as in gpt-oss",),
    "model.logit_softcap": ("limit the logits to this number with tanh (off)",),
    "model.local_rope_theta": ("base of the rotary angles in layers with a window (rope_theta)",),
    "model.moe.num_experts": ("number of experts in a mixture (off)",),
    "model.moe.num_active": ("experts that process each token",),
    "model.moe.num_shared": ("shared experts that process every token too",),
    "model.moe.balance_weight": ("weight of the loss that keeps experts equally busy",),
    "model.moe.z_weight": ("weight of the loss that keeps the router's logits small",),
    "model.moe.jitter": ("noise on the router's input in training",),
    "model.lora.r": (
        "rank of the adapters of LoRA, which is off unless a lora flag is set; with LoRA, all "
        "other weights are frozen",
        "lora_r",
    ),
    "model.lora.alpha": ("multiply the output of adapters by alpha / r", "lora_alpha"),
    "model.lora.dropout": ("dropout of the input of adapters", "lora_dropout"),
    "model.lora.targets": (
        "ends of the names of the layers with adapters, or all-linear",
        "lora_targets",
    ),
    "model.lora.full": (
        "ends of the names of other weights that learn, such as embedding,lm_head (none)",
        "lora_full",
    ),
    "optim.optimizer": ("the update rule", "optimizer"),
    "optim.lr": ("peak learning rate", "lr"),
    "optim.adamw_lr": ("muon: the rate of all weights except the blocks' matrices (lr / 10)",),
    "optim.betas": ("adamw, muon: decay of the two averages (the optimizer's default)",),
    "optim.eps": ("adamw, muon: number added to the square root (the optimizer's default)",),
    "optim.momentum": ("muon, sgd: the momentum (the optimizer's default)",),
    "optim.nesterov": ("muon, sgd: use Nesterov momentum (the optimizer's default)",),
    "optim.weight_decay": ("weight decay of the matrices (0.1; sgddecay has none)", "weight_decay"),
    "optim.schedule": (
        "how the learning rate falls (cosine; constant for sgddecay, which has its own decay)",
        "schedule",
    ),
    "optim.warmup_steps": (
        "steps of linear warm-up (a tenth of the run, at most 100)",
        "warmup_steps",
    ),
    "optim.min_lr": ("learning rate at the end", "min_lr"),
    "optim.decay_fraction": ("wsd: the fraction of the run in which the rate falls (0.2)",),
    "optim.decay_steps": (
        "wsd: the number of steps in which the rate falls, instead of a fraction",
    ),
    "optim.decay_shape": ("wsd: how the rate falls (linear)",),
    "train.out": ("the run's folder (runs/<date-time>)", "out"),
    "train.init_from": (
        "start from these weights: a run, a checkpoint, a Hugging Face folder",
        "init_from",
    ),
    "train.iterations": (f"optimizer steps ({DEFAULT_ITERATIONS})", "iterations"),
    "train.epochs": ("passes over the data, instead of steps", "epochs"),
    "train.minutes": ("time for the whole process, instead of steps", "minutes"),
    "train.batch_size": ("sequences in a micro-batch", "batch_size"),
    "train.accumulate": ("micro-batches in a step", "accumulate"),
    "train.ramp_from": ("micro-batches in the first step, if their number grows",),
    "train.ramp_steps": ("steps in which this number grows",),
    "train.max_grad_norm": ("clip the gradient to this norm", "max_grad_norm"),
    "train.z_loss": ("weight of the squared logsumexp of the logits in the loss", "z_loss"),
    "train.dpo_beta": (
        "pairs of answers: a larger number keeps the model closer to its start",
        "dpo_beta",
    ),
    "train.eval_every": ("steps between validations; 0: only at the end", "eval_every"),
    "train.eval_batches": ("batches in a validation; 0: all", "eval_batches"),
    "train.save_every": ("steps between checkpoints; 0: only at the end", "save_every"),
    "train.save_format": ("a folder for each checkpoint, or one .pt file", "save_format"),
    "train.keep_last": ("number of checkpoints to keep besides the best; 0: all", "keep_last"),
    "train.log_every": ("steps between synchronizations with the GPU", "log_every"),
    "train.tensorboard": ("also write a log for TensorBoard", "tensorboard"),
    "train.sample_every": ("steps between samples of text; 0: none", "sample_every"),
    "train.sample_prompt": ("the start of each sample", "sample_prompt"),
    "train.sample_tokens": ("tokens in a sample", "sample_tokens"),
    "train.seed": ("seed of weights, dropout and batches", "seed"),
    "runtime.device": ("auto, cpu, cuda, cuda:N or mps", "device"),
    "runtime.dtype": (
        "dtype of matrix products; fp8 pays from about 1B parameters on (nanochat's log), not "
        "measured here",
        "dtype",
    ),
    "runtime.attention": (
        "function of attention: sdpa is torch's, triton is our kernel for GPUs, readable is the "
        "slow definition; auto is always sdpa",
        "attention",
    ),
    "runtime.compile": ("compile the model with torch.compile", "compile"),
    "runtime.parallel": ("how the processes of torchrun divide the work", "parallel"),
    "runtime.activation_checkpointing": (
        "compute each block twice to save memory",
        "activation_checkpointing",
    ),
    "runtime.threads": ("torch threads on a CPU; 0: torch chooses",),
}
KEYS = {key.name: key for key in keys(TrainConfig)}
METAVARS = {
    "data.train": "PATH", "data.val": "PATH", "data.tokenizer": "FILE",
    "train.out": "DIR", "train.init_from": "PATH", "runtime.device": "DEVICE",
}  # fmt: skip


class _Help(argparse.RawDescriptionHelpFormatter):
    """Show `--d_model N` and leave out `--model.d_model N`."""

    def _format_action_invocation(self, action: argparse.Action) -> str:
        short = [name for name in action.option_strings if "." not in name]
        value = "" if action.nargs == 0 else f" {self._format_args(action, action.dest)}"
        return ", ".join(short or action.option_strings) + value


class _Parser(Parser):
    def hint(self, name: str) -> str:
        """Suggest the configuration keys whose last part is this name, if there are any."""
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
                        help="continue a run: its folder or one of its checkpoints; auto: the "
                        "run in --out, or the newest run, or a new run")  # fmt: skip
    parser.add_argument("--dry_run", action="store_true",
                        help="print the costs, and the GPUs with enough memory; train "
                        "nothing")  # fmt: skip
    sections = {name.rpartition(".")[0] for name in FLAGS if name.count(".") > 1}
    for section, title in GROUPS.items():
        group = parser.add_argument_group(title)
        for name in KEYS:
            if name.startswith(section + "."):
                add_key(group, name)
        for name in sections:
            if name.startswith(section + "."):  # `none` removes a section of the file
                group.add_argument(f"--{name}", action=Once, help=argparse.SUPPRESS)
    return parser


def add_key(group: argparse._ActionsContainer, name: str) -> None:
    """Add the flags of a configuration key."""
    text, *names = FLAGS[name]
    key = KEYS[name]
    group.add_argument(*(f"--{each}" for each in [*names, name]), dest=name, action=Once,
                       help=text.replace("%", "%%") + _default(key), **_form(key))  # fmt: skip


def _default(key: Key) -> str:
    value = DEFAULT_MODEL.get(key.name.removeprefix("model."), key.default)
    if value is None or value is MISSING:
        return ""
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    shown = {str: value or '""', bool: str(value).lower()}.get(type(value), str(value))
    return f" ({shown!r})" if shown == "\n" else f" ({shown})"


def _form(key: Key) -> dict[str, Any]:
    """Return the form of a key's value for argparse. A user may leave out `true`."""
    if key.type is bool:
        return {"metavar": "true|false", "nargs": "?", "const": "true"}
    if get_origin(key.type) is Literal:
        return {"metavar": "|".join(map(str, get_args(key.type)))}
    if get_origin(key.type) is tuple:
        kind, *rest = get_args(key.type)
        return {"metavar": "NAME,…" if kind is str else ",".join("X" for _ in [kind, *rest])}
    kinds: dict[Any, str] = {int: "N", float: "X"}
    return {"metavar": METAVARS.get(key.name) or kinds.get(key.type, "TEXT")}


class Parsed(NamedTuple):
    """The parsed flags.

    `file` is --config as a file, `flags` is {dotted key: value}, and `lists_recipes` is true for
    --config list.
    """

    file: Path | None
    flags: dict[str, Any]
    resume: str | None
    dry_run: bool
    lists_recipes: bool


def parse(argv: Sequence[str], description: str) -> Parsed:
    """Parse the flags. Raise ValueError if two flags of one key differ, or if no data is set."""
    args = vars(_parser(description).parse_args(argv))
    flags = {name: value for name, value in args.items() if "." in name and value is not None}
    config, resume, dry_run = args["config"], args["resume"], args["dry_run"]
    if not (config or resume or dry_run or "data.train" in flags):
        raise ValueError(
            "training data is missing (--train_data); add text or a token file: "
            "scratchlm-train --train_data book.txt --config tiny (--config list shows the recipes, "
            "--help shows all flags)"
        )
    lists_recipes = config == "list"
    file = None if config is None or lists_recipes else find_config(config)
    return Parsed(file, flags, resume, dry_run, lists_recipes)
