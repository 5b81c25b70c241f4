"""What an older or a newer version kept, and what does not fit: a sentence; nothing is overwritten or half loaded."""

import json
import shutil

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from course_helpers.dpo.saving import load_adapter, save_adapter
from course_helpers.dpo.training import lora_config
from course_helpers.models import LoadError
from course_helpers.ppo import state
from course_helpers.progress import note_quiz, progress
from course_helpers.runs import settings
from course_helpers.runs.folder import RunFolder
from tests import dpo_runs
from tests import ppo_runs as runs

# ---------------------------------------------------------------------------------------------------------- PPO's state


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    run = runs.trainer()
    run.step(*runs.rollouts())
    path = tmp_path_factory.mktemp("state") / "state.safetensors"
    run.save_state(path)
    return path


def rewritten(saved, path, change):
    """A copy of a saved state whose metadata has been changed."""
    with safe_open(saved, framework="pt") as file:
        metadata, facts = file.metadata(), json.loads(file.metadata()["facts"])
    metadata["facts"] = facts
    change(metadata)
    facts = metadata.get("facts")
    metadata |= {"facts": facts if isinstance(facts, str) else json.dumps(facts)} if facts is not None else {}
    save_file(load_file(saved), path, metadata=metadata)
    return path


OTHER_VERSIONS = {
    "a newer format": (
        lambda m: m.update(format="course_helpers.ppo 2"),
        "was saved in format 2, and .* reads format 1",
    ),
    "an older format": (lambda m: m.update(format="course_helpers.ppo 0"), "go on with the version that saved it"),
    "no KL coefficient": (lambda m: m["facts"].pop("kl_coef"), "lacks kl_coef: take another copy"),
    "no random numbers": (lambda m: m["facts"].pop("random"), "lacks random"),
    "no facts": (lambda m: m.pop("facts"), "lacks .*stats_all"),
    "facts cut short": (lambda m: m.update(facts='{"kl_coef": 1'), "lacks"),
    "facts of another kind": (lambda m: m.update(facts="[1]"), "lacks"),
    "no format": (lambda m: m.pop("format"), "is not a trainer's state"),
}


@pytest.mark.parametrize("name", OTHER_VERSIONS)
def test_a_state_of_another_version_is_refused_and_nothing_changes(saved, tmp_path, name):
    change, words = OTHER_VERSIONS[name]
    path = rewritten(saved, tmp_path / "state.safetensors", change)
    data, run = path.read_bytes(), runs.trainer()
    before = runs.fingerprint(run)
    with pytest.raises(ValueError, match=words):
        run.load_state(path)
    runs.assert_same(before, runs.fingerprint(run))
    assert path.read_bytes() == data


def test_a_state_that_holds_more_is_read(saved, tmp_path):
    path = rewritten(saved, tmp_path / "state.safetensors", lambda m: m["facts"].update(mood="good"))
    run = runs.trainer()
    run.load_state(path)
    assert run.current_step == 1


def test_every_fact_that_is_written_is_asked_for(saved):
    with safe_open(saved, framework="pt") as file:
        assert set(json.loads(file.metadata()["facts"])) == state.FACTS


# ------------------------------------------------------------------------------------------------------- DPO's adapter


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    from peft import get_peft_model

    model, _ = dpo_runs.small_policy()
    return save_adapter(get_peft_model(model, lora_config(model, rank=2)), tmp_path_factory.mktemp("adapter"))


def in_settings(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({name: value for name, value in content.items() if value != "gone"}))

    return change


def cut(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


UNFIT = {
    "weights cut short": cut,
    "another rank": in_settings(r=3),
    "no base": in_settings(base_model_name_or_path="gone"),
    "a kind that peft does not know": in_settings(peft_type="LORA_OF_TOMORROW"),
    "settings that are none": lambda folder: (folder / "adapter_config.json").write_text("[]"),
    "settings cut short": lambda folder: (folder / "adapter_config.json").write_text('{"r": 2,'),
}


@pytest.mark.parametrize("name", UNFIT)
def test_an_adapter_that_does_not_fit_is_a_sentence(adapter, tmp_path, name):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    UNFIT[name](folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(LoadError, match=r"cannot be put on .*or save the adapter again\. Found: ") as caught:
        load_adapter(folder)
    assert "\n" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == kept


def test_an_adapter_of_a_newer_peft_with_more_settings_is_read(adapter, tmp_path):
    folder = tmp_path / "adapter"
    shutil.copytree(adapter, folder)
    in_settings(something_new=True)(folder)
    with pytest.warns(UserWarning, match="something_new"):
        assert load_adapter(folder).peft_config["default"].r == 2


# ------------------------------------------------------------------------------------------------------------- a run


def test_a_run_of_a_version_with_other_settings_is_refused_and_stays(tmp_path):
    dpo = settings.make("dpo")
    RunFolder(tmp_path / "run", "dpo", dpo)
    path = tmp_path / "run" / "config.yaml"
    for change in ("temperature_of_tomorrow: 3\n", ""):
        text = path.read_text()
        path.write_text(text + change if change else text.replace("beta: ", "beta_of_yesterday: "))
        kept = path.read_bytes()
        with pytest.raises(ValueError, match=r"holds a run with .*choose another folder, or delete this one"):
            RunFolder(tmp_path / "run", "dpo", dpo)
        assert path.read_bytes() == kept
        path.write_text(text)


@pytest.mark.parametrize("content", ["", "[1, 2]", "beta: [", "just words"])
def test_a_run_whose_settings_are_damaged_is_not_taken_for_a_new_one(tmp_path, content):
    dpo = settings.make("dpo")
    RunFolder(tmp_path / "run", "dpo", dpo)
    path = tmp_path / "run" / "config.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml.*(another folder|delete)"):
        RunFolder(tmp_path / "run", "dpo", dpo)
    assert path.read_text() == content


# ------------------------------------------------------------------------------------------------------- progress file


def test_a_progress_file_of_a_newer_version_keeps_what_is_not_understood(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = {
        "format": 9,
        "badges": ["first"],
        "exercises": {"1.1": {"solved": True, "tries": 2, "hints": 0, "at": "x"}},
    }
    (tmp_path / "my_progress.json").write_text(json.dumps(store))
    assert note_quiz("00", "q", right=True) == ""
    now = json.loads((tmp_path / "my_progress.json").read_text())
    assert now["badges"] == ["first"]
    assert now["exercises"] == store["exercises"]
    assert now["quizzes"]["00"] == {"q": True}
    assert "1 " in repr(progress())


def test_weights_are_whole_after_a_refusal():
    """`torch.equal` on what `fingerprint` compares: a guard that the comparison itself sees a change."""
    run = runs.trainer()
    before = runs.fingerprint(run)
    with torch.no_grad():
        next(run.model.parameters()).add_(1.0)
    with pytest.raises(AssertionError):
        runs.assert_same(before, runs.fingerprint(run))
