#!/usr/bin/env bash
# The whole story on 8 x H100: a public set of pairs, a strong model as teacher, three stages of
# training, and what each is worth on public benchmarks.
#
#   PAIRS=FILE.parquet VIDEOS=DIR TEACHER=URL TEACHER_MODEL=NAME BENCHMARKS=DIR recipes/7b.sh
#
# PAIRS come from `python -m data_prep.build`; BENCHMARKS holds the folders genai, mj and videogen
# (docs/data.md). MODEL=Qwen/Qwen3-VL-8B-Instruct starts from another model, whose patches size the
# frames. GPUS=4 trains on four cards; SFT_SETTINGS and GRPO_SETTINGS hold overrides, such as those of
# docs/seven_b.md. Disk: 1.9 TiB at the end of GRPO, whose eight checkpoints are kept until the best is known.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
OUT=${OUT:-outputs/7b} GPUS=${GPUS:-8} REPLIES=--serve MODEL=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct}
PARTS=${PARTS:-cold_start=.02,rft=.22,grpo=.76,validation=512}
: "${PAIRS:?parquet file of pairs}" "${VIDEOS:?their folder}" "${BENCHMARKS:?folder of the benchmarks}"
: "${TEACHER:?URL of a strong model}" "${TEACHER_MODEL:?its name}"
announce "How long: videosearch plan."
check_trainings "$@"

# Benchmarks first: no pair of training shares a prompt or a video with one of them
AGAINST=()
build_benchmark() { # NAME SOURCE SPLIT
  stage "benchmark_$1" "benchmarks/$1.parquet" -- verl_videosearch.data_prep.build \
    --source "$2" --split "$3" --root "$BENCHMARKS/$1" --out "$OUT/benchmarks/$1.parquet"
  AGAINST+=(--against "$OUT/benchmarks/$1.parquet" --against-root "$BENCHMARKS/$1")
}
build_benchmark genai genai_bench test
build_benchmark mj mj_bench_video test
build_benchmark videogen videogen_rewardbench eval
split_pairs "${AGAINST[@]}"

# 1. Cold start: a teacher's traces
make_traces --teacher "$TEACHER" --model "$TEACHER_MODEL"
train_sft cold_start "$MODEL" "$OUT/traces/sft.parquet"

# 2. Rejection sampling: the model's own right episodes
CROWD=(--concurrency 32) # episodes at once on each card, what `videosearch plan` counts with
make_samples --samples 4 --both-orders --target 20000 "${CROWD[@]}"
train_sft rft "$OUT/models/cold_start" "$OUT/samples/sft.parquet"

# 3. GRPO: every validated checkpoint is kept until the best is known
#    max_model_len: vLLM wants cache for one context of the model's own length, of Qwen3-VL 262,144
train_grpo trainer.max_actor_ckpt_to_keep=8 actor_rollout_ref.rollout.max_model_len=16384

# 4. What each stage is worth; a pair whose prompt or video was trained on ends the evaluation
TRAINED=()
for part in cold_start rft grpo; do TRAINED+=(--against "$OUT/splits/$part.parquet"); done
for model in cold_start rft "$GRPO"; do
  for name in genai mj videogen; do
    judge "$model-$name" "$model" "$name" --root "$BENCHMARKS/$name" "${CROWD[@]}" \
      "${TRAINED[@]}" --against-root "$VIDEOS"
  done
done
