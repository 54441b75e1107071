# SPDX-License-Identifier: Apache-2.0
"""Demonstrations from bags and published data sets, as episodes."""
