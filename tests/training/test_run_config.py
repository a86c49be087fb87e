"""The order of the layers of a configuration, and the checkpoint that a resumed run
continues from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers import tiny
from scratchlm import ModelConfig
from scratchlm.checkpoint.edit import set_config
from scratchlm.cli.train import main
from scratchlm.devices.ranks import Ranks
from scratchlm.errors import FileFormatError
from scratchlm.optim.muon import Muon
from scratchlm.optim.recipe import build_schedule
from scratchlm.training import recipe, run_config

FLAGS = {
    "model.vocab_size": "100", "model.context_length": "16", "model.d_model": "16",
    "model.num_layers": "1", "model.num_heads": "2", "train.batch_size": "2",
    "runtime.device": "cpu",
}  # fmt: skip


@pytest.fixture
def flags(tmp_path):
    np.save(tmp_path / "ids.npy", (np.arange(2000) % 100).astype(np.uint16))
    return FLAGS | {"data.train": str(tmp_path / "ids.npy"), "train.out": str(tmp_path / "run")}


def finished(flags, **more):
    config, checkpoint = run_config.resolve(None, flags | {"train.iterations": "2"} | more)
    assert checkpoint is None
    trainer = recipe.build(config, say=lambda line: None)
    trainer.fit()
    return trainer


def test_a_resumed_run_brings_its_own_config_over_the_file(tmp_path, flags):
    finished(flags, **{"optim.lr": "0.005"})
    file = tmp_path / "recipe.toml"
    file.write_text("[optim]\nlr = 0.5\n[train]\nepochs = 3.0\n")
    out = {"train.out": flags["train.out"]}
    config, checkpoint = run_config.resolve(file, out, "auto")
    assert config.optim.lr == 0.005
    assert (config.train.iterations, config.train.epochs) == (2, None)
    assert checkpoint is not None
    assert checkpoint.name == "step-00000002"
    config, _ = run_config.resolve(file, out | {"optim.lr": "0.1", "train.iterations": "9"}, "auto")
    assert (config.optim.lr, config.train.iterations) == (0.1, 9)


def test_a_start_that_saves_nothing_leaves_no_setting(flags):
    """The resume that the error advises does not use the learning rate that ended in NaN."""
    finished(flags, **{"optim.betas": "0.8,0.9"})
    out = flags["train.out"]
    for given in ({"optim.lr": "0.5"}, {}):
        said: list[str] = []
        config, checkpoint = run_config.resolve(
            None, given | {"train.iterations": "3"}, out, say=said.append
        )
        recipe.build(config, resume=checkpoint, say=lambda line: None)  # and no step
    assert config.optim.lr == 0.001
    assert said == [f"optim.lr keeps the run's value 0.001 ({out}/config.toml has 0.5); "
                    "to change it, set --optim.lr"]  # fmt: skip


def test_a_run_is_known_by_its_checkpoints(tmp_path, monkeypatch, flags):
    finished(flags)
    run = Path(flags["train.out"])
    (run / "config.toml").unlink()
    monkeypatch.chdir(run / "checkpoints")
    for resume in (run, run / "checkpoints" / "step-00000002", "step-00000002", "last"):
        config, _ = run_config.resolve(None, {"train.iterations": "4"}, str(resume))
        assert Path(config.train.out).samefile(run)
        assert config.model.d_model == 16


def test_the_recipe_is_read_without_the_tensors(tmp_path, monkeypatch, flags):
    """Of a directory; whether they are whole is asked when they are needed."""
    last = finished(flags).saved
    (last / "model.safetensors").unlink()
    assert run_config.resolve(None, {}, flags["train.out"])[0].model.d_model == 16
    (last / "state.json").write_text("{}")
    with pytest.raises(FileFormatError, match=r"damaged \(.*state\.json"):
        run_config.resolve(None, {}, flags["train.out"])


def test_a_run_is_resumed_from_any_directory(tmp_path, monkeypatch, flags):
    """Its data was named relative to where it began; naming it again is no change."""
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "recipe.toml"
    file.write_text('[data]\ntrain = "ids.npy"\n')
    finished(flags | {"data.train": "ids.npy", "train.out": "run"}, **{"data.val": "./ids.npy"})
    (tmp_path / "sub").mkdir()
    for place, given in (("sub", {"data.train": "../ids.npy"}), ("sub", {}), (".", {})):
        monkeypatch.chdir(tmp_path / place)
        said: list[str] = []
        config, checkpoint = run_config.resolve(
            file if place == "." else None, given | {"train.iterations": "3"},
            str(tmp_path / "run"), say=said.append,
        )  # fmt: skip
        assert config.data.train == config.data.val == str(tmp_path / "ids.npy")
        recipe.build(config, resume=checkpoint, say=said.append)
        assert [line for line in said if " -> " in line] == ["train.iterations: 2 -> 3"]
        assert not any("keeps" in line for line in said)


def test_auto_starts_anew_where_there_is_nothing(flags):
    _, checkpoint = run_config.resolve(None, flags, "auto")
    assert checkpoint is None


@pytest.mark.parametrize("save_format", ["directory", "pt"])
@pytest.mark.parametrize("resume", ["auto", "{out}", "{out}/checkpoints"])
def test_without_the_name_of_the_last_the_newest_is_taken(flags, resume, save_format):
    """A kill between a run's first checkpoint and `last` leaves it so."""
    out = flags["train.out"]
    finished(flags, **{"train.save_every": "1", "train.save_format": save_format})
    folder = Path(out) / "checkpoints"
    (folder / "last").unlink()
    (folder / "step-00000009").mkdir()  # no manifest: no checkpoint
    (folder / "step-00000008.pt").mkdir()
    said: list[str] = []
    _, checkpoint = run_config.resolve(
        None, {"train.out": out}, resume.format(out=out), say=said.append
    )
    assert checkpoint == folder / f"step-00000002{'.pt' if save_format == 'pt' else ''}"
    assert said == [f"{folder / 'last'} is missing: {checkpoint.name} is the newest checkpoint "
                    "there"]  # fmt: skip


