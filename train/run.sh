#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Train on all GPUs of this machine, or of several, one process for each GPU; the arguments are those of `vla fit`:
#
#   train/run.sh config/train/tabletop.json --bags bags/
#   MACHINES=2 MACHINE=0 FIRST=10.0.0.1:29500 train/run.sh ...     # on the first machine
#   MACHINES=2 MACHINE=1 FIRST=10.0.0.1:29500 train/run.sh ...     # on the second
#
# PROCESSES sets how many processes a machine has (default: one for each GPU; on a CPU, name a number), PYTHON which
# Python. The run folder and the store have to be the same place for all machines, or each has its own bags.
set -e
machines=${MACHINES:-1}
if [ "$machines" = 1 ]; then
    set -- --standalone --nproc-per-node "${PROCESSES:-gpu}" -m vla_ros.cli fit "$@"
else
    : "${FIRST:?FIRST is not set; give the address and port of the first machine, as 10.0.0.1:29500}"
    : "${MACHINE:?MACHINE is not set; give the number of this machine, 0 on the first}"
    set -- --nnodes "$machines" --node-rank "$MACHINE" --nproc-per-node "${PROCESSES:-gpu}" \
        --master-addr "${FIRST%:*}" --master-port "${FIRST##*:}" -m vla_ros.cli fit "$@"
fi
exec "${PYTHON:-python3}" -m torch.distributed.run "$@"
