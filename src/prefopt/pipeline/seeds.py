"""A recipe with `seeds`: every seed is a whole run of all arms in a folder of its own, and one summary tells what holds over them.

    RUN/seeds/0/  RUN/seeds/1/ ...    a run each, with its report
    RUN/summary.json, RUN/report.html    means and t intervals over seeds

Nothing but the model is common to two seeds: which pairs are held out, what is sampled, and the order of training all follow
from the seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prefopt.core import processes
from prefopt.core.notice import is_first_process, notice
from prefopt.core.settings import parse_config
from prefopt.pipeline.folder import SUMMARY, check_run, enter_run
from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import Tuned, run
from prefopt.report import write_report
from prefopt.report.over_seeds import summarize_seeds
from prefopt.tables.lock import working_in
from prefopt.tables.owned import read_json
from prefopt.tables.progress import within
from prefopt.tables.records import is_writable, write_json

SEEDS = "seeds"


def run_seeds(
    recipe: Recipe,
    output: Path,
    *,
    strict: bool = False,
    retry_failed: bool = False,
    overwrite: bool = False,
    callbacks: Sequence[Any] = (),
    tuned: Tuned | None = None,
) -> dict[str, Any]:
    """Run the recipe with each of its seeds; returns what the summary over them says. Arguments as for `run`.

    A killed run started again continues with the seed that it was at. Seeds that are no longer in the recipe stay where they are,
    with a line, and do not count.

    Raises:
        PrefoptError: as `run`.
    """
    written = tuned.written if tuned else recipe
    processes.by_first(lambda: check_run(output, written, overwrite=overwrite))
    with processes.telling(), working_in(output):
        processes.by_first(
            lambda: enter_run(output, written, check_run(output, written, overwrite=overwrite))
        )
        summaries, folders = {}, {}
        for number, seed in enumerate(recipe.seeds, start=1):
            place = f"{SEEDS}/{seed}"
            alone = with_seed(recipe, seed)
            with within(f"seed {seed} ({number} of {len(recipe.seeds)})"):
                summaries[seed] = run(
                    alone, output / place, strict=strict, retry_failed=retry_failed, overwrite=overwrite, callbacks=callbacks
                )  # fmt: skip
            folders[seed] = place
            if is_first_process() and is_writable(output):
                write_report(output / place)

        def finish() -> dict[str, Any]:
            _tell_others(output, folders)
            summary = summarize_seeds(summaries, folders)
            if tuned is not None:
                summary["sweep"] = tuned.figures
            if summary != read_json(output / SUMMARY) and is_writable(output):
                write_json(output / SUMMARY, summary)
            return summary

        return processes.by_first(finish)


def with_seed(recipe: Recipe, seed: int) -> Recipe:
    """The recipe of one of its seeds, as if it had been written so."""
    plain = recipe.model_dump(exclude={"seeds"}, exclude_unset=True)
    return parse_config(Recipe, plain | {"seed": seed}, "recipe")


def _tell_others(output: Path, folders: dict[int, str]) -> None:
    for path in sorted((output / SEEDS).iterdir()):
        if path.name not in {str(seed) for seed in folders}:
            notice(f"{path}: a seed that the recipe no longer names; it stays and does not count")
