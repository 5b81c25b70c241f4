"""Exports for verl and OpenRLHF: they hold what they should, in the published form, and their commands can run.

Where verl or OpenRLHF is installed, its own readers read the exports, too; else these tests are skipped.
"""

import importlib.util
import json
import os
import shlex
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from course_helpers.assets import asset
from course_helpers.models import load_judge, log_odds
from course_helpers.preferences import Pair
from tools.exports import check, openrlhf, scripts, sources, verl

HOSTILE = (
    '<img src=x onerror="alert(1)"> & "quoted"',
    "{{ 7 * 7 }} {% raw %} {} %s \\n",
    "$(touch here) `id`; rm -rf . # ' \"",
    "a null \x00, a return \r\n, a line end \u2028 and a mark \ufeff in it",
    "مرحبا 漢字 🎬 e\u0301 \u202egnirts",
    "<image> <video> <audio> null true 1e9",
    " leading and trailing space ",
)
PAIRS = (Pair("This film", " is a joy", " is a bore"), *(Pair(text, " good", " bad\n\nThe end") for text in HOSTILE))
KINDS = {"verl": (verl.write, check.check_verl), "openrlhf": (openrlhf.write, check.check_openrlhf)}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(asset("policy"))


def material(tokenizer, **changes):
    parts = {
        "train": HOSTILE, "test": ("The end",), "pairs": PAIRS, "ends": True, "policy": "policy",
        "policy_folder": asset("policy"), "judge": "judge", "judge_folder": asset("judge"), "tokenizer": tokenizer,
        "label": "POSITIVE", "query_tokens": 64, "response_tokens": 16, "left_out": {},
    }  # fmt: skip
    return sources.Material(**parts | changes)


@pytest.fixture(scope="module", params=list(KINDS))
def written(request, tokenizer, tmp_path_factory):
    """An export of hostile texts: its kind, its folder, and what it was made of."""
    folder, made = tmp_path_factory.mktemp(request.param), material(tokenizer)
    KINDS[request.param][0](made, folder)
    return SimpleNamespace(kind=request.param, folder=folder, material=made)


def arguments(folder: Path, *more: str) -> Namespace:
    given = ["--policy", "small", "--judge", "small", "--prompts", "small", "--response-tokens", "16", *more]
    return sources.parser("").parse_args([str(folder), *given])


# ---------------------------------------------------------------------------------------------------- what is written


def test_every_row_is_as_published_and_comes_back_equal(written):
    KINDS[written.kind][1](written.folder, written.material)


def test_parquet_has_the_published_columns_and_types(tokenizer, tmp_path):
    verl.write(material(tokenizer), tmp_path)
    schema = pq.read_schema(tmp_path / "train.parquet")
    messages = "list<element: struct<role: string, content: string>>"
    assert {field.name: str(field.type) for field in schema} == {
        "data_source": "string",
        "prompt": messages,
        "ability": "string",
        "reward_model": "struct<style: string, ground_truth: string>",
        "extra_info": "struct<split: string, index: int64, prompt: string>",
    }
    assert [str(field.type) for field in pq.read_schema(tmp_path / "sft.parquet")] == [messages]


