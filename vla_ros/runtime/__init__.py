# SPDX-License-Identifier: Apache-2.0
"""Real time without ROS: the thread that owns the policy, the actions on the control grid, and what keeps them safe."""
