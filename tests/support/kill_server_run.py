"""Samples from a server in a folder: python kill_server_run.py URL FOLDER ROWS. Killed from outside, run again."""

import sys
from pathlib import Path

from prefopt.engines.server_settings import ServerSettings
from prefopt.stages.sample.sample import sample
from prefopt.stages.sample.settings import SampleConfig
from prefopt.tables.context import Context
from prefopt.tables.folder import StageFolder
from prefopt.tables.records import make_table, write_table


def main() -> None:
    """One sampling stage."""
    url, path, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    rows = [{"id": f"p{i}", "prompt_id": f"p{i}", "prompt": f"question {i}"} for i in range(count)]
    server = ServerSettings(base_url=url, model="m", concurrency=4, timeout_s=10, backoff_s=0.01)
    folder = StageFolder(path)
    folder.begin("key")
    output = sample(
        make_table(rows), SampleConfig(engine="server", n=2, server=server), Context(folder=folder)
    )
    write_table(output.table, path / "whole.parquet")


if __name__ == "__main__":
    main()
