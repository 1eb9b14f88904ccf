"""A recipe that uses a loss, a judge and a verifier of one's own (my_parts.py)."""

from pathlib import Path

import prefopt
from prefopt.recipes.quickstart.task import prompts

recipe = {
    "name": "plugin",
    "plugins": [str(Path(__file__).parent / "my_parts.py")],
    "model": "builtin:quickstart/base",
    "sample": {"n": 4, "temperature": 1.0, "max_new_tokens": 64},
    "judge": {"kind": "ends_with_an_answer"},
    "rank": {"strategy": "ipr", "judge": {"kind": "shows_more_steps"}},
    "reference": {"max_length": 96},
    "select": None,
    "weight": None,
    "train": {"loss": "dpo_with_target", "steps": 5, "pairs_per_step": 8, "max_length": 96},
    "evaluate": None,
}

run = prefopt.run(recipe, "runs/plugin", data=prompts("train", 40, seed=1))
print(run.table("rank").num_rows, "pairs of longer derivations against shorter ones;", run.model_path)
