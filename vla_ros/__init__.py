# SPDX-License-Identifier: Apache-2.0
"""Vision-language-action policies for ROS 2: record, fine-tune, run, with one contract throughout."""

__version__ = "0.1.0"
