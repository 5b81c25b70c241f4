"""What no file of the project may hold: pickles that are read, code from elsewhere, keys, calls home, an open door."""

from __future__ import annotations

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("course_helpers", "tools", "benchmarks", "notebooks")
FORBIDDEN_CALLS = {
    "eval": "runs a text as code",
    "exec": "runs a text as code",
    "compile": "makes code of a text",
    "__import__": "loads code by a name",
    "pickle.load": "runs code of a file",
    "pickle.loads": "runs code of a text",
    "dill.load": "runs code of a file",
    "cloudpickle.load": "runs code of a file",
    "joblib.load": "runs code of a file",
    "shelve.open": "reads pickles",
    "marshal.loads": "makes code of bytes",
    "pandas.read_pickle": "runs code of a file",
    "yaml.load": "builds objects of any class",
    "yaml.load_all": "builds objects of any class",
    "yaml.unsafe_load": "builds objects of any class",
    "yaml.full_load": "builds objects of many classes",
    "os.system": "hands a text to a shell",
    "os.popen": "hands a text to a shell",
    "subprocess.getoutput": "hands a text to a shell",
    "tempfile.mktemp": "leaves others time to put a file there",
    "shutil.unpack_archive": "writes wherever an archive says",
    "torch.hub.load": "runs code from the net",
    "webbrowser.open": "leaves the machine",
}
FORBIDDEN_OPTIONS = {
    "trust_remote_code": True,
    "shell": True,
    "verify": False,
    "allow_pickle": True,
    "weights_only": False,
    "use_safetensors": False,
    "push_to_hub": True,
    "follow_redirects": True,
    "description_allow_html": True,
    "tooltip_allow_html": True,
}
# Each of these is allowed in one place, for a reason that stands there.
ALLOWED = {
    ("tools/ppo_golden/double.py", "compile"),  # TRL 0.11.4's own installed source, in float64, to record its numbers
}
ENDPOINT = "course_helpers/teacher/endpoint.py"
NETWORK = {"requests", "urllib3", "urllib.request", "http.client", "httpx", "aiohttp", "socket", "ftplib", "smtplib",
           "telnetlib", "websocket", "websockets", "xmlrpc"}  # fmt: skip
TRACKERS = {"wandb", "trackio", "comet_ml", "mlflow", "neptune", "tensorboard", "tensorboardX", "sentry_sdk", "posthog",
            "clearml", "dvclive", "swanlab", "codecarbon"}  # fmt: skip


@cache
def sources() -> dict[str, ast.Module]:
    """Every Python file and the code of every notebook, by path."""
    found = {}
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if ".ipynb_checkpoints" in path.parts:
                continue
            if path.suffix == ".py":
                found[path.relative_to(ROOT).as_posix()] = ast.parse(path.read_text(encoding="utf-8"))
            elif path.suffix == ".ipynb":
                cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
                code = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
                found[path.relative_to(ROOT).as_posix()] = ast.parse(re.sub(r"(?m)^\s*[%!].*$", "pass", code))
    return found


@cache
def calls() -> tuple[tuple[str, str, ast.Call], ...]:
    """File, dotted name and node of every call."""
    return tuple(call for path, tree in sources().items() for call in calls_of(path, tree))


