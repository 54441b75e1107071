# SPDX-License-Identifier: Apache-2.0
"""Rollouts of a policy in simulation."""
