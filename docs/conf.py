"""How Sphinx makes the site of the stored lessons: `make docs` writes it to build/site, without a network."""

import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # its extensions: lesson_pages, source_pages

project = "RLHF and DPO, a companion that runs"
root_doc = "docs/index"
extensions = ["myst_nb", "lesson_pages", "source_pages"]
# The source folder is the project's: its pages link to one another there as they do in an editor or on GitHub.
include_patterns = ["docs/*.md", "notebooks/[0-9]*.ipynb", "notebooks/glossary.md", "C*.md"]
include_patterns += ["course_helpers/assets/MODEL_CARD.md", "course_helpers/**.py"]
exclude_patterns = ["**/.*", "build", "runs", "exports", "tests", "tools", "benchmarks"]

nb_execution_mode = "off"  # what is stored is what is shown
nb_ipywidgets_js = {}  # widgets are shown by their HTML; nothing is fetched to draw them
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = project
html_static_path = ["_static"]
html_extra_path = ["_root"]
html_css_files = ["course.css"]
html_copy_source = False
html_show_sphinx = html_show_copyright = False
pygments_dark_style = "github-dark-high-contrast"

# MathJax, as in JupyterLab, in one file beside the pages: SVG needs no fonts, and without its menu it loads nothing.
mathjax = Path(find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax" / "tex-svg-full.js"
html_static_path.append(str(mathjax))
mathjax_path = mathjax.name
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"fontCache": "global"}}