def calls_of(path: str, tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Those of one file."""
    aliases = imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            head, _dot, rest = ast.unparse(node.func).partition(".")
            yield path, ".".join(filter(None, (aliases.get(head, head), rest))), node


@cache
def imported(tree: ast.Module) -> dict[str, str]:
    """The full name of every name that is imported."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {a.asname: a.name for a in node.names if a.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


@cache
def modules(tree: ast.Module) -> set[str]:
    """Names of all modules that are imported, anywhere in a file."""
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return found | {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}


def option(call: ast.Call, name: str) -> object:
    """The constant a keyword has; None if it has none or is not there."""
    for keyword in call.keywords:
        if keyword.arg == name and isinstance(keyword.value, ast.Constant):
            return keyword.value.value
    return None


def test_there_is_something_to_look_at():
    assert len(sources()) > 150
    assert {path.split("/")[0] for path in sources()} == set(FOLDERS)
    assert "course_helpers/models.py" in sources()
    assert sum(path.endswith(".ipynb") for path in sources()) >= 8


def test_no_call_runs_what_a_file_or_a_text_says():
    found = [
        f"{path}:{node.lineno}: {name} {FORBIDDEN_CALLS[name]}"
        for path, name, node in calls()
        if name in FORBIDDEN_CALLS and (path, name) not in ALLOWED
    ]
    assert found == []


def test_no_option_opens_a_door():
    odd = []
    for path, name, node in calls():
        for keyword in node.keywords:
            value = keyword.value.value if isinstance(keyword.value, ast.Constant) else None
            if keyword.arg in FORBIDDEN_OPTIONS and value is FORBIDDEN_OPTIONS[keyword.arg]:
                odd.append(f"{path}:{node.lineno}: {name}({keyword.arg}={value})")
    assert odd == []


def test_torch_load_reads_weights_only_and_archives_are_filtered():
    for path, name, node in calls():
        if name in ("torch.load", "torch.jit.load"):
            assert option(node, "weights_only") is True, f"{path}:{node.lineno}"
        if name.endswith((".extractall", ".extract")):
            assert option(node, "filter") == "data", f"{path}:{node.lineno}: {name}"


def test_pickle_is_imported_for_the_name_of_its_error_alone():
    for path, tree in sources().items():
        assert not modules(tree) & {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"} or (
            path in ("course_helpers/runs/callbacks.py", "course_helpers/ppo/value_head.py")
            and [v for v in imported(tree).values() if v.startswith("pickle")] == ["pickle.UnpicklingError"]
        ), path


@pytest.mark.parametrize("folder", ["course_helpers", "tools/exports"])
def test_models_are_loaded_without_code_of_their_own(folder):
    """Left open, transformers asks the learner whether to run it; so every call says that it is not to be run."""
    for path, name, node in calls():
        if not path.startswith(folder) or not name.startswith(("transformers.", "loader.")):
            continue
        if name.endswith(".from_pretrained"):
            said = option(node, "trust_remote_code") is False or any(k.arg is None for k in node.keywords)
            assert said, f"{path}:{node.lineno}: {name}"
        if name.startswith("transformers.AutoModel") and name.endswith(".from_pretrained"):
            said = option(node, "use_safetensors") is True or any(k.arg is None for k in node.keywords)
            assert said, f"{path}:{node.lineno}: {name}"


def test_only_the_endpoint_speaks_to_the_network():
    """And what fetches models: huggingface_hub, transformers and datasets, through `course_helpers.models`."""
    for path, tree in sources().items():
        used = {name for name in modules(tree) if any(name == n or name.startswith(f"{n}.") for n in NETWORK)}
        assert not used or path == ENDPOINT, f"{path} imports {sorted(used)}"
        hub = {name for name in modules(tree) if name.startswith("huggingface_hub")}
        assert not hub or path in ("course_helpers/models.py", "tools/exports/sources.py"), f"{path} imports {hub}"


def test_nothing_reports_home():
    for path, tree in sources().items():
        trackers = {name.split(".")[0] for name in modules(tree)} & TRACKERS
        # The classic trainer has TRL 0.11.4's option log_with="wandb"; a learner who writes it wants it.
        assert trackers <= ({"wandb"} if path == "course_helpers/ppo/trainer.py" else set()), path
    for path, name, node in calls():
        reports = option(node, "report_to")
        assert reports in (None, "none"), f"{path}:{node.lineno}: {name}"
    from trl import DPOConfig, GRPOConfig, RewardConfig, SFTConfig

    from course_helpers.dpo import training
    from course_helpers.ppo import PPOConfig

    assert PPOConfig().log_with is None
    text = ast.unparse(sources()["course_helpers/dpo/training.py"])
    assert "'report_to': 'none'" in text  # of machine_settings, which every set-up of TRL takes
    assert hasattr(training, "machine_settings")
    for kind in (DPOConfig, GRPOConfig, RewardConfig, SFTConfig):
        for path, name, node in calls():
            if name.endswith(kind.__name__):
                assert any(k.arg is None for k in node.keywords) or option(node, "report_to") == "none", path


def test_make_says_no_to_telemetry():
    assert "export HF_HUB_DISABLE_TELEMETRY := 1" in (ROOT / "Makefile").read_text()


# ------------------------------------------------------------------------------------------------- keys and addresses

SECRETS = {
    "a key of the Hub": r"\bhf_[A-Za-z0-9]{30,}\b",
    "a key of an API": r"\bsk-[A-Za-z0-9_-]{20,}\b",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{30,}\b|\bgithub_pat_[A-Za-z0-9_]{30,}\b",
    "a key of AWS": r"\bAKIA[0-9A-Z]{16}\b",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a key of Google": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "a token of Slack": r"\bxox[abprs]-[0-9A-Za-z-]{10,}\b",
    "a password in an address": r"https?://[^\s/:@'\"{}<>]+:[^\s/@'\"{}<>]+@(?!127\.0\.0\.1|localhost|example|api\.example)",
    "an address of a person": r"\b[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+\.(?:com|org|net|br|de|io|edu|gov)\b",
    "a path of somebody's machine": r"(?<![\w.])/(?:home|Users)/[a-z][a-z0-9_-]+/",
}
TEXT = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".json", ".jsonl", ".csv", ".ipynb", ".cfg", ".po", ".sh", ""}


