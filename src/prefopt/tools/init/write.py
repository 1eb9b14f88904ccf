"""The recipe itself: every setting with the reason why it has this value, tried by a plan before it is written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import yaml

from prefopt.core.errors import PrefoptError
from prefopt.pipeline.expected import steps_of
from prefopt.pipeline.plan import Plan, plan
from prefopt.pipeline.recipe import load_recipe
from prefopt.tools.init.facts import DataFacts, Machine, ModelFacts, data_facts, model_facts, this_machine
from prefopt.tools.init.settings import RATES, Fitted, fit

GB = 1e9


def init(
    model: str,
    data: str,
    *,
    test: str | None = None,
    name: str = "run",
    seed: int = 0,
    lora: bool | None = None,
) -> str:
    """The text of a recipe for a model and a data file. It loads, and its plan can be made.

    test: file of test prompts with gold answers. lora: None where the machine's memory decides.

    Raises:
        PrefoptError: no such model, data that cannot be read, or nothing that can be trained on.
    """
    known = model_facts(model)
    facts = data_facts(data, known, seed)
    machine = this_machine()
    fitted = fit(facts, known, machine, lora=lora)
    writer = _Writer(model, data, test, name, seed, facts, known, machine, fitted)
    text = "\n".join(writer.lines(None))
    found = plan(load_recipe(yaml.safe_load(text)), Path("runs") / name)
    return "\n".join(writer.lines(found)) + "\n"


def write_recipe(text: str, output: Path) -> Path:
    """Write a recipe to a file that does not exist yet.

    Raises:
        PrefoptError: it does, or it cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise PrefoptError(f"{output}: exists already; name another --output") from None
    except OSError as error:
        raise PrefoptError(
            f"{output}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    return output


class _Writer:
    """Makes the lines; of a first draft without the plan's figures, which need the draft."""

    def __init__(
        self, model: str, data: str, test: str | None, name: str, seed: int,
        facts: DataFacts, known: ModelFacts, machine: Machine, fitted: Fitted,
    ) -> None:  # fmt: skip
        self.model, self.data, self.test, self.name, self.seed = model, data, test, name, seed
        self.facts, self.known, self.machine, self.fitted = facts, known, machine, fitted

    def lines(self, found: Plan | None) -> Iterator[str]:
        """Every line of the recipe."""
        yield from self._head()
        if self.facts.kind == "prompts":
            yield from self._sample()
        if self.facts.kind in ("prompts", "completions"):
            yield from self._rank()
        yield from self._between()
        yield from self._train(found)
        yield from self._evaluate()

    def _head(self) -> Iterator[str]:
        size, facts = self.known.size, self.facts
        yield "# Written by `prefopt init`. `prefopt run FILE --dry-run` says what it will do; docs/settings.md where the numbers"
        yield "# come from: published settings of others, not a sweep on your data. The learning rate is the one to tune first."
        yield f"name: {_value(self.name)}"
        yield f"seed: {self.seed}"
        yield f"model: {_value(self.model)}   # {size.parameters / 1e6:,.0f} million parameters, {size.dtype}"
        yield "data:"
        yield f"  path: {_value(self.data)}   # {facts.rows:,} rows, read as {facts.kind}"
        yield f"  kind: {facts.kind}"
        yield "  heldout: 0.1   # a tenth of the prompts is kept from training, to see whether it generalises"
        if self.known.chats:
            yield "  chat: auto     # the model has a chat template: text prompts become a user's message"
        else:
            yield "  chat: auto     # the model has no chat template: it gets plain text"

    def _sample(self) -> Iterator[str]:
        yield "sample:"
        yield "  n: 8                # answers per prompt; more make rarer successes visible"
        yield "  temperature: 0.8"
        yield f"  max_new_tokens: {self.fitted.max_new_tokens}   # {self._answers()}"
        yield f"  dtype: {self.fitted.dtype}"

    def _answers(self) -> str:
        if self.facts.answer:
            return f"99 of 100 answers in the data have at most {self.facts.answer[2]} tokens"
        return "the data holds no answers to go by; longer ones are cut"

    def _rank(self) -> Iterator[str]:
        columns = set(self.facts.columns)
        if self.facts.has_gold or "is_correct" in columns:
            yield "rank:"
            yield "  strategy: verify       # right answers against wrong ones; the data says which are right"
            yield "  pairs_per_prompt: 4"
        elif "score" in columns:
            yield "judge: null"
            yield "rank:"
            yield "  strategy: score        # the best against the worst by the data's scores"
        else:
            yield "judge: null              # the data has no gold answers to check against"
            yield "rank:"
            yield "  strategy: ipr"
            yield "  judge:                 # a stand-in: the model judges itself. Name a better one (docs/judges.md), and"
            yield "    kind: local          # measure it first: prefopt judge-check"
            yield f"    model: {_value(self.model)}"

    def _between(self) -> Iterator[str]:
        fitted = self.fitted
        yield "reference:"
        yield f"  max_length: {fitted.max_length}"
        yield f"  dtype: {fitted.dtype}"
        if fitted.select:
            yield "select:                  # the half that the reference model itself shows to be clear (docs/selection.md)"
            yield "  rule: top"
            yield "  score: gap_mean"
            yield "  fraction: 0.5"
        else:
            yield "select: null             # every pair; try {rule: top, score: gap_mean, fraction: 0.5} where there are thousands"
        if self.facts.has_gold and self.facts.kind != "pairs":
            yield "weight:"
            yield "  scheme: difficulty     # prompts that are seldom solved count more"
        else:
            yield "weight: null"

    def _train(self, found: Plan | None) -> Iterator[str]:
        fitted, facts = self.fitted, self.facts
        yield "train:"
        if facts.kind == "unpaired":
            yield "  loss: {name: kto, beta: 0.1}"
        else:
            yield "  loss:"
            yield "    - {name: dpo, beta: 0.1}"
            yield "    - {name: budget, delta: 0.1, unit: token}   # keeps good answers from becoming rare"
        yield f"  learning_rate: {fitted.learning_rate:.1e}   # {fitted.source}"
        yield "                           # with fewer than some hundred steps try 3 and 10 times as much too"
        if fitted.lora:
            yield "  lora: {r: 16, alpha: 32}   # an adapter: " + self._why_lora()
        yield "  schedule: cosine"
        yield "  warmup: 0.1            # a share of the steps, so it never covers the training"
        yield "  epochs: 1"
        yield f"  pairs_per_step: {fitted.pairs_per_step}     # {self._steps(found)}"
        yield f"  max_length: {fitted.max_length}        # {self._lengths()}"
        yield f"  precision: {fitted.precision}     # {self._precision()}"
        yield f"  # memory: {self._memory()}"
        yield "  keep: best             # the weights with the lowest held-out loss, seen every eval_steps"
        yield f"  eval_steps: {self._eval_steps(found)}"

    def _why_lora(self) -> str:
        need, free = self.fitted.needed[0] / GB, self.machine.memory / GB
        return f"training all weights takes {need:,.1f} GB before activations, {free:,.1f} GB are free"

    def _steps(self, found: Plan | None) -> str:
        step = next((one for one in found.steps if one.stage == "train"), None) if found else None
        if step is None:
            return ""
        most = "at most " if step.rows.most else ""
        steps = steps_of(step.config, step.rows.train)
        return f"{most}{step.rows.train:,} rows to train on make {most}{steps:,} steps"

    def _eval_steps(self, found: Plan | None) -> int:
        step = next((one for one in found.steps if one.stage == "train"), None) if found else None
        steps = steps_of(step.config, step.rows.train) if step else 50
        return max(1, min(50, steps // 4))

    def _lengths(self) -> str:
        facts, cut = self.facts, self.fitted.max_length
        what = "prompt and answer" if facts.answer else "prompts"
        at = facts.both if facts.answer else facts.prompt
        text = f"{what}, tokens: median {at[0]}, 9 of 10 at most {at[1]}, 99 of 100 {at[2]}, longest {at[3]}"
        return text + ("; longer ones are cut" if at[3] > cut else "")

    def _precision(self) -> str:
        if self.fitted.precision == "mixed":
            return "fp32 weights, bf16 arithmetic: pure bf16 loses updates this small"
        if self.machine.has_bf16 and self.machine.device == "cpu":
            return "this processor has bf16 instructions: `mixed` may be faster"
        return f"as {self.machine.name} computes best"

    def _memory(self) -> str:
        need, free = self.fitted.needed[1] / GB, self.machine.memory / GB
        text = f"weights, gradients and Adam's moments take {need:,.1f} GB of {free:,.1f} GB free on {self.machine.name};"
        return f"{text} activations come on top"

    def _evaluate(self) -> Iterator[str]:
        yield "evaluate:"
        yield f"  max_length: {self.fitted.max_length}"
        if self.test is None:
            if self.facts.kind in ("prompts", "completions"):
                yield "  # data: {path: test.jsonl}   # prompts with gold answers, asked before and after training"
            return
        yield f"  data: {{path: {_value(self.test)}, heldout: 0.0}}"
        yield f"  max_new_tokens: {self.fitted.max_new_tokens}"
        yield f"  dtype: {self.fitted.dtype}"


def _value(text: str) -> str:
    """A text as YAML reads it back: JSON's quotes are YAML's too."""
    return json.dumps(text, ensure_ascii=False)


__all__ = ["RATES", "init", "write_recipe"]
