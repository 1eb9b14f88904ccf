"""What the tests of training share: runs of tiny models, in this process or in several, and what they leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor
from training_worker import make_trainer

from prefopt.losses import build_loss
from prefopt.training.trainer import PreferenceTrainer

WORKER = Path(__file__).with_name("training_worker.py")
DPO = [{"name": "dpo", "beta": 0.1}, {"name": "budget", "delta": 0.05}]


def trained(folder: Path, loss: Any, examples: Any, **settings: Any) -> PreferenceTrainer:
    """The trainer after three steps (or what the settings say)."""
    trainer = make_trainer(folder, build_loss(loss), examples, **{"max_steps": 3, **settings})
    trainer.train()
    return trainer


def weights_of(trainer: PreferenceTrainer) -> dict[str, Tensor]:
    """A copy of the model's weights."""
    return {name: value.detach().clone() for name, value in trainer.model.state_dict().items()}


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    """Over all tensors of two dicts of the same names."""
    assert sorted(first) == sorted(second)
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def launch(*words: object, processes: int = 1, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `training_worker.py` with these words."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "PYTHONWARNINGS": "ignore",
        **variables,
    }
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [sys.executable, *(several if processes > 1 else []), str(WORKER), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def run_worker(
    folder: Path, loss: Any = "dpo", *, processes: int = 1, stop: int = 0, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Three epochs of 19 rows, 8 a step: the last step has 3, and with two processes one place in it is empty."""
    words = [folder, json.dumps(loss), 19, 8, *([stop] if stop else [])]
    return launch(*words, processes=processes, TRAINING_WORKER_SETTINGS=json.dumps(settings))


def read_result(folder: Path) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Weights and history that `run_worker` left."""
    history = json.loads((folder / "history.json").read_text())
    return load_file(folder / "model" / "model.safetensors"), history
