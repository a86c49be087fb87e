"""Models from Hugging Face folders decode in every dtype and `weights`, with our memory layout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.hub_models import MODELS, theirs_of
from scratchlm import Transformer
from scratchlm.convert.hf_folder import from_hf
from scratchlm.convert.hf_names import rules
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.low_precision import packed

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp(request.param) / "hub"
    theirs_of(request.param).save_pretrained(path)
    return path


def decoded(model: Transformer) -> Tensor:
    """Return logits (batch, seq, vocab): after two prompts, and then after one more token at a
    time."""

    def steps() -> Iterator[Tensor]:
        decoder = Decoder(model, 3)
        yield decoder.prefill([[5, 9, 2, 40], [33]])
        for i in range(3):
            yield decoder.step([i + 3, 60 - i])

    return torch.stack(list(steps()), 1).float()


@pytest.mark.parametrize("weights", ["stored", "int8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_decodes_in_every_dtype_and_weights(
    folder: Path, dtype: torch.dtype, weights: str
) -> None:
    """The fp32 model of the same rounded weights is the oracle; the tolerances are test_packing's:
    1e-5 for fp32, 5 % of the norm for 16 bits, and 10 % for int8."""
    model = from_hf(folder).to(dtype)
    logits = decoded(packed(model, weights))
    expected = decoded(from_hf(folder).to(dtype).float())
    most = 0.1 if weights == "int8" else 1e-5 if dtype == torch.float32 else 0.05
    assert (logits - expected).norm() < most * expected.norm()


def test_every_weight_is_contiguous_both_ways(folder: Path) -> None:
    model = from_hf(folder)
    assert [n for n, weight in model.named_parameters() if not weight.is_contiguous()] == []
    architecture = json.loads((folder / "config.json").read_text())["model_type"]
    ours = model.state_dict()
    for rule in rules(architecture, model.config):
        theirs = rule.to_theirs([ours[name] for name in rule.ours])
        back = rule.to_ours(theirs)
        assert all(tensor.is_contiguous() for tensor in theirs + back), rule
        assert all(torch.equal(ours[n], t) for n, t in zip(rule.ours, back, strict=True)), rule
