# SPDX-License-Identifier: Apache-2.0
"""Quality metrics and reports of demonstrations."""
