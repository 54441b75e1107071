# SPDX-License-Identifier: Apache-2.0
"""Subcommands of ``vla`` that start processes or look at the machine; each has ``add_arguments`` and ``run``."""
