# SPDX-License-Identifier: Apache-2.0
"""Whether the actions of demonstrations agree with how the tool moved, and if not, what explains it."""
