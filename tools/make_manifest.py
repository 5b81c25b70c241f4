"""Lists every file that is shipped in `course_helpers/assets` with its size and SHA-256.

python tools/make_manifest.py

To be run after one of them has changed; `make texts` does it for texts, `tools/train_small_models.py` for models.
"""

from __future__ import annotations

import json
from pathlib import Path

from course_helpers.assets import MANIFEST, sha256

PROVENANCE = {
    "policy": "trained from random weights on stanfordnlp/imdb (Maas et al., 2011) by tools/train_small_models.py",
    "judge": "trained on stanfordnlp/imdb (Maas et al., 2011) from the policy's embeddings",
    "second_judge": "trained from random weights on stanfordnlp/imdb, on labels that the judge's training left out",
    "everything else": "written for this course",
}


def write_manifest(assets: Path = MANIFEST.parent) -> None:
    """Write manifest.json beside what it lists."""
    files = {}
    for path in sorted(assets.rglob("*")):
        name = path.relative_to(assets).as_posix()
        if path.is_file() and path.suffix not in {".py", ".pyc"} and name != MANIFEST.name:
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    manifest = {"provenance": PROVENANCE, "files": files}
    (assets / MANIFEST.name).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write_manifest()
