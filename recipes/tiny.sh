#!/usr/bin/env bash
# The whole story on this machine's CPU: pairs whose defects are painted in, a random 1M-parameter
# model, three stages of training, and what each is worth. `make demo`
#
#   recipes/tiny.sh                                   results in outputs/tiny
#   MIX=looks recipes/tiny.sh                         pairs that need two looks: outputs/looks
#   SEED=1 OUT=outputs/seed1 recipes/tiny.sh          other pairs, weights, traces, samples
#   WINDOW=null MIX=looks OUT=outputs/all recipes/tiny.sh     trained and judged with every frame in view
#   SIZE="--text-layers 4" OUT=outputs/four recipes/tiny.sh   another size of model
#   GRPO=name GRPO_SETTINGS="algorithm.filter_groups.enable=false" recipes/tiny.sh name judge_name
#                                                     another GRPO run beside the first
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
MIX=${MIX:-tiny}
OUT=${OUT:-outputs/$MIX} GPUS=1 TINY=_$MIX STAGE=(--tiny) REPLIES=--local
PAIRS=$OUT/pairs/train.parquet TEST=$OUT/pairs/test.parquet VIDEOS=$OUT/pairs
PARTS=${PARTS:-cold_start=.72,rft=.11,grpo=.16,validation=.01}
# Weak on purpose: some traces answer at first sight, others look elsewhere or not far enough
case $MIX in
tiny) TRACES=${TRACES:---direct .5 --cued-gap .45 --detour .05} NOTES=${NOTES:-newest} TURN=128 LASTS="half an hour" ;;
looks) # measured (docs/results.md): two layers do not learn to say where each marker is, three do
  TRACES=${TRACES:---direct .15 --cued-gap .6 --one-cue .25} NOTES=${NOTES:-list} TURN=176 LASTS="some hours"
  CAPTIONS=${CAPTIONS:---frames 12 --marked 3 --visible 4} # else markers are seen late, mild defects never
  SIZE=${SIZE:---text-layers 3} COLD_START_STEPS=${COLD_START_STEPS:-4000} # 1,900: damage is missed
  ;;
*) echo "MIX is tiny or looks, got '$MIX'" >&2 && exit 2 ;;
esac
announce "It takes $LASTS on two cores."
OTHER_WINDOW=no-window OTHER=null
if [[ -n ${WINDOW:-} ]]; then EPISODE=("window=$WINDOW"); fi
if [[ ${WINDOW:-1} == null ]]; then OTHER_WINDOW=window-1 OTHER=1; fi

stage pairs pairs --work "$OUT/pairs.work" -- verl_videosearch.data_prep.hide_and_seek \
  --out "$OUT/pairs.work" --profile "$MIX" --seed "$SEED" --train "${TRAIN_PAIRS:-3600}" \
  --test "${TEST_PAIRS:-400}" --held-out 0
read -ra size <<<"${SIZE:-}"
stage start models/start --work "$OUT/training/start" -- \
  verl_videosearch.from_scratch.tiny_model "$OUT/training/start" --seed "$SEED" "${size[@]}"
split_pairs

# A model that starts from nothing learns to see from captions, and keeps seeing by them
read -ra captions <<<"${CAPTIONS:-}"
prefix_each --episode "${EPISODE[@]}"
for part in cold_start rft; do
  stage "captions_$part" "captions/$part.parquet" -- verl_videosearch.data_prep.captions \
    --pairs "$OUT/splits/$part.parquet" --video-root "$VIDEOS" --seed "$SEED" \
    --notes "$NOTES" "${captions[@]}" "${WITH[@]}" \
    --out "$OUT/captions/$part.parquet" --recipe "videosearch_cold_start$TINY"
done

# 1. Cold start
read -ra weights <<<"$TRACES"
make_traces --teacher template --filter "${TRACE_FILTER:-well_formed}" "${weights[@]}" \
  --notes "$NOTES" --seed "$SEED"
train_sft cold_start "$OUT/models/start" "$OUT/traces/sft.parquet,$OUT/captions/cold_start.parquet" \
  trainer.total_training_steps="${COLD_START_STEPS:-1900}"

# 2. Rejection sampling: the model's own right episodes
read -ra choice <<<"${SAMPLES:-}"
make_samples --serve-option=--max-model-len=2048 --max-turn-tokens "$TURN" --concurrency 32 \
  --temperature 0.8 "${choice[@]}"
train_sft rft "$OUT/models/cold_start" "$OUT/samples/sft.parquet,$OUT/captions/rft.parquet" \
  trainer.total_training_steps="${RFT_STEPS:-120}"

# 3. GRPO
train_grpo trainer.total_training_steps="${GRPO_STEPS:-24}" data.seed="$SEED"

# 4. What each stage is worth, on the test split
GREEDY=(--order AB --max-turn-tokens "$TURN" --concurrency 64) SAMPLED=(--temperature 0.8 --seed "$SEED")
for model in start cold_start rft "$GRPO"; do judge "$model" "$model" "$TEST" "${GREEDY[@]}"; done
for model in cold_start rft "$GRPO"; do
  judge "$model-sampled" "$model" "$TEST" "${GREEDY[@]}" "${SAMPLED[@]}"
done
judge "$GRPO-$OTHER_WINDOW" "$GRPO" "$TEST" "${GREEDY[@]}" --set "window=$OTHER" \
  --accept-other-settings
probe "$GRPO" probe
[[ $MIX != looks ]] || probe "$GRPO" memory --memory all
! is_asked results || "$PYTHON" -m verl_videosearch.recipes.results "$OUT"
