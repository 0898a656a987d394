#!/usr/bin/env bash
# A maya command on the GPUs of a SLURM job, one launcher a node. Prepare data and tokenizer first, on a disk
# that all nodes see; then, with your partition, account and time:
#
#   sbatch --nodes 2 --gpus-per-node 8 --time 2-0 egs/slurm.sh \
#     train --experiment egs.indic12.large --data exp/indic12/DIR/data --run-dir exp/indic12/DIR/large
#
# Submit it again to continue. SLURM's warning 3 minutes before the end makes the training save its state.
# `egs/slurm.sh --dry-run train ...`, within an allocation, says what would be started.
#SBATCH --job-name=maya
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@180
#SBATCH --output=slurm-%j.log
set -euo pipefail

: "${SLURM_JOB_ID:?run it with sbatch, or within salloc}"
dry_run=()
if [ "${1:-}" = --dry-run ]; then dry_run=(--dry-run) && shift; fi
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node meet at different ports
launch=(python -m maya.recipes.launch "${dry_run[@]}"
    --nnodes "${SLURM_NNODES:-1}" --nproc-per-node "${SLURM_GPUS_ON_NODE:-1}" --max-restarts "${RESTARTS:-3}"
    --rdzv-backend c10d --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:$port" "$@")
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [ ${#dry_run[@]} -gt 0 ]; then
    echo "srun --kill-on-bad-exit=1 ${launch[*]}"
    exec "${launch[@]}"
fi
exec srun --kill-on-bad-exit=1 "${launch[@]}"
