# SPDX-License-Identifier: Apache-2.0
"""Environments of published benchmarks."""
