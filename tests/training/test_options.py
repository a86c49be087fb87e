"""The options of a run: its first weights, its learning rate, its batches, its precision, and what
it writes."""

from __future__ import annotations

import json
import math
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import exact_runs as exactness
from helpers import tiny
from scratchlm import load_model, save_checkpoint
from scratchlm.checkpoint.pointers import find_checkpoint
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.convert.hf_folder import to_hf
from scratchlm.data.shards import write_shard
from scratchlm.devices import runtime
from scratchlm.devices.ranks import ALONE
from scratchlm.errors import FileFormatError
from scratchlm.training import recipe, resume, run_config

CPU = torch.device("cpu")


def short(folder, out, **changes):
    flags = exactness.flags(folder, out, **{"train.iterations": 12, "train.keep_last": 0} | changes)
    return {key: value for key, value in flags.items() if key != "train.epochs"}


def run(given, resume=None):
    said: list[str] = []
    config, checkpoint = run_config.resolve(None, given, resume, say=said.append)
    trainer = recipe.build(config, resume=checkpoint, say=said.append)
    trainer.fit()
    return trainer, said


def test_a_decay_begins_from_any_stable_checkpoint(tmp_path):
    wsd = {"optim.schedule": "wsd", "optim.decay_fraction": 0.25, "optim.warmup_steps": 2}
    run(short(tmp_path, "stable", **wsd))
    stable = tmp_path / "stable" / "checkpoints" / "step-00000008"
    decayed, said = run(
        {"train.out": str(tmp_path / "decayed"), "train.iterations": 11, "optim.decay_steps": 3,
         "optim.decay_shape": "sqrt"},
        str(stable),
    )  # fmt: skip
    log = exactness.log_of(tmp_path / "decayed")
    assert [line["step"] for line in log] == [9, 10, 11]
    assert [line["lr"] for line in log] == pytest.approx(
        [0.02 * (1 - math.sqrt(done / 4)) for done in (1, 2, 3)]
    )
    before = exactness.log_of(tmp_path / "stable")[:8]
    assert [line["lr"] for line in before] == pytest.approx([0.01] + [0.02] * 7)
    assert any("optim.decay_steps: None -> 3" in line for line in said)
    assert decayed.history[0]["changed"]["optim.decay_fraction"] == [0.25, None]


@pytest.mark.parametrize(
    ("had", "asked"),
    [
        ({"optim.schedule": "wsd", "optim.decay_steps": 1}, {"optim.schedule": "cosine"}),
        ({"optim.schedule": "wsd", "optim.decay_shape": "sqrt"}, {"optim.schedule": "linear"}),
        ({"optim.betas": "0.9,0.99"}, {"optim.optimizer": "sgd", "optim.adamw_lr": "none"}),
        ({"optim.nesterov": "false"}, {"optim.optimizer": "adamw", "optim.adamw_lr": "none"}),
    ],
)
def test_a_setting_of_the_run_that_has_no_effect_is_unset_as_the_error_says(tmp_path, had, asked):
    brief = {"train.iterations": 1, "optim.warmup_steps": 0}
    trainer, _ = run(short(tmp_path, "run", **brief | had))
    (key,) = had.keys() - {"optim.schedule"}
    with pytest.raises(ValueError, match=rf"{key} \(.*\) has no effect on") as caught:
        run_config.resolve(None, asked, str(trainer.out), say=print)
    flag, value = re.search(r"remove this setting with --(\S+) (\w+)", str(caught.value)).groups()
    config, _ = run_config.resolve(None, asked | {flag: value}, str(trainer.out), say=print)
    assert getattr(config.optim, key.removeprefix("optim.")) is None


def test_a_changed_rate_is_allowed_said_and_recorded(tmp_path):
    run(short(tmp_path, "run"))
    trainer, said = run({"train.out": str(tmp_path / "run"), "train.iterations": 14,
                         "optim.lr": 0.001}, "auto")  # fmt: skip
    assert "optim.lr: 0.02 -> 0.001" in said
    assert exactness.log_of(tmp_path / "run")[-1]["lr"] == 0.001
    last = read_checkpoint(find_checkpoint(tmp_path / "run", "last"))
    changed = {"optim.lr": [0.02, 0.001], "train.iterations": [12, 14]}
    assert last["history"] == [{"step": 12, "changed": changed}] == trainer.history


def test_a_changed_machine_is_said(tmp_path, monkeypatch):
    run(short(tmp_path, "run"))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    _, said = run({"train.out": str(tmp_path / "run"), "train.iterations": 13}, "auto")
    assert any(line.startswith("the run is not bit-exact: threads") for line in said)


