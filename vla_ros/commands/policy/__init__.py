# SPDX-License-Identifier: Apache-2.0
"""Subcommands of `vla` about checkpoints."""
