#!/usr/bin/env bash
# All that wants a GPU, in one call of less than ten minutes: the tests marked gpu, and the figures of docs/SPEED.md.
#
#   bash benchmarks/gpu.sh OUT [DATA]
#
# OUT gets a file of JSON lines for each benchmark, what it said (.log), and summary.txt. DATA is a folder with
# fashion-mnist/ (its four files) and cifar10_train.npz and cifar10_test.npz (benchmarks/prepare_cifar10.py); without
# it loaders are measured on the digits, and the recipe for CIFAR-10 is left out. A step that fails or takes too long
# does not end the others; the exit code says whether all went well.
set -uo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bash benchmarks/gpu.sh OUT [DATA]" >&2
    exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
data=${2:+$(cd "$2" && pwd)} || exit 2
cd "$(dirname "$0")/.." || exit 2
if ! python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "error: torch finds no CUDA device here" >&2
    exit 2
fi
failed=0

step() { # name, seconds, command
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    timeout "$limit" "$@" >"$out/$name.jsonl" 2>"$out/$name.log"
    local code=$?
    [ $code = 0 ] || failed=1
    echo "$name: exit code $code after $((SECONDS - begin)) s" | tee -a "$out/summary.txt"
}

nvidia-smi >"$out/machine.txt" 2>&1
step tests 120 pytest -q -m gpu
step precision 60 python benchmarks/precision.py --batch 512 --rounds 5 --variants auto channels_last bf16 \
    bf16+channels_last fp16+channels_last
step compiled 100 python benchmarks/precision.py --batch 512 --rounds 3 --variants auto bf16+channels_last+compile \
    bf16+channels_last+graphs
step loop 60 python benchmarks/loop.py --contenders bare careful ours --rounds 3
step checkpoint 30 python benchmarks/checkpoint.py --megabytes 10 100 --rounds 5
if [ -n "$data" ]; then
    step data_fashion 25 python benchmarks/data.py --data fashion_mnist --root "$data" --rounds 2
    step data_cifar10 25 python benchmarks/data.py --data "npz:$data/cifar10_train.npz" --rounds 2
    step speedrun 160 python benchmarks/recipe.py --config-file config/recipes/cifar10_speedrun.yaml --warm --seeds 25 --score ema/accuracy \
        DATASETS.TRAIN "npz:$data/cifar10_train.npz" DATASETS.TEST "npz:$data/cifar10_test.npz" \
        SOLVER.AMP.ENABLED true MODEL.COMPILE default
else
    step data_digits 40 python benchmarks/data.py --data digits --rounds 2
fi
exit $failed
