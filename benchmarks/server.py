"""How close the server client comes to the wall time that latency and concurrency allow.

    python benchmarks/server.py [--calls 2000] [--concurrency 32] [--latency 0.2] [--warmup 128] [--output FILE]

A fake server in a process of its own answers each call after `latency` seconds. Ideal time: calls / concurrency *
latency. Prints JSON: wall seconds, ratio to the ideal, and whether it is within 25%. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from prefopt.engines.client import ChatClient, ChatRequest
from prefopt.engines.server_settings import ServerSettings

FAKE = Path(__file__).parents[1] / "tests" / "support" / "fake_server.py"
BOUND = 1.25


def measure(calls: int, concurrency: int, latency_s: float, warmup: int) -> dict[str, float | int | bool]:
    """Wall time of `calls` calls after `warmup` others, all of which must be answered."""
    process = subprocess.Popen(
        [sys.executable, str(FAKE), str(latency_s)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        client = ChatClient(ServerSettings(base_url=url, model="fake", concurrency=concurrency))
        client.ask(_requests(warmup))
        start = time.perf_counter()
        replies = client.ask(_requests(calls))
        wall_s = time.perf_counter() - start
    finally:
        process.kill()
        process.communicate()
    answered = sum(not reply.error and reply.text.startswith("A: ") for reply in replies)
    ideal_s = calls / concurrency * latency_s
    return {
        "calls": calls,
        "answered": answered,
        "concurrency": concurrency,
        "latency_s": latency_s,
        "wall_s": round(wall_s, 3),
        "ideal_s": round(ideal_s, 3),
        "ratio": round(wall_s / ideal_s, 4),
        "calls_per_s": round(calls / wall_s, 1),
        "within": answered == calls and wall_s <= BOUND * ideal_s,
    }


def _requests(count: int) -> list[ChatRequest]:
    text = "Which answer is better? " * 20
    return [ChatRequest([{"role": "user", "content": f"{text}{i}"}], 16, seed=i) for i in range(count)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--latency", type=float, default=0.2, help="seconds")
    parser.add_argument("--warmup", type=int, default=128, help="calls before the clock starts")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    given = parser.parse_args()
    found = measure(given.calls, given.concurrency, given.latency, given.warmup)
    print(json.dumps(found, indent=2))
    if given.output:
        from prefopt.tables.records import write_json

        write_json(given.output, found)
    sys.exit(0 if found["within"] else 1)


if __name__ == "__main__":
    main()