def tracked() -> list[Path]:
    """The files git knows; where there is no git, those of the project's own folders."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return [ROOT / name for name in done.stdout.split("\0") if name]
    own = ("course_helpers", "tools", "benchmarks", "notebooks", "tests", "configs", "docs", ".github")
    return [path for folder in own for path in (ROOT / folder).rglob("*") if path.is_file()]


def test_no_file_holds_a_key_or_an_address():
    patterns = {what: re.compile(pattern) for what, pattern in SECRETS.items()}
    found, looked_at = [], 0
    for path in tracked():
        if path.suffix not in TEXT or not path.is_file() or path.stat().st_size > 5_000_000:
            continue
        text = re.sub(r'"image/png": "[^"]*"', "", path.read_text(encoding="utf-8", errors="replace"))
        looked_at += 1
        for what, pattern in patterns.items():
            for hit in pattern.finditer(text):
                if not re.search(r"example\.(?:com|org|net)|invalid|secret", hit[0]):
                    found.append(f"{path.relative_to(ROOT)}: {what}: {hit[0][:12]}…")
    assert looked_at > 200
    assert found == []


# ------------------------------------------------------------------------------------------------------------ the lab


def lab_command(**variables: str) -> str:
    """What `make lab` would run, without running it."""
    given = [f"{name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        ["make", "-n", "-B", "lab", *given], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    return next(line for line in done.stdout.replace("\\\n", " ").splitlines() if "jupyter lab" in line)


def test_the_lab_listens_on_this_machine_alone_and_keeps_its_token():
    command = lab_command()
    assert "--ServerApp.ip=127.0.0.1" in command
    for door in ("token", "password", "allow_origin", "allow-origin", "disable_check_xsrf", "allow_remote_access",
                 "0.0.0.0", "ip='*'", "allow_unauthenticated", "collaborative", "certfile"):  # fmt: skip
        assert door not in command, door


def test_the_lab_does_not_look_for_news_or_updates():
    command = lab_command()
    assert "--LabApp.news_url=None" in command
    assert "NeverCheckForUpdate" in command


def test_workflows_may_only_read():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        flow = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert flow["permissions"] == {"contents": "read"}, path.name
        text = path.read_text(encoding="utf-8")
        assert "pull_request_target" not in text
        assert not re.search(r"\$\{\{\s*github\.event\.", text)  # a title of somebody's would become code
