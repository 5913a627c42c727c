# The desk for machines without a GPU: engine, router and web page in one image, and the mini
# model inside. Built from the repository's folder:
#
#     docker build -f deploy/cpu.Dockerfile -t csproto:cpu .
#
# To pin the base to the byte: --build-arg BASE=python:3.11.13-slim-bookworm@sha256:...
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS environment
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/csproto
COPY requirements requirements
# What the desk runs with. The versions of dev.txt hold, but its notebooks and tests are left out.
RUN python -m venv /opt/venv \
 && PYTHONPATH=requirements python -c "from pathlib import Path; import setup; setup.install_for_cpu(Path('/opt/venv/bin/python'))" \
 && sed 's/\[[^]]*\]//' requirements/dev.txt > /tmp/versions.txt \
 && /opt/venv/bin/pip install --no-cache-dir -c /tmp/versions.txt \
      alembic 'psycopg[binary]' pydantic pyyaml rich scikit-learn setuptools sglang-router \
      sqlalchemy typer urllib3
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY data data
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && /opt/venv/bin/python -m compileall -q -j 0 src

FROM ${BASE}
# The compiler makes the kernel for the processor that it finds when the engine starts.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev libgomp1 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home --shell /usr/sbin/nologin csproto
COPY --from=environment /opt/venv /opt/venv
COPY --from=environment /opt/csproto /opt/csproto
# Everything that is written goes below /tmp: the rest of the file system can be read-only.
# The kernel is loaded from there, so a tmpfs at /tmp needs the option `exec`.
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    XDG_STATE_HOME=/tmp/state \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CSPROTO_LOG=json
USER 10001
WORKDIR /opt/csproto
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=180s --retries=3 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["csproto"]
CMD ["web", "--host", "0.0.0.0", "--port", "8000"]
