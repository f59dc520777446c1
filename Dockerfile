# The daemon in a small image: built as root, runs as nobody in particular, writes nothing but /tmp.
FROM python:3.12-slim AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy ./proxy
RUN pip install --no-cache-dir --prefix=/install .

FROM python:3.12-slim
COPY --from=build /install /usr/local
COPY config/minimal.toml /etc/mybouncer/mybouncer.toml
RUN useradd --system --uid 10001 --no-create-home --shell /usr/sbin/nologin mybouncer
USER 10001
ENV PYTHONDONTWRITEBYTECODE=1 \
    MYBOUNCER_LISTEN__ADDRESSES=0.0.0.0:6033 \
    MYBOUNCER_HTTP__ADDRESS=0.0.0.0:9633
EXPOSE 6033 9633
STOPSIGNAL SIGTERM
# Python is there anyway: no extra tool is needed to ask for its health.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9633/healthz', timeout=2)"]
ENTRYPOINT ["mybouncer"]
CMD ["serve", "--config", "/etc/mybouncer/mybouncer.toml"]
