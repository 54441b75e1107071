# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in evaluations."""

from __future__ import annotations

from vla_ros.errors import UserError


class EvaluationError(UserError):
    """An evaluation that cannot run: names the option, its value, what is allowed and the way out."""
