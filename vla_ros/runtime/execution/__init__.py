# SPDX-License-Identifier: Apache-2.0
"""Chunks to twists: timeline and executors."""
