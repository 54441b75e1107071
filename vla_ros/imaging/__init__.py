# SPDX-License-Identifier: Apache-2.0
"""Images: decode, RGB, resize, normalise."""
