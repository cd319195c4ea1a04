# %% [markdown]
# # Which of my two videos is better?
#
# A notebook in percent form: open it in VS Code, or with `jupytext --to notebook
# examples/judge.py`. Put the model that
# judges and two videos of one prompt here.

# %%
from verl_videosearch import Judge

MODEL = {"endpoint": "http://localhost:8000/v1", "model": "judge"}
PROMPT, VIDEO_1, VIDEO_2 = "a cat jumps", "a.mp4", "b.mp4"

# %% [markdown]
# Without a server: `Judge.local("outputs/demo/models/grpo")` after `make demo`, or
# `Judge.serve("CHECKPOINT")`, which starts
# vLLM. Nothing is opened before the first question.

# %%
judge = Judge(**MODEL)
verdict = judge.compare(PROMPT, VIDEO_1, VIDEO_2)
verdict  # a notebook shows the whole comparison: films, frames asked for, words turn by turn

# %% [markdown]
# Both orders were asked. Where they disagree the verdict is a tie, and it says so.

# %%
print(verdict)
print(verdict.verdicts, "orders agree:", verdict.orders_agree)
for frame in verdict.frames_asked:
    print(f"{frame.order}: turn {frame.turn} asked for video {frame.video} at {frame.time_s:.2f} s")
for reasoning in verdict.reasoning:
    print(f"{reasoning.order}, turn {reasoning.turn}: {reasoning.snapshot} {reasoning.thought}")

# %% [markdown]
# The page is one file that loads nothing from anywhere; many pairs are judged side by side.

# %%
verdict.to_page("verdict.html")
outcomes = judge.compare_many([(PROMPT, VIDEO_1, VIDEO_2), (PROMPT, VIDEO_2, VIDEO_1)])
print([str(outcome) for outcome in outcomes])

# %%
judge.close()
