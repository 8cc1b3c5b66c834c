# The server, and every command that needs no language model. See docs/how-to/deploy.md.
#
#   docker build --tag saestore .
#   docker build --tag saestore:live --build-arg EXTRAS=server,index,remote,model \
#       --build-arg PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu .

FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY saestore saestore
COPY cli cli
COPY schemas schemas
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
ARG EXTRAS=server,index,remote
# For torch without CUDA, or a mirror of yours.
ARG PIP_EXTRA_INDEX_URL=
COPY constraints.txt /tmp/constraints.txt
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    set -- /wheels/saestore-*.whl \
    && pip install --no-cache-dir --constraint /tmp/constraints.txt "$1[${EXTRAS}]" \
    && rm /tmp/constraints.txt \
    && useradd --system --uid 10001 --user-group --home-dir /home/saestore --create-home saestore

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    SAESTORE_LAKE=/lake \
    SAESTORE_SERVER_HOST=0.0.0.0 \
    SAESTORE_SERVER_PORT=24576
USER 10001:10001
WORKDIR /home/saestore
EXPOSE 24576
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --retries=4 \
    CMD ["python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['SAESTORE_SERVER_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["saestore"]
CMD ["serve"]
