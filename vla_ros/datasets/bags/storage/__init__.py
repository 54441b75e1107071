# SPDX-License-Identifier: Apache-2.0
"""Storage files of bags: MCAP and sqlite3, whole or cut off."""
