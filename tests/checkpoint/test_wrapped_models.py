"""A checkpoint is the same for each wrapper of the model: torch.compile, DDP, FSDP,
checkpointing."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.parallel import DistributedDataParallel

from helpers import tiny
from scratchlm import load_checkpoint, load_model, save_checkpoint
from scratchlm.checkpoint.directory import write_payload
from scratchlm.checkpoint.save_and_load import read_checkpoint, state_of
from scratchlm.cli.inspect import main as inspect
from scratchlm.convert.hf_folder import from_hf, to_hf
from scratchlm.errors import FileFormatError, Notice

IDS = torch.arange(8)[None]
Wrap = Callable[[nn.Module], nn.Module]


@pytest.fixture(scope="module", autouse=True)
def _alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Open a process group of one rank, because DDP needs a group."""
    store = dist.FileStore(str(tmp_path_factory.mktemp("group") / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled_layers(model: nn.Module) -> nn.Module:
    for i, layer in enumerate(model.layers):
        model.layers[i] = torch.compile(layer)
    return model


def checkpointed_layers(model: nn.Module) -> nn.Module:
    for i, layer in enumerate(model.layers):
        model.layers[i] = checkpoint_wrapper(layer)
    return model


def fsdp1(model: nn.Module) -> nn.Module:
    from torch.distributed.fsdp import FullyShardedDataParallel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of one rank, which shards nothing
        return FullyShardedDataParallel(model, device_id=torch.device("cpu"))


def in_place(model: nn.Module) -> nn.Module:
    model.compile()
    return model


WRAPS: dict[str, Wrap] = {
    "compile": torch.compile,
    "compile in place": in_place,
    "DDP": DistributedDataParallel,
    "DataParallel": nn.DataParallel,
    "DDP of compile": lambda model: DistributedDataParallel(torch.compile(model)),
    "compile of DDP": lambda model: torch.compile(DistributedDataParallel(model)),
    "compiled layers": compiled_layers,
    "DDP of compiled layers": lambda model: DistributedDataParallel(compiled_layers(model)),
    "checkpointed layers": checkpointed_layers,
    "compile of checkpointed layers": lambda model: torch.compile(checkpointed_layers(model)),
    "FSDP 1": fsdp1,
}


def check_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore:.*NO_SHARD.*")
@pytest.mark.parametrize(
    "wrap",
    [
        pytest.param(wrap, marks=pytest.mark.slow) if " of " in wrap and "layers" in wrap
        else wrap for wrap in WRAPS
    ],
)  # fmt: skip
def test_a_wrapped_model_is_saved_and_loaded_as_the_plain_one(wrap: str, tmp_path: Path) -> None:
    """Compare names, config, tied weights and optimizer, with and without the wrapper."""
    plain = tiny.model(tie_embeddings=True)
    state = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    expected = plain.eval()(IDS)
    form = "step-1" if wrap == "compile" else "x.pt"
    save_checkpoint(tmp_path / form, WRAPS[wrap](plain), None, 3)
    payload = read_checkpoint(tmp_path / form)
    check_equal(payload["model"], state)
    assert payload["config"] == dataclasses.asdict(plain.config)
    assert torch.equal(load_model(tmp_path / form, "cpu")(IDS), expected)

    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # nothing is to be said
        other = WRAPS[wrap](tiny.model(seed=1, tie_embeddings=True))
        assert load_checkpoint(tmp_path / form, other) == 3
        save_checkpoint(tmp_path / "again.pt", other, None, 3)
    check_equal(read_checkpoint(tmp_path / "again.pt")["model"], state)
    to_hf(other, tmp_path / "hub")
    check_equal(from_hf(tmp_path / "hub").state_dict(), state)


def test_the_optimizer_of_a_wrapped_model_goes_on(tmp_path: Path) -> None:
    model = tiny.model()
    wrapped = torch.compile(DistributedDataParallel(model), backend="eager")
    optimizer = torch.optim.AdamW(wrapped.parameters())

    def step(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        module(IDS).square().mean().backward()
        optimizer.step()

    step(model, optimizer)
    save_checkpoint(tmp_path / "x.pt", wrapped, optimizer, 1)
    other = tiny.model(seed=1)
    again = torch.optim.AdamW(other.parameters())
    assert load_checkpoint(tmp_path / "x.pt", other, again) == 1
    step(model, optimizer)
    step(other, again)
    check_equal(other.state_dict(), model.state_dict())


@pytest.mark.parametrize(
    ("prefix", "form"),
    [("_orig_mod.", "step-1"), ("module.", "x.pt"), ("_orig_mod.module.", "x.pt")],
)
def test_names_saved_with_prefixes_load_and_are_told(
    prefix: str, form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny.model(tie_embeddings=True).eval()
    payload = state_of(model, None, 2)
    payload["model"] = {prefix + name: tensor for name, tensor in payload["model"].items()}
    write_payload(tmp_path / form, payload)  # as save_checkpoint stored a wrapped model before
    said = rf"without the prefixes of a compiled or parallel model \(.*{form}: {prefix}embedding"
    with pytest.warns(Notice, match=said) as told:
        assert torch.equal(load_model(tmp_path / form, "cpu")(IDS), model(IDS))
    assert len([each for each in told if each.category is Notice]) == 1
    for wrap in (nn.Identity, torch.compile, DistributedDataParallel):
        other = tiny.model(seed=1, tie_embeddings=True)
        wrapped = other if wrap is nn.Identity else wrap(other)
        with pytest.warns(Notice, match=said):
            assert load_checkpoint(tmp_path / form, wrapped) == 2
        check_equal(other.state_dict(), model.state_dict())
    assert inspect([str(tmp_path / form), "--set", "window=8"]) == 0
    assert "window  None -> 8" in capsys.readouterr().out


def test_a_module_of_that_name_keeps_it(tmp_path: Path) -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)
            self.other = DistributedDataParallel(nn.Linear(2, 2))

    first, second = Holder(), Holder()
    save_checkpoint(tmp_path / "x.pt", first, None, 0)
    names = ["module.weight", "module.bias", "other.weight", "other.bias"]
    assert list(read_checkpoint(tmp_path / "x.pt")["model"]) == names
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)
        load_checkpoint(tmp_path / "x.pt", second)
    check_equal(second.state_dict(), first.state_dict())


@pytest.mark.parametrize("kept", ["lm_head.weight", "embedding.weight"])
def test_one_name_of_a_tied_pair_is_enough(kept: str, tmp_path: Path) -> None:
    model = tiny.model(tie_embeddings=True).eval()
    save_checkpoint(tmp_path / "x.pt", model, None, 0)
    payload = torch.load(tmp_path / "x.pt")
    [other] = {"lm_head.weight", "embedding.weight"} - {kept}
    del payload["model"][other]
    torch.save(payload, tmp_path / "x.pt")
    assert torch.equal(load_model(tmp_path / "x.pt", "cpu")(IDS), model(IDS))
    again = tiny.model(seed=1, tie_embeddings=True)
    load_checkpoint(tmp_path / "x.pt", again)
    assert again.lm_head.weight is again.embedding.weight
    check_equal(again.state_dict(), model.state_dict())
    with pytest.raises(FileFormatError, match=f"{other} is absent in the checkpoint"):
        load_checkpoint(tmp_path / "x.pt", tiny.model())

    payload["model"][other] = torch.zeros(300, 32)
    torch.save(payload, tmp_path / "x.pt")
    for load in (lambda: load_model(tmp_path / "x.pt"),
                 lambda: load_checkpoint(tmp_path / "x.pt", again)):  # fmt: skip
        with pytest.raises(
            FileFormatError, match=r"must be equal .*lm_head\.weight.*with tie_embeddings=False"
        ):
            load()
    check_equal(again.state_dict(), model.state_dict())
    untied = tiny.model(seed=1)
    load_checkpoint(tmp_path / "x.pt", untied)  # the remedy of the message
    check_equal(untied.state_dict(), payload["model"])


def test_a_sharded_model_says_how_to_save_it(tmp_path: Path) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = tiny.model()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match=r"whole .*embedding\.weight is sharded .*full_tensor"):
        save_checkpoint(tmp_path / "x.pt", model, None, 0)
    with pytest.raises(ValueError, match=r"whole .*embedding\.weight is sharded .*full_tensor"):
        to_hf(model, tmp_path / "hub")
    with pytest.raises(ValueError, match=r"to_hf needs a Transformer \(Linear\)"):
        to_hf(nn.Linear(2, 2), tmp_path / "hub")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
