"""The client keeps the calls in flight that it may: a small run of `benchmarks/server.py`."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "server.py"


def _measure(*arguments):
    spec = importlib.util.spec_from_file_location("server_benchmark", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.measure(*arguments)


def test_calls_overlap():
    found = _measure(64, 16, 0.1, 8)
    assert found["answered"] == 64
    assert found["wall_s"] < 0.5 * 64 * 0.1  # half of one after the other, also on a busy machine


@pytest.mark.slow
def test_wall_time_is_within_a_quarter_of_the_ideal():
    found = _measure(2000, 32, 0.2, 128)
    assert found["within"], found
