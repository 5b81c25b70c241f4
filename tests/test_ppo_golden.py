"""The trainer against TRL 0.11.4 itself: all that three steps report and leave behind, in every configuration recorded.

`tests/golden/ppo/README.md` says how the numbers were made. Where this trainer differs on purpose (clipping at every
step, skipped mini-batches, accumulation on a last batch, padding on the left), nothing was recorded.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from course_helpers import ppo
from tools.ppo_golden import material
from tools.ppo_golden.cases import CASES, IN_FLOAT32

GOLDEN = Path(__file__).parent / "golden" / "ppo"
TOLERANCE = {"float64": 1e-9, "float32": 5e-4}  # relative to max(1, |x|)

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning"),  # negative KL, greedy search: as meant
]


@pytest.fixture(scope="module")
def start():
    return material.Material.load(GOLDEN)


@pytest.fixture
def dtype(request):
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, request.param))
    yield request.param
    torch.set_default_dtype(before)


def recorded(dtype, name):
    """Settings with the numbers of each step, and the tensors of all steps."""
    path = GOLDEN / dtype / name
    return json.loads(path.with_suffix(".json").read_text()), load_file(path.with_suffix(".safetensors"))


def differences(found, expected):
    """Name → largest |x − x'| / max(1, |x'|); infinite where something is missing, of another shape or NaN."""
    result = {}
    for name, value in expected.items():
        ours, theirs = (torch.as_tensor(x, dtype=torch.float64) for x in (found.get(name, float("nan")), value))
        gap = (ours - theirs).abs() / theirs.abs().clamp(min=1) if ours.shape == theirs.shape else torch.tensor([])
        result[name] = gap.max().item() if gap.numel() and not gap.isnan().any() else float("inf")
    return result


ALL = [("float64", name) for name in CASES] + [("float32", name) for name in IN_FLOAT32]


@pytest.mark.parametrize(("dtype", "name"), ALL, indirect=["dtype"])
def test_three_steps_equal_trls(dtype, name, start):
    case, tensors = recorded(dtype, name)
    steps = list(material.run(material.build(ppo, case, start), case, start))
    assert len(steps) == len(case["steps"]) == material.STEPS
    worst = {
        f"{key} in step {index}": difference
        for index, (step, numbers) in enumerate(zip(steps, case["steps"], strict=True))
        for key, difference in differences(step.numbers, numbers).items()
    }
    worst |= differences(material.joined(steps), tensors)
    if dtype == "float32":
        # a key's bias shifts all logits of a softmax alike: its gradient is 0, and Adam makes steps of rounding
        worst = {key: difference for key, difference in worst.items() if not key.endswith("c_attn.bias")}
    apart = {key: f"{difference:.1e}" for key, difference in worst.items() if difference > TOLERANCE[dtype]}
    assert not apart


@pytest.mark.parametrize("dtype", ["float64"], indirect=True)
def test_greedy_generation_and_lengths_equal_trls(dtype, start):
    expected = json.loads((GOLDEN / "generation.json").read_text())
    assert material.generate(ppo, ppo.LengthSampler, start) == expected
    lengths = {len(row) for row in expected["batched_no_prompt"]}
    assert len(lengths) > 2  # some responses ended early


def test_every_case_has_been_recorded_with_its_settings():
    for dtype, names in (("float64", CASES), ("float32", IN_FLOAT32)):
        assert {path.stem for path in (GOLDEN / dtype).iterdir()} == set(names)
        for name in names:
            case, _ = recorded(dtype, name)
            assert {key: value for key, value in case.items() if key != "steps"} == CASES[name]


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("base", "lora")])
def test_every_case_makes_a_difference(name):
    """A setting that moved nothing would prove nothing. Dropout alone must not: it is off in a step."""
    like = {"early_stop": "minibatch4", "kl_target": "kl_abs"}.get(name, "base")
    (_, base), (_, tensors) = recorded("float64", like), recorded("float64", name)
    worst = max(differences(tensors, {key: x for key, x in base.items() if key in tensors}).values())
    assert worst == 0 if name == "dropout" else worst > 1e-6
