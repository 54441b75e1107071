# SPDX-License-Identifier: Apache-2.0
"""Serialised messages (CDR) to arrays."""
