# syntax=docker/dockerfile:1
# mrfast's coordinator and worker, by command: docker build -t mrfast . && docker run mrfast mrfast --help
FROM python:3.13-slim-bookworm AS build
# What the extension needs; Python's own headers are in the image.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels ".[gzip,zstd]"

FROM python:3.13-slim-bookworm
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "mrfast[gzip,zstd]" \
    && useradd --system --uid 10001 --user-group --no-create-home --home-dir /work mrfast \
    && install -d -o mrfast -g mrfast /work
COPY --chmod=0755 deploy/fleet.py /usr/local/bin/mrfast-fleet
ENV HOME=/work TMPDIR=/work MRFAST_STATE_DIR=/work/state PYTHONUNBUFFERED=1
WORKDIR /work
USER 10001:10001
CMD ["mrfast", "--help"]
