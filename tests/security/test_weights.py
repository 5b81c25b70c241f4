"""Weights and checkpoints from somebody else: read as numbers, and refused in a sentence if they hold code."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from course_helpers import assets, models
from course_helpers.dpo.saving import load_adapter
from course_helpers.ppo import AutoModelForCausalLMWithValueHead, state
from course_helpers.runs import callbacks
from course_helpers.runs.run import run
from course_helpers.runs.settings import make
from course_helpers.time_travel import Journey, pack

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("one_thread")]
CODE = {
    "AutoConfig": "evil.Config",
    "AutoModel": "evil.Model",
    "AutoModelForCausalLM": "evil.Model",
    "AutoModelForSequenceClassification": "evil.Model",
    "AutoTokenizer": ["evil.Tokenizer", None],
}
LOADERS: dict[str, Callable] = {
    "load_policy": lambda folder: models.load_policy(folder, "cpu"),
    "load_reference": lambda folder: models.load_reference(folder, "cpu"),
    "load_judge": lambda folder: models.load_judge(folder, "cpu"),
    "a value head": AutoModelForCausalLMWithValueHead.from_pretrained,
}


class Bomb:
    """An object whose unpickling makes a folder."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple:
        import os

        return os.mkdir, (str(self.place),)


@pytest.fixture
def hit(tmp_path, monkeypatch):
    """Where a bomb leaves its mark; nobody is asked anything, and afterwards there is no mark."""

    def asked(*words: object) -> str:
        raise AssertionError(f"the learner was asked: {words}")

    monkeypatch.setattr("builtins.input", asked)
    place = tmp_path / "hit"
    yield place
    assert not place.exists()


def bombs(place: Path) -> dict[str, Callable[[Path], None]]:
    """Ways to write a bomb to a path."""
    return {
        "plain pickle": lambda path: path.write_bytes(pickle.dumps(Bomb(place))),
        "torch's zip": lambda path: torch.save({"weight": Bomb(place)}, path),
        "torch's old form": lambda path: torch.save([Bomb(place)], path, _use_new_zipfile_serialization=False),
    }


KINDS = tuple(bombs(Path()))


def model_folder(place: Path, code: bool = False, **config: object) -> Path:
    """A copy of a shipped model, its config changed; with code of its own beside it."""
    shutil.copytree(assets.HERE / "policy", place)
    path = place / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))
    if code:
        words = f"import os\nos.mkdir({str(place.parent / 'hit')!r})\nclass Config: pass\n"
        (place / "evil.py").write_text(words + "class Model: pass\nclass Tokenizer: pass\n")
    return place


# -------------------------------------------------------------------------------------------------------------- weights


def test_the_bombs_work(tmp_path):
    """What is refused below would run with a careless reader."""
    for number, (name, write) in enumerate(bombs(tmp_path / "hit").items()):
        write(tmp_path / f"{number}.bin")
        if name == "plain pickle":
            pickle.loads((tmp_path / f"{number}.bin").read_bytes())
        else:
            torch.load(tmp_path / f"{number}.bin", weights_only=False)
        (tmp_path / "hit").rmdir()


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("kind", KINDS)
def test_pickled_weights_are_not_read(loader, kind, tmp_path, hit):
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    bombs(hit)[kind](folder / "pytorch_model.bin")
    with pytest.raises((models.LoadError, OSError), match="safetensors"):
        LOADERS[loader](folder)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pickle_that_calls_itself_safetensors_is_refused(kind, tmp_path, hit):
    folder = model_folder(tmp_path / "model")
    bombs(hit)[kind](folder / "model.safetensors")
    for load in LOADERS.values():
        with pytest.raises(Exception, match=r"(?i)header|safetensors|cannot be loaded"):
            load(folder)


@pytest.mark.parametrize("loader", LOADERS)
def test_code_beside_a_model_is_not_run_and_nobody_is_asked(loader, tmp_path, hit):
    """An architecture that transformers does not know could only be loaded by the folder's own code."""
    folder = model_folder(tmp_path / "model", code=True, auto_map=CODE, model_type="evil", architectures=["Evil"])
    with pytest.raises(models.LoadError, match=r"asks for code of its own .* is never run here: choose a model"):
        LOADERS[loader](folder)


def test_of_a_known_architecture_the_code_beside_it_is_passed_over(tmp_path, hit):
    folder = model_folder(tmp_path / "model", code=True, auto_map=CODE)
    settings = folder / "tokenizer_config.json"
    told = {"auto_map": {"AutoTokenizer": ["evil.Tokenizer", None]}, "tokenizer_class": "EvilTokenizer"}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | told))
    model, tokenizer = models.load_policy(folder, "cpu")
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert type(model).__module__.startswith("transformers.")
    assert type(tokenizer).__module__.startswith("transformers.")


