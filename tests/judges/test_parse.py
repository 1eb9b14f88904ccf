"""Verdicts in words: a table of messy outputs, and that no text whatever raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefopt.judges.parse import parse_verdict

LONG = "Both handle the question, and the first gives a fuller account of it. " * 400
CASES = [
    # the last line alone
    ("A", "first"), ("B.", "second"), ("tie", "tie"), ("Tie.", "tie"), ("C", "tie"), ("**A**", "first"),
    ("__B__", "second"), ("(A)", "first"), ("'B'", "second"), ("Option (A)", "first"), ("Answer: B", "second"),
    ("b", "second"), ("Verdict:\nA", "first"), ("## Verdict\n\nB", "second"), ("**Verdict:** tie", "tie"),
    (LONG + "\nB", "second"), ("Answer A looks better.\n\nB", "second"), ("The answer is A", "first"),
    # marked
    ("[[A]]", "first"), ("[[B]]", "second"), ("[[C]]", "tie"), ("[[tie]]", "tie"),
    ("I think A is fuller. [[A]] On reflection: [[B]]", "second"), (r"Final answer: \boxed{A}", "first"),
    ("The final verdict is [[B]], not [[A]] as I said.", "second"),
    ('{"winner": "A"}', "first"), ('```json\n{"winner": "B", "reason": "x"}\n```', "second"),
    ('{"verdict": "tie"}', "tie"), ('{"winner": "Answer A"}', "first"), ('{"winner": 2}', "second"),
    ('{"reason": "Answer A is better", "verdict": "B"}', "second"), ('{"score_a": 3, "score_b": 4}', None),
    # sentences
    ("Verdict: B.", "second"), ("verdict: b", "second"), ("Verdict: a tie", "tie"),
    ("The winner is Answer B.", "second"), ("My verdict is: **Answer A**", "first"),
    ("Preferred answer: (B)", "second"), ("The better answer is B because it is right", "second"),
    ("Answer A is better at first sight, but it is wrong, so B?", "second"), ("Therefore, A.", "first"),
    ("Answer A is better.\nHowever, on reflection, answer B is better.", "second"),
    ("Answer A is worse than answer B.", "second"), ("Answer B is better than answer A.", "second"),
    ("Response 1 is clearly the best.", "first"), ("B is better than A.", "second"), ("A wins.", "first"),
    ("I prefer response A because it is short.", "first"), ("I would choose B here.", "second"),
    ("It's a tie.", "tie"), ("Neither answer is better.", "tie"), ("Both answers are equally good.", "tie"),
    ("both equal", "tie"), ("<think>A is better, verdict: A</think>\nB", "second"),
    # Unicode
    ("Ａ", "first"), ("Verdict：Ｂ", "second"), ("\u200bA\u200b", "first"), ("It’s a tie", "tie"), ("—A—", "first"),
    # no verdict
    ("", None), ("   \n ", None), ("I'm sorry, but I can't help with that.", None), ("A and B are both", None),
    ("A and B are both good.", None), ("This is a good answer with a few faults", None),
    ("It has a better structure", None), ("Please respond with [[A]] or [[B]].", None), ("A or B", None),
    ("A/B", None), ("verdict: A, B or tie", None), ("Verdict: A and B are both fine", None),
    ("Answer A is not better than answer B.", None), ("The verdict is a matter of taste", None),
    ("In my judgment, a shorter answer would help", None), ("Plan A is to buy a car; plan B is to walk.", None),
    ("Vitamin B is better than nothing", None), ("Is answer A right?", None), ("[[", None), ("{", None),
    ("Let me compare: the first one begins with a", None), ("The winner is a machine.", None),
]  # fmt: skip
PIECES = ["A", "B", "tie", "[[A]]", "[[B]]", "verdict", "is", ":", "better", "answer", '{"winner":', '"A"}', "**", "\n",
          "not", "<think>", "</think>", "\\boxed{", "or", " ", "(", "or", "\ud800", "winner is", "so"]  # fmt: skip


@pytest.mark.parametrize(("text", "verdict"), CASES)
def test_messy_outputs(text, verdict):
    assert parse_verdict(text) == verdict


@given(st.one_of(st.text(max_size=300), st.lists(st.sampled_from(PIECES), max_size=40).map(" ".join)))
def test_never_raises_and_says_nothing_else(text):
    assert parse_verdict(text) in ("first", "second", "tie", None)


@given(st.text(max_size=200), st.sampled_from([("A", "first"), ("B", "second"), ("tie", "tie")]))
def test_the_last_line_decides_whatever_stands_before(text, verdict):
    if "<" not in text:  # an open thought would swallow it
        assert parse_verdict(f"{text}\n{verdict[0]}") == verdict[1]


@pytest.mark.parametrize(
    "unit", ["*", "answer ", "verdict is ", "A, ", "[[A]] or ", "both are ", "{", "neither x ", "\n", "A "]
)
def test_long_repetitions_end(unit):
    assert parse_verdict(unit * (50_000 // len(unit)) + " the end of it") in ("first", "second", "tie", None)
