"""Checkable constraints on an answer: the 25 kinds of IFEval, strict and loose."""

from prefopt.verify.constraints.check import check_packages, constraints, constraints_of, follows, loose_forms
from prefopt.verify.constraints.kinds import KINDS

__all__ = ["KINDS", "check_packages", "constraints", "constraints_of", "follows", "loose_forms"]
