# SPDX-License-Identifier: Apache-2.0
"""Vision-language-action policies for ROS 2: record demonstrations, fine-tune, and run them on an arm."""

__version__ = "0.2.0"
