"""Verifiers: what says whether a completion is right, or how good it is: final answers, constraints, checks of the user's."""

from prefopt.verify.equality import (
    answer_classes,
    as_number,
    extract_answer,
    gold_answer,
    is_formula,
    same_answer,
)
from prefopt.verify.score import Failure, Score
from prefopt.verify.scoring import check_ready, score_rows, verifier_digests
from prefopt.verify.settings import DEFAULT, VerifyConfig
from prefopt.verify.verifiers import VERIFIERS, register_verifier

__all__ = [
    "DEFAULT",
    "VERIFIERS",
    "Failure",
    "Score",
    "VerifyConfig",
    "answer_classes",
    "as_number",
    "check_ready",
    "extract_answer",
    "gold_answer",
    "is_formula",
    "register_verifier",
    "same_answer",
    "score_rows",
    "verifier_digests",
]
