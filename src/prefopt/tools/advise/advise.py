"""`prefopt advise`: from one's own pairs what matters for the choice of a method, and what held on such data in the suite."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError
from prefopt.core.notice import notice
from prefopt.core.terminal import console as make_console
from prefopt.stages.alone import open_input
from prefopt.stages.data.chat import for_model, in_messages
from prefopt.stages.data.data import data
from prefopt.stages.data.settings import DataConfig
from prefopt.stages.reference.reference import reference
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.tables.context import Context
from prefopt.tables.lock import working_in
from prefopt.tables.ours import check_apart
from prefopt.tables.owned import Claims, OwnedFolder
from prefopt.tables.records import digest, rows_of, write_json
from prefopt.tools.advise.axes import AXES, lineages_text, load_figures, methods_on, place
from prefopt.tools.advise.measure import measure
from prefopt.tools.advise.settings import AdviseConfig

RESULT = "advice.json"
REPEATED = "repeated row"  # the reader's word for a row that stands there twice
TOLD = {
    "noise": "wrong labels",
    "noise_by_scores": "labels against scores",
    "equal": "near-equal pairs",
    "equal_by_scores": "pairs of equal scores",
    "longer_chosen": "chosen answer longer",
    "contradictory": "pairs both ways round",
    "repeated": "repeated rows",
}


def advise(source: str, config: AdviseConfig | None = None, context: Context | None = None) -> dict[str, Any]:
    """Estimates of a source's pairs, their place on the suite's axes and the methods' figures there: what advice.json holds.

    The reference gaps come from the rows, where they have log-probs (a finished `prefopt reference`), else from a pass of
    `context.model`; with neither, only scores and texts are read.

    Raises:
        PrefoptError: the source holds no pairs, or the model cannot be read.
    """
    config, context = config or AdviseConfig(), context or Context()  # type: ignore[call-arg]
    table, dropped = _pairs(source, config, context)
    again = dropped.get(REPEATED, 0)
    repeated = again / (table.num_rows + again)
    if config.limit is not None:
        table = table.select(range(min(config.limit, table.num_rows)))
    known = "ref_chosen_logps" in table.column_names
    if known and context.model is not None:
        notice(f"{source}: the rows have reference log-probs; the model is not read")
    if not known and context.model is not None:
        settings = ReferenceConfig(max_length=config.max_length, prefix_logps=False, mismatched=False)  # type: ignore[call-arg]
        output = reference(in_messages(table, context.model, "advise"), settings, context)
        table = output.table
        dropped = {**dropped, **output.dropped}
    found = measure(rows_of(table), config.gap, config.draws, context.seed)
    found["repeated"] = {
        "value": repeated, "low": None, "high": None, "from": "rows as read", "unsure": "",
    }  # fmt: skip
    figures = load_figures()
    places = {
        name: place(figures, kind, found[name]) for name, kind in AXES.items() if found[name] is not None
    }
    seen = dict.fromkeys(variant for variants in places.values() for variant in variants) or {"base": None}
    return {
        "file": source,
        "model": str(context.model) if context.model else None,
        "gap": config.gap,
        "seed": context.seed,
        "dropped": dict(sorted(dropped.items())),
        "estimates": found,
        "places": places,
        "suite": {
            key: figures[key] for key in ("environment", "lineages", "episodes", "reference", "expert")
        },
        "methods": {variant: methods_on(figures, variant) for variant in seen},
    }


def _pairs(source: str, config: AdviseConfig, context: Context) -> tuple[Any, dict[str, int]]:
    """The table of pairs and what the reader dropped, by reason."""
    if config.columns:
        settings = DataConfig(path=source, heldout=0.0, columns=config.columns, kind="pairs")  # type: ignore[call-arg]
        read = data(None, for_model(settings, context.model), context)
        table, dropped = read.table, dict(read.dropped)
    else:
        opened = open_input(source, context)
        table, dropped = opened.table, dict(opened.dropped)
    if not {"prompt", "chosen", "rejected"} <= set(table.column_names):
        raise PrefoptError(
            f"{source}: holds no pairs; advise needs the columns prompt, chosen and rejected (--columns names yours)"
        )
    if not table.num_rows:
        raise PrefoptError(f"{source}: no pair is left to look at")
    return table, dropped


def advice_folder(source: str, output: Path) -> OwnedFolder:
    """The folder for the result. Raises PrefoptError where it holds other things, or the file that is read."""
    check_apart(output, [("file that is read", Path(source.rsplit(":", 1)[-1]))])
    folder = OwnedFolder(output, Claims("advise", (RESULT,)))
    folder.check()
    return folder


def write_advice(advice: Mapping[str, Any], output: Path) -> Path:
    """Writes advice.json into `output` and gives its path."""
    folder = advice_folder(advice["file"], output)
    with working_in(output):
        folder.begin(digest("advise", advice))
        write_json(output / RESULT, dict(advice))
        folder.close()
    return output / RESULT


# ---- in words


def print_advice(advice: Mapping[str, Any]) -> None:
    """The advice on standard output."""
    console = make_console()
    for line in lines(advice):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def lines(advice: Mapping[str, Any]) -> list[str]:
    """The advice as lines of text."""
    found, suite = advice["estimates"], advice["suite"]
    size = found["size"]
    out = [f"{advice['file']}: {size['pairs']} pairs of {size['prompts']} prompts"]
    out += [f"  {title:<24}{_said(found[name])}" for name, title in TOLD.items() if found.get(name)]
    if found["noise"] is None:
        out.append(
            "  wrong labels, near-equal pairs: not estimated; give --model DIR, whose log-probs they are read from"
        )
    elif found["mixture"]["centre"] < 0:
        out.append("  this model finds the worse answers likelier: selection by its gap keeps wrong labels")
    out.append("")
    for name, variants in advice["places"].items():
        unsure = " (unsure, so all of this axis)" if found[name]["unsure"] else ""
        out.append(f"{TOLD[name]}: compared with {', '.join(variants)} of the diagnostic suite{unsure}")
    what = (
        f"{suite['environment']}, lineages {lineages_text(suite['lineages'])}, {suite['episodes']} episodes per policy; "
        f"reference {suite['reference']['mean']:.0f}, expert {suite['expert']['mean']:.0f}"
    )
    out.append(f"Returns there ({what}); held or fell: above or below the reference by the 95% interval")
    for variant, rows in advice["methods"].items():
        out.append(f"  {variant}")
        for row in rows:
            value = f"{row['mean']:.0f} ± {row['half_width']:.0f}"
            change = f"{row['gain']:+.0f} ± {row['gain_half_width']:.0f}"
            out.append(f"    {row['method']:<14}{value:<14}{change:<14}{row['verdict']}")
    out.append(
        "These are policies of a simulated robot: a reason to try a method first, no promise for a language model."
    )
    return out


def _said(estimate: Mapping[str, Any]) -> str:
    value = f"{100 * estimate['value']:.0f}%"
    if estimate["low"] is not None:
        value += f" ({100 * estimate['low']:.0f} to {100 * estimate['high']:.0f}%)"
    doubt = f"; unsure: {estimate['unsure']}" if estimate["unsure"] else ""
    return f"{value}, by {estimate['from']}{doubt}"
