"""The value head: what it reads, what it gives, and that model and head come back from every file they are kept in."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)
from transformers.activations import NewGELUActivation

from course_helpers.models import LoadError
from course_helpers.ppo import AutoModelForCausalLMWithValueHead, create_reference_model
from course_helpers.ppo.value_head import ValueHead, fuse_gelu
from tests import ppo_runs as runs

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:fan_in_fan_out")]


def opt(**changes):
    sizes = {"vocab_size": runs.VOCABULARY, "hidden_size": 16, "ffn_dim": 32, "max_position_embeddings": 48}
    return OPTForCausalLM(OPTConfig(**(sizes | {"num_hidden_layers": 2, "num_attention_heads": 2} | changes)))


def neox(layers=2):
    sizes = {"vocab_size": runs.VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "max_position_embeddings": 48}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, num_hidden_layers=layers, num_attention_heads=2))


FAMILIES = {
    "GPT-2": runs.gpt2,
    "Llama": runs.llama,
    "OPT": lambda: opt(word_embed_proj_dim=16),
    "NeoX": neox,
    "LoRA": lambda: runs.lora(runs.gpt2()).pretrained_model,
}


@pytest.fixture
def ids():
    return torch.from_numpy(runs.np.random.default_rng(0).integers(0, runs.PAD, (3, 7)))


def outputs(model, ids):
    with torch.no_grad():
        return model.eval()(ids)


def assert_equal_models(left, right, ids):
    """The same logits and values, to the bit."""
    for x, y in zip(outputs(left, ids)[::2], outputs(right, ids)[::2], strict=True):
        assert torch.equal(x, y)


# -------------------------------------------------------------------------------------------------------------- forward


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_the_models_and_values_the_heads(name, ids):
    lm = FAMILIES[name]()
    plain = copy.deepcopy(lm).eval()
    model = runs.with_head(lm).eval()
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        logits, loss, values = model(ids, attention_mask=mask)
        expected = plain(ids, attention_mask=mask, output_hidden_states=True)
        head = model.v_head.summary
        states = expected.hidden_states[-1]
    assert loss is None
    assert logits.shape == (3, 7, runs.VOCABULARY)
    assert values.shape == (3, 7)
    assert torch.allclose(logits, expected.logits, atol=1e-5)  # the GELU is another
    assert torch.allclose(values, states @ head.weight[0] + head.bias, atol=1e-5)


def test_a_narrower_embedding_gives_the_width_of_the_head(ids):
    model = runs.with_head(opt(word_embed_proj_dim=8))
    assert model.v_head.summary.weight.shape == (1, 8)
    assert outputs(model, ids)[2].shape == (3, 7)


def test_labels_give_the_language_models_loss(ids):
    model = runs.with_head(runs.gpt2()).eval()
    logits, loss, _ = model(ids, labels=ids)
    expected = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_going_on_from_a_cache_equals_reading_everything(ids):
    model = runs.with_head(runs.gpt2()).eval()
    with torch.no_grad():
        logits, _, values = model(ids)
        *_, cache = model(ids[:, :4], return_past_key_values=True)
        later = model(ids[:, 4:], past_key_values=cache)
    assert torch.allclose(later[0], logits[:, 4:], atol=1e-5)
    assert torch.allclose(later[2], values[:, 4:], atol=1e-5)


def test_the_head_of_a_bf16_model_is_float32(ids):
    model = runs.with_head(runs.gpt2().bfloat16())
    assert {p.dtype for p in model.v_head.parameters()} == {torch.float32}
    logits, _, values = outputs(model, ids)
    assert logits.dtype == values.dtype == torch.float32


def test_generate_is_the_language_models_own(ids):
    model = runs.with_head(runs.gpt2()).eval()
    settings = {"do_sample": False, "max_new_tokens": 4, "pad_token_id": runs.PAD}
    assert torch.equal(model.generate(ids, **settings), model.pretrained_model.generate(ids, **settings))


def test_values_teach_the_layers_below():
    model = runs.with_head(runs.gpt2())
    model(torch.tensor([[1, 2, 3]]))[2].sum().backward()
    assert model.pretrained_model.transformer.h[0].mlp.c_fc.weight.grad.abs().max() > 0


# ------------------------------------------------------------------------------------------------------------- the head


def test_fresh_weights_are_torchs_own_and_small():
    weight = ValueHead(GPT2Config(n_embd=10_000)).summary.weight
    assert weight.abs().max() <= 0.01
    assert weight.std().item() == pytest.approx(0.01 / math.sqrt(3), rel=0.05)  # uniform on ± 1/√width


@pytest.mark.parametrize(("options", "spread"), [({}, 0.2), ({"v_head_initializer_range": 0.05}, 0.05)])
def test_normal_weights_have_the_asked_spread_and_no_bias(options, spread):
    head = ValueHead(GPT2Config(n_embd=10_000), v_head_init_strategy="normal", **options).summary
    assert head.weight.std().item() == pytest.approx(spread, rel=0.05)
    assert head.weight.mean().item() == pytest.approx(0, abs=0.05 * spread)
    assert head.bias.item() == 0


def test_an_unknown_strategy_is_named():
    with pytest.raises(ValueError, match="v_head_init_strategy 'zeros' is not known: choose 'normal' or None"):
        runs.with_head(runs.gpt2(), v_head_init_strategy="zeros")


@pytest.mark.parametrize(("given", "expected"), [({}, 0.1), ({"summary_dropout_prob": 0.4}, 0.4)])
def test_dropout_is_as_asked(given, expected):
    assert runs.with_head(runs.gpt2(), **given).v_head.dropout.p == expected


@pytest.mark.parametrize("nothing", [0, 0.0, None])
def test_dropout_can_be_left_out(nothing):
    assert isinstance(runs.with_head(runs.gpt2(), summary_dropout_prob=nothing).v_head.dropout, nn.Identity)


def test_the_models_config_decides_on_dropout():
    assert runs.with_head(runs.gpt2(summary_dropout_prob=0.3), summary_dropout_prob=0.4).v_head.dropout.p == 0.3


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_the_fused_gelu_equals_gpt2s(dtype, tolerance):
    x = torch.linspace(-12, 12, 100_001, dtype=dtype)
    model = nn.Sequential(NewGELUActivation())
    expected = model(x)
    fuse_gelu(model)
    assert type(model[0]) is nn.GELU
    assert (model(x) - expected).abs().max() <= tolerance
    assert isinstance(runs.with_head(runs.gpt2()).pretrained_model.transformer.h[0].mlp.act, nn.GELU)


# ------------------------------------------------------------------------------------------------------ names of states


def test_state_names_are_the_language_models_and_the_heads():
    lm = runs.gpt2()
    names = set(lm.state_dict())
    assert set(runs.with_head(lm).state_dict()) == names | {"v_head.summary.weight", "v_head.summary.bias"}


def test_a_peft_models_state_is_the_head_alone():
    assert set(runs.lora(runs.gpt2()).state_dict()) == {"v_head.summary.weight", "v_head.summary.bias"}


@pytest.mark.parametrize(
    "build", [lambda seed: runs.with_head(runs.llama(seed), seed), lambda s: runs.lora(runs.gpt2(), s)]
)
def test_a_state_read_back_is_the_state(build):
    left, right = build(0), build(1)
    right.load_state_dict(left.state_dict())
    runs.assert_same(dict(left.state_dict()), dict(right.state_dict()))


# ------------------------------------------------------------------------------------------------ files, there and back


def test_the_whole_model_comes_back(tmp_path, ids):
    for build in (runs.gpt2, runs.llama):
        folder = tmp_path / build.__name__ / "made for it"
        model = runs.with_head(build(), seed=5)
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLMWithValueHead.from_pretrained(folder)
        assert_equal_models(model, loaded, ids)
        assert all(p.requires_grad for p in loaded.parameters())
        plain = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert torch.allclose(plain(ids).logits, outputs(model, ids)[0], atol=1e-5)
        assert not list(folder.glob(".unfinished*"))
        assert not [path for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pkl")]


def test_a_plain_model_gets_a_fresh_head(tmp_path, ids):
    lm = runs.gpt2()
    lm.save_pretrained(tmp_path)
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path, v_head_init_strategy="normal")
        assert torch.equal(model.pretrained_model.lm_head.weight, lm.lm_head.weight)
        heads.append(model.v_head.summary.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.fixture
def adapted(tmp_path):
    """A base model in one folder, a trained adapter with its head in another."""
    runs.gpt2().save_pretrained(tmp_path / "base")
    settings = LoraConfig(**runs.LORA, task_type="CAUSAL_LM")
    model = AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path / "base", peft_config=settings)
    model.save_pretrained(tmp_path / "adapter")
    return model, tmp_path / "adapter"


def test_an_adapter_comes_back_with_its_head_and_can_be_trained_on(adapted, ids):
    model, folder = adapted
    loaded = AutoModelForCausalLMWithValueHead.from_pretrained(folder)
    assert_equal_models(model, loaded, ids)
    trainable = {name for name, p in loaded.named_parameters() if p.requires_grad}
    assert trainable == {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("lora_A" in name for name in trainable)
    before = runs.weights(loaded)
    runs.trainer(loaded).step(*runs.rollouts())
    moved = {name for name, p in loaded.named_parameters() if not torch.equal(p, before[name])}
    assert moved == trainable


def test_an_adapter_can_come_back_frozen(adapted):
    _, folder = adapted
    loaded = AutoModelForCausalLMWithValueHead.from_pretrained(folder, is_trainable=False)
    assert {name for name, p in loaded.named_parameters() if p.requires_grad} == {
        "v_head.summary.weight",
        "v_head.summary.bias",
    }


def test_a_saved_adapter_is_one_for_plain_peft(adapted, ids):
    model, folder = adapted
    assert {path.name for path in folder.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "v_head.safetensors",
    }
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder.parent / "base"), folder).eval()
    assert torch.allclose(plain(ids).logits, outputs(model, ids)[0], atol=1e-5)


def test_an_adapter_without_a_head_starts_fresh_and_says_so(adapted):
    _, folder = adapted
    (folder / "v_head.safetensors").unlink()
    with pytest.warns(UserWarning, match="holds an adapter but no value head: the head starts fresh"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder)


def test_an_adapter_whose_base_is_gone_is_named(adapted):
    _, folder = adapted
    facts = json.loads((folder / "adapter_config.json").read_text())
    gone = str(folder / "gone")
    (folder / "adapter_config.json").write_text(json.dumps(facts | {"base_model_name_or_path": gone}))
    with pytest.raises(LoadError, match=f"holds an adapter for '{gone}', which cannot be loaded"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder)


def test_what_the_original_wrote_is_read(tmp_path, ids):
    """One file with the language model's weights under their own names, and the head's beside them."""
    model = runs.with_head(runs.gpt2(), seed=9)
    model.pretrained_model.config.save_pretrained(tmp_path)
    tensors = {name: x for name, x in model.pretrained_model.state_dict().items() if name != "lm_head.weight"}
    tensors |= {f"v_head.summary.{name}": x for name, x in model.v_head.summary.state_dict().items()}
    save_file({name: x.contiguous() for name, x in tensors.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal_models(model, AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path), ids)


def test_what_the_original_wrote_beside_an_adapter_is_read(adapted, ids):
    model, folder = adapted
    (folder / "v_head.safetensors").unlink()
    torch.save({f"v_head.{name}": x for name, x in model.v_head.state_dict().items()}, folder / "pytorch_model.bin")
    assert_equal_models(model, AutoModelForCausalLMWithValueHead.from_pretrained(folder), ids)


class Touch:
    """An object whose unpickling makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_an_old_file_is_not_run(adapted, tmp_path):
    _, folder = adapted
    (folder / "v_head.safetensors").unlink()
    torch.save({"v_head.summary.weight": Touch(tmp_path / "touched")}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder)
    assert not (tmp_path / "touched").exists()


