"""The whole chain at toy size through the command line, its cache, and what it must not import."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

pytest.importorskip("mujoco")
pytest.importorskip("jax")

from typer.testing import CliRunner

from prefopt.core.errors import PrefoptError
from prefopt.suite.agents.lineages import roles
from prefopt.suite.bench.bench import tuned_snapshot
from prefopt.suite.bench.settings import PRESETS, bench_config, bench_configs
from prefopt.suite.bench.statistics import holm, interval, paired, with_verdicts
from prefopt.suite.bench.tables import by_cell, costs, markdown, orderings, ranking
from prefopt.suite.bench.tune import SHIPPED, load_tuned, write_tuned
from prefopt.suite.commands import suite_app
from prefopt.suite.inner.methods import METHODS
from prefopt.suite.words import parse_hyper, parse_seeds


def run(*words):
    result = CliRunner().invoke(suite_app, [str(w) for w in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    """agents, data, tune and bench of the toy preset."""
    root = tmp_path_factory.mktemp("suite")
    common = ("--preset", "toy", "--output", root, "--workers", 1)
    out = {"root": root, "agents": run("agents", *common), "data": run("data", *common)}
    out["tune"] = run("tune", *common, "--write", root / "tuned.json")
    out["bench"] = run("bench", *common, "--tuned", root / "tuned.json", "--write", root / "bench.json")
    return out


def test_chain_gives_a_whole_table(chain):
    result = json.loads((chain["root"] / "bench.json").read_text())
    toy = PRESETS["toy"]
    assert [(r["loss"], r["variant"]) for r in result["rows"]] == [
        (m, v) for m in toy["methods"] for v in toy["variants"]
    ]
    for row in result["rows"]:
        assert len(row["returns"]) == len(toy["lineages"]) == len(row["returns_full"])
        assert row["mean"] == pytest.approx(np.mean(row["returns"]))
        assert len(set(row["returns"])) > 1
    by_loss = {(r["loss"], r["variant"]): r for r in result["rows"]}
    assert by_loss["dpo", "noisy:0.25"]["data"]["flip_rate"] > by_loss["dpo", "base"]["data"]["flip_rate"]
    assert set(by_loss["dpo_select_40", "base"]["rows_trained"]) == {6}
    assert set(by_loss["dpo", "base"]["data_trained"].values()) == set(
        by_loss["dpo", "base"]["data"].values()
    )
    assert by_loss["dpo_select_40", "noisy:0.25"]["data_trained"]["rows"] == 6
    assert by_loss["dpo", "base"]["returns"] != by_loss["dpo_select_40", "base"]["returns"]
    assert "| dpo |" in chain["bench"]
    assert "flip_rate" in chain["data"]


def test_tuning_gave_every_method_the_same_budget_on_other_lineages(chain):
    tuned, toy = json.loads((chain["root"] / "tuned.json").read_text()), PRESETS["toy"]
    assert list(tuned["losses"]) == toy["methods"]
    assert not set(tuned["lineages"]) & set(toy["lineages"])
    for name, found in tuned["losses"].items():
        assert len(found["candidates"]) == tuned["candidates_per_loss"] == toy["tuning_candidates"]
        assert len(found["finals"]) == toy["tuning_finalists"]
        assert found["updates"] in (10, 20)
        assert found["score"] == max(max(f["score_by_snapshot"]) for f in found["finals"])
        best = next(f for f in found["finals"] if f["hyper"] == found["hyper"])
        assert best["score_by_snapshot"][found["snapshot"]] == found["score"]
        early = found["early_stopping"]
        assert early["best"] >= max(early["tuned"], early["early"], early["full"])
        first = {json.dumps(c["hyper"]): c["score"] for c in found["candidates"]}
        root = next(chain["root"].glob(f"tune-*/{name}-*-3.json"))
        second = {json.dumps(row["hyper"]): row["score"] for row in json.loads(root.read_text())}
        for final in found["finals"]:  # the mean over both lineages
            key = json.dumps(final["hyper"])
            np.testing.assert_allclose(
                final["score_by_snapshot"], np.mean([first[key], second[key]], axis=0), rtol=1e-12
            )


def test_a_lineage_serves_one_purpose():
    with pytest.raises(PrefoptError, match="one purpose"):
        bench_config("toy", {"tuning_lineages": [1, 5]})
    for environment in ("hopper", "ant", "three_legged_ant"):
        config, own = bench_config("small", {"agents": {"environment": environment}}), roles(environment)
        seeds = (*own.tuning, *own.search, *own.reporting)
        assert len(set(seeds)) == len(seeds)
        assert (config.tuning(), config.reporting()) == (own.tuning, own.reporting)
    one, two = (bench_config("small", {}).of_lineage(seed) for seed in (3, 4))
    assert one.agents.seed != two.agents.seed
    assert one.bank.seed != two.bank.seed  # no start state is shared


def test_the_columns_are_snapshots_of_one_training(chain):
    """Where the tuned length is the full one, both columns are the same policy; early stopping takes a snapshot too."""
    result = json.loads((chain["root"] / "bench.json").read_text())
    for row in result["rows"]:
        if row["updates"] == 20:
            assert row["returns"] == row["returns_full"]
        assert set(row["early_updates"]) <= {10.0, 20.0}
    assert [row["seed"] for row in result["lineages"]] == PRESETS["toy"]["lineages"]
    assert len({row["sha256"]["expert"] for row in result["lineages"]}) == 2


def test_the_second_run_reads_what_is_there(chain):
    stamps = {p: p.stat().st_mtime_ns for p in chain["root"].glob("cell-*/row.json")}
    assert len(stamps) == 8
    first = (chain["root"] / "bench.json").read_bytes()
    root = chain["root"]
    next(iter(stamps)).unlink()  # as if killed before this cell
    run(
        "bench",
        "--preset",
        "toy",
        "--output",
        root,
        "--workers",
        1,
        "--tuned",
        root / "tuned.json",
        "--write",
        root / "bench.json",
    )
    assert (root / "bench.json").read_bytes() == first
    assert sum(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items()) == 7


def test_train_keeps_policies_and_a_curve(chain):
    root = chain["root"]
    words = (
        "--preset",
        "toy",
        "--output",
        root,
        "--hyper",
        "beta=0.01,learning_rate=1e-3",
        "--inner.snapshots",
        2,
    )
    out = run("train", *words, "--workers", 1)
    assert "update 20: return" in out
    folder = next(root.glob("train-dpo-*"))
    curve = json.loads((folder / "curve.json").read_text())
    assert np.shape(curve["returns"]) == np.shape(curve["loss"]) == (2, 2)
    assert len(list(folder.glob("policy-*.safetensors"))) == 2
    (root / "bench.gif").write_bytes(b"GIF89a")
    for source in (folder / "curve.json", root / "bench.json"):
        run("plot", "--input", source, "--write", root / "figure.html")
        page = (root / "figure.html").read_text()
        assert "Plotly.newPlot" in page
        assert ("data:image/gif;base64,R0lGODlh" in page) == (source.stem == "bench")
        run("plot", "--input", source, "--write", root / "figure.svg")
        drawn = ElementTree.parse(root / "figure.svg")  # well-formed
        words = " ".join(drawn.getroot().itertext())
        assert "dpo" in words
        assert "reference" in words


@pytest.mark.slow
def test_render_writes_a_gif_or_says_why_not(chain):
    words = (
        "render",
        "--preset",
        "toy",
        "--output",
        chain["root"],
        "--write",
        chain["root"] / "a.gif",
        "--seconds",
        0.3,
    )
    try:
        run(*words)
    except PrefoptError as error:
        if "no OpenGL back end works here" not in str(error):
            raise
        pytest.skip(str(error))
    from PIL import Image

    with Image.open(chain["root"] / "a.gif") as image:
        assert image.size == (480, 200)
        assert image.n_frames > 1
        assert len(image.convert("RGB").getcolors(100_000)) > 10


# ---- reading results


def rows(**cells):
    return [
        {"loss": loss, "variant": variant, "returns": returns, **interval(returns)}
        for loss, by_variant in cells.items()
        for variant, returns in by_variant.items()
    ]


def test_intervals_and_paired_differences_by_hand():
    scipy_stats = pytest.importorskip("scipy.stats")
    found = interval([1.0, 3.0])
    assert (found["mean"], found["standard_error"]) == (2.0, pytest.approx(1.0))
    assert found["half_width"] == pytest.approx(12.7062, rel=1e-5)  # t(0.975, 1)
    compared = paired([3.0, 5.0, 7.0], [1.0, 2.0, 3.0])
    assert compared["difference"] == pytest.approx(3.0)
    assert compared["standard_error"] == pytest.approx(1 / np.sqrt(3))
    assert compared["z"] == pytest.approx(3 * np.sqrt(3))
    assert compared["p"] == pytest.approx(2 * scipy_stats.t.sf(3 * np.sqrt(3), 2))
    assert paired([1.0, 2.0], [1.0, 2.0])["p"] == 1.0
    with pytest.raises(ValueError, match="lineages"):
        paired([1.0], [2.0])


def test_holm_by_hand_and_verdicts():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    seen = with_verdicts([{"difference": d, "p": p} for d, p in ((2.0, 0.001), (-2.0, 0.002), (1.0, 0.04))])
    assert [row["verdict"] for row in seen] == ["confirmed", "refuted", "confirmed"]
    # the same p is no longer enough where two other statements are undecided
    seen = with_verdicts([{"difference": 1.0, "p": p} for p in (0.04, 0.5, 0.6)])
    assert seen[0]["verdict"] == "undecided"


def test_orderings_and_table_read_the_rows():
    made = rows(
        dpo={"base": [10.0, 11.0, 12.0, 13.0], "noisy:0.2": [5.0, 6.1, 7.0, 8.1]},
        dpo_budget={"base": [21.0, 22.1, 23.0, 24.1], "noisy:0.2": [4.0, 4.9, 6.0, 6.9]},
    )
    found = {row["claim"]: row["verdict"] for row in orderings(made)}
    assert found["dpo_budget better than dpo on base"] == "confirmed"
    assert found["dpo_budget better than dpo on noisy:0.2"] == "refuted"
    assert not any("sft" in claim for claim in found)
    assert {row["claim"]: row["verdict"] for row in costs(made)} == {
        "dpo: better on base than on noisy:0.2": "confirmed",
        "dpo_budget: better on base than on noisy:0.2": "confirmed",
    }
    assert ranking(made, "base") == ["dpo_budget", "dpo"]
    assert by_cell(made)["dpo", "base"].tolist() == [10.0, 11.0, 12.0, 13.0]
    lineages = [{"seed": k, **{n: {"return": 1.0 + k} for n in ("reference", "expert")}} for k in range(2)]
    table = markdown({"rows": made, "lineages": lineages})
    assert "| dpo_budget | **23 ± 2** | 5 ± 2 |" in table
    assert "| *expert* | 2 ± 6 | |" in table


def test_bad_words_are_told(tmp_path):
    with pytest.raises(PrefoptError, match="did you mean 'small'"):
        bench_config("smal", {})
    with pytest.raises(PrefoptError, match="did you mean 'updates'"):
        bench_config("small", {"inner": {"update": 3}})
    with pytest.raises(PrefoptError, match="multiple of snapshots"):
        bench_config("small", {"inner": {"snapshots": 7}})
    with pytest.raises(PrefoptError, match="learning_rate is missing"):
        parse_hyper("beta=1")
    with pytest.raises(PrefoptError, match="NAME=NUMBER"):
        parse_hyper("beta")
    assert parse_seeds("1-3,9, 2", ()) == (1, 2, 3, 9)
    assert parse_seeds(None, (4,)) == (4,)
    for text in ("a", "1-", "-1", ""):
        with pytest.raises(PrefoptError, match="write 1-4,9"):
            parse_seeds(text, ())
    with pytest.raises(PrefoptError, match="no result of tuning"):
        load_tuned(tmp_path / "none.json", "hopper", ["dpo"])


def test_the_paper_preset_runs_every_environment():
    configs = bench_configs("paper", {"seeds": 3})
    assert [len(c.reporting()) for c in configs] == [8, 4, 4]
    assert [c.agents.environment for c in configs] == ["hopper", "ant", "three_legged_ant"]
    assert [c.rows for c in configs] == [5120, 1280, 1280]
    assert {c.seeds for c in configs} == {3}
    assert {c.episodes for c in configs} == {100}
    assert all(c.methods == tuple(METHODS) for c in configs)
    (ant,) = bench_configs("small", {"agents": {"environment": "ant"}, "rows": 64})
    assert (ant.rows, ant.agents.ppo.steps) == (64, 4_000_000)
    with pytest.raises(PrefoptError, match="give --env"):
        run("train", "--preset", "paper")


def test_tunings_of_other_environments_stay_in_the_file(tmp_path):
    path = tmp_path / "tuned.json"
    one, two = (
        {"environment": name, "settings": 3, "losses": {"dpo": {"hyper": {"beta": k}, "updates": 40}}}
        for k, name in enumerate("ab")
    )
    write_tuned(path, [one])
    assert json.loads(path.read_text()) == one
    write_tuned(path, [two])
    more = {"environment": "b", "settings": 3, "losses": {"kto": {"hyper": {"beta": 7}, "updates": 80}}}
    write_tuned(path, [more])  # tuned with the same settings: both stay
    assert load_tuned(path, "a", ["dpo"]) == {"dpo": {"hyper": {"beta": 0}, "updates": 40}}
    assert load_tuned(path, "b", ["dpo", "kto"])["dpo"]["hyper"] == {"beta": 1}


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_settings(preset):
    config = bench_config(preset, {})
    assert config.rows + 2 <= config.bank.starts
    assert preset == "toy" or len(config.reporting()) >= 8


def test_the_packaged_tuning_serves_the_small_preset():
    config = bench_config("small", {})
    found = load_tuned(SHIPPED, "hopper", config.methods)
    for name, row in found.items():
        assert row["hyper"] in METHODS[name].candidates()
        tuned_snapshot(config, row["updates"], name)
    with pytest.raises(PrefoptError, match="a snapshot is kept every 40"):
        tuned_snapshot(config, 33, "dpo")


def test_suite_never_imports_torch_and_its_commands_are_light():
    code = (
        "import sys, pkgutil, importlib, prefopt.suite.commands as c\n"
        "heavy = {'jax', 'mujoco', 'torch', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "import prefopt.suite\n"
        "for m in pkgutil.walk_packages(prefopt.suite.__path__, 'prefopt.suite.'): importlib.import_module(m.name)\n"
        "assert 'jax' not in sys.modules and 'mujoco' not in sys.modules\n"
        "import numpy as np\n"
        "from prefopt.suite.inner.training import InnerConfig, Member, train_population\n"
        "from prefopt.suite.data.bank import Bank\n"
        "from prefopt.suite.simulator.policy import init_policy\n"
        "from prefopt.suite.simulator.simulator import Simulator\n"
        "from prefopt.suite.simulator.environments import HOPPER\n"
        "Simulator(HOPPER, threads=1).close()\n"
        "p = init_policy(np.random.default_rng(0), 2, 1, 2)\n"
        "b = Bank(np.zeros((4, 2), 'f'), np.zeros((4, 1), 'f'), np.zeros(4, 'f'), np.arange(4), np.ones(4, int), np.zeros(4), 1)\n"
        "m = Member('dpo', 1e-3, np.array([0, 2]), np.array([1, 3]), np.ones(2), 0)\n"
        "train_population(b, p, [m], InnerConfig(updates=1, pairs=2, steps_drawn=1))\n"
        "assert 'torch' not in sys.modules, 'torch'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_docs_show_the_committed_results():
    repo = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("suite_docs", repo / "tools" / "suite_docs.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    text = tool.PAGE.read_text()
    assert tool.page(text) == text, "run python tools/suite_docs.py"
    found = tool.FOUND_PAGE.read_text(encoding="utf-8")
    assert tool.found_page(found) == found, "run python tools/suite_docs.py"
    for name, svg in tool.figures().items():
        assert (tool.IMAGES / name).read_text() == svg, "run python tools/suite_docs.py"
    result, small = tool.read("suite-lineages.json"), bench_config("small", {})
    methods = {row["loss"] for row in result["rows"]}
    assert {"dpo", "orpo", "cpo", "kto", "sft"} <= methods <= set(small.methods)
    assert {(row["loss"], row["variant"]) for row in result["rows"]} == {
        (method, variant) for method in methods for variant in small.variants
    }
    assert all(f"`{name}`" in text for name in set(METHODS) - methods)  # said to be missing
    assert all(len(row["returns"]) == len(small.reporting()) for row in result["rows"])
    assert [row["seed"] for row in result["lineages"]] == list(small.reporting())
    tuned = load_tuned(SHIPPED, "hopper", small.methods)
    assert all(row["hyper"] == tuned[row["loss"]]["hyper"] for row in result["rows"])
    assert all(row["updates"] == tuned[row["loss"]]["updates"] for row in result["rows"])
    for key, again in (("orderings", orderings(result["rows"])), ("costs", costs(result["rows"]))):
        for told, now in zip(result[key], again, strict=True):
            assert (told["claim"], told["verdict"]) == (now["claim"], now["verdict"])
            assert told["difference"] == pytest.approx(now["difference"])
    images = [path.stat().st_size for path in tool.IMAGES.glob("*.gif")]
    assert images
    assert max(images) <= 1_500_000
