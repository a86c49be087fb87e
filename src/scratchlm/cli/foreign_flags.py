"""Flags of other projects, and the flags to write here instead.

The commands accept a foreign flag as it is if its value has the same form (`config.SETTINGS`).
These tables contain the flags that differ in more than the name, and the flags that beginners
guess. docs/names.md shows all of them. Tests compare that page with these tables, and try every
flag of an entry.
"""

from __future__ import annotations

from scratchlm.config import GUESSES


def _guesses(*flags: str) -> dict[str, str]:
    return {name: f"--{flag}" for flag in flags for name in GUESSES[flag]}


TRAIN = _guesses(
    "num_layers",
    "d_model",
    "num_heads",
    "d_ff",
    "context_length",
    "dropout",
    "iterations",
    "batch_size",
    "warmup_steps",
    "weight_decay",
    "max_grad_norm",
) | {
    # guessed
    "hidden_dim": "--d_model, or --d_ff",
    "time": "--minutes",
    "max_time": "--minutes",
    "time_limit": "--minutes",
    "duration": "--minutes",
    "hours": "--minutes",
    "seconds": "--minutes",
    "data": "--train_data",
    "data_path": "--train_data",
    "corpus": "--train_data",
    "input": "--train_data",
    "text": "--train_data",
    "train": "--train_data",
    "val": "--val_data",
    "tokenizer": "--tokenizer_path",
    "output": "--out",
    "model_path": "--init_from",
    "checkpoint": "--resume",
    "checkpoint_path": "--resume",
    "gpus": "torchrun --nproc_per_node N -m scratchlm.cli.train",
    "cuda": "--device cuda",
    "gpu": "--device cuda",
    # nanoGPT
    "dataset": "--train_data",
    "data_dir": "--train_data",
    "beta1": "--optim.betas 0.9,0.95",
    "beta2": "--optim.betas 0.9,0.95",
    "decay_lr": "--schedule constant for no decay",
    "lr_decay_iters": "--iterations; the rate reaches --min_lr at the last step",
    "always_save_checkpoint": "--save_every",
    "wandb_log": "--tensorboard true",
    "wandb_project": "--tensorboard true",
    "backend": "--device, which chooses the backend",
    # Hugging Face's Trainer and its scripts
    "model_name_or_path": "--init_from FOLDER",
    "config_name": "--config",
    "tokenizer_name": "--tokenizer_path",
    "train_file": "--train_data",
    "validation_file": "--val_data",
    "dataset_name": "--train_data",
    "output_dir": "--out",
    "num_train_epochs": "--epochs",
    "n_epochs": "--epochs",
    "warmup_ratio": "--warmup_steps, in steps",
    "adam_beta1": "--optim.betas 0.9,0.95",
    "adam_beta2": "--optim.betas 0.9,0.95",
    "adam_epsilon": "--optim.eps",
    "eps": "--optim.eps",
    "optim": "--optimizer",
    "save_steps": "--save_every",
    "eval_steps": "--eval_every",
    "eval_strategy": "--eval_every",
    "evaluation_strategy": "--eval_every",
    "bf16": "--dtype bfloat16",
    "fp16": "--dtype float16",
    "tf32": "--dtype tf32",
    "fp8": "--dtype fp8",
    "attn_implementation": "--attention",
    "resume_from_checkpoint": "--resume",
    "overwrite_output_dir": "a new folder in --out",
    "gradient_checkpointing": "--activation_checkpointing true",
    "torch_compile": "--compile on",
    "fsdp": "--parallel fsdp",
    "report_to": "--tensorboard true",
    "no_cuda": "--device cpu",
    "use_cpu": "--device cpu",
    # litgpt
    "precision": "--dtype",
    "devices": "torchrun --nproc_per_node N -m scratchlm.cli.train",
    "tokenizer_dir": "--tokenizer_path",
    "checkpoint_dir": "--init_from FOLDER",
    "model_name": "--config",
    "save_interval": "--save_every",
    "global_batch_size": "--batch_size times --accumulate",
    "logger_name": "--tensorboard true",
    # LLMs-from-scratch
    "eval_freq": "--eval_every",
    "eval_iter": "--eval_batches",
    "save_ckpt_freq": "--save_every",
    "print_sample_iter": "--sample_every",
    # the course (CS336)
    "cosine_cycle_iters": "--iterations; the rate reaches --min_lr at the last step",
    "train_path": "--train_data",
    "valid_path": "--val_data",
    "val_path": "--val_data",
    "valid_data": "--val_data",
    "betas": "--optim.betas 0.9,0.95",
    # minGPT
    "model_type": "--config, or --model.norm, --model.position and --model.ffn",
    "work_dir": "--out",
    # sections, which have no value of their own
    "moe": "--model.moe.num_experts and --model.moe.num_active",
    "lora": "--lora_r",
    # peft and trl
    "use_peft": "--lora_r",
    "lora_rank": "--lora_r",
    "target_modules": "--lora_targets",
    "lora_target_modules": "--lora_targets",
    "modules_to_save": "--lora_full",
    # flags of other scratchlm commands
    "prompt": "scratchlm-generate --prompt",
    "max_tokens": "--iterations; each reads --batch_size times --context_length tokens",
    # names in a Hugging Face config.json
    "hidden_act": "--model.ffn",
    "activation_function": "--model.ffn",
    "rope_scaling": "--model.rope_scaling.kind and --model.rope_scaling.factor",
    "rope_parameters": "--model.rope_scaling.kind and --model.rope_scaling.factor",
}

