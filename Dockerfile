# docker build --tag kindling .
# docker run --rm --gpus all --ipc host --volume "$PWD/data:/home/kindling/kindling/data" \
#   --volume "$PWD/runs:/home/kindling/kindling/runs" kindling make train
# torch's wheels bring CUDA, so that the machine needs its driver alone. --ipc host: workers hand batches over in memory.
FROM python:3.12-slim

# git tells a run its commit.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends git make \
    && rm -rf /var/lib/apt/lists/* \
    && pip install --no-cache-dir uv==0.13.9 \
    && useradd --uid 1000 --create-home kindling

USER 1000
WORKDIR /home/kindling/kindling
RUN mkdir data runs && python -m venv .venv

# What the project needs has a layer of its own, which a change of the sources leaves as it is.
COPY --chown=1000 pyproject.toml constraints.txt ./
RUN uv pip install --no-cache --constraint constraints.txt --requirements pyproject.toml \
    --extra dev --extra export --extra data-quality --extra photos

COPY --chown=1000 . .
RUN make setup PIP="uv pip"

CMD ["make", "train"]
