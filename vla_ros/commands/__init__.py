# SPDX-License-Identifier: Apache-2.0
"""Subcommands of ``vla``; each module has ``add_arguments`` and ``run``."""
