"""Time travel: a packed step is the policy that was trained, within rounding; step 0 is the reference, bit by bit."""

from __future__ import annotations

import copy
import json
import math
import shutil
import statistics
import sys
import time

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from course_helpers import time_travel
from course_helpers.time_travel import Journey, Traveller, pack, rounded, shipped
from tests.test_widgets import HOSTILE

STEPS = (0, 5, 20, 60)
RANK, ALPHA = 8, 16
PROMPTS = ("This movie was", "I think that", "The plot")


def record(steps=STEPS, **others):
    """What a run notes of its way."""
    stops = [
        {
            "step": step,
            "reward": 0.1 * place,
            "reward_low": 0.1 * place - 0.2,
            "reward_high": 0.1 * place + 0.3,
            "second_reward": 0.05 * place,
            "kl": 1.5 * place,
            "kl_low": 1.4 * place,
            "kl_high": 1.6 * place,
            "texts": [
                {"prompt": p, "response": f" word {place}", "reward": 0.5, "second_reward": -0.5, "kl": 1.0}
                for p in PROMPTS
            ],
        }
        for place, step in enumerate(steps)
    ]
    return {"method": "dpo", "setting": "β = 0.1", "seed": 0, "steps": stops} | others


@pytest.fixture(scope="module")
def trained(small):
    """A PEFT model over the shipped policy whose adapters go ever further, and a function that sets each step."""
    from peft import get_peft_model

    from course_helpers.dpo.training import lora_config

    model = get_peft_model(copy.deepcopy(small[0]), lora_config(small[0], RANK, ALPHA))
    adapters = {name: weight for name, weight in model.named_parameters() if "lora_" in name}
    generator = torch.Generator().manual_seed(0)
    starts = {name: weight.detach().clone() for name, weight in adapters.items()}
    ways = {name: torch.randn(weight.shape, generator=generator) for name, weight in adapters.items()}

    def go(place: int) -> None:
        with torch.no_grad():
            for name, weight in adapters.items():
                weight.copy_(starts[name] + 0.03 * place * ways[name])

    return model, go


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory):
    """The folder of a run, as training leaves it."""
    from course_helpers.dpo.saving import save_adapter

    model, go = trained
    folder = tmp_path_factory.mktemp("run")
    for place, step in enumerate(STEPS[1:], start=1):
        go(place)
        save_adapter(model, folder / "deltas" / f"step-{step:06d}")
    (folder / "journey.json").write_text(json.dumps(record()), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def journeys(run, tmp_path_factory):
    """The run packed with rounding and without."""
    folder = tmp_path_factory.mktemp("packed")
    return {bits: Journey.load(pack(run, folder / f"{bits}.safetensors", bits)) for bits in (8, 32)}


@pytest.fixture
def packed(run, tmp_path):
    return pack(run, tmp_path / "one.safetensors")


def logits_of(model, tokenizer) -> torch.Tensor:
    """Logits after every token of some text, float64."""
    ids = torch.tensor([tokenizer("This movie was the best thing that I have ever seen, but")["input_ids"]])
    with torch.no_grad():
        return model(input_ids=ids).logits[0].double()


# --------------------------------------------------------------------------------------------------------- its policies


@pytest.mark.parametrize("place", [1, 2, 3])
def test_without_rounding_the_weights_are_those_that_peft_merges(small, trained, journeys, place):
    from course_helpers.dpo.saving import merged

    model, go = trained
    go(place)
    moved = Traveller(small[0]).move(journeys[32], STEPS[place]).state_dict()
    for name, weight in merged(model).state_dict().items():
        assert torch.equal(moved[name], weight), name


@pytest.mark.parametrize("place", [1, 2, 3])
def test_rounding_to_a_byte_costs_less_than_a_thousandth_of_a_nat_a_token(small, journeys, place):
    traveller, tokenizer = Traveller(small[0]), small[1]
    exact, packed = (
        logits_of(traveller.move(journeys[bits], STEPS[place]), tokenizer).log_softmax(-1) for bits in (32, 8)
    )
    start = logits_of(small[0], tokenizer).log_softmax(-1)
    cost = (exact.exp() * (exact - packed)).sum(-1).mean()
    way = (exact.exp() * (exact - start)).sum(-1).mean()
    assert way > 0.005  # a step that went somewhere
    assert 0 < cost < 1e-3
    assert cost < 0.01 * way


def test_step_0_is_the_reference_bit_by_bit_whatever_was_visited(small, journeys):
    traveller, before = Traveller(small[0]), {k: v.clone() for k, v in small[0].state_dict().items()}
    for step in (60, 0, 5, 20, 0):
        model = traveller.move(journeys[8], step)
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    traveller.move(journeys[8], 60)
    assert all(torch.equal(weight, before[name]) for name, weight in small[0].state_dict().items())
    assert traveller.move(journeys[8], 5) is traveller.model
    assert not any(weight.requires_grad for weight in traveller.model.parameters())


def test_a_step_is_the_same_whichever_way_one_came(small, journeys):
    one, other = Traveller(small[0]), Traveller(small[0])
    other.move(journeys[32], 60)
    for weight, same in zip(
        one.move(journeys[8], 20).parameters(), other.move(journeys[8], 20).parameters(), strict=True
    ):
        assert torch.equal(weight, same)


def test_layers_of_another_journey_are_put_back(small, journeys):
    few = {name: m for name, m in journeys[8].matrices.items() if name.startswith("transformer.h.0.attn.c_attn.")}
    partial = copy.copy(journeys[8])
    object.__setattr__(partial, "matrices", few)
    assert partial.layers == ("transformer.h.0.attn.c_attn",)
    traveller = Traveller(small[0])
    traveller.move(journeys[8], 60)
    moved = traveller.move(partial, 60).state_dict()
    expected = partial.policy(60, small[0]).state_dict()
    assert all(torch.equal(moved[name], weight) for name, weight in expected.items())
    changed = [name for name, weight in small[0].state_dict().items() if not torch.equal(weight, moved[name])]
    assert changed == ["transformer.h.0.attn.c_attn.weight"]


def test_a_delta_is_b_times_a_for_layers_stored_either_way(run, journeys):
    """GPT-2's layers keep (in, out), ordinary ones (out, in); the delta is (out, in) always."""
    layer = "transformer.h.2.mlp.c_fc"
    kept = load_file(run / "deltas" / "step-000020" / "adapter_model.safetensors")
    A, B = (kept[f"base_model.model.{layer}.lora_{kind}.weight"].double() for kind in "AB")
    expected = ALPHA / RANK * torch.einsum("or,ri->oi", B, A)
    assert journeys[32].delta(layer, 20).double() == pytest.approx(expected, abs=1e-6)

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = torch.nn.Linear(256, 1024)

        def get_output_embeddings(self):
            return None

    plain, only = Block(), copy.copy(journeys[32])
    names = {name: m for name, m in journeys[32].matrices.items() if name.startswith(layer)}
    object.__setattr__(only, "matrices", {name.replace(layer, "lin"): m for name, m in names.items()})
    moved = Traveller(plain).move(only, 20)
    assert torch.equal(moved.lin.weight, plain.lin.weight + only.delta("lin", 20))


def test_a_move_takes_milliseconds(small, journeys, one_thread):
    traveller, times = Traveller(small[0]), []
    for step in (5, 20, 60) * 5:
        start = time.process_time()
        traveller.move(journeys[8], step)
        times.append(time.process_time() - start)
    assert statistics.median(times) < 0.05


# ------------------------------------------------------------------------------------------------------------ rounding


def test_no_number_is_off_by_more_than_half_a_scale_however_small_its_row():
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(2, 40, 16, generator=generator) * torch.logspace(-9, 4, 40)[:, None]
    matrix[0, 3] = 0
    whole, scales = rounded(matrix)
    assert (whole.dtype, scales.dtype, tuple(scales.shape)) == (torch.int8, torch.float16, (2, 40))
    back = whole.double() * scales.double()[..., None]
    assert ((back - matrix.double()).abs() <= 0.5 * scales.double()[..., None] * (1 + 1e-9)).all()
    assert whole.min() >= -127
    usual = scales[scales > 1e-4].double()
    assert (whole[scales > 1e-4].abs().amax(-1) >= 126).all()  # the scale wastes nothing
    assert len(usual) > 20
    assert (back[0, 3] == 0).all()


def test_numbers_that_cannot_be_rounded_are_refused():
    for bad in (math.nan, math.inf, 1e9):
        with pytest.raises(ValueError, match="must be finite"):
            rounded(torch.tensor([[1.0, bad]]))


# ------------------------------------------------------------------------------------------------------------- the file


def test_a_step_takes_one_byte_a_number_and_a_scale_a_row(packed, run):
    kept = load_file(run / "deltas" / "step-000005" / "adapter_model.safetensors").values()
    numbers, rows = sum(m.numel() for m in kept), sum(len(m) for m in kept)
    with packed.open("rb") as file:
        header = 8 + int.from_bytes(file.read(8), "little")
    assert packed.stat().st_size - header == (len(STEPS) - 1) * (numbers + 2 * rows)
    assert header < 40_000


def test_what_was_measured_comes_back(journeys):
    journey = journeys[8]
    assert (journey.method, journey.setting, journey.seed, journey.base) == ("dpo", "β = 0.1", 0, "small")
    assert (journey.steps, journey.scaling, journey.prompts) == (STEPS, 2.0, PROMPTS)
    assert len(journey.layers) == 24
    stop = journey.stop(20)
    assert (stop.reward, stop.reward_low, stop.reward_high) == pytest.approx((0.2, 0.0, 0.5))
    assert (stop.second_reward_low, stop.second_reward, stop.second_reward_high) == (0.1, 0.1, 0.1)
    assert stop.texts[0].response == " word 2"
    with pytest.raises(ValueError, match=r"step is 7; it must be one of 0, 5, 20, 60"):
        journey.stop(7)
    with pytest.raises(ValueError, match="at step 0 nothing has been added yet"):
        journey.delta(journey.layers[0], 0)


def test_fewer_steps_are_spread_over_the_way(run, tmp_path):
    assert Journey.load(pack(run, tmp_path / "a.safetensors", most=2)).steps == (0, 60)
    three = Journey.load(pack(run, tmp_path / "b.safetensors", most=3))
    assert three.steps == (0, 20, 60)
    whole = Journey.load(pack(run, tmp_path / "c.safetensors"))
    layer = whole.layers[0]
    assert torch.equal(three.delta(layer, 60), whole.delta(layer, 60))
    with pytest.raises(ValueError, match="at least 2"):
        pack(run, tmp_path / "d.safetensors", most=1)


def test_hostile_texts_come_back_as_they_were(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    hostile = [sign for sign in HOSTILE if "\x00" not in sign]
    changed = record(setting=hostile[1])
    for stop in changed["steps"]:
        for text, sign in zip(stop["texts"], hostile, strict=False):
            text["response"] = sign
    (copied / "journey.json").write_text(json.dumps(changed), encoding="utf-8")
    journey = Journey.load(pack(copied, tmp_path / "hostile.safetensors"))
    assert journey.setting == hostile[1]
    assert [text.response for text in journey.stop(5).texts] == hostile[:3]


def broken(packed, **others):
    """The same file with something else in its record or among its tensors; None takes a tensor away."""
    with safe_open(packed, framework="pt") as file:
        kept = json.loads(file.metadata()["journey"])
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    for name, value in others.items():
        if name in tensors:
            tensors.pop(name) if value is None else tensors.update({name: value})
        elif name == "extra":
            tensors["odd"] = value
        else:
            kept[name] = value
    save_file(tensors, packed, metadata={"journey": json.dumps(kept)})
    return packed


def edited(**others):
    """Steps of which the second says something else."""
    steps = record()["steps"]
    steps[1] |= others
    return steps


LAYER = "transformer.h.0.attn.c_attn"


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"version": 2}, "version is 2; it must be 1"),
        ({"seed": True}, "seed is True"),
        ({"rank": 0}, "must be a number"),
        ({"rank": 4}, "adapters of rank 4 at 3 steps"),
        ({"alpha": math.nan}, "must be a number"),
        ({"method": 3}, "method is '3'; it must be text"),
        ({"setting": "x" * 5000}, "text of at most 4000 characters"),
        ({"setting": "\ud800"}, "text of at most 4000 characters"),
        ({"steps": []}, "0 and then ever larger"),
        ({"steps": record(STEPS[1:])["steps"]}, "0 and then ever larger"),
        ({"steps": record((0, 5, 5, 60))["steps"]}, "0 and then ever larger"),
        ({"steps": record((0, 5))["steps"]}, "adapters of rank 8 at 1 steps"),
        ({"steps": edited(reward=math.nan)}, "reward at step 5 is"),
        ({"steps": edited(kl_low=9.0)}, "the mean within the ends"),
        ({"steps": edited(texts=[])}, "prompts is 'not the same at every step'"),
        ({"steps": edited(step="5")}, "step is '5'"),
        ({"steps": 3}, "not iterable"),
        ({f"{LAYER}.A": None}, "no '.*c_attn.A' in it"),
        ({f"{LAYER}.B_scale": None}, "no '.*c_attn.B_scale' in it"),
        ({f"{LAYER}.B_scale": torch.full((3, 768), math.inf, dtype=torch.float16)}, "it must be finite"),
        ({f"{LAYER}.B_scale": torch.ones(3, 767, dtype=torch.float16)}, "one float16 for each row"),
        ({f"{LAYER}.A": torch.zeros(3, 8, 256, dtype=torch.float64)}, "adapters of rank 8"),
        ({f"{LAYER}.A": torch.zeros(8)}, "adapters of rank 8"),
        ({"extra": torch.zeros(2)}, r"tensors is \['odd'\]"),
    ],
)
def test_a_file_that_cannot_be_right_is_refused_in_a_sentence(packed, others, message):
    with pytest.raises(ValueError, match=message) as error:
        Journey.load(broken(packed, **others))
    assert str(error.value).startswith("one.safetensors is no journey, or a damaged one: ")
    assert "Pack the run again" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("keep", [0, 4, 100, 60_000, -1])
