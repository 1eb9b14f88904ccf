"""The pairs that tests of scoring and training share."""

from __future__ import annotations

import pytest
from training_worker import make_examples, tiny_model

from prefopt.training.collate import Example


@pytest.fixture(scope="module")
def rows() -> list[Example]:
    """Twenty pairs with the tiny model's log-probs as reference."""
    return make_examples(20, 0, tiny_model())
