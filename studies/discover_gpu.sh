#!/bin/sh
# A search on a GPU: members trained side by side (vmap), physics by MuJoCo's JAX engine. Arguments are passed on.
#   studies/discover_gpu.sh noisy:0.3 --search.seed 1
# Needs: pip install '.[suite,mjx]' and jax with CUDA.
set -eu
variants=${1:?give data variants, e.g. noisy:0.3}
shift
exec prefopt suite discover --variants "$variants" --inner.batching vmap --agents.backend mjx "$@"
