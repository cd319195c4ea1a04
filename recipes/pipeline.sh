#!/usr/bin/env bash
# The whole story, from pairs of videos to a judge and its score. A stage whose result is there is skipped.
#
#   recipes/pipeline.sh                  PROFILE=tiny: hide-and-seek pairs, a random 1M-parameter model, no GPU (`make demo`)
#   PROFILE=7b PAIRS=FILE.parquet VIDEOS=DIR TEACHER=URL TEACHER_MODEL=NAME BENCHMARKS=DIR recipes/pipeline.sh
#                                        8 x H100, Qwen2.5-VL-7B; PAIRS come from `python -m data_prep.build`, BENCHMARKS
#                                        holds a folder for each of genai, mj and videogen (docs/data.md)
#   recipes/pipeline.sh rft judge_rft    run these stages again, from nothing, and no other
#
# Results are in $OUT (outputs/$PROFILE), what the programs said in $OUT/logs.
set -euo pipefail
PROFILE=${PROFILE:-tiny} PYTHON=${PYTHON:-python} SEED=${SEED:-0} AGAIN=" $* "
OUT=${OUT:-outputs/$PROFILE}

stage() { # NAME RESULT [OPTION OF recipes.stage ...] -- MODULE [ARGUMENT ...]
  local name=$1 result=$2 options=()
  shift 2
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  if [[ $AGAIN == *[a-z]* ]]; then [[ $AGAIN == *" $name "* ]] && options+=(--again) || return 0; fi
  "$PYTHON" -m recipes.stage "$name" --result "$OUT/$result" --logs "$OUT/logs" "${STAGE[@]}" "${options[@]}" -- \
    "$PYTHON" -m "$@"
}
sft() { # NAME RECIPE START FILES [OVERRIDE ...]: verl's SFT trainer; its last checkpoint becomes models/NAME
  stage "$1" "models/$1" --work "$OUT/training/$1" --product 'global_step_*/huggingface' -- \
    torch.distributed.run --standalone --nproc_per_node="$GPUS" -m verl.trainer.sft_trainer "+recipe=$2" \
    model.path="$3" "data.train_files=$4" videosearch.frames.video_root="$VIDEOS" \
    trainer.default_local_dir="$OUT/training/$1" "${@:5}"
}
judge() { # RUN MODEL BENCHMARK [OPTION ...]: a figure on pairs that no stage has seen
  stage "judge_$1" "runs/$1/results.json" -- verl_videosearch.cli eval --out "$OUT/runs/$1" --model "$2" \
    "$REPLIES" "$OUT/models/$2" --benchmark "$3" --recipe "$GRPO" "${JUDGE[@]}" "${@:4}"
}

case $PROFILE in
tiny)
  GPUS=1 STAGE=(--tiny) VIDEOS=$OUT/pairs START=$OUT/models/start REPLIES=--local
  COLD_START=videosearch_cold_start_tiny RFT=videosearch_rft_tiny GRPO=videosearch_grpo_tiny
  PARTS=cold_start=.6,rft=.2,grpo=.18,validation=.02 PAIRS=$OUT/pairs/train.parquet
  # Weak on purpose: half of the traces answer at first sight, and of the others half look elsewhere, first or only.
  TEACH=(--teacher template --filter well_formed --direct .5 --cued-gap .2 --wrong-gap .15 --detour .15 --seed "$SEED")
  SAMPLE=(--serve-option=--max-model-len=2048 --max-turn-tokens 128 --concurrency 32 --temperature 0.8 --keep 4 --seed "$SEED")
  JUDGE=(--order AB --max-turn-tokens 128 --concurrency 64)
  COLD_START_SETTINGS=(trainer.total_training_steps="${COLD_START_STEPS:-1600}")
  RFT_SETTINGS=(trainer.total_training_steps="${RFT_STEPS:-120}")
  GRPO_SETTINGS=(trainer.total_training_steps="${GRPO_STEPS:-40}" data.seed="$SEED")
  stage pairs pairs --work "$OUT/pairs.work" -- data_prep.hide_and_seek --out "$OUT/pairs.work" --seed "$SEED" \
    --train "${TRAIN_PAIRS:-2400}" --test "${TEST_PAIRS:-400}"
  stage start models/start --work "$OUT/training/start" -- verl_videosearch.tiny_model "$OUT/training/start" --seed "$SEED" ;;
