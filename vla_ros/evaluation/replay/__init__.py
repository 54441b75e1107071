# SPDX-License-Identifier: Apache-2.0
"""A checkpoint against recordings, open loop: diagnoses mismatches."""
