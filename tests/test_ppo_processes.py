"""Two processes with a batch of four each learn what one with a batch of eight learns."""

import os
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from course_helpers.ppo.batches import ShuffledBatches
from course_helpers.ppo.stats import STATS
from tests import ppo_runs as runs

pytestmark = pytest.mark.usefixtures("one_thread", "float64")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def float64():
    """As in the two processes."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the two processes wrote: see `ppo_runs.run_shares`."""
    folder = tmp_path_factory.mktemp("shares")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true"}
    command = [*launch, "-m", "tests.ppo_runs", "shares", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def alone():
    """A case in this process: its tensors, computed once."""
    found = {}

    def tensors(case):
        if case not in found:
            run = runs.shared_trainer(case, batch_size=8)
            found[case] = run, runs.as_tensors(run, runs.shared_steps(run, case, rank=0))
        return found[case]

    return tensors


@pytest.mark.parametrize("case", runs.SHARED)
def test_two_processes_equal_one(folder, alone, case):
    _, expected = alone(case)
    start = runs.weights(runs.shared_trainer(case, batch_size=8).model)
    for rank in (0, 1):
        found = load_file(folder / f"{case}.{rank}.safetensors")
        assert {name for name in expected if name.startswith("stats/0/")} <= set(found)
        for name, value in expected.items():
            slack = 1e-5 if name.endswith("c_attn.bias") else 1e-9  # the key's bias: Adam makes weights of rounding
            np.testing.assert_allclose(found[name], value, rtol=0, atol=slack, err_msg=f"{name} of rank {rank}")
    moved = max((expected[f"weights/{name}"] - p).abs().max().item() for name, p in start.items())
    assert moved > 1e-3
    if case == "skipped":
        assert 0 < expected["stats/0/ppo/policy/skipped"] < 12


@pytest.mark.parametrize("case", runs.SHARED)
def test_both_processes_end_with_the_same_weights_and_statistics(folder, case):
    left, right = (load_file(folder / f"{case}.{rank}.safetensors") for rank in (0, 1))
    assert {name.removeprefix("stats/0/") for name in left if name.startswith("stats/0/")} == {
        name for name in STATS if not name.startswith("time/")
    }
    for name in left:
        if name != "order":
            assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize("case", runs.SHARED)
def test_the_orders_of_both_interleave_to_that_of_one(folder, alone, case):
    left, right = (load_file(folder / f"{case}.{rank}.safetensors")["order"] for rank in (0, 1))
    together = torch.stack((left, right), dim=1).flatten(1)
    assert together.tolist() == list(alone(case)[0].batches)


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
def test_processes_share_each_pass_without_overlap(processes):
    count, size = 47, 3
    for epoch in range(3):
        whole = ShuffledBatches(count, size * processes, seed=4)
        parts = [ShuffledBatches(count, size, seed=4, rank=r, processes=processes) for r in range(processes)]
        for one in (whole, *parts):
            one.load_state_dict({"epoch": epoch, "position": 0})
        interleaved = [list(chain(*rows)) for rows in zip(*parts, strict=True)]
        assert interleaved == list(whole)
        assert len(interleaved) == len(whole) == count // (size * processes)
        drawn = list(chain(*interleaved))
        assert len(set(drawn)) == len(drawn)


def test_both_go_on_from_one_saved_state(folder):
    """Every process with its own generator: the weights, and what would be drawn next, are those of a straight run."""
    for rank in (0, 1):
        straight, resumed = (load_file(folder / f"{name}.{rank}.safetensors") for name in ("straight", "resumed"))
        for name, value in straight.items():
            assert torch.equal(value, resumed[name]), f"{name} of rank {rank}"


def test_a_bad_score_in_one_process_is_refused_in_both(folder):
    """Neither waits for the other; the sample's number counts over both."""
    for rank in (0, 1):
        assert (folder / f"refusal.{rank}.txt").read_text().startswith("scores[4] is nan")


def test_a_state_of_two_processes_is_refused_by_one(folder):
    run = runs.shared_trainer("plain", batch_size=8)
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match="was saved by 2 processes: start as many"):
        run.load_state(folder / "state.safetensors")
    runs.assert_same(before, runs.fingerprint(run))


def test_a_data_set_too_small_for_all_processes_is_refused():
    with pytest.raises(ValueError, match=r"10 samples, fewer than one batch of 4 in each of 3 processes.* at most 3,"):
        ShuffledBatches(10, 4, processes=3)
