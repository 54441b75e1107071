# SPDX-License-Identifier: Apache-2.0
"""RLDS data sets of Open X-Embodiment."""
