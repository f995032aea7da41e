# KropotCLI in a container: one process, no root, state in /data.
#
#   docker build -t kropotcli .
#   docker run -v kropot:/data -v /path/to/token:/run/token:ro kropotcli \
#       --server-url https://files.example.org --token-file /run/token collect

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY kropot kropot
COPY ledger ledger
RUN python -m venv /opt/kropotcli \
    && /opt/kropotcli/bin/pip install --no-cache-dir '.[postgresql,mysql]'

FROM python:3.13-slim
RUN useradd --system --create-home --home-dir /data --uid 1000 kropot
COPY --from=build /opt/kropotcli /opt/kropotcli
ENV PATH=/opt/kropotcli/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    KROPOT_LOG_FORMAT=json \
    KROPOT_DB_STRING=sqlite:////data/ledger.db \
    KROPOT_STORAGE_PATH=/data/storage
USER 1000:1000
WORKDIR /data
VOLUME /data
ENTRYPOINT ["kropotcli"]
CMD ["--help"]
