# SPDX-License-Identifier: Apache-2.0
"""The guard, its limits and its watchdogs: what keeps the arm from moving when it must not."""
