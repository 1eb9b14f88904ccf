"""Configs held against weights, before anything is built and after it was: absurd sizes, and weights that have no place.

A `num_hidden_layers` of a million would be built layer by layer for hours; one of two where four are stored gives a model
that computes something else without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from prefopt.core.errors import PrefoptError

# counts and sizes in config.json that say how much is built, whatever the architecture calls them
_SIZES = re.compile(
    r"(num|n)_(hidden_|decoder_|encoder_)?layers?|(num|n)_(attention_|key_value_|kv_)?heads?"
    r"|(num|n)_(local_|routed_|shared_)?experts|vocab_size|(hidden|intermediate|moe_intermediate|ffn|head)_(size|dim)"
    r"|n_embd|n_inner|d_model|d_ff|dim"
)
# rows are packed eight to a number in some quantized formats, and small models need no bound
PACKED, SMALL = 8, 4096
WITHOUT_WEIGHTS = 1 << 24  # where there are none to hold the config against
# tensors that a language model has no use for and is right without: heads of other tasks, tables that are computed
# anew, towers of other inputs, layers that predict several tokens at a time, notes of quantized weights
_UNUSED = re.compile(
    r"^(model\.)?(score|classifier|lm_head|embed_out|v_head|value_head|reward_head|rm_head|regression_head|qa_outputs|cls)\b"
    r"|\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\S+|SCB|weight_format)$"
    r"|rotary|inv_freq|masked_bias$|\battn\.bias$|\battention\.bias$|position_ids$|_extra_state$"
    r"|(^|\.)(vision|visual|audio|image|speech|multi_modal|mm_|mtp|talker|code2wav|token2wav|medusa|eagle)"
)


def check_sizes(path: Path) -> None:
    """Hold the sizes in config.json against the weights beside it, of which only the headers are read.

    Raises:
        PrefoptError: a size is no number above 0, or beyond everything that the weights hold.
    """
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return  # whoever reads it for good says so
    most = _most(path)
    for key, value in sizes(config):
        if value > most:
            raise PrefoptError(
                f"{path / 'config.json'}: {key} is {value}, beyond anything in the weights; mend it, or save the model anew"
            )


def sizes(config: Any, prefix: str = "", depth: int = 0) -> Iterator[tuple[str, int]]:
    """The counts and sizes that a config says, by their (dotted) names."""
    if not isinstance(config, Mapping) or depth > 4:
        return
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, int) and not isinstance(value, bool) and _SIZES.fullmatch(str(key)):
            yield name, value
        yield from sizes(value, f"{name}.", depth + 1)


def _most(path: Path) -> int:
    """The largest count that the weights can bear out: of tensors, or of numbers along one side of a tensor."""
    found = [list(_shapes(file)) for file in sorted(path.glob("*.safetensors"))]
    shapes = [shape for shapes in found for shape in shapes]
    if not shapes:
        return WITHOUT_WEIGHTS
    return max(SMALL, PACKED * max(len(shapes), *(size for shape in shapes for size in shape or [1])))


def _shapes(file: Path) -> Iterator[list[int]]:
    """Shapes of a file's tensors, from its header (8 bytes of length, then JSON); none where it is damaged."""
    try:
        with open(file, "rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(100_000_000, file.stat().st_size):
                return
            header = json.loads(stream.read(length))
        yield from [
            [int(size) for size in entry["shape"]] for name, entry in header.items() if name != "__metadata__"
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return


def check_unused(names: Iterable[str], path: Path) -> None:
    """Refuse weights that the model of the config has no place for, but for those that it is right without.

    names: of the tensors that loading left over.

    Raises:
        PrefoptError: naming the first of them.
    """
    lost = sorted(name for name in names if not _UNUSED.search(name))
    if lost:
        raise PrefoptError(
            f"{path}: the weights hold {lost[0]!r}{f' and {len(lost) - 1} more' if lost[1:] else ''}, for which config.json "
            "has no place (fewer layers, another architecture?); mend config.json, or save the model anew"
        )
