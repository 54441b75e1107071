# SPDX-License-Identifier: Apache-2.0
"""The policy node, with a cv_bridge of the test's choice."""

from fake_cv_bridge import install_cv_bridge  # noqa: F401
