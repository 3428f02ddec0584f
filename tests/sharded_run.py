"""What `training/test_sharding.py` runs in two processes: a model in parts (FSDP2), trained, chosen, saved, cut off and loaded."""

import json
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as distributed_checkpoint
from peft import LoraConfig, get_peft_model
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

from unlearn.training import distributed
from unlearn.training.options import Selection
from unlearn.training.saving import save_model
from unlearn.training.selection import Selector
from verify.data.encoding import Encoder, collate
from verify.data.sources import load_records
from verify.models.digests import weights_digest
from verify.models.loading import load_model
from verify.models.log_probabilities import scored_log_probabilities
from verify.training.precision import float32_copies

ROWS = [{"example_id": f"r{n}", "prompt": f"Who is {n}?", "completion": f"Nobody but {n * 3}."} for n in range(8)]


def in_parts(folder: Path) -> Any:
    """A fresh model, its layers and the rest each in parts."""
    model = load_model(folder, device="cpu").model
    for layer in model.model.layers:
        fully_shard(layer)
    fully_shard(model)
    return model


def train(model: Any, optimizer: torch.optim.Optimizer, batches: list[Any], steps: range) -> list[float]:
    """A plain loop over this process's half of every batch; the step's mean loss over both."""
    losses = []
    for step in steps:
        half = len(batches[step]["input_ids"]) // distributed.count()
        own = {name: value[distributed.rank() * half :][:half] for name, value in batches[step].items()}
        total = batches[step]["scored"].sum()
        loss = -scored_log_probabilities(model, own)[0].sum() / total * distributed.count()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach().clone()
        if distributed.count() > 1:
            torch.distributed.all_reduce(mean)
            mean /= distributed.count()
        losses.append(float(mean))
    return losses


def rounded_in_parts(model_dir: Path, output: Path, tokenizer: Any, several: bool) -> str:
    """The digest of a bfloat16 model whose float32 copies were put into parts and changed there, as it was saved."""
    model = load_model(model_dir, device="cpu").model.bfloat16()
    with float32_copies(model, list(model.parameters()), seed=4):
        if several:
            fully_shard(model)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.001)
    model(input_ids=torch.tensor([[1, 2, 3]]))  # in parts it can still be evaluated
    return save_model(model, tokenizer, output / "rounded", {})


def main(model_dir: Path, output: Path) -> None:
    """Train, save, checkpoint, resume; the main process writes what it saw."""
    torch.set_num_threads(1)
    several = distributed.count() > 1
    if several:
        torch.distributed.init_process_group("gloo")
        from accelerate import PartialState

        PartialState(cpu=True)
    loaded = load_model(model_dir)
    windows = Encoder(loaded.tokenizer, loaded.context_length).encode(load_records(ROWS))
    batches = [collate(windows[start : start + 4], loaded.tokenizer.pad_token_id) for start in (0, 4, 0, 4)]
    model = in_parts(model_dir) if several else loaded.model.train()
    seen: dict[str, Any] = {"start": weights_digest(model), "stored": load_model(model_dir).digest}
    # A selection that begins before the model is in parts, and keeps a step after.
    measured = iter([(1.0, 1.0), (1.5, 1.0), (1.6, 9.0), (1.7, 9.0)])
    selector = Selector(Selection(), lambda: next(measured), 2.0)
    selector.begin(load_model(model_dir).model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    seen["losses"] = train(model, optimizer, batches, range(2))
    selector.consider(2, model)
    seen["middle"] = weights_digest(model)
    folder = output / "checkpoint"
    if several:
        folder.mkdir(exist_ok=True)
        weights, moments = get_state_dict(model, optimizer)
        distributed_checkpoint.save({"model": weights, "optimizer": moments}, checkpoint_id=folder)
    selector_folder = output / "selector"
    selector_folder.mkdir(exist_ok=True)
    selector.save(selector_folder)
    distributed.wait()
    seen["losses"] += train(model, optimizer, batches, range(2, 4))
    seen["end"] = save_model(model, loaded.tokenizer, output / "model", {})
    seen["rounded"] = rounded_in_parts(model_dir, output, loaded.tokenizer, several)
    if several:
        resumed = in_parts(model_dir)
        moving = torch.optim.AdamW(resumed.parameters(), lr=1e-3)
        weights, moments = get_state_dict(resumed, moving)
        distributed_checkpoint.load(state := {"model": weights, "optimizer": moments}, checkpoint_id=folder)
        set_state_dict(resumed, moving, model_state_dict=state["model"], optim_state_dict=state["optimizer"])
        train(resumed, moving, batches, range(2, 4))
        seen["resumed"] = weights_digest(resumed)
        again = Selector(Selection(), lambda: next(measured), 2.0)
        again.resume(selector_folder)
        again.finish(4, model)
        seen["chosen"] = weights_digest(model)
        whole_again = Selector(Selection(), lambda: (1.0, 1.0), 2.0)
        whole_again.begin(load_model(model_dir).model)
        whole_again.finish(0, model)
        seen["put back"] = weights_digest(model)
        torch.manual_seed(0)  # all processes begin with the same adapter
        adapter = get_peft_model(load_model(model_dir).model, LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
        seen["adapter whole"] = weights_digest(adapter)
        fully_shard(adapter)
        seen["adapter"] = save_model(adapter, loaded.tokenizer, output / "adapter", {})
    if distributed.is_main():
        (output / "seen.json").write_text(json.dumps(seen))
    if several:
        torch.distributed.destroy_process_group()
