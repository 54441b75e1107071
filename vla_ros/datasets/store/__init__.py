# SPDX-License-Identifier: Apache-2.0
"""Decoded episodes, memory-mapped."""
