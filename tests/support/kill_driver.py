"""Runs a recipe again and again in forked children, each killed (SIGKILL) a few writes or training steps further on.

Usage: python kill_driver.py RECIPE OUTPUT [WRITES]. WRITES: files that a child writes at least (4). Prints how many children were killed, then exits with the last one's code.
One process imports the libraries once; the children inherit them, so that many kills cost little more than the work.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from prefopt.pipeline.recipe import load_recipe
from prefopt.pipeline.run import run


def _die_at(count: int, target: object, name: str, after: bool = False) -> None:
    """Patch `target.name` so that its `count`-th call kills the process, before or after its effect."""
    original = getattr(target, name)
    calls = [0]

    def patched(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        result = original(*args, **kwargs) if after or calls[0] < count else None
        if calls[0] >= count:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(target, name, patched)


def _child(recipe: Path, output: Path, turn: int, writes: int) -> None:
    import prefopt.training.trainer as trainer

    torch.set_num_threads(1)
    # a short stage takes 4 writes: so each child dies within a stage or two of where it started, at changing places
    _die_at(writes + turn % 5, os, "replace", after=turn % 3 == 0)
    _die_at(5, trainer.PreferenceTrainer, "training_step")
    run(load_recipe(recipe), output)


def main() -> None:
    """Kill and restart until a child ends by itself."""
    recipe, output = Path(sys.argv[1]), Path(sys.argv[2])
    writes = int(sys.argv[3]) if len(sys.argv) > 3 else 4
    for turn in range(200):
        pid = os.fork()
        if pid == 0:
            _child(recipe, output, turn, writes)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if not os.WIFSIGNALED(status):
            print(turn)
            sys.exit(os.waitstatus_to_exitcode(status))
    sys.exit("no end after 200 kills")


if __name__ == "__main__":
    main()