def test_a_gpu_and_its_precision_are_part_of_the_machine(monkeypatch):
    """A stand-in for a GPU: float32 and tf32 are one dtype to torch, and all GPUs one device."""
    model = SimpleNamespace(
        parameters=lambda: iter([SimpleNamespace(device=torch.device("cuda"))]),
        modules=lambda: iter(()),
    )
    monkeypatch.setattr(resume, "is_sharded", lambda model: False)
    found = []
    for name, precision in (("A100", "highest"), ("A100", "high"), ("H100", "high")):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda to=precision: to)
        found.append(resume.environment(model, torch.float32, True, False, ALONE, "sdpa"))
    found.append(resume.environment(model, torch.float32, True, True, ALONE, "sdpa"))
    assert resume.differences(found[0], found[1]) == "dtype float32 -> tf32"
    assert resume.differences(found[1], found[2]) == "gpu A100 -> H100"
    assert resume.differences(found[2], found[3]) == "recomputed None -> True"


@pytest.mark.parametrize("form", ["checkpoint", "pt"])
def test_a_new_run_begins_with_the_weights_of_another(tmp_path, form):
    """And with its model and its tokenizer, which need no flags; resumed, it needs them no more."""
    tokenizer = tiny.tokenizer(tmp_path)
    model = tiny.model(3, vocab_size=300)
    path = tmp_path / ("x.pt" if form == "pt" else "x")
    save_checkpoint(path, model, None, 0, tokenizer=tokenizer.to_json())
    given = {"train.init_from": str(path), "data.train": str(tiny.corpus(tmp_path, 3000)),
             "train.out": str(tmp_path / "run"), "train.iterations": 1, "train.batch_size": 2,
             "optim.lr": 1e-30, "runtime.device": "cpu"}  # fmt: skip
    trainer, _ = run(given)
    for name, weight in model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], weight), name
    assert trainer.extra["tokenizer"] == tokenizer.to_json()
    assert trainer.extra["recipe"]["train"]["init_from"] == str(path)
    with pytest.raises(
        ValueError, match=r"fit the model .*embedding.weight is \(300, 32\) in the checkpoint"
    ):
        run({**given, "train.out": str(tmp_path / "wider"), "model.d_model": 64,
             "model.d_ff": 64})  # fmt: skip
    path.rename(tmp_path / "elsewhere")
    _, said = run({"train.iterations": 2}, str(tmp_path / "run"))
    assert "train.iterations: 1 -> 2" in said
    assert not any(line.startswith("data.") for line in said)
    assert exactness.final(tmp_path / "run")["tokenizer"] == tokenizer.to_json()


def test_weights_and_data_of_two_tokenizers_are_told_apart(tmp_path):
    """A tokenizer with one more special token is one that the weights may learn."""
    corpus, tokenizer, other = (
        tiny.corpus(tmp_path), tiny.tokenizer(tmp_path), tiny.tokenizer(tmp_path, 290),
    )  # fmt: skip
    other.save(tmp_path / "other.json")
    tokenizer.save(tmp_path / "same.json")
    write_shard(other, corpus, tmp_path / "other.bin", tokenizer_path=tmp_path / "other.json")
    save_checkpoint(tmp_path / "x", tiny.model(3), None, 0, tokenizer=tokenizer.to_json())
    given = {"train.init_from": str(tmp_path / "x"), "train.iterations": 1, "train.batch_size": 2,
             "data.train": str(corpus), "runtime.device": "cpu"}  # fmt: skip
    lines = {}
    for name in ("same", "other"):
        more = {"data.tokenizer": str(tmp_path / f"{name}.json"), "train.out": str(tmp_path / name)}
        trainer, said = run(given | more)
        lines[name] = [line for line in said if "not the tokenizer" in line]
    assert trainer.extra["tokenizer"] == other.to_json()
    assert lines["same"] == []
    assert lines["other"] == [
        f"{tmp_path / 'other.json'} is not the tokenizer that the weights were trained with"
    ]
    given |= {"data.train": str(tmp_path / "other.bin"), "train.out": str(tmp_path / "run")}
    with pytest.raises(FileFormatError, match=r"made with another tokenizer \(.*other\.bin"):
        run(given)


def test_a_tokenizer_that_cannot_be_read_is_left_aside_for_the_one_given(tmp_path):
    """A Hugging Face folder may have a tokenizer that is no byte-level BPE."""
    tiny.tokenizer(tmp_path, 280).save(tmp_path / "t.json")
    to_hf(tiny.model(3, vocab_size=280), tmp_path / "hub")
    (tmp_path / "hub" / "tokenizer.json").write_text('{"model": {"type": "Unigram"}}')
    given = {"train.init_from": str(tmp_path / "hub"), "data.train": str(tiny.corpus(tmp_path)),
             "train.iterations": 1, "train.batch_size": 2, "runtime.device": "cpu",
             "train.out": str(tmp_path / "run")}  # fmt: skip
    with pytest.raises(FileFormatError, match="must be BPE"):
        run(given)
    trainer, said = run(given | {"data.tokenizer": str(tmp_path / "t.json")})
    assert trainer.step == 1
    assert sum("not use the weights' own tokenizer" in line for line in said) == 1


