# SPDX-License-Identifier: Apache-2.0
"""HTML reports, overlays and recordings of evaluations."""
