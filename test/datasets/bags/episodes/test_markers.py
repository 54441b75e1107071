# SPDX-License-Identifier: Apache-2.0
"""Episode markers are read strictly: a wrong one would mislabel a demonstration."""

from __future__ import annotations

import json

import pytest

from vla_ros.datasets.bags.episodes.markers import EVENTS, EpisodeMarker, parse_marker
from vla_ros.datasets.errors import BagError

GOOD = {"event": "start", "episode": 3, "task": "open_drawer", "command": "open the drawer"}


@pytest.mark.parametrize("event", EVENTS)
def test_marker_survives_the_wire(event: str) -> None:
    marker = EpisodeMarker(event, 3, "open_drawer", 'say "open" – now')
    assert parse_marker(marker.to_text()) == marker


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("go", "not JSON"),
        ("[1]", "must be an object"),
        (json.dumps({**GOOD, "event": "stop"}), "one of start, success, failure, discard; got 'stop'"),
        (json.dumps({**GOOD, "episode": "3"}), "episode must be of type int; got '3'"),
        (json.dumps({**GOOD, "episode": True}), "episode must be of type int; got True"),
        (json.dumps({**GOOD, "operator": "me"}), "unknown key 'operator'"),
        (json.dumps({"event": "start", "episode": 3, "task": "x"}), "missing key 'command'"),
    ],
)
def test_a_malformed_marker_is_rejected_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(BagError, match=said):
        parse_marker(text)
