# SPDX-License-Identifier: Apache-2.0
"""Procedural street scenes: seeded driving video with pixel-exact Cityscapes labels.

Modules, in the order in which a frame passes through them:

- __main__, write: the command, and the output files in the format of Cityscapes.
- render: one frame, from street to picture; camera, canvas and visibility draw it, sensor
  simulates the camera sensor.
- street: the world of one seed. Layout and light are generated first; blocks (lots, facades,
  plants, furniture) and traffic (vehicles, people) are generated along the way.
- ground (plane, surfaces, marks) and sky: the ground below and the background behind all objects.
- geometry and textures: panels and their textures, from which all objects are built.
- bundle: the streets that come with the package, for the demo and the web page.
"""
