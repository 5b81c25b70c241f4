"""Memory and time on paper: parameter counts exact, the rest against what torch really keeps and computes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from peft import LoraConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import GPT2Config, GPT2LMHeadModel

from course_helpers import plan
from tools import plan_full_scale

ROOT = Path(__file__).parents[1]
SMALL = plan.Shape(6, 256, 8, 8192, 256)  # the policy that is shipped
RUN = plan.Plan()


def gpt2(shape: plan.Shape, **settings: object) -> GPT2LMHeadModel:
    config = GPT2Config(
        n_layer=shape.layers, n_embd=shape.width, n_head=shape.heads, vocab_size=shape.vocabulary,
        n_positions=shape.context, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    config.update(settings)
    model = GPT2LMHeadModel(config).train()
    model.loss_type = "ForCausalLM"
    return model


def saved_bytes(model: torch.nn.Module, run: object) -> int:
    """Bytes that autograd keeps between forward and backward pass, parameters aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages, alive = {}, []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its address could be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        run()
    return sum(storages.values())


@pytest.mark.parametrize(
    ("name", "count"),
    [("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-large", 774_030_080), ("gpt2-xl", 1_557_611_200)],
)
def test_parameters_are_those_of_the_model_itself(name, count):
    shape = plan.GPT2[name]
    with torch.device("meta"):
        model = gpt2(shape)
    assert sum(parameter.numel() for parameter in model.parameters()) == count == plan.parameters(shape)
    assert sum(p.numel() for p in model.transformer.h[0].parameters()) == plan.block_parameters(shape)


def test_loras_parameters_are_those_peft_adds():
    shape = plan.Shape(2, 32, 4, 64, 16)
    settings = LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")
    model = get_peft_model(gpt2(shape), settings)
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert trained == plan.trained_parameters(plan.Plan(shape, lora_rank=4))
    assert plan.trained_parameters(plan.Plan(shape)) == plan.parameters(shape)


@pytest.mark.parametrize(
    ("gelu", "keeps"), [("gelu_new", plan.GELU_KEEPS), ("gelu_pytorch_tanh", 0)], ids=["unfused", "fused"]
)
def test_activations_are_what_autograd_keeps(gelu, keeps):
    model, ids = gpt2(SMALL, activation_function=gelu), torch.randint(8192, (4, 48))
    kept = saved_bytes(model, lambda: model.transformer(ids, use_cache=False).last_hidden_state.sum())
    paper = plan.activation_bytes(SMALL, 4, 48, value_bytes=4, dropout=False, gelu_keeps=keeps)
    assert kept == pytest.approx(paper, rel=0.03)


def test_a_fused_gelu_gives_the_papers_34():
    shape = plan.GPT2["gpt2"]
    assert plan.activation_bytes(shape, 3, 5, gelu_keeps=0) == 34 * 5 * 3 * shape.width * shape.layers


def test_recomputation_keeps_each_blocks_input_and_one_block():
    shape, texts = plan.GPT2["gpt2"], (3, 5)
    whole = plan.activation_bytes(shape, *texts)
    inputs = 2 * 5 * 3 * shape.width * shape.layers
    assert plan.activation_bytes(shape, *texts, recompute=True) == inputs + whole // shape.layers


def test_cache_is_as_large_as_the_models_own():
    model, ids = gpt2(SMALL).eval(), torch.randint(8192, (3, 20))
    with torch.no_grad():
        cache = model(ids, use_cache=True).past_key_values
    held = sum(value.nbytes for layer in cache.layers for value in (layer.keys, layer.values))
    assert held == plan.cache_bytes(SMALL, 3, 20, value_bytes=4)