def test_files_in_parts_come_back(tmp_path, ids):
    model = runs.with_head(runs.llama(), seed=3)
    model.save_pretrained(tmp_path, max_shard_size="8KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_equal_models(model, AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path), ids)


@pytest.mark.parametrize("sizes", [("8KB", "1GB"), ("1GB", "8KB")], ids=["parts first", "parts last"])
def test_a_second_save_replaces_the_first(tmp_path, ids, sizes):
    models = [runs.with_head(runs.llama(seed), seed) for seed in (0, 1)]
    for model, size in zip(models, sizes, strict=True):
        model.save_pretrained(tmp_path, max_shard_size=size)
    assert_equal_models(models[1], AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path), ids)


def test_a_model_saved_over_an_adapter_replaces_it(adapted, ids):
    _, folder = adapted
    model = runs.with_head(runs.gpt2(1), 1)
    model.save_pretrained(folder)
    assert_equal_models(model, AutoModelForCausalLMWithValueHead.from_pretrained(folder), ids)


def test_a_save_that_fails_leaves_the_first(tmp_path, ids, monkeypatch):
    first, second = (runs.with_head(runs.gpt2(seed), seed) for seed in (0, 1))
    first.save_pretrained(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        second.save_pretrained(tmp_path)
    monkeypatch.undo()
    assert {path.name for path in tmp_path.iterdir()} == names
    assert_equal_models(first, AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path), ids)


