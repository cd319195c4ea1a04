"""Hide-and-seek pairs: preference pairs that nobody can judge without looking at more frames.

The one idea: a severe defect lies between the frames that the initial view shows, and a marker in
both videos says where to look but not which video is the worse one. Whoever answers at once is
right in 40 % of the pairs; whoever looks, in all of them::

    frame index    0   1 2 3   4   5 6 7   8   9 ...        [ ] shown at first
    video 1       [ ]  . . .  [C]  . X X  [ ]  .            C   cue: the gap behind this frame
                  matters
    video 2       [ ]  . . .  [C]  . . .  [ ]  .            X   hidden defect -> video 2 is better

`python -m data_prep.hide_and_seek --out outputs/hide_and_seek` makes a data set;
docs/hide_and_seek.md explains it. Modules, in reading order: `profile` (sizes, what is shown, where
a defect may hide), `scenes` and `bases` (clean videos), `plan` (what each pair is), `build`
(files), `checks` (proofs), `card` and `sheet` (reports).
"""
