"""A plug-in: a loss, a judge and a verifier of one's own. `plugins: [my_parts.py]` in a recipe, `--plugins my_parts.py` on the command line."""

import prefopt
from prefopt.losses.ops import logsigmoid


@prefopt.register_loss("dpo_with_target")
def dpo_with_target(chosen, rejected, ref_chosen, ref_rejected, *, beta=0.1, target=0.5):
    """-log sigmoid(beta h - target): DPO that asks for a margin."""
    return -logsigmoid(beta * (chosen - ref_chosen - rejected + ref_rejected) - target)


@prefopt.register_judge("shows_more_steps")
def shows_more_steps(call):
    first, second = (row["completion"].count("=") for row in (call.first, call.second))
    return "tie" if first == second else "first" if first > second else "second"


@prefopt.register_verifier("ends_with_an_answer")
def ends_with_an_answer(prompt, completion, row, *, mark="A:"):
    return mark in completion.splitlines()[-1]
