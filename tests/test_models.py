"""Loading by every kind of name, and what is said when that cannot work."""

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import pipeline

from course_helpers import assets, models
from course_helpers.prompts import LengthSampler, load_prompts


@pytest.fixture
def offline(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))


@pytest.fixture
def policy(small):
    return small


@pytest.fixture(scope="module")
def judge():
    return models.load_judge("small", device="cpu")


@pytest.fixture(scope="module")
def second():
    return models.load_judge("second", device="cpu")


def test_policy_is_a_gpt2_small_enough_to_ship(policy):
    model, tokenizer = policy
    assert type(model).__name__ == "GPT2LMHeadModel"
    assert model.config.n_layer >= 6
    assert model.config.n_embd >= 256
    assert model.config.n_positions >= 128
    assert len(tokenizer) == model.config.vocab_size
    assert (assets.HERE / "policy" / "model.safetensors").stat().st_size <= 20e6
    assert model.dtype == torch.float32
    assert not model.training


def test_tokenizer_gives_back_any_text(policy):
    text = 'Caffè — "naïve" 漢字 🎬\n<b>&</b>\ttab'
    tokenizer = policy[1]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_judge_is_a_distilbert_small_enough_to_ship(judge):
    assert type(judge.model).__name__ == "DistilBertForSequenceClassification"
    assert judge.model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
    assert (assets.HERE / "judge" / "model.safetensors").stat().st_size <= 10e6


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("A wonderful film, beautifully acted.", "A dreadful film, terribly acted."),
        ("I loved every minute of it", "I hated every minute of it"),
        ("The best comedy in years, and so funny!", "The worst comedy in years, boring and stupid."),
    ],
)
def test_judge_prefers_praise(judge, better, worse):
    good, bad = models.score(judge([better, worse], top_k=None))
    assert good > 0.5 > bad
    assert good - bad > 0.4


def test_judge_scores_do_not_depend_on_batching(judge):
    texts = ["A fine film.", "Dull, and far too long for what little it has to say.", "Ha!"]
    single = models.score([judge(text, top_k=None) for text in texts])
    batched = models.score(judge(texts, top_k=None, batch_size=3))
    assert single == pytest.approx(batched, abs=1e-5)


class TestSecondJudge:
    def test_is_of_another_shape_and_small_enough_to_ship(self, second):
        assert type(second.model).__name__ == "BertForSequenceClassification"
        assert second.model.config.label2id == {"NEGATIVE": 0, "POSITIVE": 1}
        assert sum(p.stat().st_size for p in (assets.HERE / "second_judge").iterdir()) <= 6e6
        assert second.model.dtype == torch.float32
        assert not second.model.training

    def test_loads_without_network_by_every_name(self, second, offline):
        text = ["A quiet, moving film."]
        expected = models.score(second(text, top_k=None))
        folder, local = models.locate("small", "second_judge")
        assert local
        assert folder == models.locate("second", "judge")[0] == models.locate("second", "second_judge")[0]
        assert models.score(models.load_judge(folder, device="cpu")(text, top_k=None)) == expected
        with pytest.raises(models.LoadError, match=r"distilbert/distilbert-base-uncased-finetuned-sst-2-english"):
            models.locate("full", "second_judge")

    def test_reads_through_a_vocabulary_of_its_own(self, second, judge):
        mine, other = second.tokenizer, judge.tokenizer
        assert mine("A FINE film").input_ids == mine("a fine film").input_ids
        assert other("A FINE film").input_ids != other("a fine film").input_ids
        assert mine("film").input_ids[0] == mine.cls_token_id != mine.pad_token_id
        assert len(mine) == second.model.config.vocab_size
        words = {word.removeprefix("Ġ").lower() for word in other.get_vocab()}
        assert len(words & {word.removeprefix("##") for word in mine.get_vocab()}) < 0.8 * len(mine)

    @pytest.mark.parametrize(
        ("better", "worse"),
        [
            ("A wonderful film, beautifully acted.", "A dreadful film, terribly acted."),
            ("I loved every minute of it", "What a waste of time, avoid it"),
            ("The best comedy in years, and so funny!", "The worst comedy in years, boring and stupid."),
        ],
    )
    def test_prefers_praise(self, second, better, worse):
        good, bad = models.score(second([better, worse], top_k=None))
        assert 1 > good > 0.5 > bad > 0
        assert good - bad > 0.4

    def test_scores_do_not_depend_on_batching(self, second):
        texts = ["A fine film.", "Dull, and far too long for what little it has to say.", "", "漢字 🎬", "good " * 5000]
        single = [models.log_odds(second, [text])[0] for text in texts]
        assert single == pytest.approx(models.log_odds(second, texts), abs=1e-4)

    def test_is_no_copy_of_the_judge_that_trains(self, second, judge):
        """Openings that nobody optimised: the two are of one opinion on the whole, and not word for word."""
        openings = [" ".join(prompt.split()[:16]) for prompt in load_prompts()]
        r = np.corrcoef(models.log_odds(second, openings), models.log_odds(judge, openings))[0, 1]
        assert 0.4 < r < 0.95

    def test_only_a_judge_has_a_second(self):
        with pytest.raises(ValueError, match="no second policy"):
            models.load_policy("second")


