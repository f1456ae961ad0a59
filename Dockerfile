# SPDX-License-Identifier: Apache-2.0
# One image for service, page and node; compose.yaml starts them.
#
#   docker build -t segmentation_node .
#   docker run -p 127.0.0.1:8000:8000 segmentation_node
#
# For a GPU, hub models and checkpoints without graph files: --build-arg EXTRAS=ros,web,torch
# ROS 2 from pip is for x86-64: elsewhere, build with --build-arg EXTRAS=web, without live view.
FROM python:3.12-slim

ARG EXTRAS=ros,web

ENV PYTHONUNBUFFERED=1

WORKDIR /opt/segmentation_node
COPY setup.py setup.cfg pyproject.toml package.xml README.md LICENSE ./
COPY launch launch
COPY config config
COPY resource resource
COPY segmentation_node segmentation_node
RUN pip install --no-cache-dir ".[$EXTRAS]" && useradd --create-home segmentation

USER segmentation
WORKDIR /home/segmentation
EXPOSE 8000 8501
CMD ["python", "-m", "segmentation_node.web.service", "--host", "0.0.0.0"]
