# SPDX-License-Identifier: Apache-2.0
"""Procedural street scenes: seeded driving video with pixel-exact Cityscapes labels.

The way of a frame, and where to read on from each station:

- make_scenes, write: the command, and files as Cityscapes has them.
- render: one frame, from street to picture; camera, canvas and visibility draw it, sensor
  exposes it.
- street: the world of a seed. layout and light are drawn first, blocks (lots, facades, plants,
  furniture) and traffic (vehicles, people) along the way.
- ground (plane, surfaces, marks) and sky: what everything else stands on and before.
- geometry and textures: panels and what is painted on them, of which all the rest is made.
"""
