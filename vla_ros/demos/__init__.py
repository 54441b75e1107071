# SPDX-License-Identifier: Apache-2.0
"""Demonstrations: read recorded bags into episodes, write bags, cut episodes into training windows."""
