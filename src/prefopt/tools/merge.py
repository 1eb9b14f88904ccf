"""`prefopt merge-adapter`: an adapter directory and its base -> a model directory of its own."""

from __future__ import annotations

from pathlib import Path

from prefopt.core.errors import PrefoptError
from prefopt.tables.ours import check_apart


def merge_adapter(adapter: Path, output: Path, *, model: str | None = None) -> Path:
    """Write the model of an adapter (PEFT directory) merged into its base: safetensors, config, tokenizer, README.md.

    The weights keep the base's dtype. model: the base, where the adapter's config names none or one that is not here.
    Returns `output`.

    Raises:
        PrefoptError: no adapter there, no base, an adapter that does not fit; `output` holds something already.
    """
    from prefopt.models.adapters import CONFIG, base_of, is_adapter, put_in
    from prefopt.models.card import base_licence, base_name
    from prefopt.models.find import resolve_model
    from prefopt.models.load import load_model, load_tokenizer
    from prefopt.models.output import write_model
    from prefopt.models.written import beside

    if not adapter.is_dir() or not is_adapter(adapter):
        raise PrefoptError(f"{adapter}: no adapter directory ({CONFIG} without config.json)")
    base = resolve_model(model) if model is not None else base_of(adapter)
    check_apart(output, [("adapter", adapter), ("base model", base)])
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise PrefoptError(f"{output}: exists already; name a new directory")
    tokenizer = load_tokenizer(adapter, base=base)
    merged = put_in(load_model(base), adapter)
    merged.config.use_cache = True
    card = _card(adapter, base_name(base), base_licence(base))
    with beside(output) as temporary:
        write_model(merged, tokenizer, card, temporary=temporary, target=output)
    return output


def _card(adapter: Path, base: str, licence: str) -> str:
    """The adapter's own card, else a short one."""
    own = adapter / "README.md"
    if own.is_file():
        return own.read_text(encoding="utf-8")
    return f"---\nlicense: {licence}\nlibrary_name: transformers\n---\n# {adapter.name}\n\nAn adapter merged into {base}.\n"
