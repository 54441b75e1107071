# SPDX-License-Identifier: Apache-2.0
"""Observations to chunks: the engine that runs the policy."""
