# SPDX-License-Identifier: Apache-2.0
"""Recorded bags as episodes."""
