# SPDX-License-Identifier: Apache-2.0
"""What a training user runs: fit, evaluate, replay. Importable as `vla_ros.train`, on machines without ROS."""
