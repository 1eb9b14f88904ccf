"""Finished runs without a model, each made once."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("fake_run", Path(__file__).with_name("fake_run.py"))
assert _spec is not None
assert _spec.loader is not None
fake_run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_run)

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}\x00\x1b \u202e\u2028\ufffe \t  \n  end"
JUDGE = {
    "kind": "simulated",
    "simulated": {"column": "score", "slope": 2.0, "first_bias": 1.0, "tie_rate": 0.05},
}
KINDS = {
    "full": {},
    "pairs": {"pairs_only": True, "arms": {}, "tiny": True, "weight": {"scheme": "uniform"}},
    "single": {"arms": {}, "tests": 60},
    "bare": {"arms": {}, "pairs_only": True, "drop_stages": ("select", "weight", "evaluate")},
    "untrained": {"arms": {}, "drop_stages": ("select", "weight", "train", "evaluate")},
    "hostile": {"hostile": HOSTILE},
    "judged": {"judge": JUDGE},
    "judged hostile": {"judge": JUDGE, "hostile": HOSTILE, "arms": {}},
}


@pytest.fixture(scope="session")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a kind -> folder of its run."""
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        if kind not in made:
            made[kind] = fake_run.make_run(tmp_path_factory.mktemp(kind) / "run", **KINDS[kind])
        return made[kind]

    return make


@pytest.fixture(scope="session")
def hostile() -> str:
    """What the run `hostile` has in its prompts, answers, title and reasons."""
    return HOSTILE