def test_judge_truncates_what_is_too_long(judge):
    assert 0 <= models.score(judge(["good " * 5000], top_k=None))[0] <= 1


def test_plain_transformers_calls_load_the_same_files(policy, judge):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(assets.HERE / "policy")
    ids = policy[1]("The film", return_tensors="pt").input_ids
    assert torch.equal(plain(ids).logits, policy[0](ids).logits)
    folder = str(assets.HERE / "judge")
    text = ["A quiet, moving film."]
    plain_judge = pipeline("text-classification", model=folder, tokenizer=folder, device="cpu")
    assert models.score(plain_judge(text, top_k=None)) == pytest.approx(models.score(judge(text, top_k=None)))


def test_reference_equals_policy_and_cannot_move(policy):
    reference = models.load_reference("small", device="cpu")
    ids = policy[1]("The film", return_tensors="pt").input_ids
    assert torch.equal(reference(ids).logits, policy[0](ids).logits)
    assert not any(p.requires_grad for p in reference.parameters())
    assert all(p.requires_grad for p in policy[0].parameters())


def test_score_goes_by_label_not_by_position():
    outputs = [
        [{"label": "POSITIVE", "score": 0.9}, {"label": "NEGATIVE", "score": 0.1}],
        [{"label": "NEGATIVE", "score": 0.8}, {"label": "POSITIVE", "score": 0.2}],
    ]
    assert models.score(outputs) == [0.9, 0.2]
    assert models.score(outputs, "NEGATIVE") == [0.1, 0.8]
    with pytest.raises(ValueError, match=r"output 0 has no label 'GOOD'.*NEGATIVE"):
        models.score(outputs, "GOOD")
    with pytest.raises(ValueError, match="top_k=None"):
        models.score([{"label": "POSITIVE", "score": 0.9}])