GENERATE = _guesses(
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "repetition_penalty",
    "num_samples",
    "num_beams",
) | {
    # guessed
    "p": "--prompt",
    "m": "--model_path",
    "text": "--prompt",
    "input": "--prompt",
    "checkpoint": "--model_path",
    "checkpoint_path": "--model_path",
    "ckpt": "--model_path",
    "resume": "--model_path",
    "tokenizer": "--tokenizer_path",
    "greedy": "--temperature 0",
    "gpu": "--device cuda",
    # nanoGPT
    "start": "--prompt",
    "out_dir": "--model_path",
    "init_from": "--model_path",
    # Hugging Face
    "model_name_or_path": "--model_path",
    "model_name": "--model_path",
    "tokenizer_name": "--tokenizer_path",
    "do_sample": "the default; --temperature 0 is greedy",
    "eos_token_id": "--stop_id",
    "bad_words_ids": "--logit_bias ID=-inf",
    "suppress_tokens": "--logit_bias ID=-inf",
    "sequence_bias": "--logit_bias ID=VALUE",
    "load_in_8bit": "--weights int8",
    "torch_dtype": "--dtype",
    # litgpt
    "checkpoint_dir": "--model_path",
    "precision": "--dtype",
    "quantize": "--weights int8",
    # llama.cpp
    "file": "--prompt_file",
    "f": "--prompt_file",
    "s": "--seed",
    "model_draft": "--draft_model",
    "draft": "--num_draft",
    "draft_max": "--num_draft",
    "reverse_prompt": "--stop",
    "ignore_eos": "--logit_bias ID=-inf, with the end token's id",
    "context_shift": "--overflow slide",
    "no_context_shift": "--overflow stop",
    "interactive": "scratchlm-chat",
    "i": "scratchlm-chat",
    "conversation": "scratchlm-chat",
    "cnv": "scratchlm-chat",
    "chat_template": "scratchlm-chat --template",
    "system": "scratchlm-chat --system",
    "ctx_size": "a model with this context length; no flag changes it",
    "c": "a model with this context length; no flag changes it",
    "n_gpu_layers": "--device cuda",
    "ngl": "--device cuda",
    "threads": "OMP_NUM_THREADS=N before the command",
}

CHAT = {
    "m": "--model_path",
    "checkpoint": "--model_path",
    "model_name_or_path": "--model_path",
    "tokenizer": "--tokenizer_path",
    "chat_template": "--template",
    "system_prompt": "--system",
    "sys": "--system",
    "temp": "--temperature",
    "repeat_penalty": "--repetition_penalty",
    "reverse_prompt": "--stop",
    "n_predict": "--max_tokens",
    "n": "--max_tokens",
    "beam": "scratchlm-generate --num_beams",
    "num_beams": "scratchlm-generate --num_beams",
    "prompt": "a message on standard input, or scratchlm-generate --prompt",
}

TOKENIZE = {
    "input": "--corpus",
    "train": "--corpus",
    "text": "--corpus",
    "files": "--corpus",
    "data": "--corpus",
    "train_data": "--corpus",
    "input_path": "--corpus",
    "vocab": "--vocab_size",
    "size": "--vocab_size",
    "output_path": "--output for ids, --output_tokenizer for a tokenizer",
    "model_prefix": "--output_tokenizer",
    "tokenizer": "--tokenizer_path",
}

INSPECT = {
    "path": "the path, without a flag",
    "model_path": "the path, without a flag",
    "checkpoint": "the path, without a flag",
}

# A word without a flag probably belongs to this flag.
OF_A_WORD = {
    "scratchlm-train": "--train_data",
    "scratchlm-generate": "--prompt",
    "scratchlm-tokenize": "--corpus",
}

BY_COMMAND = {
    "scratchlm-train": TRAIN,
    "scratchlm-generate": GENERATE,
    "scratchlm-chat": CHAT,
    "scratchlm-tokenize": TOKENIZE,
    "scratchlm-inspect": INSPECT,
}