def test_the_step_that_weights_are_of_is_recorded(tmp_path):
    run(short(tmp_path, "run"))
    given = {"train.init_from": str(tmp_path / "run"), "data.train": str(tmp_path / "tokens.npy")}
    config, _ = run_config.resolve(None, given)
    assert config.train.init_from == str(find_checkpoint(tmp_path / "run"))


def test_a_resumed_run_does_not_begin_again(tmp_path):
    save_checkpoint(tmp_path / "x", tiny.model(3, vocab_size=96), None, 0)
    given = short(tmp_path, "run")
    for key in [key for key in given if key.startswith("model.")]:
        del given[key]
    run(
        {
            **given,
            "train.init_from": str(tmp_path / "x"),
            "train.iterations": 2,
            "optim.warmup_steps": 0,
        }
    )
    before = load_model(tmp_path / "run" / "checkpoints" / "last", "cpu").state_dict()
    trainer, _ = run({"train.out": str(tmp_path / "run"), "train.iterations": 3,
                      "optim.lr": 1e-30, "optim.adamw_lr": 1e-30}, "auto")  # fmt: skip
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(weight, before[name]), name


def test_samples_are_logged_and_change_nothing(tmp_path, capsys):
    tokenizer = tiny.tokenizer(tmp_path, 280)
    tokenizer.save(tmp_path / "t.json")
    given = {"data.train": str(tiny.corpus(tmp_path, 1000)), "data.tokenizer":
             str(tmp_path / "t.json"), "model.context_length": 16, "model.d_model": 16,
             "model.num_layers": 1, "model.num_heads": 2, "model.dropout": 0.1,
             "train.iterations": 6, "train.batch_size": 2, "runtime.device": "cpu"}  # fmt: skip
    run({**given, "train.out": str(tmp_path / "silent")})
    run({**given, "train.out": str(tmp_path / "talks"), "train.sample_every": 3,
         "train.sample_prompt": "the cat", "train.sample_tokens": 4})  # fmt: skip
    log = exactness.log_of(tmp_path / "talks")
    samples = [line.pop("sample") for line in log if "sample" in line]
    assert len(samples) == 2
    assert all(sample.startswith("the cat") and len(sample) > 7 for sample in samples)
    assert "a sample at step 3" in capsys.readouterr().out
    assert log == exactness.log_of(tmp_path / "silent")


@pytest.mark.slow
def test_a_compiled_model_samples_and_recomputes(tmp_path):
    """Samples of many lengths, which are not compiled, and blocks that are computed twice."""
    tokenizer = tiny.tokenizer(tmp_path, 280)
    tokenizer.save(tmp_path / "t.json")
    given = {"data.train": str(tiny.corpus(tmp_path, 1000)), "data.tokenizer":
             str(tmp_path / "t.json"), "model.context_length": 32, "model.d_model": 16,
             "model.num_layers": 2, "model.num_heads": 2, "train.iterations": 6,
             "train.batch_size": 2, "train.sample_every": 2, "train.sample_tokens": 20,
             "runtime.device": "cpu", "runtime.activation_checkpointing": True}  # fmt: skip
    for compiled in ("on", "off"):
        run({**given, "train.out": str(tmp_path / compiled), "runtime.compile": compiled})
    on, off = (exactness.log_of(tmp_path / name) for name in ("on", "off"))
    assert sum("sample" in line for line in on) == 3
    assert [line["loss"] for line in on] == pytest.approx([line["loss"] for line in off], rel=1e-3)


def test_a_prompt_that_leaves_no_room_is_refused_before_training(tmp_path):
    tokenizer = tiny.tokenizer(tmp_path, 280)
    tokenizer.save(tmp_path / "t.json")
    given = short(tmp_path, "run", **{"model.vocab_size": 280, "train.sample_every": 3,
                                      "data.tokenizer": str(tmp_path / "t.json")})  # fmt: skip
    with pytest.raises(ValueError, match=r"fewer tokens than the context \(.*context 16\)"):
        run({**given, "train.sample_prompt": "the cat sat on a mat " * 9})
    del given["data.tokenizer"]
    with pytest.raises(ValueError, match="samples need a tokenizer"):
        run({**given, "train.out": str(tmp_path / "other")})


