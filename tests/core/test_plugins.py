"""Plug-ins: registered parts, their origin and digest, errors with file and line, loading by path, module and entry point."""

import importlib.metadata
import sys
import textwrap

import pytest

from prefopt.core import plugins
from prefopt.core.errors import PrefoptError
from prefopt.core.plugins import GROUP, add_part, digests, load_plugins, names_of, remove_part, told


@pytest.fixture
def table():
    made = {"ours": "built in"}
    yield made
    for name in plugins.added("thing"):
        remove_part("thing", name, made)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Writes a plug-in into an empty working folder."""
    monkeypatch.chdir(tmp_path)

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
        return path

    return write


def failing():
    raise KeyError("nothing here")


def test_a_part_is_found_by_name_and_told_by_file_and_line(table):
    add_part("thing", "mine", failing, "part", table)
    assert table["mine"] == "part"
    line = failing.__code__.co_firstlineno + 1
    with (
        pytest.raises(
            PrefoptError, match=rf"test_plugins\.py:{line}: thing 'mine': KeyError: 'nothing here'"
        ),
        told("thing", "mine"),
    ):
        failing()


@pytest.mark.parametrize(
    ("name", "says"), [("ours", "built in"), ("", "give a name"), ("a b", "give a name")]
)
def test_names_that_cannot_be_taken(table, name, says):
    with pytest.raises(PrefoptError, match=rf"test_plugins\.py:\d+.*{says}"):
        add_part("thing", name, failing, "part", table)
    assert table == {"ours": "built in"}


def test_a_name_of_another_plug_in_is_not_taken_over(table):
    add_part("thing", "mine", failing, "first", table)
    add_part("thing", "mine", failing, "the same, run again", table)  # a notebook's cell
    with pytest.raises(PrefoptError, match="taken by"):
        add_part("thing", "mine", test_names_that_cannot_be_taken, "second", table)
    assert table["mine"] == "the same, run again"


def test_errors_of_ours_and_of_parts_without_origin_pass():
    with pytest.raises(PrefoptError, match=r"^as it is$"), told("thing", "x"):
        raise PrefoptError("as it is")
    with pytest.raises(ZeroDivisionError), told("thing", "built in"):
        raise ZeroDivisionError


def test_the_digest_follows_the_source(table, plug_in):
    text = "from prefopt.core.plugins import add_part\nTABLE = {}\ndef part():\n    return %d\nadd_part('thing', 'mine', part, part, TABLE)\n"
    file = plug_in("mine.py", text % 1)
    load_plugins(["./mine.py"])
    first = digests("thing", ["mine", "ours"])
    load_plugins([str(file)])
    assert digests("thing", ["mine"]) == first
    assert len(first) == 1
    file.write_text(text % 2)
    load_plugins(["./mine.py"])
    assert digests("thing", ["mine"]) != first


def test_the_digest_of_a_package_is_of_all_its_files(plug_in):
    plug_in("pack/__init__.py", "")
    inner = plug_in("pack/sub/__init__.py", "").parent
    part = plug_in("pack/sub/part.py", "x = 1\n")
    before = plugins.source_digest(part)
    (inner.parent / "helper.py").write_text("y = 2\n")
    assert plugins.source_digest(part) != before


def test_a_file_beside_the_recipe_is_found(plug_in, tmp_path):
    plug_in("recipes/beside.py", "LOADED = True\n")
    load_plugins(["./beside.py"], tmp_path / "recipes")
    with pytest.raises(PrefoptError, match=r"plugins: \./beside\.py: no such file"):
        load_plugins(["./beside.py"])


def test_a_module_of_the_working_folder_is_found(plug_in):
    plug_in("own_package_of_tests/__init__.py", "")
    plug_in("own_package_of_tests/part.py", "")
    path = list(sys.path)
    load_plugins(["own_package_of_tests.part"])
    assert "own_package_of_tests.part" in sys.modules
    assert sys.path == path


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("bad.py", "x = 1\ny = = 2\n", r"bad\.py:2: SyntaxError"),
        ("bad.py", "def f():\n    return {}['k']\nf()\n", r"bad\.py:2: KeyError: 'k'"),
        ("bad.py", "import no_such_package_at_all\n", r"bad\.py:1: ModuleNotFoundError"),
        (
            "bad_module_a/__init__.py",
            "1 / 0\n",
            r"bad_module_a: bad_module_a/__init__\.py:1: ZeroDivisionError",
        ),
        (
            "bad_module_b/__init__.py",
            "import no_such_package_at_all\n",
            r"bad_module_b/__init__\.py:1: ModuleNotFound",
        ),
    ],
)
def test_a_broken_plug_in_is_one_line_with_its_place(plug_in, name, text, says):
    plug_in(name, text)
    with pytest.raises(PrefoptError, match=says) as error:
        load_plugins([name.partition("/")[0] if "/" in name else f"./{name}"])
    assert "\n" not in str(error.value)


def test_a_module_that_is_not_there(plug_in):
    with pytest.raises(
        PrefoptError, match=r"no module 'no_such\.module'; install its package, or give .*no_such\.py"
    ):
        load_plugins(["no_such.module"])


def test_installed_packages_are_loaded_by_their_entry_point(plug_in, monkeypatch):
    plug_in("installed_one/__init__.py", "")
    point = importlib.metadata.EntryPoint("one", "installed_one", GROUP)
    asked = []
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: asked.append(group) or [point])
    monkeypatch.setitem(plugins._INSTALLED, "loaded", False)
    monkeypatch.syspath_prepend(".")
    load_plugins([])
    load_plugins([])
    assert asked == ["prefopt.plugins"]
    assert "installed_one" in sys.modules


def test_an_installed_plug_in_that_fails_is_named_every_time(plug_in, monkeypatch):
    plug_in("installed_bad/__init__.py", "raise RuntimeError('too old')\n")
    point = importlib.metadata.EntryPoint("bad", "installed_bad", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [point])
    monkeypatch.setitem(plugins._INSTALLED, "loaded", False)
    monkeypatch.syspath_prepend(".")
    for _ in range(2):
        with pytest.raises(
            PrefoptError, match=r"plug-in 'bad' of the installed package .*__init__\.py:1: RuntimeError"
        ):
            load_plugins([])


@pytest.mark.parametrize(
    ("given", "names"),
    [("a.b", ["a.b"]), ("a, ./b.py", ["a", "./b.py"]), (["a", "b"], ["a", "b"]), (None, []), ([], [])],
)
def test_the_setting_is_a_name_or_a_list(given, names):
    assert names_of(given) == names


@pytest.mark.parametrize("given", [3, [3], {"a": 1}, [""]])
def test_other_values_are_one_line(given):
    with pytest.raises(PrefoptError, match="give modules and files"):
        names_of(given)
