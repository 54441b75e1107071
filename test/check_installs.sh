#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs this checkout with pip and colcon, editable and not, each in its own folder, and tries the result: imports
# vla_ros.train, finds shipped files, runs `policy_node --help`. Then runs the quick tests with colcon test. Takes about
# three minutes; not part of `make test`.
set -euo pipefail

checkout=$(cd "$(dirname "$0")/.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
venv=$place/venv
source=$place/workspace/src/vla_ros
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1

# Only the files that git would publish.
mkdir -p "$source"
(cd "$checkout" && git ls-files -z --cached --others --exclude-standard | xargs -0 tar cf - --ignore-failed-read) | tar xf - -C "$source"

use() { # use NAME COMMAND...: try the active install; COMMAND starts its policy node
    local what=$1; shift
    cd /
    python3 - <<'PYTHON'
from pathlib import Path
import vla_ros, vla_ros.train, vla_ros.train.fit
from vla_ros import resources
resources.path("config/robots/tabletop.yaml")
resources.path("launch/policy.launch.py")
for file in ("sim/tabletop.xml", "templates/page.html"):
    assert (Path(vla_ros.__file__).parent / file).is_file(), file
print("   ", vla_ros.__path__[0].replace(str(Path.home()), "~"))
PYTHON
    "$@" --help | grep -qi usage
    echo "ok: $what"
}

echo "pip install -e ."
make -s -C "$source" .venv VENV="$venv" EXTRAS=ros,sim
PATH=$venv/bin:$PATH
hash -r
use "pip install -e ." policy_node
vla --help >/dev/null

echo "pip install ."
pip uninstall -y vla_ros
(cd "$source" && pip install --no-deps . && rm -rf build ./*.egg-info)
use "pip install ." policy_node
vla --help >/dev/null
pip uninstall -y vla_ros

# setuptools 80 removed the options of `setup.py develop` that colcon uses for --symlink-install.
pip install colcon-common-extensions 'setuptools<80' pytest hypothesis
for options in "" "--symlink-install"; do
    echo "colcon build $options"
    cd "$place/workspace"
    rm -rf build install log
    colcon --log-level error build --packages-select vla_ros $options
    # Without --symlink-install, executables follow the active environment (setup.cfg).
    test -n "$options" || head -1 install/vla_ros/lib/vla_ros/policy_node | grep -qx '#!/usr/bin/env python3'
    (
        set +u
        source install/setup.bash
        set -u
        use "colcon build $options" "$PWD/install/vla_ros/lib/vla_ros/policy_node"
    ) 2>&1 | sed 's/^/  /'
done

echo "colcon test (the quick tests)"
cd "$place/workspace"
(
    set +u
    source install/setup.bash
    set -u
    colcon --log-level error test --packages-select vla_ros --return-code-on-test-failure \
        --pytest-args -k "test_cli or test_packaging or test_contract"
) || { colcon test-result --verbose; exit 1; }
colcon test-result
