# SPDX-License-Identifier: Apache-2.0
"""Rigid motions, rotations and the transform tree."""
