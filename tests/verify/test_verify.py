"""Answers as models write them: found, brought to one form, compared, never waited for."""

import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prefopt.core.errors import PrefoptError
from prefopt.core.settings import parse_config
from prefopt.verify import (
    VerifyConfig,
    answer_classes,
    extract_answer,
    gold_answer,
    mathcheck,
    same_answer,
)
from prefopt.verify.answers import normalize_answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("3*4=<<3*4=12>>12\n#### 12", "12"),
        ("She makes 9*2=18\nA: 18", "18"),
        ("A: 18 dollars", "18"),
        ("A: $1,800.00", "1800"),
        ("A: 540 meters a week.", "540"),
        ("A: 5%", "5"),
        ("A: -5", "-5"),
        ("A: - $5", "-5"),
        ("A: .50", "0.5"),
        ("A: 007", "7"),
        ("A: −3", "-3"),
        ("so \\boxed{\\frac{1}{2}} holds", "1/2"),
        ("\\boxed{\\text{(C)}}", "C"),
        ("first \\boxed{1}, then \\boxed{\\sqrt{2}}", "\\sqrt{2}"),
        ("cut \\boxed{\\frac{1", None),
        ("The final answer is: $18$. I hope it is correct.", "18"),
        ("The answer is 3.50.", "3.5"),
        ("The answer to the question is\n\\[ x = 5 \\]", "5"),
        ("**Answer:** 42", "42"),
        ("The answer is (B) pears.", "B"),
        ("answer = 12", "12"),
        ("A: 1 1/2", "3/2"),
        ("A: $2\\frac{1}{3}$ cups", "7/3"),
        ("A: 3+4=7", "7"),
        ("A: 5 hours and 30 minutes", "5 hours and 30 minutes"),
        ("A: 2 x", "2 x"),
        ("A: 2\\sqrt{3}", "2\\sqrt{3}"),
        ("A: 1,234,567", "1234567"),
        ("A: 1,2", "1,2"),
        ("A: 1e3", "1000"),
        ("#### 1\nA: 2", "1"),
        ("A: 1\nA: 2", "2"),
        ("12*3=36", None),
        ("A:", None),
        ("A: ", None),
        ("", None),
        ("I do not know", None),
        ("Answer:\nStep 1: think\nStep 2: write", None),
    ],
)
def test_final_answer_is_found(text, answer):
    assert extract_answer(text) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("B", "B"),
        ("(b)", "B"),
        ("B) 12 apples", "B"),
        ("The answer is (C)", "C"),
        ("I am sure: D.", "D"),
        ("I think A", "A"),
        ("A dog", None),
        ("none of them", None),
    ],
)
def test_choice_is_one_letter(text, answer):
    assert extract_answer(text, VerifyConfig(extract="choice")) == answer


def test_number_mode_takes_the_last_number_of_the_marked_answer():
    config = VerifyConfig(extract="number")
    assert extract_answer("A: 5 apples, then 1,200 more", config) == "1200"
    assert extract_answer("A: none", config) is None
    assert gold_answer("18 apples", config) == "18"


def test_last_number_is_a_fallback_that_must_be_asked_for():
    assert extract_answer("so 5 and then 7.") is None
    assert extract_answer("so 5 and then 7.", VerifyConfig(last_number=True)) == "7"
    assert extract_answer("A: 5, not 7", VerifyConfig(last_number=True)) == "5, not 7"


def test_text_mode_is_the_whole_completion():
    config = VerifyConfig(extract="text")
    assert extract_answer("  Yes,\n it is ", config) == "Yes, it is"
    assert not same_answer("0.50", "1/2", config)
    assert extract_answer(" \n ", config) is None


@pytest.mark.parametrize(
    ("pattern", "answer"),
    [(r"<<(?P<answer>\d+)>>", "4"), (r"=> (\d+)", "2"), (r"\d+ apples", "3"), ("nothing", None)],
)
def test_user_pattern_takes_the_last_match(pattern, answer):
    text = "<<3>> <<4>> => 1 => 2 and 3 apples"
    assert extract_answer(text, VerifyConfig(pattern=pattern)) == answer


def test_user_pattern_that_does_not_compile_is_an_error_line():
    with pytest.raises(PrefoptError, match="pattern: not a regular expression"):
        parse_config(VerifyConfig, {"pattern": "("}, "recipe")


def test_gold_answer_may_be_a_solution():
    assert gold_answer("18") == "18"
    assert gold_answer("He has <<9*2=18>>18.\n#### 18") == "18"
    assert gold_answer("x = 3") == "3"
    assert gold_answer("  ") is None
    assert gold_answer("(B) pears") == "B"


@given(st.text(max_size=60) | st.text("$\\()A:=. 12,/*{}boxedfrctx-e%", max_size=30))
def test_normal_form_is_stable_for_any_text(text):
    once = normalize_answer(text)
    assert normalize_answer(once) == once
    found = extract_answer(f"A: {text}")
    assert found is None or normalize_answer(found) == found