@pytest.mark.parametrize("damaged", ["state.json", "model.safetensors", "manifest.json", "all"])
def test_a_damaged_last_names_the_one_before_it(flags, damaged):
    finished(flags, **{"train.save_every": "1", "train.iterations": "3"})
    folder = Path(flags["train.out"]) / "checkpoints"
    last = folder / "step-00000003"
    if damaged == "all":
        shutil.rmtree(last)
    else:
        (last / damaged).write_text("{}")

    def resume(path):
        config, checkpoint = run_config.resolve(None, {"train.iterations": "4"}, str(path))
        return recipe.build(config, resume=checkpoint, say=lambda line: None)

    with pytest.raises(FileFormatError, match=rf"\ne\.g\. .* --resume {folder}/step-00000002$"):
        resume(flags["train.out"])
    assert resume(folder / "step-00000002").step == 2
    (folder / "step-00000001" / "model.safetensors").write_text("{}")
    with pytest.raises(FileFormatError) as first:
        resume(folder / "step-00000001")
    assert not hasattr(first.value, "__notes__"), "those after it are not earlier"


def test_another_run_derives_what_the_first_run_derived(tmp_path, flags):
    """The file of a run sets only what was set, so another width gets its own heads and d_ff."""
    finished(flags)
    file, other = Path(flags["train.out"]) / "config.toml", {"train.out": str(tmp_path / "other")}
    assert run_config.resolve(file, other)[0].model == ModelConfig(100, 16, 16, 1, 2)
    wider = {"model.d_model": "48", "model.num_heads": "3"}
    model = run_config.resolve(file, other | wider)[0].model
    assert (model.num_kv_heads, model.d_ff) == (3, 128)
    finished(flags | {"train.out": str(tmp_path / "set")}, **{"model.num_kv_heads": "1"})
    text = (tmp_path / "set" / "config.toml").read_text()
    assert "\nnum_kv_heads = 1\n# d_ff = 64, from the other settings\n" in text


