# SPDX-License-Identifier: Apache-2.0
"""Nodes and their graphs."""

from graphs import domain, make_graph, make_module_graph  # noqa: F401
