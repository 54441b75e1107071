# SPDX-License-Identifier: Apache-2.0
"""Where episodes begin and end in a recording, and what they are labelled with."""
