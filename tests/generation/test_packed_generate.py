"""`generate` packs the weights for one call: it is as fast as `TextGenerator`, and always uses the
present weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode

from helpers import tiny
from helpers.twins import loud
from scratchlm import AdamW, BPETokenizer, TextGenerator, cross_entropy, generate
from scratchlm.generation import low_precision
from scratchlm.generation.decoder import Decoder
from scratchlm.generation.sampling import PACK_FROM, decode
from scratchlm.generation.strategies import Strategy

GREEDY = Strategy(temperature=0)
BYTES = BPETokenizer({byte: bytes([byte]) for byte in range(256)}, [])


class Operations(TorchDispatchMode):
    """Record the names of torch's operations inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any, kwargs: Any = None) -> Any:
        self.names.add(str(operation))
        return operation(*args, **(kwargs or {}))


def products(job: Callable[[], Any]) -> set[str]:
    with Operations() as operations:
        job()
    names = {name for name in operations.names if "linear" in name or "mm" in name}
    return {name for name in names if "reorder" not in name}


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("intel", [True, False])
def test_a_text_of_ordinary_length_takes_the_way_of_text_generator(
    dtype: torch.dtype, intel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`generate` uses the products of the packed twin. For a few tokens, or for one row of fp32 if
    MKL is as fast, packing would not save time."""
    monkeypatch.setattr(low_precision, "multiplies_by_its_own_mkl", lambda: intel)
    model = tiny.model(context_length=64).to(dtype)
    fast = products(lambda: TextGenerator(model, BYTES).generate("t", PACK_FROM))
    assert products(lambda: generate(model, list(b"t"), PACK_FROM)) == fast
    gains = torch.ops.mkldnn._is_mkldnn_bf16_supported() if dtype == torch.bfloat16 else not intel
    assert any("mkldnn" in name for name in fast) == gains
    few = products(lambda: generate(model, list(b"t"), PACK_FROM - 1))
    assert not any("mkldnn" in name for name in few)


def test_a_parametrized_model_writes_as_it_computes() -> None:
    class Negative(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return -x

    model = loud(tiny.model(context_length=64))
    text = generate(model, [5], 40, 0.0)
    parametrize.register_parametrization(model.layers[0].ffn.down_proj, "weight", Negative())
    *_, [unpacked] = decode(Decoder(model.eval(), 40), [[5]], GREEDY)
    for number in (5, 40):
        assert generate(model, [5], number, 0.0) == unpacked.ids[:number] != text[:number]
    parametrize.register_parametrization(model.embedding, "weight", Negative())
    assert len(generate(model, [5], 40, 0.0)) == 40


class Doubled(torch.nn.Module):
    """A feed-forward that holds one module by two names, and none by another."""

    def __init__(self, ffn: torch.nn.Module) -> None:
        super().__init__()
        self.one = self.other = ffn
        self.register_module("nothing", None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(x) if self.nothing is None else x


def test_a_module_with_two_names_keeps_both() -> None:
    model = loud(tiny.model(context_length=64))
    text = generate(model, [5], 40, 0.0)
    model.layers[0].ffn = Doubled(model.layers[0].ffn)
    assert generate(model, [5], 40, 0.0) == text


@pytest.mark.parametrize("change", ["step", "foreach", "fused", "load", "copy", "data", "memory"])
def test_it_reads_the_weights_as_they_are_at_the_call(change: str) -> None:
    """A packed twin of an earlier call would write the earlier text."""
    model, other = loud(tiny.model(seed=1, context_length=64)), loud(tiny.model(seed=2))
    text = generate(model, [5], 40, 0.0)
    weight = model.layers[0].ffn.down_proj.weight
    if change in ("step", "foreach", "fused"):
        cross_entropy(model(torch.arange(9)), torch.arange(9)).backward()
        how = {} if change == "step" else {change: True}
        kind = AdamW if change == "step" else torch.optim.AdamW
        kind(model.parameters(), lr=0.1, **how).step()
    elif change == "load":
        model.load_state_dict(other.state_dict())
    elif change == "copy":
        with torch.no_grad():
            weight.copy_(-weight)
    elif change == "data":
        weight.data.mul_(-1)  # of which torch's version counter knows nothing
    elif change == "memory":
        weight.detach().numpy()[:] *= -1
    changed = generate(model, [5], 40, 0.0)
    assert changed != text
    *_, [unpacked] = decode(Decoder(model.eval(), 40), [[5]], GREEDY)
    assert changed == unpacked.ids


def test_another_dtype_and_inference_tensors_are_read_anew() -> None:
    model = loud(tiny.model(context_length=64))
    assert len(generate(model, [5], 40, 0.0)) == 40
    assert generate(model.double(), [5], 40, 0.0) == generate(model.float(), [5], 40, 0.0)
    with torch.inference_mode():
        made_there = loud(tiny.model(context_length=64))
    assert generate(made_there, [5], 40, 0.0) == generate(model, [5], 40, 0.0)


def test_the_model_is_left_alone_and_its_hooks_and_forwards_run() -> None:
    model = loud(tiny.model(context_length=64))
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    text = generate(model, [5], 40, 0.0)
    assert [module.training for module in model.modules()] == modes
    seen: list[int] = []
    for part in (model.layers[0], model.layers[0].attn.q_proj, model.norm, model.layers[1].dropout):
        part.register_forward_hook(lambda *_: seen.append(1))
    assert generate(model, [5], 40, 0.0) == text
    assert len(seen) >= 4 * 40
    model.layers[0].ffn.forward = torch.zeros_like  # type: ignore[method-assign]
    changed = generate(model, [5], 40, 0.0)
    *_, [unpacked] = decode(Decoder(model.eval(), 40), [[5]], GREEDY)
    assert changed == unpacked.ids != text


def test_a_wrapped_model_writes_the_text_of_the_one_inside() -> None:
    model = loud(tiny.model(context_length=64))
    text = generate(model, [5], 40, 0.0)
    whole = torch.compile(model, backend="eager")
    assert generate(whole, [5], 40, 0.0) == text
    assert generate(torch.nn.DataParallel(model), [5], 40, 0.0) == text
    assert TextGenerator(whole, BYTES).complete("a", 40, temperature=0)[0].ids
    model.layers[0] = torch.compile(model.layers[0], backend="eager")
    assert generate(model, [5], 40, 0.0) == text
    assert generate(model, [5], 40, 0.0) == text, "the model was left as it was"
    with pytest.raises(ValueError, match=r"the model must be a scratchlm Transformer \(Identity"):
        generate(torch.nn.Identity(), [5], 40)  # type: ignore[arg-type]