def test_a_file_that_was_cut_is_refused(packed, keep):
    packed.write_bytes(packed.read_bytes()[:keep])
    with pytest.raises(ValueError, match="is no journey, or a damaged one"):
        Journey.load(packed)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no 'journey' in it"):
        Journey.load(tmp_path / "other.safetensors")
    with pytest.raises(FileNotFoundError, match=r"there is no file .*none.safetensors"):
        Journey.load(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="no journey 'nowhere' is shipped"):
        Journey.load("nowhere")


def test_another_base_is_refused_and_nothing_changes(small, journeys):
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=8, n_positions=16, n_embd=8, n_layer=6, n_head=1, bos_token_id=0, eos_token_id=0)
    narrow = Traveller(GPT2LMHeadModel(config))
    before = copy.deepcopy(narrow.model.state_dict())
    with pytest.raises(ValueError, match=r"in the model and .* in the journey"):
        narrow.move(journeys[8], 5)
    assert all(torch.equal(weight, before[name]) for name, weight in narrow.model.state_dict().items())
    odd = copy.copy(journeys[8])
    tied = {name.replace("transformer.h.0.attn.c_attn", "lm_head"): m for name, m in odd.matrices.items()}
    object.__setattr__(odd, "matrices", tied)
    with pytest.raises(ValueError, match="no linear layer 'lm_head' in its blocks"):
        Traveller(small[0]).move(odd, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "not plain LoRA.*peft_type"),
        ({"use_dora": True}, "not plain LoRA.*use_dora"),
        ({"use_rslora": True}, "not plain LoRA.*use_rslora"),
        ({"rank_pattern": {"c_fc": 2}}, "not plain LoRA.*rank_pattern"),
        ({"modules_to_save": ["lm_head"]}, "not plain LoRA.*modules_to_save"),
        ({"lora_alpha": 8}, "adapters of one base, rank and α"),
    ],
)
def test_only_plain_lora_is_packed(run, tmp_path, settings, message):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    path = copied / "deltas" / "step-000020" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | settings), encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        pack(copied, tmp_path / "one.safetensors")
    assert not (tmp_path / "one.safetensors").exists()


