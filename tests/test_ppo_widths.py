"""Rows of like width run together: less padding, the same rows in the same order, and memory that is kept."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from course_helpers.ppo.rollout import Batch, like_widths, put_together

NO_LIMIT = 10**9
LENGTHS = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=24)


def batch_of(lengths):
    queries, responses = ([torch.zeros(n, dtype=torch.long) for n in side] for side in zip(*lengths, strict=True))
    return Batch.of(queries, responses, None, 0, torch.device("cpu"))


def positions(batch, places):
    """Rows times columns of one pass."""
    return batch.take(places).input_ids.numel()


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40))
def test_every_row_is_in_one_part_and_every_cut_pays(lengths, worth):
    batch = batch_of(lengths)
    rows = torch.arange(len(lengths)).flip(0)
    parts = like_widths(batch, rows, worth, NO_LIMIT)
    assert sorted(torch.cat(parts).tolist()) == list(range(len(lengths)))
    saved = positions(batch, rows) - sum(positions(batch, rows[part]) for part in parts)
    assert saved >= worth * (len(parts) - 1)


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 200))
def test_no_pass_is_larger_than_allowed_unless_it_is_one_row(lengths, most):
    batch, rows = batch_of(lengths), torch.arange(len(lengths))
    parts = like_widths(batch, rows, NO_LIMIT, most)
    assert sorted(torch.cat(parts).tolist()) == rows.tolist()
    assert all(len(part) == 1 or positions(batch, part) <= most for part in parts)


@settings(deadline=None)
@given(LENGTHS)
def test_the_first_cut_is_the_best_one(lengths):
    batch = batch_of(lengths)
    order = sorted(range(len(lengths)), key=lambda row: sum(lengths[row]))
    whole = positions(batch, torch.tensor(order))
    saved = [
        whole - positions(batch, torch.tensor(order[:at])) - positions(batch, torch.tensor(order[at:]))
        for at in range(1, len(order))
    ]
    parts = like_widths(batch, torch.arange(len(lengths)), max(saved, default=0) + 1, NO_LIMIT)
    assert len(parts) == 1
    if max(saved, default=0) > 0:
        assert len(like_widths(batch, torch.arange(len(lengths)), max(saved), NO_LIMIT)) >= 2


@settings(deadline=None)
@given(LENGTHS, st.integers(1, 40))
def test_parts_come_back_in_the_old_order(lengths, worth):
    batch, rows = batch_of(lengths), torch.arange(len(lengths))
    places = like_widths(batch, rows, worth, NO_LIMIT)
    width = batch.response_mask.shape[1]
    whole = torch.arange(len(lengths) * width, dtype=torch.float64).view(-1, width) * batch.response_mask
    parts = [whole[part, : int(batch.response_lengths[part].max())] for part in places]
    assert torch.equal(put_together(parts, places, width), whole)


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc gives pages back so eagerly")
def test_freed_memory_is_used_again():
    """Page faults of a block that is freed and taken again: thousands before, none after.

    A larger block goes first: room for the alignment that every block asks for and gives back when it has it.
    """
    script = """
import resource, torch
from course_helpers.memory import keep_freed_memory
def faults():
    torch.empty(20_000_000).fill_(1)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(16_000_000).fill_(1)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(5)), keep_freed_memory(), min(faults() for _ in range(5)))
"""
    plain = {"PATH": "/usr/bin:/bin"}  # not the launcher's settings
    answer = subprocess.run([sys.executable, "-c", script], env=plain, capture_output=True, text=True, check=True)
    before, taken, after = answer.stdout.split()
    if taken == "False":
        pytest.skip("no glibc here")
    assert int(after) < 100 < int(before)
