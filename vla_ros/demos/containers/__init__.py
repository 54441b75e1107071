# SPDX-License-Identifier: Apache-2.0
"""The storage files of a bag (MCAP, sqlite3): indexed up to where they are whole, read message by message."""