def test_the_first_step_adds_nothing_or_is_refused(run, tmp_path):
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    first = copied / "deltas" / "step-000000"
    shutil.copytree(copied / "deltas" / "step-000005", first)
    with pytest.raises(ValueError, match=r"step-000000 has changed the policy already"):
        pack(copied, tmp_path / "one.safetensors")
    kept = load_file(first / "adapter_model.safetensors")
    nothing = {name: matrix * ("lora_A" in name) for name, matrix in kept.items()}
    save_file(nothing, first / "adapter_model.safetensors")
    assert Journey.load(pack(copied, tmp_path / "one.safetensors")).steps == STEPS


def test_a_run_that_lacks_something_is_refused(run, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no .*journey.json; give the folder of a run"):
        pack(tmp_path, tmp_path / "one.safetensors")
    copied = tmp_path / "run"
    shutil.copytree(run, copied)
    shutil.rmtree(copied / "deltas" / "step-000020")
    with pytest.raises(FileNotFoundError, match="step-000020"):
        pack(copied, tmp_path / "one.safetensors")
    with pytest.raises(ValueError, match="bits is 4; it must be 8 or 32"):
        pack(run, tmp_path / "one.safetensors", bits=4)
    with pytest.raises(ValueError, match=r"a file that ends in .safetensors"):
        pack(run, tmp_path / "one")


def test_the_tool_packs_names_and_measures(run, tmp_path, monkeypatch, capsys):
    from tools.pack_journeys import main

    monkeypatch.setattr(sys, "argv", ["pack_journeys.py", str(run), "--to", str(tmp_path), "--most", "3"])
    main()
    assert Journey.load(tmp_path / "dpo-beta-0.1.safetensors").steps == (0, 20, 60)
    said = capsys.readouterr().out
    cost = float(said.split("rounding costs ")[1].split(" ")[0])
    assert 0 < cost < 1e-3
    assert "3 steps, 0.4" in said


def test_shipped_journeys_are_found_by_name(packed, monkeypatch):
    def asset(name):
        if name not in ("journeys", "journeys/one.safetensors"):
            raise KeyError(name)
        return packed.parent if name == "journeys" else packed

    monkeypatch.setattr(time_travel, "asset", asset)
    assert shipped() == ["one"]
    assert Journey.load("one").steps == STEPS