def test_tensorboard_gets_the_log(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(short(tmp_path, "run", **{"train.tensorboard": True}))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    losses = [event.value for event in events.Scalars("loss")]
    logged = [line["loss"] for line in exactness.log_of(tmp_path / "run")]
    assert losses == pytest.approx(logged, rel=1e-6)
    assert [event.step for event in events.Scalars("val_loss")] == [12]


def test_a_batch_ramp_counts_its_tokens(tmp_path):
    ramp = {"train.ramp_from": 1, "train.ramp_steps": 8, "train.accumulate": 4}
    run(short(tmp_path, "run", **ramp))
    tokens = [line["tokens"] for line in exactness.log_of(tmp_path / "run")]
    micro = [1, 1, 1, 2, 2, 2, 3, 3, 4, 4, 4, 4]
    assert [b - a for a, b in zip([0, *tokens], tokens, strict=False)] == [
        each * 4 * 16 for each in micro
    ]


def test_z_loss_draws_the_logits_to_a_small_normaliser(tmp_path):
    plain, _ = run(short(tmp_path, "plain"))
    drawn, _ = run(short(tmp_path, "drawn", **{"train.z_loss": 0.1}))
    ids = torch.from_numpy(np.load(tmp_path / "val.npy")[:16].astype(np.int64))[None]
    sizes = [t.model.eval()(ids).logsumexp(-1).square().mean().item() for t in (plain, drawn)]
    assert sizes[1] < 0.5 * sizes[0]


def test_float16_scales_its_loss_skips_what_overflows_and_resumes_equal(tmp_path):
    half = {"runtime.dtype": "float16", "model.dropout": 0.1}
    trainer, _ = run(short(tmp_path, "straight", **half))
    assert trainer.scaler.is_enabled()
    scale = trainer.scaler.state_dict()["scale"]
    log = exactness.log_of(tmp_path / "straight")
    run(short(tmp_path, "full", **{"model.dropout": 0.1}))
    full = exactness.log_of(tmp_path / "full")
    skipped = sum(not math.isfinite(line["grad_norm"]) for line in log)
    assert scale == 65536.0 * 0.5**skipped
    assert log[-1]["loss"] == pytest.approx(full[-1]["loss"], rel=0.05)
    run(short(tmp_path, "halves", **half, **{"train.iterations": 8, "optim.warmup_steps": 5}))
    run({"train.out": str(tmp_path / "halves"), "train.iterations": 12}, "auto")
    one, two = exactness.final(tmp_path / "straight"), exactness.final(tmp_path / "halves")
    one.pop("history"), two.pop("history")
    assert exactness.difference(one, two) is None
    assert one["scaler"]["scale"] == scale, "without it the resumed run would scale otherwise"


@pytest.mark.parametrize(
    ("name", "flops", "compiler", "expected"),
    [
        ("auto", 1e15, "/usr/bin/g++", (True, "on: compilation saves time")),
        ("auto", 1e10, "/usr/bin/g++", (False, "off: compilation costs more time than it saves")),
        ("auto", 1e15, None, (False, "off: there is no C++ compiler")),
        ("on", 1.0, None, (True, "on: runtime.compile is on")),
        ("off", 1e15, "/usr/bin/g++", (False, "off: runtime.compile is off")),
    ],
)
def test_compilation_is_chosen_and_the_reason_said(monkeypatch, name, flops, compiler, expected):
    monkeypatch.setattr(runtime.shutil, "which", lambda command: compiler)
    compiled, reason = runtime.resolve_compile(name, CPU, flops)
    assert compiled == expected[0]
    assert reason.startswith(expected[1])


def test_tf32_is_for_cuda():
    with pytest.raises(ValueError, match=r"tf32 needs a CUDA device \(cpu\)"):
        runtime.resolve_dtype("tf32", CPU)


def test_the_resolved_config_holds_what_was_chosen(tmp_path, capsys):
    _, said = run(short(tmp_path, "run"))
    assert any(line.startswith("compilation is off: ") for line in said)
    text = (tmp_path / "run" / "config.toml").read_text()
    for line in ('compile = "off"', 'parallel = "ddp"', "warmup_steps = 5", "iterations = 12"):
        assert line in text
    assert 'dtype = "auto"' not in text


@pytest.mark.slow
def test_compiled_and_eager_learn_the_same(tmp_path):
    same = {"model.dropout": 0.0, "optim.lr": 1e-3, "runtime.dtype": "float32"}
    run(short(tmp_path, "eager", **same, **{"runtime.compile": "off"}))
    run(short(tmp_path, "on", **same, **{"runtime.compile": "on"}))
    logs = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "log.jsonl").open()]
        for name in ("eager", "on")
    ]
    assert logs[0] == pytest.approx(logs[1], rel=1e-4)