@given(st.integers(-(10**9), 10**9))
def test_every_spelling_of_an_integer_is_one_answer(number):
    for text in (
        f"{number}",
        f"{number:,}",
        f"{number}.00",
        f"${number}$",
        f"\\boxed{{{number}}}",
        f"**{number}**",
    ):
        assert extract_answer(f"A: {text}") == str(number), text


@pytest.mark.parametrize(
    ("first", "second", "equal"),
    [
        ("18", "18", True),
        ("1/2", "0.5", True),
        ("-3/6", "-0.5", True),
        ("1/3", "0.333333", True),
        ("1/3", "0.33", False),
        ("18", "18.0000001", True),
        ("18", "18.001", False),
        ("1000000000000", "1000000000001", False),
        ("B", "b", True),
        ("New York", "new  york", True),
        ("yes", "no", False),
        ("1/0", "5", False),
        ("9" * 5000, "9" * 5000 + "0", False),
        ("x+1", "1+x", True),
        ("\\frac{x}{2}", "0.5x", True),
        ("\\sqrt{8}", "2\\sqrt{2}", True),
        ("10^{3}", "1000", True),
        ("(1,2)", "(2,1)", False),
        ("x^2", "x^3", False),
    ],
)
def test_equality_is_symmetric(first, second, equal):
    assert same_answer(first, second) is equal
    assert same_answer(second, first) is equal


@pytest.mark.parametrize(
    "bomb",
    [
        "9**9**9",
        "9^{9^{9}}",
        "(9^9)^9^9",
        "10^{99999999}",
        "99999999!",
        "((5!)!)!",
        "7" * 3000 + "+1",
        "(" * 3000,
    ],
)
def test_explosive_answers_are_compared_as_text_at_once(bomb):
    start = time.perf_counter()
    assert not same_answer(bomb, "1")
    assert same_answer(bomb, bomb)
    assert time.perf_counter() - start < 0.5


def test_a_comparison_without_end_is_stopped_and_the_next_one_works():
    config = VerifyConfig(timeout_s=1.0)
    assert same_answer("x+2", "2+x", VerifyConfig(timeout_s=60.0))  # the worker is up
    before, start = mathcheck.undecided_count(), time.perf_counter()
    assert not same_answer("\\binom{1000000000}{500000000}", "8", config)
    assert time.perf_counter() - start < 20
    assert mathcheck.undecided_count() == before + 1
    assert same_answer("x+3", "3+x", VerifyConfig(timeout_s=60.0))


def test_symbolic_equality_works_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(
        target=lambda: verdicts.append(same_answer("y+4", "4+y", VerifyConfig(timeout_s=60.0)))
    )
    thread.start()
    thread.join(60)
    assert verdicts == [True]


