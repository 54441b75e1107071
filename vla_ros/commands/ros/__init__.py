# SPDX-License-Identifier: Apache-2.0
"""Subcommands of `vla` that start or talk to nodes."""
