import subprocess
import sys

CODE = """
import sys
from prefopt.rules import content, order, pairing, selection, standing, describe as stats, tournament, weights
print([name for name in ("torch", "jax", "datasets", "transformers", "pyarrow", "pydantic") if name in sys.modules])
"""


def test_rules_import_no_framework():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_stages_import_quickly():
    code = CODE.replace(
        "from prefopt.rules import content, order, pairing, selection, standing, describe as stats, tournament, weights",
        "import prefopt.stages.rank.rank, prefopt.stages.select.select, prefopt.stages.weight.weight",
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pydantic']"
