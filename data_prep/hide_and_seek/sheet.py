"""A contact sheet: example pairs of a data set with their shown, cued and damaged frames outlined,
to look at.

The one idea: the picture is drawn from the stored files and rows, so what it shows is what a judge
gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from verl_videosearch.data_prep.hide_and_seek.plan import PairType
from verl_videosearch.data_prep.hide_and_seek.profile import InitialSampler, Profile
from verl_videosearch.data_prep.synthetic.defects import defect_from_meta

from verl_videosearch.judgement import OVERALL
from verl_videosearch.sample import PreferenceSample
from verl_videosearch.video.decode import FramePlan, read_candidate_frames

SHEET = "contact_sheet_{split}.png"
EXAMPLES_PER_TYPE = 2
_THUMB, _BORDER, _SPACE, _LINE, _SIDE = (
    72,
    3,
    2,
    20,
    64,
)  # pixels; _SIDE is the column with "video 1"
_FRAMES_PER_ROW = 16
_SHOWN, _DAMAGED, _PLAIN = (60, 110, 230), (215, 30, 45), (205, 205, 205)
_LEGEND = (("shown at first", _SHOWN), ("damaged", _DAMAGED), ("to be searched", _PLAIN))


def write_sheet(
    samples: Sequence[PreferenceSample], out: Path, profile: Profile, split: str
) -> None:
    """Draw a few pairs of each type; raises `VideoError`."""
    chosen = [
        sample
        for pair_type in PairType
        for sample in [s for s in samples if s.meta["pair_type"] == pair_type.value][
            :EXAMPLES_PER_TYPE
        ]
    ]
    strips = [_draw_legend(profile), *(_draw_pair(sample, out, profile) for sample in chosen)]
    width = max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sum(strip.height for strip in strips)), "white")
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    sheet.save(out / SHEET.format(split=split))


def _draw_legend(profile: Profile) -> Image.Image:
    strip = Image.new("RGB", (_SIDE + 8 * (_THUMB + 2 * _BORDER), 2 * _LINE), "white")
    draw, left = ImageDraw.Draw(strip), 8
    for words, colour in (*_LEGEND, ("hazard tape on top: the cue", None)):
        if colour:
            draw.rectangle((left, 10, left + 16, 26), outline=colour, width=_BORDER)
            left += 24
        draw.text((left, 9), words, fill="black", font=_font())
        left += int(draw.textlength(words, font=_font())) + 24
    return strip


def _draw_pair(sample: PreferenceSample, root: Path, profile: Profile) -> Image.Image:
    rows = [_draw_video(sample, side, root, profile) for side in (1, 2)]
    strip = Image.new(
        "RGB", (rows[0].width + _SIDE, sum(row.height for row in rows) + 3 * _LINE), "white"
    )
    draw = ImageDraw.Draw(strip)
    draw.text((8, 8), _title(sample), fill="black", font=_font())
    draw.text((8, 8 + _LINE), sample.prompt, fill=(90, 90, 90), font=_font())
    top = 2 * _LINE + 8
    for side, row in enumerate(rows, start=1):
        draw.text((8, top + _THUMB // 2), f"video {side}", fill="black", font=_font())
        strip.paste(row, (_SIDE, top))
        top += row.height
    return strip


def _title(sample: PreferenceSample) -> str:
    """Say in words what the pair is and what is wrong with which video."""
    winner = sample.labels[OVERALL]
    parts = [sample.meta["pair_type"], *([f"video {winner} is better"] if winner else [])]
    for side in (1, 2):
        for meta in sample.meta[f"defects_{side}"]:
            defect = defect_from_meta(meta)
            last = defect.frame_indices[-1]
            kind = f"{defect.colour} {defect.type}" if defect.colour else defect.type
            place = f"frames {defect.first_index}-{last}" if defect.is_hidden else "all frames"
            parts.append(
                f"video {side}: {kind}, {defect.dimension}, severity {defect.severity}, {place}"
            )
    if sample.meta["is_held_out"]:
        parts.append("held out")
    return "   |   ".join(parts)


def _draw_video(sample: PreferenceSample, side: int, root: Path, profile: Profile) -> Image.Image:
    path = sample.resolve_videos(root)[side - 1]
    frames = read_candidate_frames(
        path, FramePlan(profile.num_frames, 2**24, patch_multiple=2)
    ).frames
    shown = profile.shown([InitialSampler.EVERY_STEP])
    defects = [defect_from_meta(meta) for meta in sample.meta[f"defects_{side}"]]
    damaged = {index for defect in defects for index in defect.frame_indices}
    cell = _THUMB + 2 * _BORDER + _SPACE
    num_columns = min(len(frames), _FRAMES_PER_ROW)
    num_rows = -(-len(frames) // num_columns)
    strip = Image.new("RGB", (num_columns * cell, num_rows * (cell + _LINE)), "white")
    draw = ImageDraw.Draw(strip)
    for index, pixels in enumerate(frames):
        left, top = index % num_columns * cell, index // num_columns * (cell + _LINE)
        edges = [
            colour for colour, group in ((_SHOWN, shown), (_DAMAGED, damaged)) if index in group
        ] or [_PLAIN]
        for inset, colour in enumerate(edges):  # a shown and damaged frame has both borders
            near, far = 2 * inset, cell - _SPACE - 1 - 2 * inset
            draw.rectangle(
                (left + near, top + near, left + far, top + far), outline=colour, width=_BORDER
            )
        strip.paste(_thumbnail(pixels), (left + _BORDER, top + _BORDER))
        draw.text((left + _BORDER, top + cell - _SPACE + 1), str(index), fill="black", font=_font())
    return strip


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels)
    small = max(pixels.shape[:2]) < _THUMB
    method = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
    return ImageOps.pad(image, (_THUMB, _THUMB), method, color="white")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(13)
