import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.stages.select.select import STAGE, select
from prefopt.stages.select.settings import SelectConfig
from prefopt.tables.context import Context
from prefopt.tables.records import make_table, rows_of


def pair(number, gap, **more):
    """A pair whose per-token gap is `gap`: 10 chosen tokens, 5 rejected ones."""
    return {
        "id": f"r{number:03d}",
        "prompt_id": f"p{number:03d}",
        "prompt": "q",
        "split": "train",
        "chosen": "c" * 30,
        "rejected": "r" * 10,
        "ref_chosen_logps": -10.0 + 10 * gap,
        "ref_rejected_logps": -5.0,
        "chosen_tokens": 10,
        "rejected_tokens": 5,
        "truncated": False,
        **more,
    }


def run(rows, seed=0, strict=False, **settings_):
    config = parse_config(SelectConfig, settings_, "test")
    output = select(make_table(rows), config, Context(seed=seed, strict=strict))
    kept = {row["id"] for row in rows_of(output.table) if row["kept"]}
    return kept, output


TEN = [pair(i, gap=(i - 4) / 10) for i in range(10)]


def test_top_keeps_the_clearest_and_removes_no_row():
    kept, output = run(TEN, fraction=0.4)
    assert kept == {"r006", "r007", "r008", "r009"}
    assert output.table.num_rows == 10
    assert output.dropped == {}
    rows = rows_of(output.table)
    assert rows[9]["gap_mean"] == pytest.approx(0.5)
    assert rows[9]["gap_sum"] == pytest.approx(0.0)
    assert [row["id"] for row in rows] == [row["id"] for row in TEN]


@pytest.mark.parametrize(
    ("score", "best"),
    [("gap_mean", "b"), ("gap_sum", "a"), ("abs_gap_mean", "c"), ("abs_gap_sum", "d"), ("column", "e")],
)
def test_every_score_has_its_own_best_pair(score, best):
    def row(name, chosen, rejected, tokens, oracle=0.0):
        return {
            **pair(0, 0.0),
            "id": name,
            "ref_chosen_logps": chosen,
            "ref_rejected_logps": rejected,
            "chosen_tokens": tokens[0],
            "rejected_tokens": tokens[1],
            "oracle": oracle,
        }

    rows = [
        row("a", -40.0, -60.0, (40, 60)),  # sum 20, mean 0
        row("b", -20.0, -20.0, (40, 10)),  # sum 0, mean 1.5
        row("c", -20.0, -20.0, (10, 1000)),  # sum 0, mean -1.98
        row("d", -60.0, -20.0, (60, 20)),  # sum -40, mean 0
        row("e", -20.0, -20.0, (20, 20), oracle=1.0),
    ]
    more = {"column": "oracle"} if score == "column" else {}
    assert run(rows, score=score, fraction=0.2, **more)[0] == {best}


def test_held_out_rows_are_kept_unseen():
    rows = [*TEN, pair(50, 9.0, split="eval"), pair(51, -9.0, split="eval")]
    kept, output = run(rows, fraction=0.1)
    assert kept == {"r009", "r050", "r051"}
    counts = output.quality["counts"]
    assert (counts["rows"], counts["train"], counts["held_out"], counts["kept"]) == (12, 10, 2, 1)


def test_rows_without_split_are_for_training():
    rows = [{k: v for k, v in row.items() if k != "split"} for row in TEN]
    assert len(run(rows, fraction=0.3)[0]) == 3


def test_truncated_pairs_are_not_scored():
    rows = [*TEN, pair(20, 9.0, truncated=True)]
    kept, output = run(rows, fraction=1.0)
    assert kept == {row["id"] for row in TEN}
    counts = output.quality["counts"]
    assert (counts["truncated"], counts["scored"], counts["dropped"]) == (1, 10, 1)
    assert "r020" in run(rows, rule="all")[0]
    assert rows_of(output.table)[-1]["gap_mean"] == pytest.approx(9.0)  # flagged, and still shown


def test_pairs_without_a_score_are_counted_or_an_error_when_strict():
    rows = [*TEN, pair(20, 0.0, ref_chosen_logps=None)]
    kept, output = run(rows, rule="positive")
    assert kept == {"r005", "r006", "r007", "r008", "r009"}
    assert output.quality["counts"]["unscored"] == 1
    with pytest.raises(PrefoptError, match="'r020' has no gap_mean score"):
        run(rows, rule="positive", strict=True)
    assert len(run(rows, rule="all", strict=True)[0]) == 11


def bare(rows):
    names = ("ref_chosen_logps", "ref_rejected_logps", "chosen_tokens", "rejected_tokens", "truncated")
    return [{k: v for k, v in row.items() if k not in names} for row in rows]


def test_without_reference_columns_the_error_names_the_stage():
    with pytest.raises(PrefoptError, match="prefopt reference"):
        run(bare(TEN))
    empty = [{**row, "ref_chosen_logps": None} for row in TEN]
    with pytest.raises(PrefoptError, match="prefopt reference"):
        run(empty)


def test_random_all_and_an_external_score_need_no_reference():
    kept, output = run(bare(TEN), rule="random", fraction=0.5)
    assert len(kept) == 5
    assert set(rows_of(output.table)[0]) >= {"gap_sum", "gap_mean", "kept"}
    assert output.quality["mean_length"]["unit"] == "characters"
    assert output.quality["mean_length"]["kept"]["chosen"] == 30.0
    assert len(run(bare(TEN), rule="all")[0]) == 10
    marked = [{**row, "margin": float(i)} for i, row in enumerate(bare(TEN))]
    assert run(marked, score="column", column="margin", fraction=0.2)[0] == {"r008", "r009"}