def test_no_pairs_no_scripts_that_need_them(tokenizer, tmp_path):
    verl.write(material(tokenizer, pairs=()), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.sh")) == ["run_grpo.sh", "run_ppo.sh"]


def test_hub_ids_stay_ids_and_models_travel_whole(written, tokenizer, tmp_path):
    assert AutoModelForCausalLM.from_pretrained(written.folder / "policy", use_safetensors=True).config.n_layer == 6
    assert AutoModelForSequenceClassification.from_pretrained(written.folder / "judge").num_labels == 2
    made = material(tokenizer, policy="openai-community/gpt2-large", policy_folder=None)
    KINDS[written.kind][0](made, tmp_path)
    assert not (tmp_path / "policy").exists()
    assert "openai-community/gpt2-large" in (tmp_path / "run_ppo.sh").read_text(encoding="utf-8")


def test_only_weights_settings_and_tokenizer_of_a_folder_travel(tmp_path):
    (tmp_path / "from").mkdir()
    for name in ("model.safetensors", "config.json", "pytorch_model.bin", "modeling.py", "optimizer.pt"):
        (tmp_path / "from" / name).write_text("x", encoding="utf-8")
    sources.copy_model(tmp_path / "from", tmp_path / "to")
    assert sorted(path.name for path in (tmp_path / "to").iterdir()) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("ends", [True, False])
def test_template_adds_nothing_but_an_end_where_there_is_one(tokenizer, tmp_path, ends):
    verl.write(material(tokenizer, ends=ends), tmp_path)
    reads = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    for pair in PAIRS:
        messages = verl.sft_rows([pair])[0]["messages"]
        prompt = reads.apply_chat_template(messages[:1], tokenize=False, add_generation_prompt=True)
        assert prompt == pair.prompt
        assert reads.apply_chat_template(messages, tokenize=False) == "".join(pair[:2]) + "<|endoftext|>" * ends


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("data_source"), "the columns are"),
        (lambda row: row.update(prompt="This film"), "no list of messages"),
        (lambda row: row["prompt"][0].update(content=""), "a message without a text"),
        (lambda row: row["prompt"][0].update(role="robot"), "a message without its fields"),
        (lambda row: row["reward_model"].pop("ground_truth"), "no ground_truth"),
        (lambda row: row["extra_info"].update(index="0"), "index is no count"),
        (lambda row: row["extra_info"].update(prompt="Another film"), "is not the prompt"),
    ],
)
def test_a_row_that_verl_could_not_use_is_named(change, said):
    row = verl.rl_rows(["This film"], "train", "POSITIVE")[0]
    change(row)
    with pytest.raises(check.ExportError, match=said):
        check.check_verl_row(row, "train.parquet, row 0")


def test_a_file_that_was_changed_is_noticed(written, tmp_path):
    name = "pairs.parquet" if written.kind == "verl" else "pairs.jsonl"
    rows = check.read_rows(written.folder / name)
    rows[1]["chosen"] = " other"
    path = tmp_path / "pairs.jsonl"
    sources.write_json_lines(rows, path)
    with pytest.raises(check.ExportError, match="other pairs"):
        check.check_pairs(path, PAIRS)


# -------------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ([], "there are no prompts"),
        (["good", "  "], "row 1: '  ' is no text"),
        (["half \ud83d"], "lone surrogate"),
        (["The end<|endoftext|>"], "holds '<|endoftext|>'"),
    ],
)
def test_texts_that_cannot_be_read_as_they_stand_are_refused(texts, said):
    with pytest.raises(ValueError, match=said.replace("|", r"\|")):
        sources.check_texts(texts, ["<|endoftext|>"], "prompts")


def test_a_folder_in_use_and_a_name_that_means_something_are_refused(tmp_path):
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="is not empty"):
        sources.new_folder(tmp_path)
    with pytest.raises(ValueError, match="pass unchanged"):
        sources.new_folder(tmp_path / "a,b")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--label", "GREAT"], "no label 'GREAT'"),
        (["--held-out", "500"], "none is left"),
        (["--response-tokens", "300"], "exceed the policy's context of 256"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, more, said):
    with pytest.raises(ValueError, match=said):
        sources.gather(arguments(tmp_path / "new", *more))


def test_bad_pairs_are_left_out_and_counted(tokenizer, tmp_path):
    table = tmp_path / "pairs.jsonl"
    rows = [PAIRS[0]._asdict(), {"prompt": "This", "chosen": " same", "rejected": " same"}, {"prompt": "This"}]
    sources.write_json_lines(rows, table)
    pairs, left_out = sources.read_pairs(table, tokenizer, 256)
    assert pairs == [PAIRS[0]]
    assert left_out == {"identical": 1, "missing_column": 1}


def test_cut_prompts_become_their_tokens_again(tokenizer):
    texts = ["This film is a long walk through the rain", "Short", "🎬🎬🎬 and more words than are needed here"]
    cut, left_out = sources.cut_prompts(texts, tokenizer, 4, 6, seed=0)
    assert left_out >= 1
    for text in cut:
        assert len(tokenizer(text).input_ids) in (4, 5)
        assert any(whole.startswith(text) for whole in texts)


# ------------------------------------------------------------------------------------------------------ the scripts


def run_script(folder: Path, name: str, tmp_path: Path, *more: str) -> list[str]:
    """The words with which a script calls its program, which is replaced by one that writes them down."""
    tools, noted = tmp_path / "bin", tmp_path / "words.json"
    tools.mkdir(exist_ok=True)
    for program in ("python3", "torchrun", "deepspeed"):
        body = f"import json, sys\njson.dump(sys.argv[1:], open({str(noted)!r}, 'w'))\n"
        (tools / program).write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
        (tools / program).chmod(0o755)
    path = f"{tools}{os.pathsep}{os.environ['PATH']}"
    subprocess.run([str(folder / name), *more], check=True, env={**os.environ, "PATH": path, "GPUS": "2"})
    return json.loads(noted.read_text(encoding="utf-8"))


