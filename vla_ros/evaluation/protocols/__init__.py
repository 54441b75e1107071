# SPDX-License-Identifier: Apache-2.0
"""Evaluation protocols: chains, intervals, result logs."""
