"""A `Judge` on a scripted server, with the settings that its clips are made for."""

from pathlib import Path
from typing import Any

from tests.scripted_server import ScriptedServer
from verl_videosearch import Judge

SETTINGS = {
    "frames_per_video": 8,
    "initial_frames_per_video": 2,
    "max_tool_calls": 1,
    "patch_multiple": 28,
}


def make_judge(server: ScriptedServer, folder: Path, **settings: Any) -> Judge:
    """Judge with a server of a test; decoded frames go into `folder`."""
    defaults = {"episode": SETTINGS, "store": folder / "frames", "max_tries": 4}
    return Judge(server.url, "tiny", **defaults | settings)
