# SPDX-License-Identifier: Apache-2.0
"""Read RLDS data sets of Open X-Embodiment."""
