"""The benchmarks of training run, and their peers are what they claim to be."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from helpers import tiny
from scratchlm.cli.train import main as train

SCRIPTS = Path(__file__).parents[2] / "scripts"
SMALL = ("--d_model", "16", "--num_heads", "2", "--num_layers", "1", "--max_seq_len", "16",
         "--batch_size", "2", "--iterations", "2")  # fmt: skip


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_convergence
    import bench_optimizers

    yield bench_convergence, bench_optimizers
    for module in (bench_convergence, bench_optimizers):
        sys.modules.pop(module.__name__)


@pytest.fixture
def ascii_corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(c for c in tiny.text(400) if c.isascii()), encoding="ascii")
    return path


def test_the_peer_is_the_documented_model(scripts: tuple[ModuleType, ModuleType]) -> None:
    peer = scripts[0].Peer(65)
    sizes = {name: weight.numel() for name, weight in peer.named_parameters()}
    # 65 characters, 4 blocks of 12 d² and two norms, the last norm: the 0.80M that nanoGPT prints.
    assert sum(sizes.values()) - sizes["positions.weight"] == 65 * 128 + 4 * 12 * 128**2 + 9 * 128
    ids = torch.randint(65, (2, 64))
    changed = ids.clone()
    changed[:, 40:] = 0
    torch.testing.assert_close(peer(ids)[:, :40], peer(changed)[:, :40])
    assert not torch.equal(peer(ids)[:, 41:], peer(changed)[:, 41:])


def test_the_peers_loss_counts_every_character_once(
    scripts: tuple[ModuleType, ModuleType],
) -> None:
    peer = scripts[0].Peer(65)
    ids = torch.randint(65, (64 * 129 + 30,))
    short = torch.nn.functional.cross_entropy(peer(ids[None, :20])[0], ids[1:21]).item()
    assert scripts[0].peer_loss(peer, ids[:21]) == pytest.approx(short, rel=1e-5)
    peer.norm.weight.data.zero_()  # all logits equal
    assert scripts[0].peer_loss(peer, ids) == pytest.approx(math.log(65), rel=1e-6)


def test_the_peers_rate_is_the_documented_one(scripts: tuple[ModuleType, ModuleType]) -> None:
    rates = [scripts[0].peer_lr(step, 2000) for step in (0, 99, 100, 1050, 1999)]
    assert rates == pytest.approx([1e-3 / 101, 1e-1 / 101, 1e-3, 5.5e-4, 1e-4], rel=1e-4)


def test_a_run_is_watched_from_its_start(scripts: tuple[ModuleType, ModuleType]) -> None:
    run = scripts[0].watch(["-c", "print('step 1  val_loss 2.5  7 tokens/s'); print('val_loss 2')"])
    assert [loss for _, loss in run.validations] == [2.5, 2.0]
    assert 0 < run.reaches(2.2) <= run.seconds
    assert run.reaches(1.9) == math.inf
    with pytest.raises(subprocess.CalledProcessError):
        scripts[0].watch(["-c", "raise SystemExit(3)"])


def test_convergence_prints_its_table(
    scripts: tuple[ModuleType, ModuleType],
    ascii_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Run in this process. In the script, each part starts its own process."""
    bench = scripts[0]

    def in_process(arguments: list[str | Path]) -> object:
        words = [str(word) for word in arguments]
        if words[0] == "-m":
            assert words[1] == "scratchlm.cli.train"
            assert train(words[2:]) == 0
            return bench.Run([(1.0, 9.0), (2.0, 1.0)], 4.0)
        bench.main([*words[1:-1], "2"])
        return bench.Run([(10.0, 1.5)], 10.0)

    monkeypatch.setattr(bench, "watch", in_process)
    monkeypatch.setattr(bench, "SHORT", ())
    bench.main(["--corpus", str(ascii_corpus), "--rounds", "1", "--flags", *SMALL])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[1:] for row in rows[1:]] == [
        ["1.5000", "10 s", "", " |"],
        ["1.0000", "4 s", "2 s", "0.20x |"],
        ["1.0000", "4 s", "2 s", "0.20x |"],
    ]


def test_optimizers_are_tuned_and_compared(
    scripts: tuple[ModuleType, ModuleType],
    ascii_corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench = scripts[1]
    monkeypatch.setattr(bench, "MODEL", {**bench.MODEL, "d_model": 16, "context_length": 16})
    monkeypatch.setattr(bench, "RATES", (0.01, 0.03))
    figure = ascii_corpus.parent / "curves.png"
    bench.main(["--corpus", str(ascii_corpus), "--tuning", "2", "--length", "4", "--figure",
                str(figure)])  # fmt: skip
    out = capsys.readouterr().out
    assert out.count("**") == 4  # the best of each row
    assert "| AdamW, lr 0.03 | 4 | 1 |" in out
    assert out.splitlines()[-1].startswith("Muon reaches AdamW's loss in ")
    assert figure.read_bytes().startswith(b"\x89PNG")
