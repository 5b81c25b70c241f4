"""One core, and processors without AVX-512 or any wide instructions: the same numbers to the last digits of float32."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
ENOUGH = {"rtol": 2e-3, "atol": 2e-4}  # two updates by Adam: where a gradient is all but 0, its sign is rounding

CHILD = """
import json, os, sys
if hasattr(os, "sched_setaffinity") and "--one-core" in sys.argv:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import torch
from course_helpers import instruct
from course_helpers.onednn import OneDNNProducts, onednn_is_faster
from course_helpers.ppo.rollout import generate_responses
from tests import dpo_runs, ppo_runs as runs

found = {"capability": torch.backends.cpu.get_cpu_capability(), "faster": onednn_is_faster()}
found["cores"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
for name, bf16 in (("ppo", False), ("ppo in bf16", True)):
    trainer = runs.trainer(bf16=bf16, ppo_epochs=1, learning_rate=1e-3)
    stats = [trainer.step(*runs.rollouts(seed)) for seed in (0, 1)]
    keys = ("ppo/loss/policy", "ppo/loss/value", "objective/kl", "objective/entropy", "ppo/policy/clipfrac")
    found[name] = [float(s[key]) for s in stats for key in keys]
model, tokenizer = dpo_runs.small_policy()
ids = [torch.tensor(tokenizer(text).input_ids) for text in ("This film is", "The acting", "I")]
darts = torch.rand(3, 12, generator=torch.Generator().manual_seed(0))
drawing = {"max_new_tokens": 12, "do_sample": True, "top_k": 0}
found["drawn"] = generate_responses(model, ids, tokenizer.pad_token_id, darts, **drawing).tolist()
trainer = dpo_runs.trainer_of(sys.argv[1], model, tokenizer, batch_size=4)
trainer.train()
found["dpo"] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
layer, x = torch.nn.Linear(48, 24), torch.linspace(-1, 1, 48 * 96).view(96, 48)
with torch.no_grad():
    layer.weight.copy_(torch.linspace(-1, 1, 48 * 24).view(24, 48))
    layer.bias.zero_()
    plain = layer(x)
    with OneDNNProducts():
        found["products"] = float((layer(x) - plain).abs().max())
    found["half"] = float((layer.bfloat16()(x.bfloat16()).float() - plain).abs().max() / plain.abs().max())
print(json.dumps(found))
"""
MACHINES = {
    "as it is": ({}, []),
    "one core, no AVX-512": (
        {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        ["--one-core"],
    ),
    "no AVX at all": ({"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default", "OMP_NUM_THREADS": "1"}, []),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each of them computes."""
    folder, results = tmp_path_factory.mktemp("dpo"), {}
    for name, (variables, options) in MACHINES.items():
        run = subprocess.run(
            [sys.executable, "-c", CHILD, str(folder), *options],
            cwd=ROOT, env=os.environ | {"COURSE_DEVICE": "cpu"} | variables,
            capture_output=True, text=True, timeout=250,
        )  # fmt: skip
        assert run.returncode == 0, f"{name}: {run.stderr[-2000:]}"
        results[name] = json.loads(run.stdout.splitlines()[-1])
    return results


OTHERS = [name for name in MACHINES if name != "as it is"]


@pytest.mark.parametrize("machine", OTHERS)
def test_the_limit_is_a_limit(found, machine):
    assert found[machine]["capability"] != "AVX512"
    if machine.startswith("one core") and found[machine]["cores"] is not None:
        assert found[machine]["cores"] == 1


@pytest.mark.parametrize("machine", OTHERS)
def test_the_other_library_is_left_alone_where_it_is_not_faster(found, machine):
    assert found[machine]["faster"] is False


@pytest.mark.parametrize("machine", OTHERS)
def test_ppo_and_dpo_learn_the_same(found, machine):
    assert found[machine]["ppo"] == pytest.approx(found["as it is"]["ppo"], rel=ENOUGH["rtol"], abs=ENOUGH["atol"])
    assert found[machine]["dpo"] == pytest.approx(found["as it is"]["dpo"], rel=ENOUGH["rtol"], abs=ENOUGH["atol"])


@pytest.mark.parametrize("machine", OTHERS)
def test_the_same_darts_draw_the_same_responses(found, machine):
    assert found[machine]["drawn"] == found["as it is"]["drawn"]


@pytest.mark.parametrize("machine", MACHINES)
def test_bfloat16_works_everywhere_to_its_own_precision(found, machine):
    assert found[machine]["ppo in bf16"] == pytest.approx(found[machine]["ppo"], rel=0.1, abs=0.1)
    assert found[machine]["half"] < 0.02  # 8 bits of a fraction
    assert found[machine]["products"] < 1e-4
