#!/usr/bin/env bash
# The whole story, from pairs of videos to a judge and its score:
#
#   recipes/pipeline.sh                  = recipes/tiny.sh: a random 1M-parameter model, no GPU: `make demo`
#   PROFILE=looks recipes/pipeline.sh    = MIX=looks recipes/tiny.sh: the same on pairs that need two looks
#   PROFILE=7b ... recipes/pipeline.sh   = recipes/7b.sh:   Qwen2.5-VL-7B or Qwen3-VL-8B on 8 x H100
case ${PROFILE:=tiny} in
tiny | 7b) exec bash "$(dirname "${BASH_SOURCE[0]}")/$PROFILE.sh" "$@" ;;
looks) MIX=looks exec bash "$(dirname "${BASH_SOURCE[0]}")/tiny.sh" "$@" ;;
*) echo "PROFILE is tiny, looks or 7b, got '$PROFILE'" >&2 && exit 2 ;;
esac