# ------------------------------------------------------------------------------------------------------------- adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter as PEFT writes one, on the small policy."""
    from peft import LoraConfig, get_peft_model

    from course_helpers.dpo.saving import save_adapter

    model, _tokenizer = models.load_policy("small", "cpu")
    lora = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    return save_adapter(get_peft_model(model, lora), tmp_path_factory.mktemp("adapter") / "a")


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_that_is_a_pickle_is_not_read(kind, adapter, tmp_path, hit):
    folder = shutil.copytree(adapter, tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    bombs(hit)[kind](folder / "adapter_model.bin")
    for load in (load_adapter, AutoModelForCausalLMWithValueHead.from_pretrained):
        with pytest.raises((OSError, ValueError, models.LoadError), match=r"safetensors|adapter_model"):
            load(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_an_old_value_head_is_read_as_tensors_alone(kind, adapter, tmp_path, hit):
    """TRL 0.11.4 kept it in a pickle, the only one that is opened; see `read_value_head`."""
    folder = shutil.copytree(adapter, tmp_path / "a")
    bombs(hit)[kind](folder / "pytorch_model.bin")
    with pytest.raises(models.LoadError, match=r"holds more than tensors, or is damaged; .* ran no code of it"):
        AutoModelForCausalLMWithValueHead.from_pretrained(folder)


# ---------------------------------------------------------------------------------------------------- states, journeys


@pytest.mark.parametrize("kind", KINDS)
def test_states_and_journeys_that_are_pickles_are_refused(kind, tmp_path, hit):
    path = tmp_path / "file.safetensors"
    bombs(hit)[kind](path)
    with pytest.raises(ValueError, match="is damaged or no saved state"):
        state.read(path)
    with pytest.raises(ValueError, match="is no journey, or a damaged one"):
        Journey.load(path)


def test_a_header_that_promises_more_than_the_file_holds_costs_no_memory(tmp_path):
    """safetensors holds sizes against the file before it takes any memory; so there is nothing to unpack."""
    told = {"x": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    header = json.dumps(told | {"__metadata__": {"format": state.FORMAT, "journey": "{}"}}).encode()
    path = tmp_path / "file.safetensors"
    for length in (len(header), 2**62):
        path.write_bytes(length.to_bytes(8, "little") + header)
        for read in (state.read, Journey.load):
            with pytest.raises(ValueError, match="damaged"):
                read(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a/../../b", "C:\\x", "", "\x00", "~/x"])
def test_a_journeys_name_leads_nowhere_else(name):
    with pytest.raises((FileNotFoundError, ValueError)):
        Journey.load(name)


def test_a_step_in_a_record_cannot_lead_out_of_the_run(tmp_path, hit):
    run = tmp_path / "run"
    run.mkdir()
    record = {"method": "dpo", "setting": "x", "seed": 0, "steps": [{"step": "/../../hit"}, {"step": 1}]}
    (run / "journey.json").write_text(json.dumps(record))
    with pytest.raises((ValueError, FileNotFoundError)):
        pack(run, tmp_path / "out.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


# ------------------------------------------------------------------------------------------------ a run that is gone on


LITTLE = {
    "openings": 4, "max_new_tokens": 3, "second_judge": None, "evaluation_prompts": 2, "evaluation_count": 1,
    "sample_every": 0, "lora_rank": 2, "batch_size": 4, "pair_draws": 1, "save_every": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """The folder of a run that was stopped after its first checkpoint, and how to go on with it."""
    settings, folder = make("dpo", None, LITTLE), tmp_path_factory.mktemp("run") / "stopped"
    saved = callbacks.Notes.on_save

    def stop(*words: object, **options: object) -> None:
        saved(*words, **options)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(callbacks.Notes, "on_save", stop)
        with pytest.raises(KeyboardInterrupt):
            run("dpo", settings, folder, quiet=True)
    return folder, lambda place: run("dpo", settings, place, quiet=True)


@pytest.mark.parametrize(
    ("name", "kind"),
    [*zip(("optimizer.pt", "scheduler.pt", "rng_state.pth"), KINDS, strict=True), ("adapter_model.bin", KINDS[1])],
)
def test_a_checkpoint_of_somebody_elses_cannot_run_code(name, kind, stopped, tmp_path, hit):
    folder, go_on = stopped
    place = shutil.copytree(folder, tmp_path / "run")
    checkpoint = place / "checkpoint" / "checkpoint-1"
    if name == "adapter_model.bin":
        (checkpoint / "adapter_model.safetensors").unlink()
    else:
        assert (checkpoint / name).is_file()
    bombs(hit)[kind](checkpoint / name)
    with pytest.raises(ValueError, match=r"checkpoint-1 holds more than tensors and numbers, .* no code in it was run"):
        go_on(place)
    assert checkpoint.is_dir()  # whose it is may be asked


def test_nothing_reads_the_pickled_arguments_of_a_checkpoint(stopped, tmp_path, hit):
    """transformers writes training_args.bin beside a model; going on needs nothing of it."""
    folder, go_on = stopped
    place = shutil.copytree(folder, tmp_path / "run")
    bombs(hit)["torch's zip"](place / "checkpoint" / "checkpoint-1" / "training_args.bin")
    assert len(go_on(place)) == 1
    steps = [json.loads(line)["step"] for line in (place / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 1


def test_data_come_without_scripts(tmp_path, hit):
    """datasets has run no scripts since version 4; of a folder only parquet files are read."""
    from course_helpers.prompts import load_prompts

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "data.py").write_text(f"import os\nos.mkdir({str(hit)!r})\n")
    with pytest.raises(FileNotFoundError, match=r"holds no train\*\.parquet file"):
        load_prompts(tmp_path / "data")
    (tmp_path / "data" / "train.parquet").write_bytes(pickle.dumps(Bomb(hit)))
    with pytest.raises(Exception, match=r"(?i)parquet|dataset"):
        load_prompts(tmp_path / "data")
