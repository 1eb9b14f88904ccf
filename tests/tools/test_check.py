"""`prefopt check`: what is planted is found, nothing else is; the cleaned copy is clean."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.tools.check.check import check, write_check
from prefopt.tools.check.findings import FINDINGS
from prefopt.tools.check.near import bands, jaccard, near_groups, shingles
from prefopt.tools.check.settings import CheckConfig

WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "fjord",
    "grove",
    "heron",
    "inlet",
    "jetty",
    "knoll",
    "larch",
    "maple",
    "north",
    "ocean",
    "pearl",
    "quartz",
]


def _write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def _found(report):
    return {name: f["rows"] for name, f in report["findings"].items() if f["rows"]}


def _config(**values):
    return parse_config(CheckConfig, values, "test")


def _text(rng, count):
    return " ".join(f"{WORDS[i]}{rng.integers(1000)}" for i in rng.integers(0, len(WORDS), count))


def _clean_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {"id": f"r{i}", "prompt": _text(rng, 20), "chosen": _text(rng, 30), "rejected": _text(rng, 30)}
        for i in range(count)
    ]


PLANTED = {
    "empty": lambda r: [{**r, "rejected": "  "}],
    "identical": lambda r: [{**r, "rejected": f" {r['chosen']}\n"}],
    "duplicates": lambda r: [r, {**r, "id": "again"}],
    "contradictory": lambda r: [r, {**r, "chosen": r["rejected"], "rejected": r["chosen"]}],
    "unusable": lambda r: [{**r, "chosen": True}],
    "swapped_scores": lambda r: [{**r, "score_chosen": 1.0, "score_rejected": 2.0}],
    "tied_scores": lambda r: [{**r, "score_chosen": 2.0, "score_rejected": 2.0}],
    "near_identical": lambda r: [{**r, "rejected": f"{r['chosen']} yes"}],
    "near_duplicates": lambda r: [r, {k: f"{v} yes" if k != "id" else v for k, v in r.items()}],
    "long_rows": lambda r: [{**r, "chosen": "long " * 7000}],
    "broken_text": lambda r: [{**r, "chosen": r["chosen"] + " cafÃ©"}],
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found_and_no_other(tmp_path, name):
    rows = _clean_rows(8)
    if name in ("swapped_scores", "tied_scores"):
        rows = [{**row, "score_chosen": 2.0, "score_rejected": 1.0} for row in rows]
    planted = PLANTED[name](rows[3])
    report = check(_write(tmp_path / "a.jsonl", [*rows[:3], *planted, *rows[4:]])).report
    wanted = {name: 2 if name == "contradictory" else 1}
    if name == "near_duplicates":
        wanted["near_prompts"] = 1
    assert _found(report) == wanted
    assert report["findings"][name]["examples"][0]["row"] in (4, 5)


def test_every_finding_of_the_table_is_removable_or_says_no():
    removable = [name for name, finding in FINDINGS.items() if finding.removable]
    assert _config(remove=removable).remove == removable
    with pytest.raises(PrefoptError, match="score_outliers"):
        _config(remove=["score_outliers"])
    with pytest.raises(PrefoptError, match="did you mean 'duplicates'"):
        _config(remove=["duplicate"])


texts = st.text(alphabet="ab \n", max_size=3)
rows_of_anything = st.lists(
    st.fixed_dictionaries({"prompt": texts, "chosen": texts | st.none() | st.booleans(), "rejected": texts}),
    min_size=1,
    max_size=12,
)


@given(rows=rows_of_anything, extra=st.booleans())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_cleaned_copy_is_clean_and_keeps_the_rest(tmp_path, rows, extra):
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r"}, *rows]
    names = ["unusable", "empty", "identical", "duplicates"]
    names += ["contradictory", "near_duplicates", "near_identical"] if extra else []
    config = _config(remove=names)
    first = check(_write(tmp_path / "a.jsonl", rows), config)
    kept = iter(rows)
    assert all(row in kept for row in first.kept)  # a subsequence of the file's own rows
    gone = {"unusable", "empty", "identical", "duplicates"}
    exact = {(r["prompt"], r["chosen"], r["rejected"]) for r in rows if isinstance(r["chosen"], str)}
    usable = {
        (p, c, r) for p, c, r in exact if p.strip() and c.strip() and r.strip() and c.strip() != r.strip()
    }
    if not extra:  # exactly one row of each usable content stays
        assert sorted((r["prompt"], r["chosen"], r["rejected"]) for r in first.kept) == sorted(usable)
    if first.kept:
        again = check(str(write_check(first, tmp_path / "out")), config)
        assert again.kept == first.kept
        assert not set(_found(again.report)) & {*names, *gone}


@given(copies=st.lists(st.integers(0, 9), min_size=1, max_size=10), seed=st.integers(0, 2**16))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_planted_duplicates_are_counted_in_any_order(tmp_path, copies, seed):
    rows = _clean_rows(10)
    mixed = [*rows, *(rows[i] for i in copies)]
    order = np.random.default_rng(seed).permutation(len(mixed))
    result = check(_write(tmp_path / "a.jsonl", [mixed[i] for i in order]))
    assert _found(result.report) == {"duplicates": len(copies)}
    assert len(result.kept) == 10


def test_near_duplicates_recall_and_precision():
    rng = np.random.default_rng(1)
    texts = [_text(rng, 60) for _ in range(150)]
    changed, apart = [], []
    for text in texts[:50]:  # one word changed: 55 of 61 runs of 3 words are shared
        words = text.split()
        words[int(rng.integers(5, 55))] = "otherword"
        changed.append(" ".join(words))
    for text in texts[50:100]:  # every tenth word changed: below the threshold
        words = text.split()
        words[::10] = ["otherword"] * 6
        apart.append(" ".join(words))
    rows = [{"prompt": text} for text in (*texts, *changed, *apart)]
    groups = near_groups(rows, 0.8, 3)
    assert groups == [[i, 150 + i] for i in range(50)]
    assert groups == near_groups(rows, 0.8, 3)
    assert all(jaccard(shingles(texts[i], 3), shingles(changed[i], 3)) >= 0.8 for i in range(50))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8, 0.9, 1.0])
def test_bands_miss_few_pairs_at_the_threshold(threshold):
    count, rows = bands(threshold)
    assert count * rows <= 128
    assert (1 - threshold**rows) ** count <= 1e-3


def test_contamination_word_for_word_and_in_part(tmp_path):
    rng = np.random.default_rng(2)
    asked = [_text(rng, 25) for _ in range(6)]
    template = "Please solve the following problem step by step and show your work: "
    tests = [{"prompt": template + text} for text in asked]
    other = [_text(rng, 25) for _ in range(6)]
    trained = [
        template + other[0],
        (template + asked[1]).upper() + "!",
        "Read this. " + asked[2] + " Now go on.",
        other[3],
    ]
    rows = [{"prompt": text, "chosen": f"good {i}", "rejected": f"bad {i}"} for i, text in enumerate(trained)]
    source = _write(tmp_path / "train.jsonl", rows)
    report = check(source, test=_write(tmp_path / "test.jsonl", tests)).report
    assert [e["row"] for e in report["findings"]["contaminated"]["examples"]] == [2]
    assert [(e["row"], e["note"]) for e in report["findings"]["near_contaminated"]["examples"]] == [
        (3, "test row 3")
    ]


def test_scores_missing_outlying_and_at_odds_with_the_fine_grained_one(tmp_path):
    rows = []
    for i in range(12):
        fine = [1.0 + (i + k) % 5 for k in range(4)]
        completions = [
            {
                "model": f"m{k}",
                "response": f"answer {i} {k} words",
                "overall_score": 2 * f,
                "fine-grained_score": f,
            }
            for k, f in enumerate(fine)
        ]
        rows.append({"instruction": f"task {i} of many", "completions": completions})
    worst = min(rows[4]["completions"], key=lambda c: c["overall_score"])
    worst["overall_score"] = 10.0  # 10 written where 1 was meant
    rows[7]["completions"][0]["overall_score"] = None
    rows[9]["completions"][1]["response"] = rows[9]["completions"][0]["response"]
    report = check(_write(tmp_path / "uf.jsonl", rows)).report
    assert _found(report) == {"score_disagrees": 1, "missing_scores": 1, "repeated_completions": 1}
    assert report["findings"]["score_disagrees"]["examples"][0]["row"] == 5
    rows[2]["completions"][0]["overall_score"] = 500.0
    assert _found(check(_write(tmp_path / "uf.jsonl", rows)).report)["score_outliers"] == 1


def test_length_bias_and_unpaired_labels(tmp_path):
    rows = [{"prompt": f"p {i}", "chosen": "x" * (10 + i % 4), "rejected": "y" * 11} for i in range(40)]
    length = check(_write(tmp_path / "a.jsonl", rows)).report["length"]
    assert length["longer_is_better"]["mean"] == pytest.approx((20 + 10 * 0.5) / 40)
    assert length["difference_chars"]["mean"] == pytest.approx(0.5)
    singles = [
        {"prompt": "p", "completion": "abc def", "label": True},
        {"prompt": "p", "completion": "z", "label": False},
    ]
    singles.append({"prompt": "p", "completion": "z", "label": True})
    report = check(_write(tmp_path / "u.jsonl", singles)).report
    assert _found(report) == {"contradictory": 2}
    assert report["length"]["longer_is_better"]["mean"] == pytest.approx(0.75)


def test_command_line_prints_writes_and_refuses(tmp_path):
    source = _write(tmp_path / "a.jsonl", [*_clean_rows(3), _clean_rows(1)[0]])

    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "prefopt", "check", *words], capture_output=True, text=True, cwd=tmp_path
        )

    done = run(source, "--output", "out", "--longest", "100")
    assert done.returncode == 0, done.stderr
    assert "duplicates (removed)" in done.stdout
    report = json.loads((tmp_path / "out" / "check.json").read_text())
    assert report["findings"]["long_rows"]["rows"] == 4
    assert len((tmp_path / "out" / report["cleaned"]).read_text().splitlines()) == 3 == report["rows_kept"]
    for words, part in [((source, "--longst", "3"), "did you mean 'longest'"), ((source, "--output", "."), "--output"),
                        (("none.jsonl",), "none.jsonl")]:  # fmt: skip
        done = run(*words)
        assert done.returncode == 2
        assert part in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("llmbar/preference.jsonl", {"near_identical": 2}),
        ("pandalm/testset-v1.json", {"unusable": 90, "empty": 26, "duplicates": 59}),
        ("oasst_trees/completions.jsonl", {}),
        ("demo_mix/dpo_en_demo.json.gz", {"duplicates": 4}),
        ("demo_mix/unpaired_conversational.jsonl.gz", {}),
    ],
)
def test_real_files(shared_data, name, found):
    report = check(str(shared_data / name)).report
    assert found.items() <= _found(report).items()


@pytest.mark.parametrize(("verb", "part"), [("check", "--threshold"), ("judge-check", "--judge.tie_band")])
def test_help_lists_the_settings(verb, part):
    done = subprocess.run([sys.executable, "-m", "prefopt", "help", verb], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert part in done.stdout
