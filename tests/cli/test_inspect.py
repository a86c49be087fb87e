"""scratchlm-inspect: its numbers equal torch's, and --set changes no weight."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from helpers import forked, tiny
from helpers.refusals import check_refusal
from scratchlm import Transformer, load_model, save_checkpoint
from scratchlm import config as configuration
from scratchlm.checkpoint.pointers import find_checkpoint, write_pointer
from scratchlm.checkpoint.save_and_load import read_checkpoint
from scratchlm.cli.inspect import main as inspect
from scratchlm.convert.hf_folder import to_hf
from scratchlm.data.config import DataConfig
from scratchlm.files.lock import locked
from scratchlm.optim.recipe import build_optimizer
from scratchlm.tokenizer.bpe import BPETokenizer
from scratchlm.training import run_config

FORMS = ["step-00000003", "model.pt"]
TOKENIZER = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [], ["<|endoftext|>"])


HISTORY = [
    {"step": 1, "changed": {"optim.lr": [0.02, 0.001], "train.iterations": [12, 14]}},
    {"step": 2, "changed": {"optim.betas": [None, (0.9, 0.99)]}},
]


def save(path: Path, **changes: Any) -> tuple[Transformer, torch.optim.Optimizer]:
    """A checkpoint as the trainer writes it, after three steps."""
    model = tiny.model(**changes)
    config = configuration.build(
        run_config.TrainConfig, {"model": vars(model.config), "data": {"train": "corpus.bin"}}
    )
    optimizer = build_optimizer(config.optim, model)
    for _ in range(3):
        model(torch.arange(8)[None]).square().mean().backward()
        optimizer.step()
    save_checkpoint(
        path,
        model,
        optimizer,
        3,
        best_val_loss=1.5,
        best_step=2,
        optimizer_name="AdamW",
        data_id={"train data": "abc", "batch_size": 32},
        validation={"data": "def", "tokens": 90, "batches": 4},
        cursor={"micro_batch": 3},
        environment={"torch": "2.10.0", "gpu": None, "threads": 2, "ranks": 1},
        history=HISTORY,
        recipe=dataclasses.asdict(config),
        tokenizer=TOKENIZER.to_json(),
        template="plain_alpaca",
        rng={"cpu": torch.arange(4)},
    )
    return model, optimizer


def described(path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert inspect([str(path), "--json", *more]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def check_totals(totals: dict[str, Any], tensors: list[Tensor]) -> None:
    together = torch.cat([tensor.detach().double().flatten() for tensor in tensors])
    assert totals["num_tensors"] == len(tensors)
    assert totals["count"] == together.numel()
    assert totals["bytes"] == sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert totals["norm"] == pytest.approx(together.norm().item(), rel=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_the_numbers_are_torchs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    model, optimizer = save(tmp_path / form)
    found = described(tmp_path / form, capsys)
    assert found["path"] == str(tmp_path / form)
    assert found["verified"] == (form != "model.pt")
    files = tmp_path.rglob("*") if form == "model.pt" else (tmp_path / form).iterdir()
    assert found["files"] == {file.name: file.stat().st_size for file in files}
    assert (found["step"], found["best_val_loss"], found["best_step"]) == (3, 1.5, 2)
    assert tiny.config(**found["config"]) == model.config
    assert found["recipe"]["data"] == dataclasses.asdict(DataConfig("corpus.bin"))
    assert found["recipe"]["optim"]["optimizer"] == "adamw"
    assert found["recipe"]["train"]["batch_size"] == 32
    assert found["data_id"] == {"train data": "abc", "batch_size": 32}
    assert found["validation"] == {"data": "def", "tokens": 90, "batches": 4}
    assert found["cursor"] == {"micro_batch": 3}
    assert found["environment"] == {"torch": "2.10.0", "gpu": None, "threads": 2, "ranks": 1}
    assert found["history"] == json.loads(json.dumps(HISTORY))
    assert found["tokenizer"] == {"size": 257, "hash": TOKENIZER.hash}
    assert found["template"] == "plain_alpaca"
    assert found["also"] == ["rng"]

    state = model.state_dict()
    assert {row["name"] for row in found["parameters"]["tensors"]} == state.keys()
    for row in found["parameters"]["tensors"]:
        tensor = state[row["name"]]
        assert row["shape"] == list(tensor.shape)
        assert row["dtype"] == "float32"
        assert row["norm"] == pytest.approx(tensor.double().norm().item(), rel=1e-12)
        assert (row["min"], row["max"]) == (tensor.min().item(), tensor.max().item())
        assert row["nonfinite"] == 0
    check_totals(found["parameters"], list(state.values()))
    assert found["parameters"]["count"] == model.num_parameters()

    assert found["optimizer"]["name"] == "AdamW"
    for group, own in zip(found["optimizer"]["groups"], optimizer.param_groups, strict=True):
        assert group["num_tensors"] == len(own["params"])
        assert group["settings"]["lr"] == own["lr"]
        assert group["settings"]["betas"] == list(own["betas"])
        assert group["settings"]["weight_decay"] == own["weight_decay"]
    assert found["optimizer"]["moments"].keys() == {"exp_avg", "exp_avg_sq"}
    for name, totals in found["optimizer"]["moments"].items():
        check_totals(totals, [each[name] for each in optimizer.state.values()])


def test_every_dtype_and_what_is_not_finite(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {
        "bad": torch.tensor([1.0, math.nan, math.inf, -math.inf]),
        "half": torch.randn(3, 5).half(),
        "bfloat": torch.randn(7).bfloat16(),
        "eighth": torch.randn(6).to(torch.float8_e4m3fn),
        "bytes": torch.arange(6, dtype=torch.uint8),
        "mask": torch.tensor([True, False]),
        "turns": torch.tensor([3 + 4j]),
        "none": torch.empty(0, 2),
        "across": torch.arange(6.0).view(2, 3).T,
        "large": torch.arange(1 << 21, dtype=torch.int32),  # more than one chunk
    }
    moments = {"exp_avg": torch.tensor([math.nan, 2.0]), "step": torch.tensor(9.0)}
    state = {"state": {0: moments, 1: {"d": [torch.ones(2), torch.ones(2)], "n": 3}},
             "param_groups": [{"lr": torch.tensor(0.5), "betas": (0.1, 0.2), "params": [0, 1]}],
             }  # fmt: skip
    torch.save({"model": tensors, "optimizer": state, "step": 0}, tmp_path / "x.pt")
    found = described(tmp_path / "x.pt", capsys)
    rows = {row["name"]: row for row in found["parameters"]["tensors"]}
    assert rows["bad"] == {"name": "bad", "shape": [4], "dtype": "float32", "norm": None,
                           "min": None, "max": None, "nonfinite": 3}  # fmt: skip
    for name in ("half", "bfloat", "eighth", "bytes", "mask", "across", "large"):
        values = tensors[name].double()
        assert rows[name]["norm"] == pytest.approx(values.norm().item(), rel=1e-12)
        bounds = (values.min().item(), values.max().item())
        assert (rows[name]["min"], rows[name]["max"]) == bounds
    assert (rows["turns"]["norm"], rows["turns"]["dtype"]) == (5.0, "complex64")
    assert (rows["none"]["norm"], rows["none"]["min"], rows["none"]["max"]) == (0.0, None, None)
    assert found["parameters"]["nonfinite"] == 3
    assert found["optimizer"]["groups"][0]["settings"] == {"lr": 0.5, "betas": [0.1, 0.2]}
    assert found["optimizer"]["moments"]["exp_avg"]["nonfinite"] == 1
    assert found["optimizer"]["moments"].keys() == {"exp_avg", "d"}
    assert found["optimizer"]["moments"]["d"]["norm"] == 2.0
    assert found["config"] is found["recipe"] is found["tokenizer"] is found["history"] is None
    assert inspect([str(tmp_path / "x.pt")]) == 0
    text = capsys.readouterr().out
    assert ", norm nan, 3 not finite" in text
    assert "in 1 tensors, 8 bytes, norm nan, 1 not finite" in text
    assert "the optimizer's name was not saved" in text


def test_the_text_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run" / "checkpoints"
    save(folder / "step-00000003", tie_embeddings=True, num_layers=11)
    write_pointer(folder / "last", "step-00000003")
    written = {}
    for name in (tmp_path / "run", folder / "last", folder / "step-00000003"):
        assert inspect([str(name)]) == 0
        written[name] = capsys.readouterr().out
    assert len(set(written.values())) == 1
    text = written[tmp_path / "run"]
    count = tiny.model(tie_embeddings=True, num_layers=11).num_parameters()
    for line in (
        f"checkpoint      {folder / 'step-00000003'}\n",
        " bytes, verified by manifest.json\n",
        "step            3\n",
        "best_val_loss   1.5000, at step 2\n",
        "model           vocab_size 300, context_length 32, d_model 32, num_layers 11, ",
        f"parameters      {count:,} in 101 tensors, {4 * count:,} bytes, norm ",
        "\n  lm_head.weight is tied to embedding.weight\n",
        "optimizer       AdamW\n  group 0       78 tensors: weight_decay 0.1, lr 0.001, betas ",
        f"\n  exp_avg_sq    {count:,} in 101 tensors",
        "data            train corpus.bin, verify False, ",
        "optim           optimizer adamw, lr 0.001, ",
        "data_id         train data abc, batch_size 32\n",
        "validation      data def, tokens 90, batches 4\n",
        "cursor          micro_batch 3\n",
        "environment     torch 2.10.0, threads 2, ranks 1\n",
        "at step 1       optim.lr 0.02 -> 0.001, train.iterations 12 -> 14\n",
        "at step 2       optim.betas None -> (0.9, 0.99)\n",
        f"tokenizer       257 ids, hash {TOKENIZER.hash}\n",
        "template        plain_alpaca\n",
        "also            rng\n",
    ):
        assert line in text, line
    assert text.index("layers.9.ffn_norm") < text.index("layers.10.ffn_norm")


def test_a_name_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"model": {"\x1b[2Jw": torch.ones(2)}, "step": 1}
    torch.save(state, tmp_path / "x.pt")
    assert inspect([str(tmp_path / "x.pt")]) == 0
    assert "\\x1b[2Jw" in capsys.readouterr().out


# --- --set ----------------------------------------------------------------------------------------


def assert_same(first: Any, second: Any) -> None:
    """Check that two values are equal to the bit, with the types of all containers."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, list | tuple):
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_set_changes_the_config_and_no_weight(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str, tied: bool
) -> None:
    path = tmp_path / form
    model, _ = save(path, tie_embeddings=tied)
    old = read_checkpoint(path)
    files = {} if form == "model.pt" else {f.name: f.read_bytes() for f in path.iterdir()}
    words = ["--set", "context_length=64", "--set=rope-theta=5e5", "--set", "rope_scaling.factor=2"]
    assert inspect([str(path), *words, "--set", "rope_scaling.kind=linear"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"written: {path}"
    assert sorted(" ".join(line.split()) for line in said[1:]) == [
        "context_length 32 -> 64",
        "rope_scaling.factor None -> 2.0",
        "rope_scaling.kind None -> linear",
        "rope_theta 10000.0 -> 500000.0",
    ]
    new = read_checkpoint(path)
    expected = tiny.config(tie_embeddings=tied, context_length=64, rope_theta=5e5,
                           rope_scaling={"kind": "linear", "factor": 2.0})  # fmt: skip
    assert new["recipe"].pop("model") == dataclasses.asdict(expected)
    assert old["recipe"].pop("model") == dataclasses.asdict(model.config)
    del old["config"], new["config"]
    assert_same(old, new)
    for name in ("model.safetensors", "state.safetensors", "tokenizer.json"):
        assert not files or (path / name).read_bytes() == files[name]

    ids = torch.arange(64)[None]
    reference = Transformer(expected)
    reference.load_state_dict(model.state_dict())
    loaded = load_model(path, "cpu")
    assert loaded.config == expected
    assert torch.equal(loaded(ids), reference.eval()(ids))


@pytest.mark.parametrize("form", FORMS)
def test_set_of_what_is_so_already_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    save(tmp_path / form)
    before = (tmp_path / form).stat().st_mtime_ns
    assert inspect([str(tmp_path / form), "--set", "context_length=32"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / form} has these values already\n"
    assert (tmp_path / form).stat().st_mtime_ns == before


def test_set_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "x.pt")
    found = described(tmp_path / "x.pt", capsys, "--set", "window=8")
    change = {"window": {"from": None, "to": 8}}
    assert found == {"path": str(tmp_path / "x.pt"), "changed": change}


def test_a_resume_agrees_with_what_was_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run uses the recipe of the checkpoint, alone or in a run, and does not read
    config.toml."""
    run = tmp_path / "run"
    for path in (tmp_path / "step-00000003", run / "checkpoints" / "step-00000003"):
        save(path)
        assert inspect([str(path), "--set", "rope_theta=5e5"]) == 0
    (run / "config.toml").write_text("[model]\nrope_theta = 1e4\n")
    said: list[str] = []
    data = {"data.train": "corpus.bin"}
    for given, resume in (({"train.out": str(tmp_path / "new")}, tmp_path / path.name), ({}, path)):
        config, _ = run_config.resolve(None, data | given, str(resume), say=said.append)
        assert config.model == load_model(path, "cpu").config
        assert config.model.rope_theta == 5e5
    assert said == ["model.rope_theta keeps the run's value 500000.0 ("
                    f"{run / 'config.toml'} has 10000.0); to change it, "
                    "set --model.rope_theta"]  # fmt: skip


def test_set_goes_through_a_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for form in FORMS:
        save(tmp_path / "far" / form)
        (tmp_path / form).symlink_to(tmp_path / "far" / form)
        assert inspect([str(tmp_path / form), "--set", "window=8"]) == 0
        assert (tmp_path / form).is_symlink()
        assert read_checkpoint(tmp_path / "far" / form)["config"]["window"] == 8


def test_a_run_at_work_keeps_its_checkpoints(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock also works through a link. After the run has ended, --set works."""
    path = tmp_path / "run" / "checkpoints" / "step-00000003"
    save(path)
    (tmp_path / "link").symlink_to(path)
    before = (path / "config.json").read_bytes()
    held = tmp_path / "held"
    holder = forked.start(hold, tmp_path / "run", held)
    try:
        while not held.exists() and holder.is_alive():
            time.sleep(0.005)
        for name in (path, tmp_path / "link"):
            assert inspect([str(name), "--set", "window=8"]) == 2
            said = capsys.readouterr().err
            assert "another run is using this folder" in said
            assert f"process {holder.pid}" in said
            assert "--out" not in said, "no flag of this command"
        assert inspect([str(path)]) == 0, "looking is free"
    finally:
        holder.kill()
        holder.join()
    assert (path / "config.json").read_bytes() == before
    assert inspect([str(path), "--set", "window=8"]) == 0


def hold(run: Path, held: Path) -> None:
    with locked(run):
        held.touch()
        time.sleep(60)


@pytest.mark.parametrize("form", FORMS)
def test_a_failure_at_any_moment_leaves_old_or_new(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    """Make each sync and each rename fail in turn, until no call is left."""
    path = tmp_path / form
    save(path)
    seen, weights = [], read_checkpoint(path)["model"]
    real_sync, real_rename = os.fsync, os.rename
    for moment in range(100):
        left = moment

        def failing(real: Any) -> Any:
            def call(*arguments: Any, **more: Any) -> Any:
                nonlocal left
                left -= 1
                if left < 0:
                    raise OSError(28, "No space left on device")
                return real(*arguments, **more)

            return call

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", failing(real_sync))
            patch.setattr(os, "rename", failing(real_rename))
            patch.setattr(os, "replace", failing(os.replace))
            code = inspect([str(path), "--set", "window=8"])
        payload = read_checkpoint(find_checkpoint(path))
        assert_same(payload["model"], weights)
        seen.append(payload["config"]["window"])
        assert not list(tmp_path.glob(".*tmp*"))
        if code == 0:
            break
    assert seen[0] is None
    assert seen[-1] == 8
    assert set(seen) == {None, 8}
    assert len(seen) > (2 if form == "model.pt" else 9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    save(folder / "plain")
    save(folder / "gelu", ffn="gelu")
    save(folder / "plain.pt")
    save(folder / "learned", position="learned")
    save(folder / "padded", vocab_size=290, vocab_multiple=100)
    save(folder / "damaged")
    with (folder / "damaged" / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    to_hf(tiny.model(), folder / "hub")
    save_checkpoint(folder / "foreign.pt", nn.Linear(2, 2), None, 1)
    torch.save({"model": {"w": 3}, "step": 1}, folder / "numbers.pt")
    torch.save({"model": {}, "optimizer": {"lr": 1}, "step": 1}, folder / "optimizer.pt")
    (folder / "text.txt").write_text("no\nsuch/thing")
    return folder


CASES = [
    ("", 2, "PATH"),
    ("plain other", 2, "no such argument (other)"),
    ("plain --jsn", 2, "did you mean --json"),
    ("missing", 2, "the checkpoint does not exist (missing)"),
    ("text.txt", 3, "text.txt"),
    (".", 3, "the folder has no checkpoint"),
    ("hub --set window=4", 2, "scratchlm-convert"),
    ("damaged", 3, "damaged/model.safetensors"),
    ("damaged --set window=4", 3, "damaged/model.safetensors"),
    ("numbers.pt", 3, "a value that is not a tensor"),
    ("optimizer.pt", 3, "must be a state_dict of torch (optimizer.pt)"),
    ("foreign.pt --set window=4", 3, "no model config (foreign.pt)"),
    ("plain --set", 2, "--set"),
    ("plain --set window", 2, "KEY=VALUE (window)"),
    ("plain --set =4", 2, "KEY=VALUE (=4)"),
    ("plain --set window=4 --set window=5", 2, "two values for one key (window 4, 5)"),
    ("plain --set contxt_length=64", 2, "did you mean context_length?"),
    ("plain --set d_head=8", 2, "unknown config key (d_head)"),
    ("plain --set context_length=long", 2, "context_length must be a whole number (long)"),
    ("plain --set context_length=0", 2, "context_length must be a positive integer (0)"),
    ("plain --set rope_theta=-1", 2, "rope_theta must be positive and finite (-1.0)"),
    ("plain --set qk_norm=maybe", 2, "qk_norm must be true or false (maybe)"),
    ("plain --set norm=batch", 2, "rmsnorm, layernorm"),
    ("plain --set moe=4", 2, "moe must be a section ('4')"),
    ("plain --set moe.num_active=2", 2, "moe.num_experts"),
    ("plain --set moe=none --set moe.num_active=2", 2, "moe.num_active"),
    (
        "plain.pt --set num_layers=3",
        2,
        "(layers.2.attn_norm.weight is absent in the checkpoint and (",
    ),
    (
        "plain --set num_layers=1",
        2,
        "layers.1.attn.k_proj.weight is (16, 32) in the checkpoint",
    ),
    ("plain --set num_layers=1000000000", 2, "num_layers 1000000000"),
    ("plain --set num_kv_heads=4", 2, "(layers.0.attn.k_proj.weight is (16, 32) in the checkpoint"),
    ("plain --set num_heads=2 --set num_kv_heads=1", 2, "another num_heads (4, not 2)"),
    ("plain --set norm=layernorm", 2, "another norm (rmsnorm, not layernorm)"),
    ("plain --set position=none", 2, "another position (rope, not none)"),
    ("plain --set rope_interleaved=true", 2, "another rope_interleaved (False, not True)"),
    ("plain --set qk_norm=true --set qk_norm_gain=false", 2, "another qk_norm (False, not True)"),
    ("gelu --set ffn=silu", 2, "another ffn (gelu, not silu)"),
    ("plain --set vocab_size=257", 2, "embedding.weight is (300, 32)"),
    ("plain --set bias=true", 2, "layers.0.attn.q_proj.bias is absent"),
    ("plain --set tie_embeddings=true", 2, "lm_head.weight and embedding.weight differ"),
    ("learned --set context_length=64", 2, "(position_embedding.weight is (32, 32)"),
    ("padded --set vocab_size=256", 2, "more ids than the model (257 > vocab_size 256)"),
]


@pytest.mark.parametrize(("arguments", "code", "names"), CASES)
def test_bad_input_gets_one_line_and_changes_nothing(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    code: int,
    names: str,
) -> None:
    monkeypatch.chdir(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    check_refusal(inspect, arguments.split(), code, names, capsys)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