def test_auto_goes_on_with_the_run_that_the_file_names(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    finished(flags)
    finished(flags | {"train.out": "runs/later"})
    said: list[str] = []
    file = Path(flags["train.out"]) / "config.toml"
    config, checkpoint = run_config.resolve(file, {}, "auto", say=said.append)
    assert checkpoint == Path(flags["train.out"]) / "checkpoints" / "step-00000002"
    assert (config.train.out, said) == (flags["train.out"], [])


def test_what_a_run_left_to_its_defaults_stays_so(tmp_path, flags):
    """A file does not change a window, or betas, that were none of the run's settings."""
    finished(flags)
    file = tmp_path / "recipe.toml"
    file.write_text("[model]\nwindow = 4\n[optim]\nbetas = [0.5, 0.6]\n[train]\nramp_from = 1\n"
                    "epochs = 2\ninit_from = 'elsewhere'\n")  # fmt: skip
    said: list[str] = []
    config, checkpoint = run_config.resolve(
        file, {"train.iterations": "3"}, flags["train.out"], say=said.append
    )
    assert config.model.window is config.optim.betas is config.train.ramp_from is None
    assert config.train.init_from is None
    assert [line.split("'")[0] for line in said] == [
        "model.window keeps the run", "optim.betas keeps the run", "train.ramp_from keeps the run",
    ]  # fmt: skip
    assert "train.iterations: 2 -> 3" in recipe.build(
        config, resume=checkpoint, say=lambda line: None
    ).resume(checkpoint)
    with (Path(flags["train.out"]) / "config.toml").open("a") as edited:
        edited.write("[model.moe]\nnum_experts = 4\n")
    said.clear()
    run_config.resolve(None, {}, flags["train.out"], say=said.append)
    assert said[0].startswith("model.moe.num_experts keeps the run's value None (")


def test_what_a_flag_replaces_is_not_said_to_stay(tmp_path, flags):
    wsd = {"optim.schedule": "wsd", "optim.decay_fraction": "0.4"}
    finished(flags, **wsd)
    file = tmp_path / "recipe.toml"
    file.write_text("[optim]\nschedule = 'wsd'\ndecay_fraction = 0.4\n[train]\niterations = 40\n")
    said: list[str] = []
    out = flags["train.out"]
    resumed, _ = run_config.resolve(
        file, {"optim.decay_steps": "2", "train.epochs": "3"}, out, say=said.append
    )
    assert (resumed.optim.decay_fraction, resumed.optim.decay_steps) == (None, 2)
    assert (resumed.train.iterations, resumed.train.epochs) == (None, 3)
    begun, _ = run_config.resolve(
        file, {"train.init_from": out, "train.epochs": "3", "data.train": flags["data.train"],
               "train.out": str(tmp_path / "begun")}, say=said.append,
    )  # fmt: skip
    assert (begun.train.iterations, begun.train.epochs, said) == (None, 3, [])


def test_a_resumed_run_does_not_begin_from_other_weights(tmp_path, flags):
    finished(flags)
    finished(flags | {"train.out": str(tmp_path / "other"), "train.init_from": flags["train.out"]})
    again = {"train.out": str(tmp_path / "other"), "train.init_from": flags["train.out"]}
    said: list[str] = []
    config, checkpoint = run_config.resolve(None, again, "auto", say=said.append)
    assert said == [f"the run continues from {checkpoint} and ignores --init_from "
                    f"{flags['train.out']}"]  # fmt: skip
    begun_from = Path(flags["train.out"]) / "checkpoints" / "step-00000002"
    assert config.train.init_from == str(begun_from)
    with pytest.raises(ValueError, match=r"own weights \(--resume .*, --init_from .*\); remove"):
        run_config.resolve(None, again, str(tmp_path / "other"))


def test_another_context_is_no_resume(flags):
    """It would be other batches, whether a flag or `scratchlm-inspect --set` asks for it."""
    checkpoint = finished(flags).saved
    set_config(checkpoint, {"context_length": "32"})
    for given, own in ({}, None), ({"model.context_length": "16"}, 3):
        config, _ = run_config.resolve(
            None, given | {"train.iterations": "3"}, flags["train.out"], say=lambda line: None
        )
        if own is None:
            with pytest.raises(FileFormatError, match=r"was 16, is now 32\); resume with "
                               r"--model.context_length 16, or .* with --init_from"):  # fmt: skip
                recipe.build(config, resume=checkpoint, say=lambda line: None)
        else:
            trainer = recipe.build(config, resume=checkpoint, say=lambda line: None)
            trainer.fit()
            assert trainer.step == own


def test_the_data_of_a_recipe_must_exist(tmp_path, flags, monkeypatch):
    """A flag replaces only its own key, so the recipe's validation data stays."""
    monkeypatch.chdir(tmp_path)
    recipe_file = tmp_path / "mine.toml"
    recipe_file.write_text('[data]\ntrain = "here.bin"\nval = "there.bin"\n', encoding="utf-8")
    with pytest.raises(FileNotFoundError, match=r"mine\.toml must exist \(.*here\.bin\); "):
        run_config.resolve(recipe_file, {}, say=lambda line: None)
    with pytest.raises(FileNotFoundError, match=r"\(.*there\.bin\); set .*, or .* --val_data none"):
        run_config.resolve(recipe_file, flags, say=lambda line: None)
    config, _ = run_config.resolve(recipe_file, flags | {"data.val": "none"}, say=lambda line: None)
    assert config.data.val is None
    assert config.data.train == flags["data.train"]


def test_data_that_has_moved_is_asked_for(tmp_path, flags):
    finished(flags)
    moved = Path(flags["data.train"]).rename(tmp_path / "moved.npy")
    more = {"train.iterations": "3"}
    with pytest.raises(FileNotFoundError, match=r"\(.*ids.npy\); set another path with --train_"):
        run_config.resolve(None, more, flags["train.out"])
    config, checkpoint = run_config.resolve(
        None, more | {"data.train": str(moved)}, flags["train.out"]
    )
    assert recipe.build(config, resume=checkpoint, say=lambda line: None).step == 2


def test_a_run_is_not_begun_over_checkpoints(flags):
    finished(flags)
    (Path(flags["train.out"]) / "checkpoints" / "last").unlink()
    with pytest.raises(ValueError, match="the folder already contains a run"):
        run_config.resolve(None, flags)


def test_auto_without_a_folder_takes_the_newest_run(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/a", "runs/b"):
        finished(flags, **{"train.out": name})
    _, checkpoint = run_config.resolve(None, {}, "auto")
    assert str(checkpoint) == "runs/b/checkpoints/step-00000002"


def test_a_checkpoint_out_of_its_run_brings_its_recipe(tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    trainer = finished(flags, **{"train.save_format": "pt"})
    alone = tmp_path / "elsewhere.pt"
    trainer.saved.rename(alone)
    config, _ = run_config.resolve(None, {"train.iterations": "3"}, str(alone))
    assert config.model.d_model == 16
    assert config.train.out.startswith("runs/")
    resumed = recipe.build(config, resume=alone, say=lambda line: None)
    resumed.fit()
    assert resumed.step == 3


def test_other_validation_data_has_a_best_of_its_own(tmp_path, flags):
    one, other = (str(tmp_path / name) for name in ("one.npy", "other.npy"))
    np.save(one, (np.arange(900) % 99).astype(np.uint16))
    np.save(other, (np.arange(900) % 98).astype(np.uint16))
    finished(flags, **{"data.val": one})
    for val, says in ((one, False), (other, True)):
        config, checkpoint = run_config.resolve(None, flags | {"data.val": val}, "auto")
        lines: list[str] = []
        trainer = recipe.build(config, resume=checkpoint, say=lines.append)
        assert ("the validation data changed: the best loss so far does not count" in lines) == says
        assert (trainer.best_val_loss == float("inf")) == says


def test_the_last_step_still_learns(flags):
    for schedule in ("cosine", "linear", "wsd"):
        config, _ = run_config.resolve(None, flags | {"optim.schedule": schedule})
        factor = build_schedule(config.optim, 100)
        assert 0 < factor(100) < factor(99)
    assert build_schedule(config.optim, 1)(1) > 0


def test_muon_trains_the_blocks_and_adamw_the_rest(flags):
    more = {"optim.optimizer": "muon", "optim.lr": "0.02", "optim.betas": "0.8,0.9"}
    trainer = finished(flags, **more)
    assert isinstance(trainer.optimizer, Muon)
    by_algorithm = {group["algorithm"]: group for group in trainer.optimizer.param_groups}
    assert by_algorithm["adamw"]["betas"] == (0.8, 0.9)
    assert by_algorithm["adamw"]["initial_lr"] == pytest.approx(0.002)
    matrices = {id(p) for p in trainer.model.layers.parameters() if p.ndim == 2}
    assert {id(p) for p in by_algorithm["muon"]["params"]} == matrices


def test_bfloat16_trains_near_float32(flags):
    losses = {}
    for dtype in ("float32", "bfloat16"):
        more = {"runtime.dtype": dtype, "train.out": f"{flags['train.out']}-{dtype}"}
        trainer = finished(flags, **more)
        assert next(trainer.model.parameters()).dtype == torch.float32
        losses[dtype] = trainer.validate()["val_loss"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)
    assert losses["bfloat16"] != losses["float32"]


def on_two_ranks(flags, **changes):
    """What rank 0 of 2 decides before it talks to the other."""
    config, _ = run_config.resolve(None, flags | {"train.iterations": "9"} | changes)
    steps = config.train.iterations
    return recipe.resolve_auto(config, steps, torch.device("cpu"), Ranks(0, 2))[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.save_format": "pt"}, r"as a folder \(save_format pt.*--save_format directory"),
        ({"train.sample_every": "3"}, r"cannot write samples \(sample_every 3\)"),
        ({"runtime.dtype": "float16"}, "a sharded model must not use float16"),
    ],
)  # fmt: skip
def test_what_a_sharded_model_cannot_do_is_refused_at_the_start(flags, changes, message):
    for parallel in ("ddp", "fsdp"):
        given = flags | changes | {"runtime.parallel": parallel}
        if parallel == "ddp":
            on_two_ranks(given)
            continue
        with pytest.raises(ValueError, match=message):
            on_two_ranks(given)


def test_fsdp_on_one_rank_shards_nothing(tmp_path, flags):
    tiny.tokenizer(tmp_path, 280).save(tmp_path / "t.json")
    more = {"runtime.parallel": "fsdp", "train.sample_every": "2", "train.save_format": "pt",
            "data.tokenizer": str(tmp_path / "t.json"), "model.vocab_size": "280"}  # fmt: skip
    assert finished(flags, **more).saved.suffix == ".pt"


def test_every_number_of_a_batch_ramp_is_shared(flags):
    """From 2 to 4 micro-batches of one row each, which pass 3."""
    ramp = {"train.ramp_from": "2", "train.ramp_steps": "4", "train.accumulate": "4",
            "train.batch_size": "1"}  # fmt: skip
    with pytest.raises(ValueError, match=r"the ranks must divide a step of 3 x 1 sequences"):
        on_two_ranks(flags, **ramp)
    on_two_ranks(flags, **ramp, **{"train.iterations": "2"})  # ends before
    on_two_ranks(flags, **ramp | {"train.ramp_steps": "1"})  # from 2 to 4 at once


def words_of(flags):
    """Return the flags as a user types them, without the run's folder."""
    return [w for key, value in flags.items() if key != "train.out" for w in (f"--{key}", value)]


def test_a_warm_up_or_decay_that_is_not_typed_fits_a_short_run(tmp_path, flags, capsys):
    file = tmp_path / "recipe.toml"
    file.write_text(
        "[optim]\nschedule = 'wsd'\nwarmup_steps = 100\ndecay_steps = 50\n"
        "[train]\niterations = 1000\n"
    )
    words = words_of(flags)
    words += ["--config", str(file), "--train.iterations", "20"]
    assert main([*words, "--out", str(tmp_path / "short")]) == 0
    said = capsys.readouterr().out
    for line in ("warmup_steps = 2", "decay_steps = 18",
                 "optim.warmup_steps: 100 -> 2, because the run has 20 steps"):  # fmt: skip
        assert line in said.splitlines()
    for typed, text, most in (("warmup_steps", "(30 > 20 of 20 steps)", 20),
                              ("decay_steps", "(30 > 20 of 20 steps)", 20)):  # fmt: skip
        given = [*words, f"--optim.{typed}", "30", "--out", str(tmp_path / typed)]
        assert main(given) == 2
        said = capsys.readouterr().err
        assert f"optim.{typed} must fit in the run {text}; use at most {most}," in said
