#!/usr/bin/env bash
# The whole story, from pairs of videos to a judge and its score. A stage whose result is there is skipped.
#
#   recipes/pipeline.sh                  PROFILE=tiny: hide-and-seek pairs, a random 1M-parameter model, no GPU: `make demo`
#   PROFILE=7b PAIRS=FILE.parquet VIDEOS=DIR TEACHER=URL TEACHER_MODEL=NAME BENCHMARKS=DIR recipes/pipeline.sh
#                                        8 x H100, Qwen2.5-VL-7B; PAIRS come from `python -m data_prep.build`, BENCHMARKS
#                                        holds the folders genai, mj and videogen (docs/data.md)
#   recipes/pipeline.sh rft judge_rft    run these stages again, from nothing, and no other
#   GRPO=name GRPO_SETTINGS="algorithm.filter_groups.enable=false" recipes/pipeline.sh name judge_name
#                                        another GRPO run beside the first, with settings changed
#
# Results are in $OUT (outputs/$PROFILE), what the programs said in $OUT/logs.
set -euo pipefail
PROFILE=${PROFILE:-tiny} PYTHON=${PYTHON:-python} SEED=${SEED:-0} GRPO=${GRPO:-grpo} ONLY=" $* "
OUT=${OUT:-outputs/$PROFILE}

stage() { # NAME RESULT [OPTION OF recipes.stage ...] -- MODULE [ARGUMENT ...]
  local name=$1 result=$2 options=()
  shift 2
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  if [[ $ONLY == *[a-z]* ]]; then [[ $ONLY == *" $name "* ]] && options+=(--again) || return 0; fi
  "$PYTHON" -m verl_videosearch.recipes.stage "$name" --result "$OUT/$result" --logs "$OUT/logs" "${STAGE[@]}" "${options[@]}" -- \
    "$PYTHON" -m "$@"
}
sft() { # NAME RECIPE START FILES [OVERRIDE ...]: verl's SFT trainer; its last checkpoint becomes models/NAME
  stage "$1" "models/$1" --work "$OUT/training/$1" --product 'global_step_*/huggingface' -- \
    torch.distributed.run --standalone --nproc_per_node="$GPUS" -m verl.trainer.sft_trainer "+recipe=$2" \
    model.path="$3" "data.train_files=$4" videosearch.frames.video_root="$VIDEOS" \
    trainer.default_local_dir="$OUT/training/$1" "${@:5}"
}
judge() { # RUN MODEL BENCHMARK [OPTION ...]: a figure on pairs that no stage has seen
  stage "judge_$1" "runs/$1/results.json" --work "$OUT/runs/$1" --product results.json -- verl_videosearch.cli eval --out "$OUT/runs/$1" --model "$2" \
    "$REPLIES" "$OUT/models/$2" --benchmark "$3" --recipe "videosearch_grpo$TINY" "${JUDGE[@]}" "${@:4}"
}

case $PROFILE in
tiny)
  GPUS=1 TINY=_tiny STAGE=(--tiny) VIDEOS=$OUT/pairs START=$OUT/models/start REPLIES=--local
  PARTS=${PARTS:-cold_start=.72,rft=.11,grpo=.16,validation=.01} PAIRS=$OUT/pairs/train.parquet TEST=$OUT/pairs/test.parquet
  # Weak on purpose: half of the traces answer at first sight, and a few look elsewhere first. Samples keep the pairs' own
  # shares of verdicts (1 tie : 2 : 2), as more ties would teach not to search.
  TEACH=(--teacher template --filter well_formed --direct .5 --cued-gap .45 --detour .05 --seed "$SEED")
  SAMPLE=(--serve-option=--max-model-len=2048 --max-turn-tokens 128 --concurrency 32 --temperature 0.8 --max-ratio 2 --seed "$SEED")
  JUDGE=(--order AB --max-turn-tokens 128 --concurrency 64)
  COLD_START=(trainer.total_training_steps="${COLD_START_STEPS:-1900}") RFT=(trainer.total_training_steps="${RFT_STEPS:-120}")
  TRAIN=(trainer.total_training_steps="${GRPO_STEPS:-24}" data.seed="$SEED")
  stage pairs pairs --work "$OUT/pairs.work" -- data_prep.hide_and_seek --out "$OUT/pairs.work" --seed "$SEED" \
    --train "${TRAIN_PAIRS:-3600}" --test "${TEST_PAIRS:-400}" --held-out 0
  stage start models/start --work "$OUT/training/start" -- verl_videosearch.from_scratch.tiny_model "$OUT/training/start" --seed "$SEED" ;;
