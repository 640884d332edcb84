"""The calls of each engine, on ours and on real NIXL, check for check."""

import concurrent.futures

import pytest

from conftest import HERE
from test_compat import on_ours, on_real

# Program, and how many checks it has.
ENGINES = {"vllm": 8, "sglang": 6, "lmcache": 6, "dynamo": 4}


@pytest.fixture(scope="module")
def started():
    """Every program on real NIXL, two at a time."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(on_real, program=path(name)) for name in ENGINES}


def path(name):
    return HERE / f"engine_{name}.py"


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_s_calls_work_on_ours(name):
    ours = on_ours(program=path(name))
    assert len(ours) == ENGINES[name]
    assert not [one for one in ours if "failed" in one]


@pytest.mark.parametrize("name", ENGINES)
def test_real_nixl_gives_an_engine_the_same_results(started, name):
    assert on_ours(program=path(name)) == started[name].result()
