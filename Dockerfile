# prefopt for a CPU, every version from constraints.txt:
#   docker build --tag prefopt .
#   docker run --rm --volume "$PWD/runs:/home/prefopt/runs" prefopt run quickstart
# For a GPU build with --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu128 and run with --gpus all.
FROM python:3.12.12-slim-bookworm

ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ARG EXTRAS=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1

RUN useradd --create-home --uid 1000 prefopt
WORKDIR /opt/prefopt

# torch first and by itself: a change of the code does not fetch it again
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt --extra-index-url "${TORCH_INDEX}" torch

COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN python -m pip install --constraint constraints.txt ".${EXTRAS}"

USER prefopt
WORKDIR /home/prefopt
RUN mkdir runs
ENTRYPOINT ["prefopt"]
CMD ["--help"]