def test_peak_of_a_real_step_is_within_a_twentieth():
    model, ids = gpt2(SMALL), torch.randint(8192, (8, 48))
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)

    def step() -> None:
        for _ in range(2):  # the second pass meets the first one's gradients
            model(ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    step()  # Adam's states come into being
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=False) as profiler:
        step()
    changes = [
        (event.start_ns(), event.nbytes())
        for event in profiler.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = peak = 0
    for _when, change in sorted(changes):
        now += change
        peak = max(peak, now)
    held = sum(parameter.nbytes for parameter in model.parameters()) * 3  # weights and Adam's two means
    paper = 16 * plan.parameters(SMALL) + plan.activation_bytes(SMALL, 8, 48, 4, dropout=False)
    paper += plan.logit_bytes(SMALL, 8, 48)
    assert held + peak == pytest.approx(paper, rel=0.05)


def test_operations_are_what_torch_counts():
    shape = plan.Shape(4, 256, 8, 1024, 64)
    model, ids = gpt2(shape), torch.randint(1024, (2, 16))
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(ids, use_cache=False)
    with FlopCounterMode(display=False) as both:
        model(ids, labels=ids, use_cache=False).loss.backward()
    tokens, count = ids.numel(), plan.parameters(shape)
    assert forward.get_total_flops() == pytest.approx(2 * count * tokens, rel=0.05)
    assert both.get_total_flops() == pytest.approx(6 * count * tokens, rel=0.05)


def test_lora_saves_the_gradients_of_the_weights():
    shape = plan.Shape(4, 256, 8, 1024, 64)
    settings = LoraConfig(r=4, target_modules="all-linear", fan_in_fan_out=True, task_type="CAUSAL_LM")
    model, ids = get_peft_model(gpt2(shape), settings), torch.randint(1024, (2, 16))
    with FlopCounterMode(display=False) as counter:
        model(ids, labels=ids, use_cache=False).loss.backward()
    run = plan.Plan(shape, lora_rank=4)
    a_token = 4 * (plan.parameters(shape) + plan.trained_parameters(run)) + 2 * plan.trained_parameters(run)
    assert counter.get_total_flops() == pytest.approx(a_token * ids.numel(), rel=0.06)


@pytest.mark.parametrize("method", plan.METHODS)
def test_sharding_divides_states_and_leaves_a_gpus_own_texts(method):
    alone, shared = plan.memory(method, RUN), plan.memory(method, RUN, 4, sharded=True)
    for name in ("weights", "gradients", "Adam's states", "reference"):
        assert shared[name] == pytest.approx(alone[name] / 4)
    for name in ("activations", "logits", "cache", "judge"):
        assert shared[name] == alone[name]


def test_states_are_16_bytes_a_parameter_and_ddp_divides_none_of_them():
    alone, four = plan.memory("ppo", RUN), plan.memory("ppo", RUN, 4)
    names = ("weights", "gradients", "Adam's states")
    assert sum(alone[name] for name in names) == 16 * plan.parameters(RUN.shape)
    assert four["total"] - alone["total"] == four["buffers"] == 4 * plan.parameters(RUN.shape)


def test_lora_keeps_weights_and_needs_no_second_model():
    run = replace(RUN, lora_rank=32)
    held = plan.memory("dpo", run)
    assert held["weights"] == 4 * plan.parameters(run.shape)
    assert held["gradients"] + held["Adam's states"] == 12 * 16 * 32 * 1280 * 36
    assert held["reference"] == 0 < plan.memory("dpo", RUN)["reference"]


def test_time_is_operations_over_rate():
    gpu = plan.Gpu("made up", 80, 1e15, 2e12, 1e11)
    spent = plan.seconds("sft", RUN, gpu)
    operations = 6 * plan.parameters(RUN.shape) * RUN.prompts * RUN.review
    assert spent["training"] == pytest.approx(operations / (plan.UTILISATION * 1e15))
    assert spent["generation"] == spent["exchange"] == 0
    assert plan.seconds("sft", RUN, gpu, 4)["training"] == pytest.approx(spent["training"] / 4)


def test_generation_waits_for_memory_or_for_products():
    one = replace(RUN, generated=1, prompts=100, best_of=1)
    slow = plan.Gpu("little bandwidth", 80, 1e18, 1e9, 1e11)
    weights = 2 * plan.parameters(one.shape) + plan.cache_bytes(one.shape, 1, 8 + 24)
    assert plan.seconds("best-of-n", one, slow)["generation"] == pytest.approx(
        100 * 48 * weights / (plan.READ_RATE * 1e9)
    )
    busy = plan.Gpu("much bandwidth", 80, 1e12, 1e18, 1e11)
    many = replace(one, generated=100)
    products = 48 * 2 * plan.parameters(one.shape) * 100 / (plan.UTILISATION * 1e12)
    assert plan.seconds("best-of-n", many, busy)["generation"] == pytest.approx(products)


def test_exchange_grows_from_nothing_and_fsdp_sends_more():
    gpu = plan.GPUS[0]
    assert plan.seconds("dpo", RUN, gpu, 1)["exchange"] == 0
    ddp, fsdp = (plan.seconds("dpo", RUN, gpu, 4, sharded)["exchange"] for sharded in (False, True))
    steps = 2 * RUN.prompts / RUN.batch
    assert ddp == pytest.approx(steps * 2 * 3 / 4 * 4 * plan.parameters(RUN.shape) / gpu.link)
    assert fsdp > ddp


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="method is 'trpo'"):
        plan.memory("trpo", RUN)
    with pytest.raises(ValueError, match="gpus is 0"):
        plan.seconds("ppo", RUN, plan.GPUS[0], 0)


def test_page_shows_the_tools_tables():
    page = (ROOT / "docs" / "beyond_one_machine.md").read_text(encoding="utf-8")
    for table in (plan_full_scale.memory_table, plan_full_scale.time_table, plan_full_scale.sizes_table):
        assert table(RUN) in page


@pytest.mark.parametrize(("name", "kind"), [("ddp", "MULTI_GPU"), ("fsdp", "FSDP")])
def test_accelerate_reads_its_configurations(name, kind):
    read = load_config_from_file(str(ROOT / "configs" / "accelerate" / f"{name}.yaml"))
    assert read.distributed_type.value == kind
    assert read.mixed_precision == "bf16"
    assert bool(read.fsdp_config) == (name == "fsdp")
