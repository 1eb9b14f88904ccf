"""The report of a run: one self-contained HTML file with inline SVG figures, readable without network or script."""

from pathlib import Path


def write_report(folder: Path, output: Path | None = None) -> Path:
    """Write `report.html` of a finished run, or of runs over seeds (or the file `output`), and return its path; see `prefopt.report.page.write_report`."""
    from prefopt.report.load import runs_over_seeds
    from prefopt.report.over_seeds import write_seeds_page
    from prefopt.report.page import write_report as write

    if seeds := runs_over_seeds(Path(folder)):
        return write_seeds_page(Path(folder), seeds, output)
    return write(folder, output)


__all__ = ["write_report"]
