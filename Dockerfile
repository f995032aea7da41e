# KropotCLI in a container: no root, state in /data, and a root file system that can be read-only.
#
#   docker build -t kropotcli .
#   docker run --init --read-only --tmpfs /tmp -v kropot:/data -v /path/to/token:/run/token:ro kropotcli \
#       --server-url https://files.example.org --token-file /run/token collect
#
# The program is uid 1000, so the token must belong to it. As process 1, a program is deaf to SIGTERM until it asks for it:
# --init puts another one there. podman needs `build --format docker` for the health check. compose.yaml has a gateway, a
# collector and PostgreSQL.

# The tag stands alone, without a digest: where this was written no registry could be asked for one, and a guessed one is
# worse than none. To hold the base still as well, write `python:3.13-slim@sha256:...` from `docker buildx imagetools
# inspect python:3.13-slim`, in both places.
FROM python:3.13-slim AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
WORKDIR /src
COPY locks locks
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes --requirement locks/build.txt \
    && python -m venv /opt/kropotcli \
    && /opt/kropotcli/bin/pip install --no-cache-dir --require-hashes --requirement locks/run.txt
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY kropot kropot
COPY ledger ledger
COPY contrib contrib
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /opt/wheels . \
    && /opt/kropotcli/bin/pip install --no-deps --no-index /opt/wheels/kropotcli-*.whl

FROM python:3.13-slim
RUN useradd --uid 1000 --user-group --home-dir /data kropot \
    && install --directory --owner 1000 --group 1000 --mode 0700 /data
COPY --from=build /opt/kropotcli /opt/kropotcli
ENV PATH=/opt/kropotcli/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KROPOT_LOG_FORMAT=json \
    KROPOT_DB_STRING=sqlite:////data/ledger.db \
    KROPOT_STORAGE_PATH=/data/storage \
    XDG_STATE_HOME=/data/state
USER 1000:1000
WORKDIR /data
VOLUME /data
# For a collector. A container that serves (`gateway serve`) is asked by its port: see compose.yaml.
HEALTHCHECK --interval=5m --timeout=60s --start-period=10m CMD ["kropotcli", "--quiet", "status", "--check"]
ENTRYPOINT ["kropotcli"]
CMD ["--help"]
