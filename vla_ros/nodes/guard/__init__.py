# SPDX-License-Identifier: Apache-2.0
"""What owns the arm: command outputs, operator inputs, Servo."""
