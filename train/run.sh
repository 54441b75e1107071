#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Train on all GPUs of one or several machines, one process per GPU; takes the arguments of `vla fit`:
#
#   train/run.sh config/train/tabletop.json --bags bags/
#   MACHINES=2 MACHINE=0 FIRST=10.0.0.1:29500 train/run.sh ...     # on the first machine
#   MACHINES=2 MACHINE=1 FIRST=10.0.0.1:29500 train/run.sh ...     # on the second
#
# PROCESSES sets the number of processes per machine (default: one per GPU; required on a CPU), PYTHON the interpreter.
# The run folder and the store must be shared by all machines, unless each has its own copy of the bags.
set -e
machines=${MACHINES:-1}
if [ "$machines" = 1 ]; then
    set -- --standalone --nproc-per-node "${PROCESSES:-gpu}" -m vla_ros.cli fit "$@"
else
    : "${FIRST:?FIRST is not set; set it to address and port of the first machine, such as 10.0.0.1:29500}"
    : "${MACHINE:?MACHINE is not set; set it to the number of this machine, 0 on the first}"
    set -- --nnodes "$machines" --node-rank "$MACHINE" --nproc-per-node "${PROCESSES:-gpu}" \
        --master-addr "${FIRST%:*}" --master-port "${FIRST##*:}" -m vla_ros.cli fit "$@"
fi
exec "${PYTHON:-python3}" -m torch.distributed.run "$@"