class TestFullScale:
    """The same calls on folders laid out as the Hub's repositories are."""

    def test_folder(self, policy, tmp_path):
        for role in ("policy", "judge"):
            shutil.copytree(assets.HERE / role, tmp_path / role)
        model, tokenizer = models.load_policy(tmp_path / "policy", device="cpu")
        ids = tokenizer("The film", return_tensors="pt").input_ids
        assert torch.equal(model(ids).logits, policy[0](ids).logits)
        assert models.score(models.load_judge(str(tmp_path / "judge"), device="cpu")(["Superb."], top_k=None))[0] > 0.5

    def test_hub_cache(self, monkeypatch, tmp_path, offline):
        repo = tmp_path / "models--lvwerra--gpt2-imdb"
        shutil.copytree(assets.HERE / "policy", repo / "snapshots" / "abc")
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_text("abc")
        model, _ = models.load_policy("full", device="cpu")
        assert model.config.n_layer == 6

    def test_tokenizer_without_padding_gets_one(self, tmp_path):
        shutil.copytree(assets.HERE / "policy", tmp_path / "policy")
        path = tmp_path / "policy" / "tokenizer_config.json"
        config = json.loads(path.read_text())
        del config["pad_token"]
        path.write_text(json.dumps(config))
        assert models.load_policy(tmp_path / "policy", device="cpu")[1].pad_token == "<|endoftext|>"

    def test_pickled_weights_are_not_read(self, tmp_path):
        shutil.copytree(assets.HERE / "policy", tmp_path / "policy")
        (tmp_path / "policy" / "model.safetensors").unlink()
        (tmp_path / "policy" / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch owned'\ntR.")
        with pytest.raises(models.LoadError, match="safetensors"):
            models.load_policy(tmp_path / "policy")

    def test_reviews(self, tmp_path):
        from datasets import Dataset

        texts = ["short", "a" * 300, "b<br />" * 150]
        (tmp_path / "plain_text").mkdir()
        Dataset.from_dict({"text": texts, "label": [0, 1, 1]}).to_parquet(
            tmp_path / "plain_text" / "train-00000.parquet"
        )
        assert sorted(load_prompts(tmp_path)) == sorted(["a" * 300, "b\n" * 150])
        Dataset.from_dict({"review": texts}).to_parquet(tmp_path / "plain_text" / "train-00000.parquet")
        with pytest.raises(ValueError, match=r"\['review'\].*'text'"):
            load_prompts(tmp_path)


@pytest.mark.parametrize("load", [models.load_policy, models.load_reference, models.load_judge, load_prompts])
class TestBadNames:
    def test_no_network_is_one_sentence(self, load, offline):
        with pytest.raises(models.LoadError, match=r"cannot be reached.*go online once.*'small'") as error:
            load("full")
        assert error.value.__suppress_context__
        assert str(error.value).count("\n") == 0

    def test_no_such_folder(self, load):
        with pytest.raises(FileNotFoundError, match=r"there is no folder '\./nowhere'"):
            load("./nowhere")

    def test_impossible_hub_id(self, load):
        with pytest.raises(models.LoadError, match="check its spelling"):
            load("two words")


class TestAssets:
    @pytest.fixture
    def copy(self, tmp_path, monkeypatch):
        shutil.copytree(assets.HERE, tmp_path / "assets")
        monkeypatch.setattr(assets, "HERE", tmp_path / "assets")
        monkeypatch.setattr(assets, "MANIFEST", tmp_path / "assets" / "manifest.json")
        return tmp_path / "assets"

    def test_manifest_lists_everything_shipped(self):
        listed = set(json.loads(assets.MANIFEST.read_text())["files"])
        shipped = {
            p.relative_to(assets.HERE).as_posix()
            for p in assets.HERE.rglob("*")
            if p.is_file() and p.suffix not in {".py", ".pyc"} and p != assets.MANIFEST
        }
        assert listed == shipped
        for name in {path.split("/")[0] for path in listed}:
            assert assets.asset(name).exists()

    def test_missing(self, copy):
        (copy / "policy" / "model.safetensors").unlink()
        with pytest.raises(assets.AssetError, match=r"policy.model\.safetensors is missing.*git checkout"):
            models.load_policy()

    def test_cut_short(self, copy):
        path = copy / "judge" / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        with pytest.raises(assets.AssetError, match=r"model\.safetensors is damaged: it has .* bytes instead of"):
            models.load_judge()

    def test_one_byte_changed(self, copy):
        path = copy / "prompts.json"
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(bytes(data))
        with pytest.raises(assets.AssetError, match=r"prompts\.json is damaged: its SHA-256"):
            load_prompts()

    def test_unknown(self):
        with pytest.raises(KeyError, match="there is"):
            assets.asset("poetry")


class TestPrompts:
    def test_several_hundred_all_different(self, policy):
        prompts = load_prompts()
        assert len(prompts) >= 300
        assert len({tuple(p.split()[:4]) for p in prompts}) == len(prompts)
        lengths = [len(policy[1](p).input_ids) for p in prompts]
        assert min(lengths) >= 8

    def test_length_sampler_leaves_out_the_end(self):
        import numpy as np

        draw = LengthSampler(2, 5, np.random.default_rng(0))
        counts = np.bincount([draw() for _ in range(3000)], minlength=6)
        assert counts[[0, 1, 5]].sum() == 0
        assert abs(counts[2:5] - 1000).max() < 4 * np.sqrt(3000 * 2 / 9)

    @pytest.mark.parametrize("bounds", [(0, 3), (3, 3), (5, 2)])
    def test_length_sampler_refuses(self, bounds):
        with pytest.raises(ValueError, match="0 < low < high"):
            LengthSampler(*bounds)
