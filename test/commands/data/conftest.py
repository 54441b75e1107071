# SPDX-License-Identifier: Apache-2.0
"""Recordings made by hand."""

from recordings import bag, demonstration, robot, spec, timing  # noqa: F401
