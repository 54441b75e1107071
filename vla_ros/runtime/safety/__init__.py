# SPDX-License-Identifier: Apache-2.0
"""Limits, interlocks and watchdogs: what keeps the arm from moving when it must not."""
