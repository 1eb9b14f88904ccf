"""A section of the report that fails is shown as failed; the page, the other sections and the run stay."""

import shutil

import pytest

from prefopt.report import data_sections, page, write_report


@pytest.fixture
def folder(run_of, tmp_path):
    return shutil.copytree(run_of("full"), tmp_path / "run")


def test_a_section_that_raises_is_shown_as_failed(folder, monkeypatch, capsys):
    def broken(run):
        raise KeyError("<b>gap_mean</b>")

    whole = write_report(folder).read_text()
    assert 'id="gap"' in whole
    assert "could not be drawn" not in whole
    monkeypatch.setattr(data_sections, "gap", broken)
    text = write_report(folder).read_text()
    assert "could not be drawn" in text
    assert "<b>gap_mean" not in text
    assert 'id="gap"' not in text
    assert 'id="training"' in text
    assert "warning: the report's section 'gap' failed (KeyError" in capsys.readouterr().err


@pytest.mark.parametrize("section", ["first", "flow", "training", "made", "answers"])
def test_a_section_whose_view_the_template_cannot_draw_too(folder, monkeypatch, capsys, section):
    place = {
        "first": (page.sections, "first_screen"), "flow": (data_sections, "flow"), "training": (page, "training"),
        "made": (page, "_made"), "answers": (page, "answers"),
    }[section]  # fmt: skip
    monkeypatch.setattr(*place, lambda run: {"unlike": object()} if section != "flow" else [object()])
    text = write_report(folder).read_text()
    assert text.count("could not be drawn") == 1
    assert capsys.readouterr().err.count("warning") == 1
    assert 'id="gap"' in text
