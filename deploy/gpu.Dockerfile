# The desk for machines with NVIDIA GPUs, on SGLang's own image, which has CUDA, torch and SGLang.
# Built from the repository's folder:
#
#     docker build -f deploy/gpu.Dockerfile -t csproto:gpu .
#
# To pin the base to the byte: --build-arg BASE=lmsysorg/sglang:v0.5.23@sha256:...
ARG BASE=lmsysorg/sglang:v0.5.23
# hadolint ignore=DL3006
FROM ${BASE}
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /opt/csproto
COPY requirements requirements
# The image's own packages stay as they are; the environment sees them and adds ours.
RUN python3 -m venv --system-site-packages /opt/venv \
 && sed 's/\[[^]]*\]//' requirements/dev.txt > /tmp/versions.txt \
 && /opt/venv/bin/pip install --no-cache-dir -c /tmp/versions.txt \
      alembic 'psycopg[binary]' pyyaml rich scikit-learn setuptools sglang-router \
      sqlalchemy typer
COPY pyproject.toml README.md LICENSE ./
COPY src src
COPY data data
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation -e . \
 && /opt/venv/bin/python -m compileall -q -j 0 src \
 && useradd --uid 10001 --create-home --shell /usr/sbin/nologin csproto
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    XDG_CACHE_HOME=/tmp/cache \
    XDG_STATE_HOME=/tmp/state \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CSPROTO_LOG=json
USER 10001
EXPOSE 30000
HEALTHCHECK --interval=10s --timeout=5s --start-period=1800s --retries=3 \
  CMD ["python3", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:30000/ready', timeout=4)"]
ENTRYPOINT ["csproto"]
CMD ["serve", "--port", "30000", "--", "--host", "0.0.0.0"]