def test_thousands_of_plain_answers_take_no_time():
    texts = [f"some steps <<1+1=2>>2\nA: ${i % 97},{i % 1000:03d}.00" for i in range(5000)]
    start = time.perf_counter()
    answers = [extract_answer(text) for text in texts]
    for i in range(0, 5000, 8):
        answer_classes(answers[i : i + 8], answers[i])
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize(
    "unit", [" ", "$", "\\boxed{", "A:", "answer is ", "1,", "(", "<<", "answer ", "*", "\n"]
)
def test_long_completions_take_linear_time(unit):
    start = time.perf_counter()
    extract_answer(unit * (100_000 // len(unit)))
    assert time.perf_counter() - start < 2


def test_classes_are_numbered_by_first_appearance_and_closed_under_equality():
    classes, gold = answer_classes(["2", None, "1/2", "0.50", "3", "2.0", None, "0.5"], "3.00")
    assert classes == [0, -1, 1, 1, 2, 0, -1, 1]
    assert gold == 2


def test_gold_that_no_sample_has_and_no_gold_at_all():
    assert answer_classes(["1", None], "7") == ([0, -1], -2)
    assert answer_classes(["1", None]) == ([0, -1], None)
    assert answer_classes([], "7") == ([], -2)


@settings(deadline=None)
@given(
    st.lists(
        st.sampled_from(["1/3", "0.333333", "0.3333335", "0.333334", "x", "X", "7", "7.0", None]), max_size=9
    )
)
def test_classes_are_the_components_of_equality(answers):
    classes, _ = answer_classes(answers)
    n = len(answers)
    linked = [[a is not None and b is not None and same_answer(a, b) for b in answers] for a in answers]
    for k in range(n):
        for i in range(n):
            for j in range(n):
                linked[i][j] |= linked[i][k] and linked[k][j]
    for i in range(n):
        for j in range(n):
            together = answers[i] is not None and answers[j] is not None and classes[i] == classes[j]
            assert together == linked[i][j]


def test_a_worker_that_died_is_replaced():
    worker = mathcheck.Worker(["prefopt.verify.mathcheck"])
    try:
        assert worker.ask(["x+1", "1+x"], 60) is True
        worker.process.kill()
        worker.process.wait()
        assert worker.ask(["x+1", "x+2"], 60) is False
    finally:
        worker.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not enforce the limit")
def test_worker_memory_is_limited():
    code = "from prefopt.verify.mathcheck import *; limit_memory(); bytearray(MEMORY_BYTES)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MemoryError" in found.stderr


def judged(said, gold):
    found = extract_answer(said)
    return found is not None and same_answer(found, gold_answer(gold))


@pytest.mark.parametrize(
    ("said", "gold", "same"),
    [
        # a comma marks thousands in a bare number alone
        (r"\boxed{(1,200)}", "(1, 200)", True), (r"\boxed{(1,200)}", "1200", False),
        (r"\boxed{\{100,200\}}", r"\{200, 100\}", True), (r"\boxed{100,200}", "200, 100", True),
        (r"\boxed{[1,000, 2,000]}", "(1000, 2000)", False), (r"\boxed{10{,}000}", "10000", True),
        (r"\boxed{(10{,}000, 5)}", "(10000, 5)", True), ("A: 1,200 dollars", "1200", True), ("A: $1,200.50", "1200.5", True),
        (r"\boxed{[0,1)}", "[0,1]", False), (r"\boxed{(2,3)}", "(3,2)", False), (r"\boxed{\left(0,\,100\right]}", "(0,100]", True),
        # an equation is more than its right side
        (r"\boxed{3x - y + 13 = 0}", "3x + 4y + 14 = 0", False), (r"\boxed{2x + 2y = 4}", "x + y = 2", True),
        (r"\boxed{y = 2x + 3}", "y=2x+3", True), (r"\boxed{y = 2x + 3}", "z = 2x + 3", False), (r"\boxed{2x = 10}", "10", False),
        (r"\boxed{x=5}", "5", True), (r"\boxed{f(2) = 7}", "7", True), (r"\boxed{\theta = 30^\circ}", "30", True), ("A: 3 + 4 = 7", "7", True),
        (r"\boxed{x = 5 \text{ m}}", "5", True), (r"\boxed{x^2 + y^2 = 0}", "0", False),
        # the last stated answer counts, within a line too
        ("I thought the answer is 5. After checking, the answer is 6.", "6", True), ("The answer is not 5. The answer is 6.", "6", True),
        ("The answer is 6, so the answer is not 5.", "6", False), ("The answer is 6!", "6", True),
        # factorials, bases, tiny differences, squared units
        (r"\boxed{5!}", "120", True), (r"\boxed{5!}", "5", False), (r"\boxed{(2n)!}", "(2n)", False),
        (r"\boxed{1011_2}", "11", True), (r"\boxed{1011_{2}}", "1011", False), (r"\boxed{1F_{16}}", "31", True), (r"\boxed{19_2}", "19", False),
        (r"\boxed{0.0000001}", "0.0000002", False), (r"\boxed{10^{-7}}", "0", False), (r"\boxed{0.0000001}", "0", False),
        (r"\boxed{0.333333}", r"\frac{1}{3}", True), (r"\boxed{1.0e-9}", "1.1e-9", False),
        (r"\boxed{25 \text{ cm}^2}", "25", True), (r"\boxed{25\,\mathrm{m}^{2}}", "25", True), ("A: 25 cm²", "25", True), ("A: 60 km/h", "60", True),
        (r"\boxed{9.8 \text{ m/s}^2}", "9.8", True), (r"\boxed{2x^2}", "2", False),
    ],
)  # fmt: skip
def test_answers_of_mathematics(said, gold, same):
    assert judged(said, gold) is same


_VALUES = st.one_of(
    st.integers(-(10**7), 10**7).map(str),
    st.fractions(max_denominator=500).map(lambda f: f"\\frac{{{f.numerator}}}{{{f.denominator}}}"),
    st.decimals(-1000, 1000, places=3).map(str),
    st.tuples(st.integers(0, 999), st.integers(0, 999)).map(lambda p: f"({p[0]},{p[1]})"),
    st.tuples(st.integers(2, 50), st.integers(2, 12)).map(lambda p: f"{p[0]}\\sqrt{{{p[1]}}}"),
    st.integers(2, 9).map(lambda n: f"{n}!"),
    st.integers(1, 9).map(lambda n: f"10^{{-{n}}}"),
)


@settings(max_examples=60, deadline=None)
@given(first=_VALUES, second=_VALUES)
def test_verifying_is_reflexive_symmetric_and_never_right_for_what_sympy_tells_apart(first, second):
    import sympy
    from math_verify import parse

    a, b = extract_answer(f"\\boxed{{{first}}}"), extract_answer(f"\\boxed{{{second}}}")
    assert None not in (a, b)
    assert same_answer(a, a)
    assert judged(f"\\boxed{{{first}}}", first)
    assert same_answer(a, b) is same_answer(b, a)
    x, y = (
        parse(f"${text}$", fallback_mode="no_fallback", parsing_timeout=None)[0] for text in (first, second)
    )
    apart = isinstance(x, sympy.Expr) != isinstance(y, sympy.Expr)
    if not apart and isinstance(x, sympy.Expr):
        apart = bool(abs(sympy.N(x - y, 30)) > 1e-5 * max(abs(sympy.N(x, 30)), abs(sympy.N(y, 30))))
    if apart:
        assert not same_answer(a, b), (first, second)
