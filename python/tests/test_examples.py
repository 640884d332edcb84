"""The examples and the README's program run."""

import importlib.util
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import HERE

ROOT = HERE.parents[1]
EXAMPLES = sorted((ROOT / "examples/python").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example):
    if "import torch" in example.read_text() and not importlib.util.find_spec("torch"):
        pytest.skip("torch: not installed, its example did not run")
    done = subprocess.run(
        [sys.executable, str(example)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout, (done.stdout, done.stderr)


def test_there_are_examples():
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("page", ["README.md", "python/README.md", "docs/nixl-python.md"])
def test_programs_on_pages_run(page, run):
    programs = re.findall(r"```python\n(.*?)```", pathlib.Path(ROOT, page).read_text(), re.S)
    assert programs
    for program in programs:
        run(program)
