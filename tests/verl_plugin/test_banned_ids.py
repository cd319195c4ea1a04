"""The trainer's log-probabilities are those of the distribution that vLLM samples from."""

import inspect
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# ruff: noqa: E402  (imports after the skip)
torch = pytest.importorskip("torch")
pytest.importorskip("verl")

import verl
from tensordict import TensorDict
from transformers import AutoModelForImageTextToText
from verl.utils.tensordict_utils import assign_non_tensor
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.rollout.utils import get_vision_placeholder_token_ids

from tests.engine import model_dir, processor, tokenize
from verl_videosearch.verl_plugin.banned_ids import renormalise

TEXT = "<Think>a clean frame, then noise</Think><Answer>TA=0, VQ=1, MQ=0, OA=1</Answer>"


def score(*, has_response: bool, temperature: float = 1.0) -> tuple[Any, Any, Any]:
    """Return logits of a tiny random model, its labels, and what verl's FSDP engine makes of
    them."""
    ids = torch.tensor(tokenize(TEXT))
    model = AutoModelForImageTextToText.from_pretrained(model_dir()).eval()
    with torch.no_grad():
        output = model(input_ids=ids[None])
    logits = output.logits[0].clone()
    nested = torch.nested.as_nested_tensor([ids], layout=torch.jagged)
    fields = {"input_ids": nested} | ({"responses": nested} if has_response else {})
    batch = TensorDict(fields, batch_size=1)
    assign_non_tensor(batch, use_remove_padding=False, calculate_entropy=False)
    engine = SimpleNamespace(
        model_config=SimpleNamespace(processor=processor(), tokenizer=processor().tokenizer)
    )
    labels = ids.roll(-1)
    args = {"input_ids_rmpad_rolled": labels, "temperature": torch.tensor([temperature])}
    prepare = transformer_impl.FSDPEngineWithLMHead.prepare_model_outputs
    made: dict[str, Any] = prepare(engine, output, args, batch, None)
    return logits / temperature, labels, made["log_probs"].values()


@pytest.mark.parametrize("temperature", [1.0, 0.8])
def test_the_trainer_s_log_probabilities_are_the_engine_s(temperature: float) -> None:
    logits, labels, trained = score(has_response=True, temperature=temperature)
    banned = get_vision_placeholder_token_ids(processor())
    engine_logits = logits.clone()
    engine_logits[..., len(processor().tokenizer) :] = -math.inf
    engine_logits[..., banned] = -math.inf
    sampled = torch.log_softmax(engine_logits, -1).gather(-1, labels[:, None])[:, 0]
    assert float((trained - sampled).abs().max()) < 2e-6
    plain = torch.log_softmax(logits, -1)
    gap = (sampled - plain.gather(-1, labels[:, None])[:, 0]).mean()
    mass = plain[:, banned].exp().sum(-1)
    assert float(gap) == pytest.approx(float(-torch.log1p(-mass).mean()), rel=1e-3)
    assert 0.5 < float(gap) * len(processor().tokenizer) / len(banned) < 2, "about 2 / vocabulary"


def test_supervised_training_keeps_verl_s_loss() -> None:
    logits, labels, trained = score(has_response=False)
    plain = torch.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]
    assert float((trained - plain).abs().max()) < 1e-6


def test_gradients_are_those_of_the_banned_softmax() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 9, generator=generator, requires_grad=True)
    labels = torch.tensor([0, 1, 3, 6])
    plain = torch.log_softmax(logits, -1).gather(-1, labels[:, None])[:, 0]
    (ours,) = torch.autograd.grad(renormalise(plain, logits, labels, [2], 7).sum(), logits)
    masked = logits.clone()
    masked[:, [2, 7, 8]] = -math.inf
    wanted = torch.log_softmax(masked, -1).gather(-1, labels[:, None]).sum()
    (expected,) = torch.autograd.grad(wanted, logits)
    assert torch.allclose(ours, expected, atol=1e-6)


def test_a_placeholder_of_the_context_stays_finite() -> None:
    logits = torch.full((1, 4), -100.0)
    logits[0, 2] = 100.0
    plain = torch.log_softmax(logits, -1)[:, 2]
    assert renormalise(plain, logits, torch.tensor([2]), [2], 4).tolist() == plain.tolist()
    other = torch.log_softmax(logits, -1)[:, 0]
    assert renormalise(other, logits, torch.tensor([0]), [2], 4).isfinite().all()


def test_what_we_rely_on_in_verl() -> None:
    engine = transformer_impl.FSDPEngineWithLMHead
    assert " ".join(inspect.signature(engine.prepare_model_outputs).parameters) == (
        "self output output_args micro_batch logits_processor_func"
    )
    source = inspect.getsource(engine.prepare_model_outputs.__wrapped__)
    assert source.count("logprobs_from_logits(") == 2, "with and without padding"
    folder = Path(verl.__file__).parent / "workers/rollout/vllm_rollout"
    source = (folder / "vllm_async_server.py").read_text("utf-8")
    assert "get_vision_placeholder_token_ids(self.model_config.processor)" in source
    assert '"vocab_size": len(self.model_config.tokenizer)' in source
