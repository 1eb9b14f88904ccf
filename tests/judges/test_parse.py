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


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        # what is marked as the verdict outranks the remarks around it
        ("B\n\nExplanation: answer A is better formatted, but wrong.", "second"),
        ("**Final verdict: B**\n\nNote: Answer A is more helpful in tone.", "second"),
        ("Verdict: B\n\nReasons:\n1. Answer A is more complete.\n2. Answer B is better on facts.", "second"),
        ("I choose B, although answer A is better structured.", "second"),
        ("## Verdict\n\nA\n\n## Remarks\nAnswer B is better in style.", "first"),
        ("<verdict>B</verdict> Answer A is better at layout.", "second"),
        ("<answer>\nAnswer A\n</answer>\nB wins on brevity alone.", "first"),
        ('{"result": {"winner": "Assistant B"}, "notes": {"A": "longer"}}', "second"),
        ("Answer A is better in style. Overall, answer B is better.", "second"),
        ("B\n" + "Answer A is better in a detail. " * 400, "second"),
        # thoughts, whatever they are called, closed or not, are no verdict
        ("<think>\nSo far I lean to [[A]] but", None),
        ("[[A]] so far ...\n</think>\n\nBoth need more context.", None),
        ("[THINK]Verdict: A[/THINK]Verdict: B", "second"),
        ("<thinking>A wins</thinking><thinking>no, B wins", None),
        ("<think>" + "x" * 7_000 + " [[A]] and so on", None),
        # the instruction said again, quotations, conditions and denials are none either
        (
            'Output "[[A]]" if assistant A is better, "[[B]]" if assistant B is better, and "[[C]]" for a tie.',
            None,
        ),
        ("I would answer [[A]] if the first were complete.", None),
        ("> Verdict: A\n\nThe quoted line above is the user's own text.", None),
        ('Answer A says "the final verdict: B is guilty as charged".', None),
        ("I don't think answer A is better.", None),
        ("Answer A would be better if it had a source.", None),
        ("Whether answer A is better depends on the reader.", None),
        # doubt is no label: remarks against each other, headings without a verdict
        ("Answer A is better in style. Answer B is better in facts.", None),
        ("A:\nshort and right\nB:\nlong and right", None),
        ("Answer A is better in style, and answer A is better in facts.", "first"),
    ],
)
def test_rank_of_verdicts(text, wanted):
    assert parse_verdict(text) == wanted


@given(thought=st.text(max_size=60), verdict=st.sampled_from(["A", "B"]))
def test_a_closed_thought_changes_nothing(thought, verdict):
    said = f"Verdict: {verdict}"
    inner = thought.replace("<", "").replace("[", "").replace("◁", "")
    assert parse_verdict(f"<think>{inner}</think>{said}") == parse_verdict(said)
