"""What verbs and runs say of themselves: results, dropped rows, where in the run it is; plain lines without a terminal."""

import json
import re

from command import command

from prefopt.pipeline.recipe import Recipe
from prefopt.pipeline.run import run
from prefopt.stages.results import LINES, result_lines
from prefopt.tables import progress
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import rows_of, write_table


def test_a_run_says_which_stage_of_how_many_and_which_arm(done):
    lines = done[2].stderr.splitlines()
    assert "[stage 1] data: begins" in lines
    stages = [line for line in lines if line.startswith("[stage 3 of 8, arm two] rank")]
    assert re.match(r".* rank: \d+ rows$", stages[0])  # data, judge, rank, ...: answers are recorded
    assert "pairs of" in stages[1]
    assert any(line.startswith("[stage 6 of 7, arm one] train: step 1 of 2, loss ") for line in lines)
    assert any(line.startswith("[stage 8 of 8, arm two] evaluate: ") for line in lines)
    assert any(line.startswith("[stage 8 of 8, the model before training] evaluate: ") for line in lines)
    assert not any("━" in line or "\x1b" in line or "\r" in line for line in lines)


def test_the_summary_stands_before_the_report_and_is_kept_when_that_fails(done, monkeypatch):
    folder, file, shown = done
    assert shown.stdout.splitlines()[-1] == str(folder / "run" / "report.html")
    assert "arm" in shown.stdout

    def broken(folder):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr("prefopt.report.write_report", broken)
    again = command("run", file, "--output", folder / "run")
    assert again.exit_code == 2
    assert "2 arm(s)" in again.stdout
    assert (folder / "run" / "summary.json").is_file()
    reused = [line for line in again.stderr.splitlines() if "done before" in line]
    assert len(reused) >= 8


def test_results_of_every_stage_are_told(done):
    folder = done[0] / "run"
    told = {
        path.name[3:]: result_lines(StageFolder(path))
        for path in folder.glob("0*-*")
        if path.is_dir() and path.name != "00-model"
    }
    assert set(told) == set(LINES) - {"sample", "train-reward"}
    assert all(lines for lines in told.values()), told
    select = StageFolder(folder / "05-select").manifest["quality"]["counts"]
    assert told["select"][0].startswith(f"kept {select['kept']} of {select['train']} train pairs")
    assert f"dropped {select['dropped']}: by rule top {select['dropped']}" in told["select"][0]
    assert re.search(
        r"loss [\d.]+ at step 1, [\d.]+ at the last, held-out accuracy .*, held-out chosen drift",
        told["train"][0],
    )
    assert re.search(r"[\d.]+ s for steps 1 to 2: [\d.]+ pairs/s", told["train"][1])
    assert re.search(r"held-out pairs by log-prob [\d.]+% \[[\d.]+, [\d.]+\]", told["evaluate"][0])
    assert result_lines(StageFolder(folder / "nowhere")) == []


def test_a_verb_alone_prints_its_result(done, tmp_path):
    words = ["--input", done[0] / "run" / "04-reference", "--output", tmp_path / "kept", "--rule", "random"]
    shown = command("select", *words, "--select.fraction", "0.25")
    assert shown.exit_code == 0, shown.stderr
    assert re.match(r"kept \d+ of \d+ train pairs \(\d", shown.stdout)
    assert shown.stderr.splitlines()[0].startswith("select: ")


def test_many_dropped_rows_are_a_warning(tmp_path, capsys):
    rows = [{"prompt": f"q{k}", "chosen": "a", "rejected": "b" if k < 17 else ""} for k in range(20)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    only = dict.fromkeys(("sample", "judge", "rank", "reference", "select", "weight", "train", "evaluate"))
    run(Recipe.model_validate({"data": {"path": str(data)}, **only}), tmp_path / "run")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("[stage 1] data: dropped 3 of 20 rows (15.0%): ") for line in lines)
    assert any("warning: data dropped 3 of 20 rows" in line for line in lines)
    assert progress.worrying_drops({"not selected": 19}, 20) == ""  # a setting has asked for it
    assert progress.worrying_drops({"tie": 2}, 20) == ""
    assert progress.worrying_drops({"tie": 3}, 20) == "dropped 3 of 20 rows (15.0%): tie 3"


def test_places_nest_and_end(capsys):
    with progress.within("arm x"), progress.within(""), progress.within("stage 2 of 3"):
        progress.say("now")
        with progress.progress("train", 4) as advance:
            advance(1)
            advance.note("step 1 of 4, loss 0.5")
    progress.say("after")
    assert capsys.readouterr().err.splitlines() == [
        "[stage 2 of 3, arm x] now",
        "[stage 2 of 3, arm x] train: step 1 of 4, loss 0.5",
        "after",
    ]


def test_other_processes_of_a_distributed_run_are_silent(monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    progress.say("x")
    assert capsys.readouterr().err == ""


def test_on_a_terminal_there_is_a_bar_with_place_and_note(monkeypatch, capsys):
    monkeypatch.setattr(progress, "on_terminal", lambda: True)
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "160")
    with progress.within("arm [x]"), progress.progress("rank", 2) as advance:
        advance(2)
        advance.note("loss 0.5")
    shown = capsys.readouterr().err
    assert "[arm [x]] rank" in shown
    assert "2/2" in shown
    assert "loss 0.5" in shown


def test_stopping_says_that_the_same_command_continues(monkeypatch):
    def stop(*words, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("prefopt.pipeline.run.run", stop)
    shown = command("run", "quickstart", "--output", "my run")
    assert shown.exit_code == 130
    assert "the same command continues: prefopt run quickstart --output 'my run'" in shown.stderr


def test_the_documented_command_for_reward_scores(tmp_path):
    """docs/judges.md: `--model` of `prefopt judge` is the reward model's directory."""
    import reward_models as small

    base = small.small_base(tmp_path / "base")
    write_table(small.pairs_table(16), tmp_path / "pairs.parquet")
    words = [
        "--input",
        tmp_path / "pairs.parquet",
        "--model",
        base,
        "--output",
        tmp_path / "reward",
        "--steps",
        "1",
    ]
    trained = command("train-reward", *words, "--heldout", "0.3", "--pairs-per-step", "4")
    assert trained.exit_code == 0, trained.stderr
    assert "held-out accuracy" in trained.stdout
    rows = [
        {"prompt": f"p{k}", "completions": [{"text": "apple good"}, {"text": "river bad"}]} for k in range(3)
    ]
    data = tmp_path / "answers.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["judge", "--input", data, "--kind", "reward_model", "--model", tmp_path / "reward" / "model"]
    shown = command(*words, "--output", tmp_path / "judged")
    assert shown.exit_code == 0, shown.stderr
    assert re.search(r"^reward -?[\d.e-]+, sd [\d.e-]+; without a score 0$", shown.stdout, re.MULTILINE)
    assert all(row["score"] is not None for row in rows_of(StageFolder(tmp_path / "judged").table()))
