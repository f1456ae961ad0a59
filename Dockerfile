# SPDX-License-Identifier: Apache-2.0
# Image of the service, the page and the node; compose.yaml starts them.
#
#   docker build -t segmentation_node .
#   docker run -p 127.0.0.1:8000:8000 segmentation_node
#
# For GPUs, hub models and checkpoints without graph files: --build-arg EXTRAS=ros,web,torch
# ROS 2 from PyPI requires x86-64. On other machines, use --build-arg EXTRAS=web (no live view).
# Versions and hashes are pinned in resource/container; the head of each file has its update command.
FROM python:3.13-slim-trixie AS build

ARG EXTRAS=ros,web

RUN python3 -m venv /opt/segmentation_node
ENV PATH=/opt/segmentation_node/bin:$PATH

WORKDIR /source
COPY resource/container resource/container
RUN pip install --no-cache-dir --require-hashes -r "resource/container/$EXTRAS.txt"

COPY setup.py setup.cfg pyproject.toml package.xml README.md LICENSE ./
COPY launch launch
COPY config config
COPY resource resource
COPY segmentation_node segmentation_node
RUN pip install --no-cache-dir --no-build-isolation --no-deps .

FROM python:3.13-slim-trixie

COPY --from=build /opt/segmentation_node /opt/segmentation_node
ENV PATH=/opt/segmentation_node/bin:$PATH PYTHONUNBUFFERED=1

RUN useradd --uid 1000 --create-home segmentation
USER 1000
WORKDIR /home/segmentation
EXPOSE 8000 8501
HEALTHCHECK --interval=10s --timeout=10s --start-period=60s \
  CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=5)"]
CMD ["python", "-m", "segmentation_node.web.service", "--host", "0.0.0.0"]
