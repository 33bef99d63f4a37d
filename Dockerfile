FROM python:3.13-slim AS build
WORKDIR /build
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY src src
# Only the environment gets into the image, without pip.
RUN python -m venv --without-pip /opt/gateway-queue \
    && pip --python /opt/gateway-queue install --no-cache-dir --constraint constraints.txt ".[server,redis]"

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Gateway Queue" \
      org.opencontainers.image.description="Tells each shard of a Discord bot when it may IDENTIFY." \
      org.opencontainers.image.licenses="ISC" \
      org.opencontainers.image.source="https://github.com/gateway-queue/gateway-queue" \
      org.opencontainers.image.documentation="https://gateway-queue.github.io/gateway-queue/"
COPY --from=build /opt/gateway-queue /opt/gateway-queue
COPY deploy/container/healthy.py /opt/gateway-queue/
ENV PATH=/opt/gateway-queue/bin:$PATH XDG_STATE_HOME=/var/lib HOST=0.0.0.0 PORT=80
# The journal's folder is the only one that is written to. This image has no bytecode for Python's
# own modules, and compiling them is most of the time of a start and of a health check; importing
# them once as root stores it.
RUN install --directory --owner=10001 --group=10001 /var/lib/gateway-queue \
    && python -c "import gateway_queue.cli.main, gateway_queue.server, gateway_queue.replicas.replica, http.client"
VOLUME /var/lib/gateway-queue
EXPOSE 80
# A number, because Kubernetes cannot tell whether a name is root.
USER 10001:10001
# A server that waits for another's journal does not listen yet, for at most 30 seconds.
HEALTHCHECK --interval=30s --timeout=5s --start-period=40s CMD ["python", "/opt/gateway-queue/healthy.py"]
ENTRYPOINT ["gateway-queue"]
