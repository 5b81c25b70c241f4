"""Hostile places for what a learner does: a disk that is full, a folder that is read-only, a Hub that says no."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMIT = "0123456789abcdef0123456789abcdef01234567"
PROXIES = {"http_proxy", "https_proxy", "all_proxy", "no_proxy", "hf_endpoint", "hf_home", "hf_token", "hf_hub_cache"}


# ----------------------------------------------------------------------------------------------------------- processes


def environment(**changes: str | None) -> dict[str, str]:
    """A learner's environment: one thread, the CPU, English, the package from here, no proxy; None takes away."""
    names = {"OMP_NUM_THREADS": "1", "COURSE_DEVICE": "cpu", "COURSE_LANGUAGE": "en", "CUDA_VISIBLE_DEVICES": ""}
    names |= {"PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": None} | changes
    kept = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES and name not in names}
    return kept | {name: value for name, value in names.items() if value is not None}


def python(
    code: str,
    folder: Path,
    *arguments: object,
    before: tuple[str, ...] = (),
    seconds: float = 150,
    **changes: str | None,
) -> subprocess.CompletedProcess:
    """Run Python code in a process of its own.

    Args:
        code: that is run; what it prints comes back.
        folder: its current folder.
        arguments: of the process.
        before: command that starts it, such as `unshare`.
        seconds: after which it is killed.
        changes: of the environment.
    """
    words = [*before, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(
        words, cwd=folder, env=environment(**changes), capture_output=True, text=True, timeout=seconds, check=False
    )


def answers(done: subprocess.CompletedProcess) -> dict:
    """What such a process prints last, as JSON."""
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


# ------------------------------------------------------------------------------------------- disks, folders, network


@cache
def own_mounts() -> tuple[str, ...]:
    """The command that starts a process with mounts of its own; empty where the machine does not allow it."""
    for words in (("unshare", "-m"), ("unshare", "-r", "-m")):
        if shutil.which("unshare"):
            script = 'mount -t tmpfs -o size=1m none "$1"'
            tried = subprocess.run([*words, "sh", "-c", script, "sh", ROOT / "tests"], capture_output=True, check=False)
            if tried.returncode == 0:
                return words
    return ()


def on_a_small_disk(folder: Path, kilobytes: int) -> tuple[str, ...]:
    """The start of a command for which `folder` is a disk of its own, of so many kilobytes."""
    script = f'mount -t tmpfs -o size={kilobytes}k none "$1" && shift && cd "$1" && shift && exec "$@"'
    return (*own_mounts(), "sh", "-c", script, "sh", str(folder), str(folder))


def on_read_only(folder: Path) -> tuple[str, ...]:
    """The start of a command for which `folder` and all below it cannot be written to."""
    script = 'mount --bind "$1" "$1" && mount -o remount,ro,bind "$1" && cd "$1" && shift && exec "$@"'
    return (*own_mounts(), "sh", "-c", script, "sh", str(folder))


# Put before other code: every attempt to reach more than this machine is noted in `tried` and refused.
NO_NETWORK = """
import socket
tried = []
def refuse(self, address):
    tried.append(str(address))
    raise ConnectionRefusedError(111, "Connection refused")
def no_names(*names, **others):
    tried.append(str(names))
    raise socket.gaierror(-3, "Temporary failure in name resolution")
real_connect = socket.socket.connect
def connect(self, address):
    local = not isinstance(address, tuple) or address[0] in ("127.0.0.1", "::1", "localhost")
    return real_connect(self, address) if local else refuse(self, address)
socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo = connect, refuse, no_names
"""


# ----------------------------------------------------------------------------------------------------------------- Hub


class Hub:
    """What a Hub on this machine holds and how it answers.

    Attributes:
        files: of each repository, by its id: name → bytes.
        status: of a repository, by its id: the HTTP status that everything in it has, if not 200.
        gated: repositories whose description is public and whose files are not.
        cut: files whose download breaks off in the middle, as often as it says here.
        asked: every request, in order.
    """

    def __init__(self) -> None:
        """Empty."""
        self.files: dict[str, dict[str, bytes]] = {}
        self.status: dict[str, int] = {}
        self.gated: set[str] = set()
        self.cut: dict[str, int] = {}
        self.asked: list[str] = []


@contextmanager
def hub() -> Iterator[tuple[Hub, str]]:
    """A Hub on this machine, and its address."""
    state = Hub()

    class Answer(BaseHTTPRequestHandler):
        def log_message(self, *words: object) -> None:
            """Nothing on the screen."""

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.asked.append(f"{self.command} {self.path}")
            parts = self.path.split("?")[0].strip("/").split("/")
            if parts[0] == "api":
                return self.describe("/".join(parts[2:4]), parts[4:], body)
            repo, name = "/".join(parts[:2]), "/".join(parts[4:])
            if self.refused(repo):
                return None
            if repo in state.gated:
                return self.send(403, b"{}", body, {"X-Error-Code": "GatedRepo"})
            if name not in state.files[repo]:
                return self.send(404, b"{}", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
            return self.send_file(name, state.files[repo][name], body)

        def refused(self, repo: str) -> bool:
            status = state.status.get(repo, 200 if repo in state.files else 404)
            if status != 200:
                headers = {"X-Error-Code": "RepoNotFound"} if status == 404 else {}
                self.send(status, b'{"error": "no"}', True, headers)
            return status != 200

        def describe(self, repo: str, rest: list[str], body: bool) -> None:
            if self.refused(repo):
                return
            names = state.files[repo]
            if rest[:1] == ["tree"]:
                found = [{"type": "file", "path": n, "size": len(names[n]), "oid": digest(names[n])} for n in names]
                found = found if len(rest) < 3 else [each for each in found if each["path"].startswith(rest[2])]
                self.send(200, json.dumps(found).encode(), body)
            else:
                siblings = [{"rfilename": name} for name in names]
                facts = {"id": repo, "sha": COMMIT, "siblings": siblings, "private": False, "tags": []}
                self.send(200, json.dumps(facts).encode(), body)

        def send_file(self, name: str, content: bytes, body: bool) -> None:
            first = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            part = content[first:]
            self.send_response(206 if first else 200)
            headers = {"ETag": f'"{digest(content)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if first:
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            for key, value in (headers | {"Content-Length": str(len(part))}).items():
                self.send_header(key, value)
            self.end_headers()
            if body and state.cut.get(name, 0):
                state.cut[name] -= 1
                self.wfile.write(part[: len(part) // 2])
                self.wfile.flush()
                self.connection.close()
            elif body:
                self.wfile.write(part)

        def send(self, status: int, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
                self.send_header(key, value)
            self.end_headers()
            if body and self.command != "HEAD":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def digest(content: bytes) -> str:
    """What stands for a file's content."""
    return hashlib.sha256(content).hexdigest()
