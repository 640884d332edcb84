"""The examples and the README's program run."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

from conftest import HERE
from nixl_rs import compat
from test_compat import REAL, environment

ROOT = HERE.parents[1]
EXAMPLES = sorted((ROOT / "examples/python").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples(example):
    if "import torch" in example.read_text() and not importlib.util.find_spec("torch"):
        pytest.skip("torch: not installed, nothing was tried with it")
    path = os.pathsep.join(filter(None, [*sys.path, compat.DIRECTORY]))
    assert outcome(sys.executable, example, PYTHONPATH=path)


def outcome(python, example, **variables):
    done = subprocess.run(
        [python, str(example)],
        # Two processes print at once: each only whole lines.
        env=environment(NIXL_LOG_LEVEL="ERROR", PYTHONUNBUFFERED="", **variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return sorted(done.stdout.splitlines())


def test_what_is_written_for_nixl_says_the_same_on_it():
    if not REAL.exists():
        pytest.skip("nixl: no real NIXL below target/ucx/nixl; `cargo xtask ucx` gets it")
    (example,) = (one for one in EXAMPLES if one.stem == "nixl_two_peers")
    path = os.pathsep.join(filter(None, [*sys.path, compat.DIRECTORY]))
    ours = outcome(sys.executable, example, PYTHONPATH=path)
    assert ours == outcome(str(REAL), example, UCX_TLS="tcp", PYTHONPATH="")
    assert len(ours) == 4


def test_there_are_examples():
    assert len(EXAMPLES) == 5


@pytest.mark.parametrize("page", ["README.md", "python/README.md", "docs/nixl-python.md"])
def test_programs_on_pages_run(page, run):
    programs = re.findall(r"```python\n(.*?)```", pathlib.Path(ROOT, page).read_text(), re.S)
    assert programs
    for program in programs:
        run(program)