7b)
  GPUS=${GPUS:-8} STAGE=() START=${MODEL:-Qwen/Qwen2.5-VL-7B-Instruct} REPLIES=--serve
  COLD_START=videosearch_cold_start RFT=videosearch_rft GRPO=videosearch_grpo
  PARTS=cold_start=.02,rft=.2,grpo=.7,validation=.08
  : "${PAIRS:?parquet file of pairs}" "${VIDEOS:?their folder}" "${BENCHMARKS:?folder of the benchmarks}"
  TEACH=(--teacher "${TEACHER:?URL of a strong model}" --model "${TEACHER_MODEL:?its name}")
  SAMPLE=(--samples 4 --both-orders --target 20000) JUDGE=() COLD_START_SETTINGS=() RFT_SETTINGS=() GRPO_SETTINGS=() ;;
*) echo "PROFILE is tiny or 7b, got '$PROFILE'" >&2 && exit 2 ;;
esac

stage splits splits --work "$OUT/splits.work" -- data_prep.split "$PAIRS" --out "$OUT/splits.work" --video-root "$VIDEOS" \
  --fractions "$PARTS" --both-orders validation --seed "$SEED"

# 1. Cold start: a teacher's traces; a model that starts from nothing also learns to see, from captions
stage traces traces/sft.parquet -- data_prep.cold_start --pairs "$OUT/splits/cold_start.parquet" --video-root "$VIDEOS" \
  --out "$OUT/traces" --recipe "$COLD_START" "${TEACH[@]}"
CAPTIONS=
if [[ $PROFILE == tiny ]]; then
  stage captions captions.parquet -- data_prep.captions --pairs "$OUT/splits/cold_start.parquet" --video-root "$VIDEOS" \
    --out "$OUT/captions.parquet" --recipe "$COLD_START" --seed "$SEED"
  CAPTIONS=,$OUT/captions.parquet
fi
sft cold_start "$COLD_START" "$START" "[$OUT/traces/sft.parquet$CAPTIONS]" "${COLD_START_SETTINGS[@]}"

# 2. Rejection sampling: the model's own right episodes, the shortest of each pair, balanced
stage samples samples/sft.parquet -- data_prep.rejection_sampling --pairs "$OUT/splits/rft.parquet" --video-root "$VIDEOS" \
  --out "$OUT/samples" --recipe "$RFT" --serve "$OUT/models/cold_start" "${SAMPLE[@]}"
sft rft "$RFT" "$OUT/models/cold_start" "[$OUT/samples/sft.parquet]" "${RFT_SETTINGS[@]}"

# 3. GRPO
stage grpo models/grpo --work "$OUT/training/grpo" --product 'global_step_*/actor/huggingface' -- verl.trainer.main_ppo \
  "+recipe=$GRPO" actor_rollout_ref.model.path="$OUT/models/rft" data.train_files="$OUT/splits/grpo.parquet" \
  data.val_files="$OUT/splits/validation.parquet" videosearch.frames.video_root="$VIDEOS" \
  trainer.default_local_dir="$OUT/training/grpo" "${GRPO_SETTINGS[@]}"

# 4. What each stage is worth
if [[ $PROFILE == 7b ]]; then
  for model in cold_start rft grpo; do
    for name in genai mj videogen; do judge "$model-$name" "$model" "$name" --root "$BENCHMARKS/$name"; done
  done
  exit
fi
for model in start cold_start rft grpo; do judge "$model" "$model" "$OUT/pairs/test.parquet"; done
for model in cold_start rft grpo; do
  judge "$model-sampled" "$model" "$OUT/pairs/test.parquet" --temperature 0.8 --seed "$SEED"
done
judge grpo-no-window grpo "$OUT/pairs/test.parquet" --set window=null
stage probe_grpo runs/grpo-probe/results.json -- verl_videosearch.cli probe "$OUT/runs/grpo" --out "$OUT/runs/grpo-probe" \
  --local "$OUT/models/grpo" --video-root "$VIDEOS" --concurrency 64
"$PYTHON" -m recipes.results "$OUT"