@given(
    st.permutations(range(10)), st.sampled_from(["top", "random", "two_tailed", "middle"]), st.integers(0, 2)
)
@settings(max_examples=25)
def test_kept_and_quality_do_not_depend_on_the_order_of_rows(order, rule, seed):
    rows = [pair(i, gap=(i % 3) / 10, margin=float(i % 4), category="ab"[i % 2]) for i in range(10)]
    expected = run(rows, seed=seed, rule=rule, stratify_by="category")
    got = run([rows[i] for i in order], seed=seed, rule=rule, stratify_by="category")
    assert got[0] == expected[0]
    assert got[1].quality == expected[1].quality


def test_the_report_has_every_figure_of_the_specification():
    rng = np.random.default_rng(0)
    rows = []
    for i in range(100):
        margin = float(rng.normal())
        row = pair(i, gap=margin / 10, margin=margin, category="even" if i % 2 == 0 else "odd")
        tokens = 10 + i % 7
        rows.append({**row, "chosen_tokens": tokens, "ref_chosen_logps": tokens * (margin / 10 - 1)})
    kept, output = run(rows, fraction=0.4, stratify_by="category")
    quality = output.quality
    assert json.loads(json.dumps(quality, allow_nan=False)) == quality
    assert quality["counts"]["kept"] == len(kept) == 40
    histogram = quality["histogram"]
    assert sum(histogram["all"]) == 100
    assert sum(histogram["kept"]) == 40
    assert set(histogram["cuts_by_stratum"]) == {"even", "odd"}
    assert quality["gap_margin_correlation"]["gap_mean"]["pearson"] > 0.9
    assert len(quality["gap_by_margin_decile"]["gap_mean"]) == 10
    assert (
        quality["share_gap_positive"]["gap_mean"]["kept"] > quality["share_gap_positive"]["gap_mean"]["all"]
    )
    assert quality["categories"]["category"]["even"] == {
        "pairs": 50, "kept": 20, "share_of_all": 0.5, "share_of_kept": 0.5,
    }  # fmt: skip
    lengths = quality["mean_length"]
    assert lengths["unit"] == "tokens"
    assert lengths["all"]["chosen"] == pytest.approx(sum(r["chosen_tokens"] for r in rows) / 100)
    assert lengths["all"]["chosen"] == pytest.approx(
        0.4 * lengths["kept"]["chosen"] + 0.6 * lengths["dropped"]["chosen"]
    )


def test_the_cut_is_the_lowest_kept_score():
    _, output = run(TEN, fraction=0.4)
    assert output.quality["histogram"]["cuts"] == [pytest.approx(0.2)]
    assert output.quality["histogram"]["score"] == "gap_mean"


def test_correlations_are_none_where_undefined():
    _, output = run(TEN)
    quality = output.quality
    assert quality["gap_margin_correlation"]["gap_mean"] == {"pearson": None, "spearman": None, "rows": 0}
    assert quality["gap_length_correlation"]["gap_mean"]["pearson"] is None  # all lengths equal
    assert quality["gap_by_margin_decile"]["gap_mean"] == []
    assert quality["categories"] == {}


@pytest.mark.parametrize("column", ["category", "subset"])
def test_shares_are_given_for_known_category_columns_and_rare_values_go_together(column):
    rows = [pair(i, i / 100, **{column: f"c{i % 40:02d}"}) for i in range(80)]
    shares = run(rows)[1].quality["categories"][column]
    assert len(shares) == 31
    assert shares["(10 more)"]["pairs"] == 20
    assert sum(entry["pairs"] for entry in shares.values()) == 80
    assert sum(entry["kept"] for entry in shares.values()) == 32


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rule": "tpo"}, "rule: unknown rule, did you mean 'top'"),
        ({"rule": "threshold"}, "threshold"),
        ({"threshold": 1.0}, "threshold"),
        ({"score": "column"}, "column"),
        ({"column": "margin"}, "column"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 1.5}, "fraction"),
        ({"fractoin": 0.5}, "did you mean 'fraction'"),
        ({"score": "column", "column": "magrin"}, "no column 'magrin', did you mean 'margin'"),
        ({"score": "column", "column": "prompt"}, "holds 'q' in row 'r000'"),
        ({"stratify_by": "nothing_like_it"}, "no column 'nothing_like_it'"),
        ({"rule": "threshold", "threshold": 99.0}, "keeps none of 10 train pairs"),
    ],
)
def test_bad_settings_are_one_clear_line(settings_, message):
    rows = [{**row, "margin": 1.0} for row in TEN]
    with pytest.raises(PrefoptError, match=message) as error:
        run(rows, **settings_)
    assert "\n" not in str(error.value)


def test_repeated_ids_and_empty_tables_are_refused():
    with pytest.raises(PrefoptError, match="'r000' stands in several rows"):
        run([TEN[0], TEN[0]])
    with pytest.raises(PrefoptError, match="no pair for training"):
        run([pair(0, 1.0, split="eval")])
    with pytest.raises(PrefoptError, match="no pair for training"):
        select(make_table([], ["id"]), SelectConfig(rule="all"), Context())


def test_the_stage_declares_what_it_adds():
    _, output = run(TEN)
    assert set(STAGE.adds) <= set(output.table.column_names)
    assert STAGE.folder_name == "05-select"
