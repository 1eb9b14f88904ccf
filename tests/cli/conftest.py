"""A small run of two arms, made once for all tests of the command line."""

import json

import pytest
from command import command


@pytest.fixture(scope="session")
def done(tmp_path_factory):
    """A small run of two arms on recorded answers, all stages in it, and what it wrote on stderr."""
    folder = tmp_path_factory.mktemp("results")
    rows = []
    for k in range(24):
        texts = [f"The answer is {k + d}." for d in (0, 0, 1, 2)]
        rows.append(
            {"prompt": f"What is {k}?", "answer": str(k), "completions": [{"text": text} for text in texts]}
        )
    rows[0]["prompt"] = ""
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "data": {"path": str(data), "heldout": 0.3}, "tiny": {"vocab_size": 400}, "reference": {"max_length": 64},
        "select": {"rule": "top", "fraction": 0.5},
        "train": {"steps": 2, "pairs_per_step": 4, "logging_steps": 1, "eval_steps": None, "max_length": 64, "loss": "dpo"},
        "evaluate": {"max_length": 64}, "arms": {"one": {"select": None}, "two": {}},
    }  # fmt: skip
    file = folder / "small.yaml"
    file.write_text(json.dumps(recipe))
    shown = command("run", file, "--output", folder / "run")
    assert shown.exit_code == 0, shown.stderr
    return folder, file, shown
