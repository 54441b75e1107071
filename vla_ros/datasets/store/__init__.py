# SPDX-License-Identifier: Apache-2.0
"""Keep decoded episodes, memory-mapped."""
