# syntax=docker/dockerfile:1
# Two images from one file. `ingest` has everything but torch: it submits, draws, reads on a CPU, exports, and serves
# Flower. `gpu` reads with Pixtral.
#
#     docker build --target ingest -t pagepack:0.1.0 .
#     docker build --target gpu -t pagepack:0.1.0-gpu .
#
# Python's packages come from the lock files, with their hashes; `make lock` renews these. Patch releases of Python and
# Debian come with the tag; name a digest where a build must repeat bit by bit.
# No HEALTHCHECK here: a submit is no server. docker-compose.yml has one for each service that needs one.

FROM python:3.11-slim-bookworm AS base
RUN python3 -m venv /venv
ENV PATH=/venv/bin:$PATH
WORKDIR /src

# Dependencies before the code: a change of the code installs none of them again.
# No compiler here: each has a wheel for x86_64 and aarch64.
FROM base AS dependencies
COPY requirements.lock ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r requirements.lock

FROM base AS dependencies-gpu
COPY requirements-gpu.lock ./
RUN --mount=type=cache,target=/root/.cache/pip pip install --require-hashes -r requirements-gpu.lock

FROM dependencies AS wheel
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY pipeline pipeline
COPY workers workers
COPY migrations migrations
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheel .

FROM dependencies AS build
COPY --from=wheel /wheel /wheel
RUN pip install --no-deps /wheel/*.whl

FROM dependencies-gpu AS build-gpu
COPY --from=wheel /wheel /wheel
RUN pip install --no-deps /wheel/*.whl

# Debian's slim image has each library that the wheels ask for: ldd names libc, libm, libstdc++, libgcc_s and libz, and
# no other. RapidOCR takes OpenCV's headless wheel, which wants neither libGL nor glib.
FROM python:3.11-slim-bookworm AS runtime
# Both folders are everyone's, as /tmp is: RUN_AS in .env may name any user, and a new volume takes these rights over.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin pagepack \
 && install -d -o pagepack -g pagepack -m 1777 /data /kernels
# USER is for libraries that ask for the user's name: another than 10001 has none here.
ENV PATH=/venv/bin:$PATH \
    HOME=/tmp \
    USER=pagepack \
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
