"""Replies of a scripted judge."""

GUESS = "<Recommend Answer>TA=0, VQ=0, MQ=0, OA=0, CF=3</Recommend Answer>"
THOUGHT = "<Snapshot>grey</Snapshot><Think>look</Think>"
ANSWER = f"{THOUGHT}<Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"


def call_frames(*numbers: int) -> str:
    """Write a well-formed turn that asks for frames."""
    arguments = f'{{"name": "select_frames", "arguments": {{"target_frames": {list(numbers)}}}}}'
    return f"{THOUGHT}{GUESS}<tool_call>{arguments}</tool_call>"
