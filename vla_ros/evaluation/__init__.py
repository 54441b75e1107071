# SPDX-License-Identifier: Apache-2.0
"""How good a policy is: open loop on demonstrations, closed loop in chains of tasks, and reports of both."""
