# SPDX-License-Identifier: Apache-2.0
"""Streams to observations on the control grid: one path for bags and for live topics."""
