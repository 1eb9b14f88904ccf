"""What is a judge worth? Measured on pairs whose better answer is known, before it decides about others."""

import json
from itertools import islice
from pathlib import Path
from random import Random

import prefopt
from prefopt.recipes.quickstart.task import chains
from prefopt.recipes.quickstart.writers import careful, guesser, slipper
from prefopt.tools.judge_check import JudgeCheckConfig, judge_check


@prefopt.register_judge("longer_is_better")
def longer_is_better(call):
    first, second = len(call.first["completion"]), len(call.second["completion"])
    return "tie" if first == second else "first" if first > second else "second"


random = Random(0)
with Path("labelled.jsonl").open("w") as file:
    for number, chain in enumerate(islice(chains("train", seed=0), 80)):
        # half of the worse answers are guesses without steps, half have a slip in one of their steps
        subset, worse = ("guess", guesser) if number % 2 else ("slip", slipper)
        sides = {"chosen": careful(chain, random), "rejected": worse(chain, random)}
        file.write(json.dumps({"prompt": chain.expression, "subset": subset, **sides}) + "\n")

figures = judge_check("labelled.jsonl", JudgeCheckConfig(judge={"kind": "longer_is_better"})).figures
print(f"swap consistency {figures['swap_consistency']:.2f}, ties {figures['tie_rate']:.2f}")
for name, group in figures["groups"].items():  # the length judge knows guesses, and nothing about slips
    share = group["accuracy"]
    print(
        f"{name}: right in {100 * share['mean']:.0f}% [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"
    )
