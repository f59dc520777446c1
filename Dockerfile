# The daemon in a small image. It runs as nobody in particular, writes nothing, and has no tool beside Python:
#
#   docker build -t mybouncer .
#   docker run --read-only -p 127.0.0.1:6033:6033 -e MYBOUNCER_BACKEND__URL=mysql://db.internal:3306 mybouncer
#
# BASE may be any image with Debian and Python 3.11 or later, for example one of your own registry.
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
COPY pyproject.toml README.md ./
COPY proxy ./proxy
RUN python -m venv --without-pip /opt/mybouncer \
    && pip --python /opt/mybouncer install --no-cache-dir --root-user-action=ignore .

FROM ${BASE}
COPY --from=build /opt/mybouncer /opt/mybouncer
COPY config/image.toml /etc/mybouncer/mybouncer.toml
ENV PATH=/opt/mybouncer/bin:${PATH} PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
EXPOSE 6033 9633
# Not through urllib, which would ask a proxy of the environment.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["python", "-c", "\
import http.client, os; \
http = http.client.HTTPConnection(os.environ.get('MYBOUNCER_HTTP__ADDRESS', '127.0.0.1:9633'), timeout=2); \
http.request('GET', '/healthz'); \
exit(http.getresponse().status != 200)"]
ENTRYPOINT ["mybouncer"]
CMD ["serve", "--config", "/etc/mybouncer/mybouncer.toml"]
