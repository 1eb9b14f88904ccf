"""The pipeline by hand: every stage is a function from a table to a table, and what lies between can be looked at or changed."""

import prefopt
from prefopt.recipes.quickstart.task import prompts

MODEL = "builtin:quickstart/base"

answers = prefopt.sample(prompts("train", 60, seed=1), model=MODEL, n=4, temperature=1.0, max_new_tokens=64)
judged = prefopt.judge(answers)
pairs = prefopt.rank(judged, strategy="verify")
print(f"{answers.num_rows} answers, {sum(judged['is_correct'])} right, {pairs.num_rows} pairs")

scored = prefopt.reference(pairs, model=MODEL, max_length=96)
selected = prefopt.select(scored, rule="top", score="gap_mean", fraction=0.5)
gaps = sorted(selected["gap_mean"])
print(f"gap from {gaps[0]:.2f} to {gaps[-1]:.2f} nats per token; {sum(selected['kept'])} pairs kept")
weighted = prefopt.weight(selected, scheme="difficulty", completions=judged)

result = prefopt.train(weighted, model=MODEL, loss="dpo", steps=10, pairs_per_step=8, max_length=96)
test = prompts("test", 40, seed=2)
for name, model in {"before": MODEL, "after": (result.model, result.tokenizer)}.items():
    figures = prefopt.evaluate(test, model=model, n=1, max_new_tokens=64).figures["accuracy"]
    print(f"{name}: {100 * figures['mean']:.0f}% [{100 * figures['low']:.0f}, {100 * figures['high']:.0f}]")
