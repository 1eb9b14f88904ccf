"""Learned mirror losses as JSON: export, load, and a closed-form fit. Lists of numbers only; nothing is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from prefopt.core.errors import PrefoptError
from prefopt.losses.mirror import MAPS, ROW, apply

SCHEMA = "prefopt.mirror"
VERSION = 1
LARGEST_BYTES = 4_000_000
PARTS = ("phi_inv", "psi", "g", "lam", "reference")


def plain_numbers(value: Any, rectified: bool = False) -> Any:
    """Arrays as lists of floats; v, w, b of learned units at max(0, raw), the values they act with."""
    if isinstance(value, Mapping):
        return {
            key: plain_numbers(item, key in ("v", "w", "b"))
            for key, item in value.items()
            if item is not None
        }
    if hasattr(value, "shape") or isinstance(value, (list, tuple)):
        array = np.asarray(value, dtype=np.float64)
        return (np.maximum(array, 0.0) if rectified else array).tolist()
    return value


def export_mirror(
    path: str | Path, parts: Mapping[str, Any], *, x: str, provenance: Mapping[str, Any]
) -> Path:
    """Writes {phi_inv, psi, g, lam, reference} (defaults of the mirror loss where absent) with its provenance.

    provenance: suite, variant, seed, fitness, baseline, versions, ... (JSON values). Raises PrefoptError where the
    parts are not numbers of the learned class.
    """
    hyper = {key: plain_numbers(value) for key, value in {**ROW.defaults, **parts}.items()}
    if any(callable(value) for value in hyper.values()):
        raise PrefoptError(f"{path}: a mirror file holds parameters, not functions; give parts as mappings")
    dataclasses.replace(ROW, x=x).bind(hyper)
    body = {"schema": SCHEMA, "version": VERSION, "x": x, **hyper, "provenance": dict(provenance)}
    if x == "mean":
        body["closed_form"] = fit_closed_form(hyper["phi_inv"])
    target = Path(path)
    partial = target.with_name(target.name + ".partial")
    partial.write_text(json.dumps(body, indent=1, allow_nan=False, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(partial, target)
    return target


def fit_closed_form(phi_inv: Any, t: float = 0.5) -> dict[str, float]:
    """Least squares of phi_inv at time t on {x, log x, -log(1-x), 1}, log x from -8 to log(.999).

    Returns the four coefficients, `rms` (of the residual) and `spread` (standard deviation of phi_inv): rms much
    below spread means that the formula says what was found.
    """
    log_x = np.linspace(-8.0, math.log(0.999), 400)
    y = np.asarray(apply(MAPS, phi_inv, log_x, t), dtype=np.float64)
    basis = np.stack([np.exp(log_x), log_x, -np.log(-np.expm1(log_x)), np.ones_like(log_x)], axis=1)
    fitted, *_ = np.linalg.lstsq(basis, y, rcond=None)
    rms = float(np.sqrt(np.mean((basis @ fitted - y) ** 2)))
    names = ("x", "log_x", "minus_log_1_minus_x", "constant")
    return {
        **{n: float(f) for n, f in zip(names, fitted, strict=True)},
        "rms": rms,
        "spread": float(np.std(y)),
    }


def reject_constant(token: str) -> float:
    """NaN and Infinity are not JSON and no parameters."""
    raise ValueError(f"{token} is not a number")


def read_json(path: str | Path) -> tuple[dict[str, Any], str]:
    """The file's object and the SHA-256 of its bytes. Raises PrefoptError where it is missing, large or not JSON."""
    try:
        if Path(path).stat().st_size > LARGEST_BYTES:
            raise PrefoptError(f"{path}: larger than {LARGEST_BYTES} bytes; not a mirror loss")
        raw = Path(path).read_bytes()
        body = json.loads(raw.decode("utf-8"), parse_constant=reject_constant)
    except OSError as error:
        raise PrefoptError(
            f"{path}: cannot be read ({error.strerror}); give the path of an exported loss"
        ) from error
    except (ValueError, RecursionError) as error:
        raise PrefoptError(f"{path}: not JSON ({error}); export the loss again") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        raise PrefoptError(f"{path}: no loss of schema {SCHEMA!r}; export it with `export_mirror`")
    return body, hashlib.sha256(raw).hexdigest()


def load_mirror(path: str | Path) -> dict[str, Any]:
    """The hyperparameters of the mirror loss, with x, provenance, closed_form (None for sums), file and sha256.

    Raises PrefoptError naming the file: unreadable, another schema or version, missing or bad parameters.
    """
    body, digest = read_json(path)
    if body.get("version") != VERSION:
        hint = (
            "update prefopt"
            if isinstance(body.get("version"), int) and body["version"] > VERSION
            else "export again"
        )
        raise PrefoptError(
            f"{path}: schema version {body.get('version')!r}, this prefopt reads {VERSION}; {hint}"
        )
    missing = [key for key in (*PARTS, "x") if key not in body]
    if missing or body["x"] not in ("sum", "mean"):
        raise PrefoptError(f"{path}: lacks {', '.join(missing) or 'x = sum or mean'}; export the loss again")
    hyper = {key: body[key] for key in PARTS}
    try:
        dataclasses.replace(ROW, x=body["x"]).bind(hyper)
    except PrefoptError as error:
        raise PrefoptError(f"{path}: {error}") from error
    found = {
        "x": body["x"],
        "provenance": body.get("provenance", {}),
        "closed_form": body.get("closed_form"),
        "file": str(path),
        "sha256": digest,
    }
    return {**hyper, **found}