def test_the_trainer_saves_model_head_and_tokenizer(tmp_path, ids):
    run = runs.trainer()
    run.step(*runs.rollouts())
    run.save_pretrained(tmp_path / "run")
    assert_equal_models(run.model, AutoModelForCausalLMWithValueHead.from_pretrained(tmp_path / "run"), ids)
    words = type(run.tokenizer).from_pretrained(tmp_path / "run")("w3 w1 <eos>")["input_ids"]
    assert words == [3, 1, runs.EOS]


def test_a_head_file_holds_two_tensors(adapted):
    _, folder = adapted
    assert {name: x.shape for name, x in load_file(folder / "v_head.safetensors").items()} == {
        "summary.weight": (1, 16),
        "summary.bias": (1,),
    }


# -------------------------------------------------------------------------------------------------------- the reference


@pytest.mark.parametrize("plain", [False, True])
def test_a_reference_is_a_frozen_copy_of_its_own(plain, ids):
    model = runs.gpt2() if plain else runs.with_head(runs.gpt2())
    model.train()
    reference = create_reference_model(model)
    assert not any(p.requires_grad for p in reference.parameters())
    assert not any(module.training for module in reference.modules())
    assert all(p.requires_grad for p in model.parameters())
    assert all(module.training for module in model.modules())
    before = outputs(reference, ids)[0]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    assert torch.equal(outputs(reference, ids)[0], before)
    assert not {p.data_ptr() for p in model.parameters()} & {p.data_ptr() for p in reference.parameters()}


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("name", ["GPT-2", "Llama", "OPT", "NeoX"])
def test_a_reference_shares_the_lowest_layers(name, count):
    """One or two of three; those are frozen, the others and the head go on learning."""
    builds = {
        "GPT-2": (lambda: runs.gpt2(n_layer=3), "h"),
        "Llama": (lambda: runs.llama(num_hidden_layers=3), "layers"),
        "OPT": (lambda: opt(num_hidden_layers=3), "layers"),
        "NeoX": (lambda: neox(3), "layers"),
    }
    build, layers = builds[name]
    model = runs.with_head(build())
    reference = create_reference_model(model, num_shared_layers=count)
    assert torch.equal(*(outputs(one, torch.tensor([[1, 2, 3]]))[0] for one in (model, reference)))
    for own, other in zip(model.named_parameters(), reference.parameters(), strict=True):
        layer = own[0].partition(f".{layers}.")[2].partition(".")[0]
        if layer:
            assert (own[1] is other) == (int(layer) < count), own[0]
        assert (own[1] is other) == (not own[1].requires_grad), own[0]
        assert not other.requires_grad
    assert model.v_head.summary.weight.requires_grad


def test_an_unusual_name_of_layers_can_be_given():
    model = nn.Sequential()
    model.tower = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    with pytest.raises(ValueError, match=r"no parameter belongs to layer 1 .*pattern='...{layer}'"):
        create_reference_model(model, num_shared_layers=1)
    reference = create_reference_model(model, num_shared_layers=1, pattern="tower.{layer}")
    shared = [own is other for own, other in zip(model.parameters(), reference.parameters(), strict=True)]
    assert shared == [True, True, False, False, False, False]
