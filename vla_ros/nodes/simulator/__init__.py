# SPDX-License-Identifier: Apache-2.0
"""The simulated arm as ROS nodes."""
