"""The embedded default: a small arithmetic task with verifiable answers, and a small base model.

BASE_MODEL is an ordinary Hugging Face directory; PROMPTS maps train, tuning and test to their JSONL files, whose
rows are {"id", "prompt": messages, "answer"}. Both are rebuilt by `python -m prefopt.recipes.quickstart.build`.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent

BASE_MODEL = _HERE / "base"
PROMPTS = {split: _HERE / f"{split}.jsonl" for split in ("train", "tuning", "test")}
