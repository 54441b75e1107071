# SPDX-License-Identifier: Apache-2.0
"""LeRobot data sets."""
