# The stages that tiny.sh and 7b.sh share; each is one program and one result.
#
# A stage whose result is there is skipped, and one that fails ends the pipeline: the same command
# goes on. Stages named on the command line are run again, from nothing, and no other:
#
#   recipes/tiny.sh rft judge_rft       (LIST=1 recipes/tiny.sh names all)
#
# Results are in $OUT, what the programs said in $OUT/logs.
set -euo pipefail
PYTHON=${PYTHON:-python} SEED=${SEED:-0} GRPO=${GRPO:-grpo} ONLY=" $* "
STAGE=()    # options of every stage
EPISODE=()  # name=value, what a model needs beside the settings of its recipe
TINY=       # ends the names of the tiny recipes

is_asked() { # NAME: true when all stages are run, or this one by its name
  [[ ${LIST:-} != 1 ]] || { echo "$1" && return 1; }
  [[ $ONLY != *[^\ ]* || $ONLY == *" $1 "* ]]
}

check_names() { # WORD ...: ends the pipeline before it begins when no stage has such a name
  [[ $# -gt 0 && ${LIST:-} != 1 ]] || return 0
  local word names && names=$(LIST=1 bash "$0")
  for word; do
    grep -qxF -- "$word" <<<"$names" && continue
    echo "no stage is called '$word'; there are $(xargs <<<"$names")" >&2
    exit 2
  done
}

check_trainings() { # [STAGE ...]: ends the pipeline before it begins when a training of it would be refused
  [[ -n ${LIST:-}${CHECK:-} ]] || CHECK=1 bash "$0" "$@" >/dev/null
}

announce() { # [WORDS]: what to expect, when the whole story is asked for
  local words="Results in $OUT, logs in $OUT/logs. Killed, the same command goes on where it was."
  [[ $ONLY == *[^\ ]* || -n ${LIST:-}${CHECK:-} ]] || echo "$words ${1:-}" >&2
}

stage() { # NAME RESULT [OPTION OF recipes.stage ...] -- MODULE [ARGUMENT ...]
  local name=$1 result=$2 options=("${STAGE[@]}")
  shift 2
  while [[ $1 != -- ]]; do options+=("$1") && shift; done
  shift
  is_asked "$name" || return 0
  if [[ ${CHECK:-} == 1 ]]; then # of a training, what can be said without its model and data
    [[ $* != *+recipe=* ]] || "$PYTHON" -m verl_videosearch.planning.check "$@"
    return 0
  fi
  [[ $ONLY != *[^\ ]* ]] || options+=(--again)
  "$PYTHON" -m verl_videosearch.recipes.stage "$name" --result "$OUT/$result" --logs "$OUT/logs" \
    "${options[@]}" -- "$PYTHON" -m "$@"
}

prefix_each() { # PREFIX WORD ...: fills WITH with PREFIX before each word
  local prefix=$1
  WITH=()
  for word in "${@:2}"; do
    [[ $prefix == -* ]] && WITH+=("$prefix" "$word") || WITH+=("$prefix$word")
  done
}

split_pairs() { # [OPTION ...]: parts that share no prompt and no video, with each other or a benchmark
  stage splits splits --work "$OUT/splits.work" -- verl_videosearch.data_prep.split "$PAIRS" \
    --out "$OUT/splits.work" --video-root "$VIDEOS" --fractions "$PARTS" --seed "$SEED" \
    --both-orders validation "$@"
  [[ ${LIST:-} == 1 ]] || ! is_asked splits || grep -hsE '^against |removed as overlap' "$OUT/logs/splits.log" || true
}

make_traces() { # [OPTION ...]: a teacher judges pairs; what is right is taught first
  prefix_each --episode "${EPISODE[@]}"
  stage traces traces/sft.parquet --work "$OUT/traces" --product sft.parquet -- \
    verl_videosearch.data_prep.cold_start --pairs "$OUT/splits/cold_start.parquet" \
    --video-root "$VIDEOS" --out "$OUT/traces" --recipe "videosearch_cold_start$TINY" \
    "${WITH[@]}" "$@"
}

make_samples() { # [OPTION ...]: the model's own right episodes
  prefix_each --episode "${EPISODE[@]}"
  stage samples samples/sft.parquet --work "$OUT/samples" --product sft.parquet -- \
    verl_videosearch.data_prep.rejection_sampling --pairs "$OUT/splits/rft.parquet" \
    --video-root "$VIDEOS" --out "$OUT/samples" --recipe "videosearch_rft$TINY" \
    --serve "$OUT/models/cold_start" --seed "$SEED" "${WITH[@]}" "$@"
}

train_sft() { # NAME START FILES [OVERRIDE ...]: verl's SFT; its last checkpoint is the result. SFT_SETTINGS: more
  prefix_each videosearch.episode. "${EPISODE[@]}"
  stage "$1" "models/$1" --work "$OUT/training/$1" --product 'global_step_*/huggingface' -- \
    torch.distributed.run --standalone --nproc_per_node="$GPUS" -m verl.trainer.sft_trainer \
    "+recipe=videosearch_$1$TINY" model.path="$2" "data.train_files=[$3]" \
    videosearch.frames.video_root="$VIDEOS" trainer.default_local_dir="$OUT/training/$1" \
    trainer.n_gpus_per_node="$GPUS" "${WITH[@]}" "${@:4}" ${SFT_SETTINGS:-}
}

train_grpo() { # [OVERRIDE ...]: verl's GRPO; of the kept checkpoints the one that validates best is the result
  prefix_each videosearch.episode. "${EPISODE[@]}"
  stage "$GRPO" "models/$GRPO" --work "$OUT/training/$GRPO" \
    --product 'global_step_*/actor/huggingface' --best "${BEST-val-core/*/acc/mean@1}" -- \
    verl.trainer.main_ppo "+recipe=videosearch_grpo$TINY" \
    actor_rollout_ref.model.path="$OUT/models/${GRPO_START:-rft}" \
    data.train_files="$OUT/splits/grpo.parquet" data.val_files="$OUT/splits/validation.parquet" \
    videosearch.frames.video_root="$VIDEOS" trainer.default_local_dir="$OUT/training/$GRPO" \
    trainer.n_gpus_per_node="$GPUS" "${WITH[@]}" "$@" ${GRPO_SETTINGS:-}
}

judge() { # RUN MODEL BENCHMARK [OPTION ...]: a figure on pairs of a benchmark or a test split
  prefix_each --set "${EPISODE[@]}"
  stage "judge_$1" "runs/$1/results.json" --work "$OUT/runs/$1" --product results.json -- \
    verl_videosearch.cli eval --out "$OUT/runs/$1" --model "$2" "$REPLIES" "$OUT/models/$2" \
    --benchmark "$3" --recipe "videosearch_grpo$TINY" "${WITH[@]}" "${@:4}"
}

probe() { # RUN NAME [OPTION ...]: what a finished run owes to its search (probe) or its words (memory)
  stage "$2_$1" "runs/$1-$2/results.json" --work "$OUT/runs/$1-$2" --product results.json -- \
    verl_videosearch.cli probe "$OUT/runs/$1" "$REPLIES" "$OUT/models/$1" --out "$OUT/runs/$1-$2" \
    --video-root "$VIDEOS" --concurrency 64 "${@:3}"
}

check_names "$@"
