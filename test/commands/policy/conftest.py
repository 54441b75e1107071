# SPDX-License-Identifier: Apache-2.0
"""A small recipe and its demonstrations."""

from tiny_training import _one_thread, config, episodes, recipe  # noqa: F401
