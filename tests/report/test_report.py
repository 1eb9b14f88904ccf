"""The page: self-contained, the same bytes for the same run, hostile text as text, and readable with parts missing."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from prefopt.core.errors import PrefoptError
from prefopt.report import write_report

VOID = {"meta", "input", "br", "img", "link", "hr", "base"}
LOADS = {"src", "href", "srcset", "action", "poster", "data", "xlink:href"}


class Page(HTMLParser):
    """Tags with attributes, visible text, and whether every element is closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.text: list[str] = []
        self.problems: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


def page_of(folder):
    return write_report(folder).read_text(encoding="utf-8")


ALL = ["full", "pairs", "single", "bare", "untrained", "hostile", "judged", "judged hostile"]


@pytest.mark.parametrize("kind", ALL)
def test_elements_nest_ids_are_unique_and_nothing_is_loaded(run_of, kind):
    html = page_of(run_of(kind))
    page = Page(html)
    assert page.problems == []
    assert page.open == []
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "img", "object", "embed", "base", "form")
        for name in LOADS & set(attrs):
            assert attrs[name].startswith("#"), (tag, attrs)
            assert attrs[name][1:] in ids
        assert not [name for name in attrs if name.startswith("on")]
    style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    assert len(html) < 400_000


@pytest.mark.parametrize("kind", ALL)
def test_no_undefined_or_leftover_value_is_shown(run_of, kind):
    words = Page(page_of(run_of(kind))).words
    assert not re.search(r"\bNone\b|\bnan\b|\bundefined\b|Markup\(|\[object", words)


def test_same_folder_gives_same_bytes(run_of, tmp_path):
    folder = run_of("full")
    first = write_report(folder).read_bytes()
    copy = shutil.copytree(folder, tmp_path / "elsewhere")
    assert write_report(folder).read_bytes() == first
    assert write_report(copy).read_bytes() == first


def test_the_temperature_is_that_of_the_recipe(run_of, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run_of("full"), folder)
    assert "sampled at temperature 1 and greedily" in Page(page_of(folder)).words
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    summary["settings"]["evaluate"] = {"temperature": 0.8}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "sampled at temperature 0.8 and greedily" in Page(page_of(folder)).words


@pytest.mark.parametrize("kind", ["hostile", "judged hostile"])
def test_hostile_text_stays_text(run_of, kind):
    html = page_of(run_of(kind))
    page = Page(html)
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("</script>") == 1
    assert "alert(1)" in page.words  # it is shown, as text
    assert "{{7*7}}" in page.words
    assert "\x00" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html[html.index('id="answers"') :].split('id="recipe"')[0]
    assert "U+202E" in page.words


def test_lone_surrogates_and_script_ends_in_figures_cannot_break_the_page(run_of, tmp_path):
    folder = shutil.copytree(run_of("full"), tmp_path / "run")
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    bad = '\ud800</script><b a="\udfff">'
    text = json.dumps(summary).replace('"sft"', json.dumps(bad))
    path.write_text(text)
    html = page_of(folder)
    page = Page(html)
    assert page.problems == []
    assert [tag for tag, _ in page.tags].count("script") == 1
    readings = [json.loads(attrs["data-readings"]) for _, attrs in page.tags if "data-readings" in attrs]
    assert any("</script>" in curve["name"] for curves in readings for curve in curves)
    html.encode("utf-8")


def test_script_runs_under_its_own_policy_only(run_of):
    import base64
    import hashlib

    html = page_of(run_of("full"))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html).group(1)
    script = html[html.index("<script>") + 8 : html.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy.replace("&#39;", "'")
    assert "default-src 'none'" in policy.replace("&#39;", "'")


def test_first_screen_says_what_was_done_and_what_it_gave(run_of):
    folder = run_of("full")
    summary = json.loads((folder / "summary.json").read_text())
    html = page_of(folder)
    top = Page(html[html.index("<main") : html.index('<section id="accuracy"')]).words
    for arm, entry in summary["accuracy"].items():
        assert (
            f"{arm} {100 * entry['mean']:.1f}% [{100 * entry['low']:.1f}, {100 * entry['high']:.1f}]" in top
        )
    for sentence in summary["verdict"]:
        assert re.sub(r"\W+", "", sentence) in re.sub(r"\W+", "", top)


SECTIONS = {
    "full": {"accuracy", "flow", "difficulty", "gap", "training", "answers", "recipe"},
    "pairs": {"accuracy", "flow", "difficulty", "gap", "training", "answers", "recipe"},
    "single": {"accuracy", "flow", "difficulty", "gap", "training", "answers", "recipe"},
    "bare": {"flow", "training", "recipe"},
    "untrained": {"flow", "difficulty", "recipe"},
}


@pytest.mark.parametrize("kind", SECTIONS)
def test_a_section_stands_where_the_run_has_something_to_show(run_of, kind):
    page = Page(page_of(run_of(kind)))
    assert {attrs["id"] for tag, attrs in page.tags if tag == "section"} == SECTIONS[kind]


def test_figures_have_words_for_those_who_cannot_see_them(run_of):
    page = Page(page_of(run_of("full")))
    images = [attrs for _, attrs in page.tags if attrs.get("role") == "img"]
    assert len(images) >= 12
    assert all(len(attrs.get("aria-label", "")) > 20 for attrs in images)


def test_drops_are_counted_with_their_reasons(run_of):
    words = Page(page_of(run_of("full"))).words
    assert "3 dropped: empty answer" in words
    assert "not selected" in words
    skipped = Page(page_of(run_of("pairs"))).words
    assert skipped.count("the input holds pairs") == 3
    assert "set to null in the recipe" in Page(page_of(run_of("bare"))).words


def test_smoke_model_is_labelled(run_of):
    assert "smoke model" in Page(page_of(run_of("pairs"))).words
    assert "smoke model" not in Page(page_of(run_of("full"))).words


def test_ten_answers_of_all_outcomes(run_of):
    html = page_of(run_of("full"))
    assert html.count('<article class="sample">') == 10
    for outcome in (
        "fixed by training",
        "broken by training",
        "right before and after",
        "wrong before and after",
    ):
        assert f"<b>{outcome}</b>" in html


def test_pairs_are_shown_where_nothing_was_sampled(run_of):
    html = page_of(run_of("pairs"))
    assert html.count('<article class="sample">') == 10
    assert "chosen minus rejected" in html


def test_unfinished_or_missing_runs_are_refused_in_one_line(tmp_path, run_of):
    with pytest.raises(PrefoptError, match="no finished run"):
        write_report(tmp_path)
    with pytest.raises(PrefoptError, match="no finished run"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text('{"seconds": 1}')
    with pytest.raises(PrefoptError, match="no summary"):
        write_report(tmp_path)
    (tmp_path / "summary.json").write_text("{")
    with pytest.raises(PrefoptError, match="cannot be read"):
        write_report(tmp_path)