7b)
  GPUS=${GPUS:-8} TINY= STAGE=() START=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct} REPLIES=--serve
  PARTS=${PARTS:-cold_start=.02,rft=.2,grpo=.7,validation=.08}
  : "${PAIRS:?parquet file of pairs}" "${VIDEOS:?their folder}" "${BENCHMARKS:?folder of the benchmarks}"
  TEACH=(--teacher "${TEACHER:?URL of a strong model}" --model "${TEACHER_MODEL:?its name}")
  SAMPLE=(--samples 4 --both-orders --target 20000) JUDGE=() COLD_START=() RFT=() TRAIN=() ;;
*) echo "PROFILE is tiny or 7b, got '$PROFILE'" >&2 && exit 2 ;;
esac

stage splits splits --work "$OUT/splits.work" -- data_prep.split "$PAIRS" --out "$OUT/splits.work" --video-root "$VIDEOS" \
  --fractions "$PARTS" --both-orders validation --seed "$SEED"

if [[ $PROFILE == tiny ]]; then # a model that starts from nothing learns to see from captions, and keeps seeing by them
  for part in cold_start rft; do
    stage "captions_$part" "captions/$part.parquet" -- data_prep.captions --pairs "$OUT/splits/$part.parquet" \
      --video-root "$VIDEOS" --out "$OUT/captions/$part.parquet" --recipe videosearch_cold_start_tiny --seed "$SEED"
  done
fi
captions() { [[ $PROFILE != tiny ]] || echo ",$OUT/captions/$1.parquet"; }

# 1. Cold start: a teacher's traces
stage traces traces/sft.parquet --work "$OUT/traces" --product sft.parquet -- data_prep.cold_start --pairs "$OUT/splits/cold_start.parquet" --video-root "$VIDEOS" \
  --out "$OUT/traces" --recipe "videosearch_cold_start$TINY" "${TEACH[@]}"
sft cold_start "videosearch_cold_start$TINY" "$START" "[$OUT/traces/sft.parquet$(captions cold_start)]" "${COLD_START[@]}"

# 2. Rejection sampling: the model's own right episodes, balanced
stage samples samples/sft.parquet --work "$OUT/samples" --product sft.parquet -- data_prep.rejection_sampling \
  --pairs "$OUT/splits/rft.parquet" --video-root "$VIDEOS" --out "$OUT/samples" --recipe "videosearch_rft$TINY" --serve "$OUT/models/cold_start" "${SAMPLE[@]}"
sft rft "videosearch_rft$TINY" "$OUT/models/cold_start" "[$OUT/samples/sft.parquet$(captions rft)]" "${RFT[@]}"

# 3. GRPO
stage "$GRPO" "models/$GRPO" --work "$OUT/training/$GRPO" --product 'global_step_*/actor/huggingface' \
  --best "${BEST-val-core/*/acc/mean@1}" -- verl.trainer.main_ppo "+recipe=videosearch_grpo$TINY" actor_rollout_ref.model.path="$OUT/models/rft" \
  data.train_files="$OUT/splits/grpo.parquet" data.val_files="$OUT/splits/validation.parquet" \
  videosearch.frames.video_root="$VIDEOS" trainer.default_local_dir="$OUT/training/$GRPO" "${TRAIN[@]}" ${GRPO_SETTINGS:-}

# 4. What each stage is worth, on pairs that none has seen
if [[ $PROFILE == 7b ]]; then
  for model in cold_start rft "$GRPO"; do
    for name in genai mj videogen; do judge "$model-$name" "$model" "$name" --root "$BENCHMARKS/$name"; done
  done
  exit
fi
for model in start cold_start rft "$GRPO"; do judge "$model" "$model" "$TEST"; done
for model in cold_start rft "$GRPO"; do judge "$model-sampled" "$model" "$TEST" --temperature 0.8 --seed "$SEED"; done
judge "$GRPO-no-window" "$GRPO" "$TEST" --set window=null
stage "probe_$GRPO" "runs/$GRPO-probe/results.json" --work "$OUT/runs/$GRPO-probe" --product results.json -- verl_videosearch.cli probe "$OUT/runs/$GRPO" --local "$OUT/models/$GRPO" \
  --out "$OUT/runs/$GRPO-probe" --video-root "$VIDEOS" --concurrency 64
[[ $ONLY == *[a-z]* && $ONLY != *" results "* ]] || "$PYTHON" -m verl_videosearch.recipes.results "$OUT"
