# Debian 12 with all that livecr needs to be built and tested. Two stages:
#
#   environment   packages and .venv without livecr: what scripts/container builds and keeps
#   (the last)    livecr itself too:  docker build -t livecr . && docker run --privileged livecr
#
# The tests need --privileged (ptrace, BPF, namespaces, chosen PIDs) and --shm-size 2g or more.
FROM docker.io/library/debian:bookworm AS environment

WORKDIR /livecr
COPY scripts/setup scripts/

# Where the machine is set up to take Debian's packages from some other mirror or through a proxy, so is the
# build: scripts/container hands that over as secrets, which stay out of the image. Without them: Debian's own.
RUN --mount=type=secret,id=apt-sources --mount=type=secret,id=apt-conf --mount=type=secret,id=ca-certificates \
    cp -a /etc/apt /tmp/apt; \
    cd /run/secrets 2>/dev/null; \
    if [ -s apt-sources ]; then rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*; cp apt-sources /etc/apt/sources.list; fi; \
    if [ -s apt-conf ]; then cp apt-conf /etc/apt/apt.conf.d/90host; fi; \
    /livecr/scripts/setup packages; status=$?; \
    rm -rf /etc/apt /var/lib/apt/lists/*; mv /tmp/apt /etc/apt; apt-get clean; exit $status

# build/wheels is there when scripts/container found the Python packages with the machine's own pip.
COPY pyproject.toml build/wheel[s] /opt/python-packages/
RUN cp /opt/python-packages/pyproject.toml . \
    && if ls /opt/python-packages/*.whl >/dev/null 2>&1; then \
        LIVECR_PIP_OPTIONS="--no-index --find-links /opt/python-packages" scripts/setup venv; \
    else \
        scripts/setup venv; \
    fi

FROM environment
COPY . .
RUN scripts/setup venv native
# Not pytest itself as PID 1: a shell reaps the orphans that restored programs leave, pytest would not.
CMD ["bash", "-c", ".venv/bin/python -m pytest; exit $?"]
