"""A whole run: a recipe as a dict, prompts from memory, and what comes back. The same recipe as a YAML file runs with `prefopt run`."""

import prefopt
from prefopt.recipes.quickstart.task import prompts

SHORT = {"max_length": 96, "pairs_per_step": 8, "steps": 10, "learning_rate": 1e-4}
recipe = {
    "name": "example",
    "model": "builtin:quickstart/base",
    "sample": {"n": 4, "temperature": 1.0, "max_new_tokens": 64},
    "rank": {"strategy": "verify"},  # right answers against wrong ones
    "reference": {"max_length": 96},
    "select": {"rule": "top", "fraction": 0.5},
    "weight": {"scheme": "difficulty"},
    "train": SHORT,
    "evaluate": {"data": {"path": "builtin:quickstart/test.jsonl", "limit": 20}, "max_new_tokens": 64},
    "arms": {
        "dpo": {"select": None, "weight": None},
        "full": {"train": {**SHORT, "loss": [{"name": "dpo"}, {"name": "nll", "scale": 10.0}]}},
    },
}

run = prefopt.run(recipe, "runs/example", data=prompts("train", 40, seed=1))

for arm, figures in run.summary["accuracy"].items():
    print(f"{arm:5} {100 * figures['mean']:.1f}% [{100 * figures['low']:.1f}, {100 * figures['high']:.1f}]")
print(*run.summary["verdict"], sep="\n")
print(run.table("rank").num_rows, "pairs;", run.model_path, run.report_path)
