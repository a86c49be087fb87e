from __future__ import annotations

import errno
import shutil
from collections import namedtuple

import pytest
import torch

from helpers import tiny
from scratchlm.cli.command import one_line
from scratchlm.costs.model_costs import training_memory
from scratchlm.training.preflight import check_room, memory_of
from scratchlm.training.trainer_config import TrainerConfig

CPU = torch.device("cpu")
Usage = namedtuple("Usage", "total used free")


def check(out, memory=None, shards=1, beside=1, **changes):
    said = []
    train = TrainerConfig(iterations=100, save_every=10, keep_last=3, batch_size=2, **changes)
    needed = training_memory(tiny.config(), train.batch_size, accumulate=train.accumulate)
    check_room(needed, train, out, CPU, said.append, memory=memory, shards=shards, beside=beside)
    return said


def size_of_checkpoint():
    return 12 * tiny.model().num_parameters()  # weights and two moments of 4 bytes


def test_enough_of_all_says_nothing_and_leaves_nothing(tmp_path):
    assert check(tmp_path / "a" / "run") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("checkpoints", "outcome"), [(1.9, "error"), (2.1, "said"), (4.9, "said"),
                                                      (5.1, "fine")])  # fmt: skip
def test_the_disk(tmp_path, monkeypatch, checkpoints, outcome):
    free = int(checkpoints * size_of_checkpoint())
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free))
    if outcome == "error":
        with pytest.raises(OSError, match="two checkpoints") as caught:
            check(tmp_path)
        assert caught.value.errno == errno.ENOSPC
    else:
        assert bool(check(tmp_path)) == (outcome == "said")


def test_what_is_lacking_has_a_size_and_a_remedy(tmp_path, monkeypatch):
    size = size_of_checkpoint()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 12 << 10))
    with pytest.raises(OSError, match="no space") as caught:
        check(tmp_path)
    assert one_line(caught.value) == (
        f"no space for two checkpoints of {size / 2**20:.1f} MiB (12.0 KiB are free) "
        f"({tmp_path}); free some space, then repeat the command"
    )
    assert 0.1 < size / 2**20 < 1


@pytest.mark.parametrize(("share", "outcome"), [(0.9, "error"), (1.1, "said"), (100, "fine")])
def test_the_memory(tmp_path, share, outcome):
    fixed = 16 * tiny.model().num_parameters()  # and a gradient
    if outcome == "error":
        with pytest.raises(MemoryError, match="does not fit"):
            check(tmp_path, int(share * fixed))
    else:
        assert bool(check(tmp_path, int(share * fixed))) == (outcome == "said")


def test_ranks_on_one_machine_share_its_memory(tmp_path):
    """Four shards on a machine of four ranks are the whole model, two copies are two."""
    memory = int(1.9 * 16 * tiny.model().num_parameters())
    check(tmp_path, memory, shards=4, beside=4)
    check(tmp_path, memory, shards=4, beside=2)
    check(tmp_path, memory, shards=8, beside=8)
    with pytest.raises(MemoryError, match="does not fit"):
        check(tmp_path, memory, beside=2)
    with pytest.raises(MemoryError, match="does not fit"):
        check(tmp_path, memory, shards=2, beside=4)


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/job/step\n", {"job/memory.max": "5000", "job/step/memory.max": "max"}, [5000]),
        ("0::/\n", {"memory.max": "7000\n"}, [7000]),  # as a container sees its own
        ("0::/\n", {}, []),
        (
            "9:cpu,memory:/slurm/job_1\n2:pids:/x\n0::/\n",
            {
                "memory/slurm/job_1/memory.limit_in_bytes": "3000",
                "memory/slurm/memory.limit_in_bytes": "9223372036854771712",
                "pids/x/memory.limit_in_bytes": "1",
            },
            [3000, 9223372036854771712],
        ),
    ],
)
def test_the_limits_of_control_groups(tmp_path, groups, files, limits):
    (tmp_path / "cgroup").write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    physical = memory_of(CPU, tmp_path / "absent", tmp_path / "fs")
    assert physical > 2**20
    assert memory_of(CPU, tmp_path / "cgroup", tmp_path / "fs") == min([physical, *limits])


def test_a_folder_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        check(tmp_path / "file" / "run")