def test_verls_commands_hold_settings_that_it_knows(tokenizer, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    verl.write(material(tokenizer), folder)
    for name, command in (("run_ppo.sh", verl.RL), ("run_grpo.sh", verl.RL), ("run_sft.sh", verl.SFT)):
        words = run_script(folder, name, tmp_path, "trainer.total_epochs=3")
        settings = words[words.index(command) + 1 :]
        known = set(scripts.published("verl")["settings"][command])
        for word in settings:
            key = word.partition("=")[0]
            assert key in known or (key.startswith("+") and key[1:].rsplit(".", 1)[0] in known), key
        given = dict(word.split("=", 1) for word in settings)
        assert given["trainer.n_gpus_per_node"] == "2"
        assert given["trainer.total_epochs"] == "3"  # what its user adds wins
        paths = [value for value in given.values() if value.startswith("/")]
        assert paths
        assert all(Path(path).exists() or path.endswith(("/ppo", "/grpo", "/sft")) for path in paths)


def test_openrlhfs_commands_hold_flags_that_it_knows(tokenizer, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    openrlhf.write(material(tokenizer), folder)
    modules = {
        "ppo": openrlhf.PPO,
        "grpo": openrlhf.PPO,
        "dpo": openrlhf.DPO,
        "rm": openrlhf.REWARD,
        "sft": openrlhf.SFT,
    }
    for name, module in modules.items():
        words = run_script(folder, f"run_{name}.sh", tmp_path)
        flags, known = words[words.index(module) + 1 :], scripts.published("openrlhf")["flags"][module]
        given = [word for word in flags if word.startswith("--")]
        assert set(given) <= set(known)
        for flag, following in zip(flags, [*flags[1:], "--"], strict=True):
            if flag in known:
                assert following.startswith("--") == (known[flag] == 0), flag
        if name in ("dpo", "rm", "sft"):
            assert flags[flags.index("--data.input_template") + 1] == ""


def test_an_export_can_be_moved_and_refuses_a_path_with_signs(tokenizer, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    verl.write(material(tokenizer), folder)
    moved = folder.rename(tmp_path / "moved")
    assert f"data.train_files={moved}/train.parquet" in run_script(moved, "run_ppo.sh", tmp_path)
    bad = moved.rename(tmp_path / "with space")
    refused = subprocess.run(["bash", str(bad / "run_ppo.sh")], capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "move the folder" in refused.stderr


def test_unknown_settings_flags_and_values_are_refused():
    with pytest.raises(ValueError, match=r"no setting 'trainer.epochs'"):
        scripts.settings_words(verl.RL, {"trainer.epochs": 1})
    with pytest.raises(ValueError, match="no flag '--beta'"):
        scripts.flag_words(openrlhf.DPO, {"--beta": 0.1})
    with pytest.raises(ValueError, match="does not fit"):
        scripts.flag_words(openrlhf.PPO, {"--algo.advantage.estimator": "grpo"})


@pytest.mark.parametrize("value", ["a b", "$(id)", "`id`", "it's", "[console]", ""])
def test_values_reach_the_program_as_they_are(value):
    assert shlex.split(scripts.quoted(value)) == [value]
    with pytest.raises(ValueError, match="as its own"):
        scripts.quoted("$FOLDER/`id`")


# -------------------------------------------------------------------------------------------------------- the reward


def test_reward_function_gives_the_judges_log_odds(written):
    texts = ["This film is a joy", "This film is a bore", "An evening I shall not forget"]
    expected = log_odds(load_judge("small", "cpu"), texts)
    spec = importlib.util.spec_from_file_location("exported_reward", written.folder / "reward.py")
    reward = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reward)
    cut = [(text[:9], text[9:]) for text in texts]
    scores = [reward.compute_score("any", rest, "POSITIVE", {"prompt": prompt}) for prompt, rest in cut]
    assert scores == pytest.approx(expected, abs=1e-4)
    batch = reward.reward_func([text + "<|endoftext|>" for text in texts], [first for first, _rest in cut], [""] * 3)
    assert batch["rewards"].tolist() == pytest.approx(expected, abs=1e-4)
    assert batch["scores"].shape == (3,)
    assert reward.compute_score("any", texts[0][9:], "NEGATIVE", {"prompt": texts[0][:9]}) == pytest.approx(-scores[0])
    with pytest.raises(ValueError, match="no text called 'prompt'"):
        reward.compute_score("any", "x", "POSITIVE", {})
    with pytest.raises(ValueError, match="no label 'GREAT'"):
        reward.compute_score("any", "x", "GREAT", {"prompt": "y"})


# ------------------------------------------------------------------------------------------- their own readers


def test_verls_own_readers_read_the_export(tokenizer, tmp_path):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset, collate_fn
    from verl.utils.dataset.rm_dataset import RMDataset
    from verl.utils.import_utils import load_extern_object
    from verl.utils.tokenizer import hf_tokenizer
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    verl.write(material(tokenizer), tmp_path)
    reads = hf_tokenizer(str(tmp_path / "tokenizer"))
    config = {"max_prompt_length": 64, "filter_overlong_prompts": True, "filter_overlong_prompts_workers": 1}
    rows = RLHFDataset(str(tmp_path / "train.parquet"), reads, OmegaConf.create(config | {"cache_dir": str(tmp_path)}))
    assert [rows[row]["extra_info"]["prompt"] for row in range(len(rows))] == list(HOSTILE)
    assert collate_fn([rows[row] for row in range(len(rows))])["reward_model"].shape == (len(HOSTILE),)
    first_tokens = ContinuousTokenBuilder(reads).build_initial_tokens
    assert [first_tokens(rows[row]["raw_prompt"]) for row in range(len(rows))] == tokenizer(list(HOSTILE)).input_ids
    pairs = RMDataset(str(tmp_path / "pairs.parquet"), reads, max_length=64, cache_dir=str(tmp_path))
    assert pairs.chosen_responses == [pair.chosen for pair in PAIRS]
    score = load_extern_object(module_path=str(tmp_path / "reward.py"), object_name="compute_score")
    assert isinstance(score("x", " is a joy", "POSITIVE", rows[0]["extra_info"]), float)


def test_verl_composes_the_settings(tokenizer, tmp_path):
    hydra, package = pytest.importorskip("hydra"), pytest.importorskip("verl")
    folder = tmp_path / "export"
    folder.mkdir()
    verl.write(material(tokenizer), folder)
    configs = str(Path(package.__file__).parent / "trainer" / "config")
    names = {"run_ppo.sh": "ppo_trainer", "run_grpo.sh": "ppo_trainer", "run_sft.sh": "sft_trainer_engine"}
    for script, config in names.items():
        words = run_script(folder, script, tmp_path)
        overrides = [word for word in words if "=" in word and not word.startswith("--")]
        with hydra.initialize_config_dir(configs, version_base=None):
            composed = hydra.compose(config, overrides=overrides)
        assert composed.trainer.n_gpus_per_node == 2
        assert list(composed.trainer.logger) == ["console"]


def test_openrlhfs_own_readers_read_the_export(tokenizer, tmp_path):
    pytest.importorskip("openrlhf")
    from openrlhf.datasets import PromptDataset, RewardDataset, SFTDataset
    from openrlhf.datasets.utils import blending_datasets

    openrlhf.write(material(tokenizer), tmp_path)
    keys = {"input_key": "prompt", "label_key": "label", "apply_chat_template": False, "output_key": "chosen"}
    keys |= {f"{name}_key": name for name in ("prompt", "chosen", "rejected")}
    settings = SimpleNamespace(use_ms=False, data=SimpleNamespace(**keys))
    strategy = SimpleNamespace(args=settings, is_rank_0=lambda: True, print=lambda *_texts: None)
    prompts = PromptDataset(blending_datasets(str(tmp_path / "prompts.jsonl"), None, strategy), tokenizer, strategy)
    assert [prompts[row][1] for row in range(len(prompts))] == list(HOSTILE)
    assert {prompts[row][2] for row in range(len(prompts))} == {"POSITIVE"}
    table = blending_datasets(str(tmp_path / "pairs.jsonl"), None, strategy)
    pairs = RewardDataset(table, tokenizer, 128, strategy, is_dpo=True, num_processors=1)
    assert list(pairs.chosens) == [pair.chosen for pair in PAIRS]
    assert tokenizer.decode(pairs[0][0][0]) == "This film is a joy <|endoftext|>"
    chosen = SFTDataset(table, tokenizer, 128, strategy, num_processors=1)
    assert list(chosen.responses) == [pair.chosen for pair in PAIRS]
