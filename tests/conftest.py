"""Fixtures for all tests: offline, one thread, and where the shared data lies."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib import metadata
from pathlib import Path

import hypothesis
import pytest

REPO = Path(__file__).resolve().parents[1]
OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
os.environ.update(OFFLINE)  # read by the libraries when they are imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Compiling costs more than running at the tests' sizes, so JAX leaves out most of its optimisations. Read when jax is imported,
# which tests outside tests/suite do first; a flag that XLA does not know ends the process, hence the version.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if importlib.util.find_spec("jaxlib") and metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")
# how long an example takes says how busy the machine is, and nothing of the product
hypothesis.settings.register_profile("prefopt", deadline=None)
hypothesis.settings.load_profile("prefopt")


@pytest.fixture(autouse=True)
def _one_torch_thread() -> None:
    """Equal results on every machine; only where a test has torch loaded already."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real public data (`PREFOPT_SHARED_DATA`, else beside the repository); skips when there is none."""
    path = Path(os.environ.get("PREFOPT_SHARED_DATA", REPO.parent / "shared" / "data"))
    if not (path / "MANIFEST.json").is_file():
        pytest.skip(f"no shared data at {path} (set PREFOPT_SHARED_DATA)")
    return path
