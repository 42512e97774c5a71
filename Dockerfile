# syntax=docker/dockerfile:1
# Two images from one file. `ingest` has everything but torch: it submits, draws, reads on a CPU, and serves Flower.
# `gpu` reads with Pixtral.
#
#     docker build --target ingest -t pagepack:0.1.0 .
#     docker build --target gpu -t pagepack:0.1.0-gpu .
#
# Patch releases of Python and Debian come with the tag; name a digest where a build must repeat bit by bit.
# No HEALTHCHECK here: a submit is no server. docker-compose.yml has one for each service that needs one.

FROM python:3.11-slim-bookworm AS build
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY pipeline pipeline
COPY workers workers
COPY migrations migrations
# No compiler here: each dependency has a wheel for x86_64 and aarch64.
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[postgres,s3,web]"

FROM build AS build-gpu
RUN --mount=type=cache,target=/root/.cache/pip pip install ".[postgres,s3,pixtral]"

# Debian's slim image has each library that the wheels ask for: ldd names libc, libm, libstdc++, libgcc_s and libz, and
# no other. RapidOCR takes OpenCV's headless wheel, which wants neither libGL nor glib.
FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pagepack \
 && install -d -o pagepack -g pagepack /data /kernels
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PAGEPACK_HOME=/data
WORKDIR /data
ENTRYPOINT ["pagepack"]
CMD ["--help"]

FROM runtime AS ingest
COPY --from=build /venv /venv
USER 10001:10001

FROM runtime AS gpu
# The one compiler in a final image: Triton builds a small C module against the GPU's driver when it first runs.
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build-gpu /venv /venv
ENV TRITON_CACHE_DIR=/kernels
USER 10001:10001
