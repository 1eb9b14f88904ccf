"""A stage under its key: what the key depends on, what is done again, what is told of the chat template."""

from __future__ import annotations

from typing import Any

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.stages import running
from prefopt.stages.reference.reference import STAGE as REFERENCE
from prefopt.stages.reference.settings import ReferenceConfig
from prefopt.stages.running import Done, Ledger, execute, stage_seed, way_of, work_key
from prefopt.stages.select.select import STAGE as SELECT
from prefopt.stages.select.settings import SelectConfig
from prefopt.stages.train.settings import TrainConfig
from prefopt.stages.train.train import STAGE as TRAIN
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder, StageOutput
from prefopt.tables.records import make_table, rows_of

ROWS = [
    {"id": str(k), "prompt_id": str(k), "prompt": "q", "chosen": "a", "rejected": "b", "split": "train"}
    for k in range(4)
]


def done(key: str, folder: StageFolder) -> Done:
    return Done(key, folder)


def test_a_key_names_everything_that_the_work_depends_on(tmp_path, monkeypatch):
    folder = StageFolder(tmp_path)
    config, context = SelectConfig(rule="random"), Context(seed=1)
    state = Ledger(model_key="m")

    def key(
        stage: Any = SELECT, config: Any = config, upstream: Any = done("u", folder), context=context, **more
    ):
        return work_key(state, stage, config, upstream, context, **more)

    keys = [
        key(),
        key(config=SelectConfig(rule="random", fraction=0.3)),
        key(context=Context(seed=2)),
        key(context=Context(seed=1, strict=True)),
        key(upstream=done("other", folder)),
        key(upstream=None),
        key(extra=["x"]),
        key(stage=REFERENCE, config=ReferenceConfig()),
        key(stage=REFERENCE, config=ReferenceConfig(), model_key="another"),
    ]
    assert len(set(keys)) == len(keys)
    assert key() == keys[0]
    assert key(model_key="another") == keys[0]  # a stage without a model does not care
    monkeypatch.setattr(running, "__version__", "0.0.0")
    assert key() != keys[0]


def test_seeds_of_stages_differ_and_have_31_bits():
    seeds = {stage_seed(seed, name) for seed in range(20) for name in ("sample", "train")}
    assert len(seeds) == 40
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_work_that_is_done_is_not_done_again_and_changed_work_is(tmp_path, capsys):
    folder = StageFolder(tmp_path / "in")
    folder.begin("in")
    folder.finish("weight", StageOutput(make_table(ROWS)), {"key": "in"})

    def run(state, **settings):
        return execute(state, SELECT, SelectConfig(**settings), tmp_path, done("in", folder), Context(seed=3))

    first = Ledger()
    a = run(first, rule="random", fraction=0.5)
    assert first.worked
    assert sum(row["kept"] for row in rows_of(a.folder.table())) == 2
    assert run(first, rule="random", fraction=0.5) is a  # shared by arms, whatever their home
    again = Ledger()
    assert run(again, rule="random", fraction=0.5).key == a.key
    assert not again.worked
    assert "done before, 4 rows" in capsys.readouterr().err
    b = run(again, rule="all")
    assert again.worked
    assert b.key != a.key
    assert "rule, fraction changed" in capsys.readouterr().err.replace("fraction, rule", "rule, fraction")
    assert all(row["kept"] for row in rows_of(b.folder.table()))


def test_a_finished_stage_of_which_something_is_gone_or_cut_is_done_anew(tmp_path, capsys):
    folder = StageFolder(tmp_path / "in")
    folder.begin("in")
    folder.finish("weight", StageOutput(make_table(ROWS)), {"key": "in"})

    def run():
        return execute(
            Ledger(), SELECT, SelectConfig(rule="random"), tmp_path, done("in", folder), Context(seed=3)
        )

    first = run()
    (part,) = first.folder.parts()
    whole = part.read_bytes()
    for damage in (
        lambda: part.write_bytes(whole[:-40]),
        part.unlink,
        (part.parent / "manifest.json").unlink,
    ):
        damage()
        capsys.readouterr()
        assert run().key == first.key
        assert "the stage is done anew" in capsys.readouterr().err
        assert part.read_bytes() == whole
    assert run().key == first.key
    assert "done before" in capsys.readouterr().err


def test_failed_rows_are_asked_again_only_of_the_very_same_work(tmp_path):
    folder = StageFolder(tmp_path)
    folder.begin("k")
    folder.finish("sample", StageOutput(make_table(ROWS), failed=2), {"key": "k"})
    assert way_of(folder, "k", retry_failed=True) == "again"
    assert way_of(folder, "k", retry_failed=False) == "none"
    assert way_of(folder, "other", retry_failed=False) == "begin"
    assert way_of(folder, "other", retry_failed=True, changed=True) == "begin"
    with pytest.raises(PrefoptError, match="repeat its command"):
        way_of(folder, "other", retry_failed=True)


@pytest.mark.parametrize(
    ("stage", "config", "columns", "told"),
    [
        (REFERENCE, ReferenceConfig(), {}, True),
        (TRAIN, TrainConfig(), {}, True),
        (TRAIN, TrainConfig(), {"ref_chosen_logps": -1.0}, False),  # 04 has said so
        (SELECT, SelectConfig(), {}, False),
    ],
)
def test_the_first_stage_that_reads_answers_tells_of_the_template(
    stage, config, columns, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("prefopt.models.load.load_tokenizer", lambda model: "tokenizer")
    monkeypatch.setattr(
        "prefopt.models.template_faults.template_faults", lambda tokenizer, rows: ["cuts half"]
    )
    messages = [{**row, "prompt": [{"role": "user", "content": "q"}], **columns} for row in ROWS]
    running._warn_of_template(stage, config, make_table(messages), Context(model=tmp_path))
    assert capsys.readouterr().err == (f"warning: {stage.name}: cuts half\n" if told else "")
    for table in (
        None,
        make_table(ROWS),
        make_table(messages).select([]),
    ):  # nothing to look at, or plain text
        running._warn_of_template(stage, config, table, Context(model=tmp_path))
    running._warn_of_template(stage, config, make_table(messages), Context())  # no model
    assert capsys.readouterr().err == ""
